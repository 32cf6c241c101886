"""What a group of runs takes of the devices' memory, known from its compiled program.

Measured on CPUs against the process's memory: experiments/benchmarks/memory.py.
"""

from typing import Any, NamedTuple

import jax

GIB = 2**30
SHARE = 0.7  # of the free memory that one group may take


class Footprint(NamedTuple):
    """Bytes that a group's epoch takes, all devices together.

    Attributes:
      state: parameters, the optimiser's state, labels: what runs keep from epoch to epoch.
      data: the data set as it lies on the devices; on a CPU all devices share one copy.
      workspace: what an epoch takes besides while it runs: activations, gradients, copies.
    """

    state: int
    data: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


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


def what_would_fit(needs: Footprint, room: float, batch_size: int) -> str:
    """What to change about a single run that does not fit.

    Args:
      needs: of one run.
      room: bytes that there are.
      batch_size: examples in a step, with which the workspace grows in proportion.
    """
    left = room - needs.state - needs.data
    fits = int(batch_size * left / needs.workspace) if needs.workspace else 0
    if fits >= 1:
        return f"--config.train.batch_size={fits} or less should fit (m-SAM keeps the batch: m)"
    kept = f"state and data alone take {(needs.state + needs.data) / GIB:.2g} GiB"
    return f"{kept}, so no batch size fits: a narrower network would, or a device with more memory"
