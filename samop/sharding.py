"""Many runs as one program: vmapped over seeds and cells, laid out over devices.

A group of runs is a grid of seeds × cells; a cell is one setting of the traced fields. The batch
order belongs to the seed, so cells of one seed share it and XLA gathers each batch once for all.

Devices that are left over share the batches of each run, along the mesh's axis "batch". Whether
XLA's partitioner divides what is computed from them, or the run's functions are those of one device
(`config.parallel`), see `samop.division`; results are equal.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import processes
from samop.division import BATCH, CONSTRAINED, WHOLE, Division, mapped
from samop.layouts import Layout
from samop.train import Run

PyTree = Any
AXES = ("seeds", "cells")
COPIES = "copies"  # of what devices compute that have no part of their own
LARGE = 4096  # numbers from which an array is worth dividing


def division_of(layout: Layout, statistics: str = "batch") -> Division:
    """How a run of that layout has its batches, see `samop.division`."""
    if layout.parallel != "jit":
        return mapped(statistics)
    if layout.batch == 1:
        return WHOLE
    if not layout.divided:
        return CONSTRAINED
    return CONSTRAINED._replace(held=functools.partial(held, devices=layout.batch))


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
      begins: shardings of what `start` takes, where its arrays lie in parts; None: whole.
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
    begins: PyTree = None

    def place(self, spec: str, value: PyTree) -> PyTree:
        """Puts host arrays onto the devices."""
        return processes.place(value, self.sharding(spec))

    def place_own(self, spec: str, value: PyTree, hosts: int) -> PyTree:
        """Puts this host's part of an array that `hosts` hosts have each a part of."""
        place = self.sharding(spec)
        if hosts == 1 or not self.specs[spec]:
            return self.place(spec, value)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), value)

    def sharding(self, spec: str) -> NamedSharding:
        """Where an array of one of the `specs` lives."""
        return NamedSharding(self.mesh, self.specs[spec])


def make_program(
    run: Run,
    layout: Layout,
    here: Layout,
    devices: Sequence[jax.Device],
    options: Mapping[str, Any] | None = None,
) -> Program:
    """The group's program; it is traced when first called or lowered.

    Args:
      run: functions of one run.
      layout: the grid as the group began, which decides the arrays' extents.
      here: how it lies on these devices, see `fitted`.
      devices: those there are; each one that is used holds the whole data set.
      options: of XLA's compiler, see `samop.memory.compiler_options`.
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

    parts = here.batch if here.divided else 1
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
        if by_pmap:
            return pmapped(fn, list(used))
        specs = (state, seeds, cells, grid, every, *(every,) * scalars)
        # What is not named here, the axis of batches, is the partitioner's.
        names = set(mesh.axis_names if manual else AXES)
        return jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=out, axis_names=names, check_vma=False
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
        begins=begins if parts > 1 else None,
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
