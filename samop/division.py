"""How a batch is divided over the devices that share it: what a run's functions ask for.

Three records, chosen by `config.parallel`:
- `WHOLE`: one device has all of it.
- `CONSTRAINED` ("jit"): functions are of whole batches, whose examples are constrained to lie on
  the mesh's axis "batch"; XLA's partitioner divides what is computed from them.
- `mapped` ("shard_map", "pmap"): functions are of one device, which takes its own rows of each
  batch; gradients, metrics and BatchNorm's statistics are averaged over the axis by name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

PyTree = Any
BATCH = "batch"  # the mesh's axis


def _same(tree: PyTree) -> PyTree:
    return tree


class Division(NamedTuple):
    """What changes where a batch is divided; as it stands, nothing.

    Attributes:
      axes: what a network has to know: names of the mapped axis, by the attributes of modules.
        "rows_axis": over which its rows are divided (for dropout); "axis_name": over which
        BatchNorm averages its statistics.
      rows: arrays [whole batch, ...] → what this function is to work on of them.
      kept: says of arrays that come from such rows that they are still divided.
      whole: the inverse of `rows`: every row on every device, in order.
      held: says of a run's state, between steps, that its large arrays are divided.
      mean, total: over the devices, of arrays that each has for its own rows. What is not a
        floating-point number is left as it is by `mean`.
      numbers: `numbers(n)`: places in the whole batch of this function's n rows, int32 [n].
    """

    axes: Mapping[str, str] = {}
    rows: Callable[[PyTree], PyTree] = _same
    kept: Callable[[PyTree], PyTree] = _same
    whole: Callable[[PyTree], PyTree] = _same
    held: Callable[[PyTree], PyTree] = _same
    mean: Callable[[PyTree], PyTree] = _same
    total: Callable[[PyTree], PyTree] = _same
    numbers: Callable[[int], jax.Array] = jnp.arange


def _constrained(tree: PyTree) -> PyTree:
    return lax.with_sharding_constraint(tree, PartitionSpec(BATCH))


WHOLE = Division()
CONSTRAINED = Division(rows=_constrained, kept=_constrained)


def mapped(statistics: str = "batch", axis: str = BATCH) -> Division:
    """The division inside of a function that is mapped over devices by an axis of this name.

    Args:
      statistics: "batch": BatchNorm's are the whole batch's; "replica": each device's own.
      axis: its name.
    """

    def rows(tree):
        devices, place = lax.axis_size(axis), lax.axis_index(axis)
        size = lambda x: len(x) // devices  # noqa: E731
        return jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, place * size(x), size(x), 0), tree
        )

    def whole(tree):
        return jax.tree.map(lambda x: lax.all_gather(x, axis, tiled=True), tree)

    def mean(tree):
        return jax.tree.map(lambda x: lax.pmean(x, axis) if _is_floating(x) else x, tree)

    axes = {"rows_axis": axis} | ({"axis_name": axis} if statistics == "batch" else {})
    return Division(
        axes=axes,
        rows=rows,
        whole=whole,
        mean=mean,
        total=lambda tree: jax.tree.map(lambda x: lax.psum(x, axis), tree),
        numbers=lambda n: lax.axis_index(axis) * n + jnp.arange(n),
    )


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
