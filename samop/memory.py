"""What a group of runs takes of the devices' memory, known from its compiled program.

Measured on CPUs against the process's memory: experiments/benchmarks/memory.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from samop.models import MODELS

GIB = 2**30
SHARE = 0.7  # of the free memory that one group may take


class Footprint(NamedTuple):
    """Bytes that a group's epoch takes, all devices together.

    Attributes:
      state: parameters, the optimiser's state, labels: what runs keep from epoch to epoch.
      data: the data set as it lies on the devices, once for all groups that use it; on a CPU
        all devices share one copy.
      workspace: what an epoch takes besides while it runs: activations, gradients, copies.
    """

    state: int
    data: int
    workspace: int

    @property
    def more(self) -> int:
        """What training takes besides the data, which are there when a group is ready."""
        return self.state + self.workspace


class Other(NamedTuple):
    """A change by which a run takes less.

    Attributes:
      flags: of the command line.
      state: whether it helps against what does not depend on the batch.
    """

    flags: str
    state: bool


def footprint(compiled: Any, data: Any, devices: int) -> Footprint:
    """The footprint of a compiled epoch.

    Args:
      compiled: as `jax.stages.Compiled`, one of its arguments `data`, its state donated.
      data: arrays that every device holds whole, or their shapes.
      devices: that the program runs on.
    """
    one = compiled.memory_analysis()  # of one device
    held = size(data)
    workspace = one.temp_size_in_bytes + one.output_size_in_bytes - one.alias_size_in_bytes
    copies = 1 if jax.default_backend() == "cpu" else devices
    return Footprint(
        devices * (one.argument_size_in_bytes - held), copies * held, devices * workspace
    )


def size(tree: Any) -> int:
    """Bytes of arrays, or of shapes and types."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def of_a_device(shapes: Any) -> int:
    """Bytes that one device holds of shapes that say where they lie."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def compiler_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What XLA has to be told of a run's program.

    A block that is computed again (`train.remat`) waits behind a barrier for the gradient that it
    is needed for. XLA:CPU takes barriers out before it orders what is left, and then computes all
    blocks again at once: a ResNet-18 and a ViT took as much memory as without. Left in, a third.
    """
    if config["train"]["remat"] and jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}


def what_would_fit(
    needs: Footprint,
    half: Footprint,
    room: float,
    sizes: Mapping[str, int],
    others: Sequence[Other] = (),
) -> str:
    """What to change about a single run that does not fit.

    Args:
      needs: of the run.
      half: of the run with half of these batch sizes, which tells what depends on them.
      room: bytes that there are.
      sizes: "batch_size" and "eval_batch_size" of the run.
      others: what else takes less, see `others`.
    """
    growing = 2 * (needs.workspace - half.workspace)
    fixed = needs.more - growing
    share = min(1.0, (room - fixed) / growing) if growing > 0 else 0.0
    fits = {name: int(share * size) for name, size in sizes.items()}
    fit = min(fits.values()) >= 1
    if fit:
        flags = " ".join(f"--config.train.{name}={size}" for name, size in fits.items())
        text = f"{flags} should fit (m-SAM computes a large batch in parts)"
    else:
        text = (
            f"{fixed / GIB:.2g} GiB of it do not depend on the batch, so none fits: a narrower "
            "network would, or a device with more memory"
        )
    able = [other.flags for other in others if fit or other.state]
    return f"{text}; less is taken with {', or '.join(able)}" if able else text


def others(point: Mapping[str, Any], devices: int, divided: bool, platform: str) -> list[Other]:
    """What takes less memory than a run does as it is, beside smaller batches and networks.

    Args:
      point: the run's config.
      devices: how many could share its batches.
      divided: whether its large arrays are divided among them already.
      platform: of the devices; a CPU computes low precision in float32.
    """
    optimizer, batch = point["optimizer"], point["train"]["batch_size"]
    found = []
    if MODELS[point["model"]["name"]].blocks and not point["train"]["remat"]:
        found.append(Other("--config.train.remat=True", False))
    if optimizer["name"] in ("sam", "asam") and not optimizer["m"] and batch > 1:
        m = max(n for n in range(1, batch // 2 + 1) if batch % n == 0)
        found.append(Other(f"--config.optimizer.m={m}", False))
    if platform != "cpu":
        if point["precision"]["compute"] == "float32":
            found.append(Other("--config.precision.compute=bfloat16", False))
        if devices > 1 and not divided:
            # On a CPU the devices' memory is one.
            found.append(Other("--config.run.shard_parameters=True", True))
    return found
