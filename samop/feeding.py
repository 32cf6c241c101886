"""What an epoch takes: its arguments' shapes, the data, splits in batches as evaluation wants."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samop.data.splits import aligned
from samop.groups import Group
from samop.sharding import BATCH, Program
from samop.train import Run
from samop.workloads import Workload

PyTree = Any


def arguments(group: Group, workload: Workload, run: Run, program: Program) -> tuple[PyTree, ...]:
    """Shapes of the arguments of a group's epoch, and where they lie; of the same as `Ready`."""
    seeds, cells = group.layout.padded

    def lying(spec: str, tree: PyTree, *axes: int) -> PyTree:
        kind, place = jax.dtypes.canonicalize_dtype, program.sharding(spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), kind(x.dtype), sharding=place), tree
        )

    real = jax.ShapeDtypeStruct((), jnp.result_type(float))
    labels = jax.eval_shape(lambda seed: run.labels(seed, 0.0), np.uint32(0))
    data: PyTree = {}
    if workload.world is not None:
        data = jax.eval_shape(lambda tree: tree, workload.world.handles)
    elif workload.splits is not None:
        data = shapes(workload.splits, *evaluated(group.points[0], program))
    return (
        program.state,
        lying("seeds", jax.ShapeDtypeStruct((), np.uint32), seeds),
        lying("cells", dict.fromkeys(group.cells, real), cells),
        lying("grid", labels, seeds, cells),
        lying("every", data),
        lying("every", jax.ShapeDtypeStruct((), np.int32)),
    )


def evaluated(point: Mapping[str, Any], program: Program) -> tuple[int, int]:
    """The largest size of a batch in evaluation, and what it should be a multiple of."""
    return point["train"]["eval_batch_size"], program.mesh.shape.get(BATCH, 1)


def extent(examples: int, most: int, multiple: int = 1) -> tuple[int, int]:
    """How many batches `padded` makes of so many examples, and their size."""
    batches = -(-examples // most)
    size = -(-examples // batches)
    return batches, -(-size // multiple) * multiple


def whole(splits: Any, most: int, multiple: int = 1) -> dict[str, Any]:
    """A data set as an epoch takes it: the training part raw, the others `padded`."""
    return {
        "train": {"x": jax.tree.map(np.asarray, splits.train.x)},
        "validation": padded(splits.validation, most, multiple),
        "test": padded(splits.test, most, multiple),
    }


def shapes(splits: Any, most: int, multiple: int = 1) -> dict[str, Any]:
    """Shapes and types of `whole`, without making it."""

    def batches(split):
        axes = extent(len(split.y), most, multiple)
        many = lambda a: jax.ShapeDtypeStruct((*axes, *a.shape[1:]), a.dtype)  # noqa: E731
        weight = jax.ShapeDtypeStruct(axes, np.float32)
        return {"x": jax.tree.map(many, split.x), "y": many(split.y), "weight": weight}

    one = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)  # noqa: E731
    return {
        "train": {"x": jax.tree.map(one, splits.train.x)},
        "validation": batches(splits.validation),
        "test": batches(splits.test),
    }


def padded(split: Any, most: int, multiple: int = 1) -> dict[str, np.ndarray]:
    """A split in equal batches of at most `most`, the last filled up with zeros of weight 0.

    Args:
      split: what is to be evaluated.
      most: largest size of a batch; rounded up to a multiple.
      multiple: what the size should be a multiple of.

    Returns:
      "x" and "y" [batches, size, ...], "weight" [batches, size].
    """
    n = len(split.y)
    batches, size = extent(n, most, multiple)

    def fill(a: np.ndarray) -> np.ndarray:
        out = aligned((batches * size, *a.shape[1:]), a.dtype)
        out[:n], out[n:] = a, 0
        return out.reshape(batches, size, *a.shape[1:])

    weight = np.ones(n, np.float32)
    return {"x": jax.tree.map(fill, split.x), "y": fill(split.y), "weight": fill(weight)}
