"""Many runs as one program: vmapped over seeds and cells, laid out over devices.

A group of runs is a grid of seeds × cells; a cell is one setting of the traced fields. The batch
order belongs to the seed, so cells of one seed share it and XLA gathers each batch once for all.

Devices that are left over share the batches of each run. That is no matter of the run's functions,
which are of whole batches: they constrain a batch's examples to lie on the mesh's axis "batch", and
XLA's partitioner divides what is computed from them. So BatchNorm's statistics are those of the
whole batch, and random masks are what one device would draw.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop.train import Run

PyTree = Any
AXES = ("seeds", "cells")
BATCH = "batch"
LARGE = 4096  # numbers from which an array is worth dividing


class Layout(NamedTuple):
    """How a grid of runs lies on a grid of devices.

    Attributes:
      seeds, cells: the real extent of the grid of runs.
      rows, columns: the extent of the grid of devices; seeds are divided among its rows, cells
        among its columns. Both are padded to a multiple by repeating their last entry; padded
        runs are thrown away.
      batch: how many devices share the batches of each run.
      divided: whether each of those keeps a part of a run's large arrays, or all of them.
    """

    seeds: int
    cells: int
    rows: int
    columns: int
    batch: int = 1
    divided: bool = False

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.rows * self.columns * self.batch

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


def layout(seeds: int, cells: int, devices: int, batch: int = 1, divided: bool = False) -> Layout:
    """The layout with the fewest runs a device; of equals the one on the fewest devices.

    Args:
      seeds, cells: the grid of runs.
      devices: how many there are.
      batch: size of the batches that devices which are left over may share; they do where they
        divide it. 1: none are shared.
      divided: see `Layout`; said only of devices that share batches.
    """
    choices = [
        Layout(seeds, cells, rows, columns)
        for rows in range(1, min(seeds, devices) + 1)
        for columns in range(1, min(cells, devices // rows) + 1)
    ]
    best = min(choices, key=lambda c: (c.runs_a_device, c.devices, -c.rows))
    shared = _largest_divisor(batch, devices // best.devices)
    return best._replace(batch=shared, divided=divided and shared > 1)


def _largest_divisor(number: int, most: int) -> int:
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def fewer(layout: Layout, available: int) -> tuple[int, int, int]:
    """(rows, columns, batch) of devices for a group that began elsewhere and has `available` here.

    The padded extents were fixed when the group began; rows and columns must divide them.
    """
    seeds, cells = layout.padded
    if layout.devices <= available:
        return layout.rows, layout.columns, layout.batch
    choices = [
        (rows, columns)
        for rows in range(1, available + 1)
        for columns in range(1, available // rows + 1)
        if seeds % rows == 0 and cells % columns == 0
    ]
    rows, columns = max(choices, key=lambda c: (c[0] * c[1], c[0]))
    return rows, columns, _largest_divisor(layout.batch, available // (rows * columns))


def spread(tree: PyTree) -> PyTree:
    """Arrays whose leading axis is a batch's, divided among the devices that share it."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(BATCH))


def part(shape: Sequence[int], devices: int) -> PartitionSpec:
    """Where an array of one run lies on the devices that share its batches, if they divide it.

    A large one is divided along its longest axis that they divide, the last of equals; others lie
    on each device whole.
    """
    axes = [axis for axis, extent in enumerate(shape) if extent % devices == 0]
    if devices == 1 or not axes or math.prod(shape) < LARGE:
        return PartitionSpec()
    return PartitionSpec(*(None,) * max(axes, key=lambda axis: (shape[axis], axis)), BATCH)


def held(tree: PyTree, devices: int) -> PyTree:
    """A run's state with its large arrays divided, see `part`: so it is carried between steps.

    XLA gathers what a step needs whole, when it needs it.
    """

    def of_array(x):
        spec = part(x.shape, devices)
        return jax.lax.with_sharding_constraint(x, spec) if len(spec) else x

    return jax.tree.map(of_array, tree)


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
      mesh, specs: where "seeds", "cells", "grid" and "every" (replicated) arrays belong.
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
        return jax.device_put(value, self.sharding(spec))

    def sharding(self, spec: str) -> NamedSharding:
        """Where an array of one of the `specs` lives."""
        return NamedSharding(self.mesh, self.specs[spec])


def make_program(
    run: Run,
    layout: Layout,
    devices: Sequence[jax.Device],
    options: Mapping[str, Any] | None = None,
) -> Program:
    """The group's program; it is traced when first called or lowered.

    Args:
      run: functions of one run.
      layout: the grid and how it is divided.
      devices: those there are; each one that is used holds the whole data set.
      options: of XLA's compiler, see `samop.memory.compiler_options`.
    """
    rows, columns, batch = fewer(layout, len(devices))
    used = np.array(devices[: rows * columns * batch])
    if layout.batch > 1:
        mesh = Mesh(used.reshape(rows, columns, batch), (*AXES, BATCH))
    else:
        mesh = Mesh(used.reshape(rows, columns), AXES)
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

    grid = PartitionSpec(*AXES)
    seeds, cells = (PartitionSpec(axis) for axis in AXES)
    every = PartitionSpec()
    state = jax.tree.map(lambda flag: grid if flag else every, batched)

    parts = batch if layout.divided else 1
    shapes = jax.tree.map(
        lambda flag, x, spec: jax.ShapeDtypeStruct(
            (*layout.padded, *x.shape) if flag else x.shape,
            x.dtype,
            sharding=NamedSharding(mesh, PartitionSpec(*spec, *part(x.shape, parts))),
        ),
        batched,
        one,
        state,
    )
    lies = jax.tree.map(lambda x: x.sharding, shapes)
    begins = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec(AXES[0], *part(x.shape, parts))),
        (one.params, one.model_state),
    )

    def placed(**shardings):
        # Said only of a divided state, where the partitioner could do otherwise.
        return shardings if parts > 1 else {}

    def sharded(fn, out, scalars):
        specs = (state, seeds, cells, grid, every, *(every,) * scalars)
        # What is not named here, the axis of batches, is the partitioner's.
        return jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=out, axis_names=set(AXES), check_vma=False
        )

    jit = functools.partial(jax.jit, compiler_options=dict(options) if options else None)
    epoch = sharded(over_runs(run.epoch, (batched, True), 1), (state, grid), 1)
    advance = sharded(over_runs(run.advance, batched, 3), state, 3)
    pieces = run.pieces
    if pieces is not None:
        updates = sharded(over_runs(pieces.chunk, (batched, True), 1), (state, grid), 1)
        readings = (sharded(over_runs(fn, True, 1), grid, 1) for fn in (pieces.tally, pieces.close))
        pieces = type(pieces)(jit(updates, donate_argnums=0), *map(jit, readings))
    return Program(
        # Parts from the start: no device holds all of what is divided.
        start=jax.jit(start, out_shardings=lies, **placed(in_shardings=begins)),
        epoch=jit(epoch, donate_argnums=0, **placed(out_shardings=(lies, None))),
        advance=jit(advance, **placed(out_shardings=lies)),
        state=shapes,
        mesh=mesh,
        specs={"seeds": seeds, "cells": cells, "grid": grid, "every": every},
        pieces=pieces,
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
