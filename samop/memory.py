"""What a group of runs takes of the devices' memory, known from its compiled program.

Measured on CPUs against the process's memory: experiments/benchmarks/memory.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

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


def footprint(compiled: Any, data: Any, devices: int) -> Footprint:
    """The footprint of a compiled epoch.

    Args:
      compiled: as `jax.stages.Compiled`, one of its arguments `data`, its state donated.
      data: arrays that every device holds whole.
      devices: that the program runs on.
    """
    one = compiled.memory_analysis()  # of one device
    held = sum(x.nbytes for x in jax.tree.leaves(data))
    workspace = one.temp_size_in_bytes + one.output_size_in_bytes - one.alias_size_in_bytes
    copies = 1 if jax.default_backend() == "cpu" else devices
    return Footprint(
        devices * (one.argument_size_in_bytes - held), copies * held, devices * workspace
    )


def what_would_fit(needs: Footprint, half: Footprint, room: float, sizes: Mapping[str, int]) -> str:
    """What to change about a single run that does not fit.

    Args:
      needs: of the run.
      half: of the run with half of these batch sizes, which tells what depends on them.
      room: bytes that there are.
      sizes: "batch_size" and "eval_batch_size" of the run.
    """
    growing = 2 * (needs.workspace - half.workspace)
    fixed = needs.more - growing
    share = min(1.0, (room - fixed) / growing) if growing > 0 else 0.0
    fits = {name: int(share * size) for name, size in sizes.items()}
    if min(fits.values()) >= 1:
        flags = " ".join(f"--config.train.{name}={size}" for name, size in fits.items())
        return f"{flags} should fit (m-SAM computes a large batch in parts)"
    return (
        f"{fixed / GIB:.2g} GiB of it do not depend on the batch, so none fits: a narrower "
        "network would, or a device with more memory"
    )
