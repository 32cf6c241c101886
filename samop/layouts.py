"""How a grid of runs lies on a grid of devices."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from samop import variants
from samop.errors import UserError


class Layout(NamedTuple):
    """How a grid of runs lies on a grid of devices.

    Attributes:
      seeds, cells: the real extent of the grid of runs.
      rows, columns: the extent of the grid of devices; seeds are divided among its rows, cells
        among its columns. Both are padded to a multiple by repeating their last entry; padded
        runs are thrown away.
      batch: how many devices share the batches of each run.
      parallel: how they do, see `config.parallel`. Of "pmap" all devices share the
        batches of all runs.
      copies: how many devices compute the same: of several processes none may be left out.
      divided: whether each of those that share batches keeps a part of a run's large arrays, or
        all of them.
    """

    seeds: int
    cells: int
    rows: int
    columns: int
    batch: int = 1
    parallel: str = "jit"
    copies: int = 1
    divided: bool = False

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.rows * self.columns * self.batch * self.copies

    @property
    def padded(self) -> tuple[int, int]:
        """Extent of the arrays: (seeds, cells), rounded up."""
        return (
            -(-self.seeds // self.rows) * self.rows,
            -(-self.cells // self.columns) * self.columns,
        )

    @property
    def runs_a_device(self) -> int:
        """Runs that one device trains, padding included."""
        seeds, cells = self.padded
        return seeds * cells // (self.rows * self.columns)


def layout(seeds: int, cells: int, devices: int, batch: int = 1, every: bool = False) -> Layout:
    """The layout with the fewest runs a device; of equals the one on the fewest devices.

    Args:
      seeds, cells: the grid of runs.
      devices: how many there are.
      batch: size of the batches that devices which are left over may share; they do where they
        divide it. 1: none are shared.
      every: whether all devices have to take part, as those of several processes; then the one
        whose devices have the least to do.
    """
    if every:
        return min(_full(seeds, cells, devices, batch), key=lambda c: (_load(c), c.batch, -c.rows))
    choices = [
        Layout(seeds, cells, rows, columns)
        for rows in range(1, min(seeds, devices) + 1)
        for columns in range(1, min(cells, devices // rows) + 1)
    ]
    best = min(choices, key=lambda c: (c.runs_a_device, c.devices, -c.rows))
    return best._replace(batch=_largest_divisor(batch, devices // best.devices))


def _load(layout: Layout) -> float:
    """Batches that a device computes a step, parts of them included."""
    return layout.runs_a_device / layout.batch


def _full(seeds: int, cells: int, devices: int, batch: int) -> list[Layout]:
    """All layouts that use all devices."""
    found = []
    for rows in _divisors(devices):
        for columns in _divisors(devices // rows):
            left = devices // (rows * columns)
            for shared in (n for n in _divisors(left) if batch % n == 0):
                found.append(Layout(seeds, cells, rows, columns, shared, copies=left // shared))
    return found


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _largest_divisor(number: int, most: int) -> int:
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def fitted(layout: Layout, available: int, batch: int = 1, every: bool = False) -> Layout:
    """How a group that began elsewhere lies on the `available` devices here.

    The padded extents were fixed when the group began; rows and columns must divide them. They are
    the result's own extents, where it differs.

    Args:
      layout: of the group.
      available, batch, every: as for `layout`.
    """
    if layout.parallel == "pmap":
        return layout._replace(batch=_largest_divisor(layout.batch, available))
    if layout.devices == available or (layout.devices < available and not every):
        return layout
    seeds, cells = layout.padded
    if every:
        choices = _full(seeds, cells, available, batch)
    else:
        choices = [
            Layout(seeds, cells, rows, columns)
            for rows in range(1, available + 1)
            for columns in range(1, available // rows + 1)
        ]
    choices = [c for c in choices if c.padded == layout.padded]
    if every:
        best = min(choices, key=lambda c: (_load(c), c.batch, -c.rows))
    else:
        best = max(choices, key=lambda c: (c.rows * c.columns, c.rows))
        best = best._replace(batch=_largest_divisor(layout.batch, available // best.devices))
    divided = layout.divided and best.batch > 1
    return best._replace(parallel=layout.parallel, divided=divided)


def check(point: Mapping[str, Any], layout: Layout) -> None:
    """Refuses a layout whose parts of a batch are not what the run needs.

    Raises:
      UserError: ascent groups that would be cut; several processes, or states in parts, where
        that cannot be.
    """
    if layout.parallel == "jit":
        return
    if layout.divided:
        raise UserError(
            f"run.shard_parameters=True: with parallel={layout.parallel!r} every device has all "
            "parameters: use parallel='jit'"
        )
    if layout.parallel == "pmap" and jax.process_count() > 1:
        raise UserError("parallel='pmap' is for one process, and there are several: use 'jit'")
    size, m = point["train"]["batch_size"], variants.resolved(point["optimizer"])["m"]
    if not m or size // layout.batch % m == 0:
        return
    devices = f"run.devices={_largest_divisor(size // m, layout.batch)}, "
    raise UserError(
        f"optimizer.m={m} does not divide the {size // layout.batch} examples that each of "
        f"{layout.batch} devices has of train.batch_size={size}, and with parallel="
        f"{layout.parallel!r} a group lies on one device: use "
        f"{'' if jax.process_count() > 1 else devices}a train.batch_size that is a multiple of "
        f"{m * layout.batch}, or parallel='jit'"
    )
