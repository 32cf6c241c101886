"""Many runs as one program: vmapped over seeds and cells, laid out over devices.

A group of runs is a grid of seeds × cells; a cell is one setting of the traced fields. The batch
order belongs to the seed, so cells of one seed share it and XLA gathers each batch once for all.

Devices that are left over share the batches of each run, along the mesh's axis "batch". Whether
XLA's partitioner divides what is computed from them, or the run's functions are those of one device
(`config.parallel`), see `samop.division`; results are equal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import processes, variants
from samop.division import BATCH, CONSTRAINED, WHOLE, Division, mapped
from samop.errors import UserError
from samop.train import Run

PyTree = Any
AXES = ("seeds", "cells")
COPIES = "copies"


class Layout(NamedTuple):
    """How a grid of runs lies on a grid of devices.

    Attributes:
      seeds, cells: the real extent of the grid of runs.
      rows, columns: the extent of the grid of devices; seeds are divided among its rows, cells
        among its columns. Both are padded to a multiple by repeating their last entry; padded
        runs are thrown away.
      batch: how many devices share the batches of each run.
      copies: how many devices compute the same: of several processes none may be left out.
      parallel: how they do, see `config.parallel`. Of "pmap" all devices share the
        batches of all runs.
    """

    seeds: int
    cells: int
    rows: int
    columns: int
    batch: int = 1
    parallel: str = "jit"
    copies: int = 1

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
    return best._replace(parallel=layout.parallel)


def divided(layout: Layout, statistics: str = "batch") -> Division:
    """How a run of that layout has its batches, see `samop.division`."""
    if layout.parallel != "jit":
        return mapped(statistics)
    return CONSTRAINED if layout.batch > 1 else WHOLE


def pmapped(fn: Callable[..., PyTree], devices: Sequence[jax.Device]) -> Callable[..., PyTree]:
    """`fn` by `jax.pmap`, as `jax.shard_map` with whole arguments and results would have it.

    Only a dummy is mapped, so that states, checkpoints and records have no axis of devices. To be
    called under `jax.jit`, which donates, lowers and compiles as it does the others: jax 0.10's
    own pmap is `jit` of `shard_map` over a mesh of one axis.
    """

    def call(*args):
        one = lambda _, *args: fn(*args)  # noqa: E731
        axes = (0, *(None,) * len(args))
        mapped = jax.pmap(one, BATCH, in_axes=axes, out_axes=None, devices=devices)
        return mapped(jnp.arange(len(devices)), *args)

    return call


class Program(NamedTuple):
    """A group's jitted functions. Arrays of runs have leading axes [seeds, cells], padded.

    Attributes:
      start: `start(params, model_state) -> state`; both arguments stacked over [seeds].
      epoch: `epoch(state, seeds, traced, labels, data, number) -> (state, metrics)`; seeds
        [seeds] uint32, traced a dict of [cells] floats, labels [seeds, cells, n], number an int32
        scalar. The state is donated; metrics is a dict of [seeds, cells].
      advance: `advance(state, seeds, traced, labels, data, number, begin, count) -> state`: some
        updates of an epoch, the state left as it is. Compiled when first used.
      pieces: the same of a streamed run, whose epoch is in pieces, see `samop.streaming`: its
        chunk donates the state.
      state: shapes and shardings of the state, for compiling and for restoring a checkpoint.
      mesh, specs: where "seeds", "cells", "grid" and "every" (replicated) arrays belong; and
        "batch" and "batches", one [size, ...] or several [K, size, ...] that come from outside.
    """

    start: Callable[..., PyTree]
    epoch: Any  # jitted: what it does not say in types is `lower`
    advance: Any
    state: PyTree
    mesh: Mesh
    specs: dict[str, PartitionSpec]
    pieces: Any = None

    def place(self, spec: str, value: PyTree) -> PyTree:
        """Puts host arrays onto the devices."""
        return processes.place(value, self.sharding(spec))

    def sharding(self, spec: str) -> NamedSharding:
        """Where an array of one of the `specs` lives."""
        return NamedSharding(self.mesh, self.specs[spec])


def make_program(run: Run, layout: Layout, here: Layout, devices: Sequence[jax.Device]) -> Program:
    """The group's program; it is traced when first called or lowered.

    Args:
      run: functions of one run.
      layout: the grid as the group began, which decides the arrays' extents.
      here: how it lies on these devices, see `fitted`.
      devices: those there are; each one that is used holds the whole data set.
    """
    by_pmap, manual = here.parallel == "pmap", here.parallel != "jit"
    used = np.array(devices[: here.devices])
    extents = {"seeds": here.rows, "cells": here.columns}
    if here.batch > 1 or manual:
        extents[BATCH] = here.batch
    if here.copies > 1:
        extents[COPIES] = here.copies
    mesh = Mesh(used.reshape(*extents.values()), tuple(extents))
    one = jax.eval_shape(run.start, *jax.eval_shape(run.init, np.uint32(0)))
    # Counts are the same for all runs. Left unbatched, a cond on them stays a cond, where a
    # batched one would become a select that computes both branches.
    batched = jax.tree.map(lambda x: x.ndim > 0 or not jnp.issubdtype(x.dtype, jnp.integer), one)

    def start(params, model_state):
        seeds = _map(run.start, (True, True), batched)(params, model_state)
        # All cells of a seed start from the same weights.
        cells = layout.padded[1]
        return _each(
            batched, seeds, lambda x: jnp.broadcast_to(x[:, None], (len(x), cells, *x.shape[1:]))
        )

    def over_runs(fn, out, scalars):
        own = (False,) * scalars
        of_a_seed = _map(fn, (batched, False, True, True, False, *own), out)
        return _map(of_a_seed, (batched, True, False, True, False, *own), out)

    partitioned = here.batch > 1 and not manual
    grid = PartitionSpec(*AXES)
    seeds, cells = (PartitionSpec(axis) for axis in AXES)
    every = PartitionSpec()
    state = jax.tree.map(lambda flag: grid if flag else every, batched)

    shapes = jax.tree.map(
        lambda flag, x, spec: jax.ShapeDtypeStruct(
            (*layout.padded, *x.shape) if flag else x.shape,
            x.dtype,
            sharding=NamedSharding(mesh, spec),
        ),
        batched,
        one,
        state,
    )

    def sharded(fn, out, scalars):
        if by_pmap:
            return pmapped(fn, list(used))
        specs = (state, seeds, cells, grid, every, *(every,) * scalars)
        # What is not named here, the axis of batches, is the partitioner's.
        names = set(mesh.axis_names if manual else AXES)
        return jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=out, axis_names=names, check_vma=False
        )

    epoch = sharded(over_runs(run.epoch, (batched, True), 1), (state, grid), 1)
    advance = sharded(over_runs(run.advance, batched, 3), state, 3)
    pieces = run.pieces
    if pieces is not None:
        updates = sharded(over_runs(pieces.chunk, (batched, True), 1), (state, grid), 1)
        readings = (sharded(over_runs(fn, True, 1), grid, 1) for fn in (pieces.tally, pieces.close))
        pieces = type(pieces)(jax.jit(updates, donate_argnums=0), *map(jax.jit, readings))
    return Program(
        start=jax.jit(start, out_shardings=jax.tree.map(lambda x: x.sharding, shapes)),
        epoch=jax.jit(epoch, donate_argnums=0),
        advance=jax.jit(advance),
        state=shapes,
        mesh=mesh,
        specs={
            "seeds": seeds,
            "cells": cells,
            "grid": grid,
            "every": every,
            "batch": PartitionSpec(BATCH) if partitioned else every,
            "batches": PartitionSpec(None, BATCH) if partitioned else every,
        },
        pieces=pieces,
    )


def check(point: Mapping[str, Any], layout: Layout) -> None:
    """Refuses a layout whose parts of a batch are not what the run needs.

    Raises:
      UserError: ascent groups that would be cut; several processes where that cannot be.
    """
    if layout.parallel == "jit":
        return
    if layout.parallel == "pmap" and jax.process_count() > 1:
        raise UserError("parallel='pmap' is for one process, and there are several: use 'jit'")
    size, m = point["train"]["batch_size"], variants.resolved(point["optimizer"])["m"]
    if not m or size // layout.batch % m == 0:
        return
    raise UserError(
        f"optimizer.m={m} does not divide the {size // layout.batch} examples that each of "
        f"{layout.batch} devices has of train.batch_size={size}, and with parallel="
        f"{layout.parallel!r} a group lies on one device: use run.devices="
        f"{_largest_divisor(size // m, layout.batch)}, a train.batch_size that is a multiple of "
        f"{m * layout.batch}, or parallel='jit'"
    )


def _each(flags: PyTree, tree: PyTree, fn: Callable[[jax.Array], jax.Array]) -> PyTree:
    """Applies `fn` to the leaves under a true flag; `flags` is a prefix of `tree`."""
    return jax.tree.map(lambda flag, sub: jax.tree.map(fn, sub) if flag else sub, flags, tree)


def _map(fn: Callable, flags: tuple[PyTree, ...], out_flags: PyTree) -> Callable:
    """vmap over the leading axis of the flagged leaves; an extent of one is squeezed instead.

    A convolution vmapped over its kernel becomes a grouped one or, on a CPU, a loop over kernels,
    and neither is free for a single run.
    """

    def axes(flags):
        return jax.tree.map(lambda flag: 0 if flag else None, flags)

    def mapped(*args):
        batched = jax.tree.map(lambda flag, sub: sub if flag else None, flags, args)
        (extent,) = {len(x) for x in jax.tree.leaves(batched)}
        if extent > 1:
            return jax.vmap(fn, axes(flags), axes(out_flags))(*args)
        squeezed = [_each(flag, arg, lambda x: x[0]) for flag, arg in zip(flags, args)]
        return _each(out_flags, fn(*squeezed), lambda x: x[None])

    return mapped
