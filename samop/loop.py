"""The host loop of one group of runs: feed epochs, read metrics late, save, resume."""

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from samop import (
    begun,
    checkpoint,
    diagnostics,
    divergence,
    feeding,
    memory,
    metrics,
    processes,
    profiling,
    records,
    scores,
    speed,
    stopping,
    streaming,
    transforms,
    watch,
)
from samop import config as configs
from samop.errors import UserError
from samop.groups import Group
from samop.layouts import check as check_layout
from samop.layouts import fitted
from samop.pauses import Pauses
from samop.sharding import Program, division_of, make_program
from samop.step import DIAGNOSIS
from samop.train import Run, make_run
from samop.workloads import Workload, build

PyTree = Any
FLUSH_SECONDS = 2.0
_loading = threading.Lock()  # groups prepared at the same time share one copy of the data


class Ready(NamedTuple):
    """A group with everything it needs to train.

    Attributes:
      group, workload, run, program: see their modules.
      epoch: the compiled epoch, called like `program.epoch`.
      epochs: how many the config asks for.
      footprint: memory that the compiled epoch takes.
      compile_seconds: time that building and compiling took.
    """

    group: Group
    workload: Workload
    run: Run
    program: Program
    epoch: Callable[..., tuple[PyTree, dict[str, jax.Array]]]
    epochs: int
    footprint: memory.Footprint
    compile_seconds: float


def prepare(group: Group, devices: Sequence[jax.Device]) -> Ready:
    """Builds and compiles a group's program, its data on the devices. From any thread."""
    ready = compiled(group, devices)
    _device_data(group.points[0], ready.workload, ready.program)
    return ready


def compiled(group: Group, devices: Sequence[jax.Device]) -> Ready:
    """The same from shapes alone: nothing is put onto the devices."""
    begin = time.monotonic()
    ready = uncompiled(group, devices)
    count = ready.program.mesh.size
    if count != group.layout.devices:
        logging.warning(
            "group %s began on %d devices and goes on with %d: the last bits may differ",
            group.name,
            group.layout.devices,
            count,
        )
    arguments = shapes(ready)
    stream, point, program = ready.workload.stream, group.points[0], ready.program
    if stream is None:
        epoch = main = program.epoch.lower(*arguments).compile()
    else:
        pieces = streaming.compiled(program, arguments, streaming.shapes(stream, point, program))
        epoch, main = streaming.epoch(stream, program, pieces, point), pieces.chunk
    return ready._replace(
        epoch=epoch,
        footprint=memory.footprint(main, arguments[4], count),
        compile_seconds=time.monotonic() - begin,
    )


def uncompiled(group: Group, devices: Sequence[jax.Device]) -> Ready:
    """A group whose functions compile when they are first called; its footprint is not known."""
    point = group.points[0]
    with _loading:
        workload = build(point)
    stream = workload.stream
    several = processes.several()
    shared = point["train"]["batch_size"] if several and _shareable(point, workload) else 1
    here = fitted(group.layout, len(devices), shared, several)
    check_layout(point, here)
    statistics = point["train"]["statistics"]
    run = make_run(point, workload, division_of(here, statistics))
    program = make_program(run, group.layout, here, devices, memory.compiler_options(point))
    if statistics == "replica" and program.mesh.size != group.layout.devices:
        raise UserError(
            f"train.statistics='replica': group {group.name} began with its batches on "
            f"{group.layout.devices} devices, and {program.mesh.size} would make it another run: "
            "go on with as many, or begin anew in another workdir"
        )
    epoch = program.epoch
    if stream is not None:
        epoch = streaming.epoch(stream, program, program.pieces, point)
    unknown, epochs = memory.Footprint(0, 0, 0), configs.epochs(point)
    return Ready(group, workload, run, program, epoch, epochs, unknown, 0.0)


def _shareable(point: Mapping[str, Any], workload: Workload) -> bool:
    return workload.world is None and point["run"]["share_batches"] != "never"


def shapes(ready: Ready) -> tuple[PyTree, ...]:
    """Shapes of the epoch's arguments, and where they lie."""
    return feeding.arguments(*ready[:4])


def _inputs(group: Group, program: Program):
    seeds, cells = group.layout.padded
    traced = {
        field: np.array(_pad(values, cells), jnp.result_type(float))
        for field, values in group.cells.items()
    }
    return (
        program.place("seeds", np.array(_pad(group.seeds, seeds), np.uint32)),
        program.place("cells", traced),
    )


def _pad(values: Sequence[Any], extent: int) -> list[Any]:
    return list(values) + [values[-1]] * (extent - len(values))


def _device_data(point: Mapping[str, Any], workload: Workload, program: Program) -> PyTree:
    if workload.world is not None:
        return program.place("every", workload.world.handles)
    if workload.splits is None:
        return {}
    with _loading:
        return _place_data(workload.splits, *feeding.evaluated(point, program), program.mesh)


@functools.lru_cache(maxsize=2)
def _place_data(splits, eval_batch_size, shared, mesh) -> PyTree:
    """Data on the devices, once for all groups that use them; raw bytes, whole on each."""
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return processes.place(feeding.whole(splits, eval_batch_size, shared), everywhere)


def start(ready: Ready) -> PyTree:
    """The state before the first step. Each run's weights depend on its own seed alone."""
    seeds, _ = ready.group.layout.padded
    stacked: PyTree = None
    for i, seed in enumerate(_pad(ready.group.seeds, seeds)):
        # One at a time: all of them beside their stack would take half as much again.
        one = jax.device_get(ready.run.init(np.uint32(seed)))
        if stacked is None:
            stacked = jax.tree.map(lambda x: np.empty((seeds, *x.shape), x.dtype), one)
        jax.tree.map(lambda all, x: all.__setitem__(i, x), stacked, one)  # noqa: B023
    program = ready.program
    if processes.several() and program.begins is not None:
        stacked = jax.tree.map(processes.place, stacked, program.begins)
    return program.start(*stacked)


def _labels(ready: Ready) -> jax.Array:
    seeds, cells = ready.group.layout.padded
    rates = _pad(ready.group.cells["data.label_noise"], cells)
    made: dict[tuple[int, float], np.ndarray] = {}
    for seed in ready.group.seeds:
        for rate in rates:
            if (seed, rate) not in made:
                labels = ready.run.labels(np.uint32(seed), rate)
                made[seed, rate] = np.asarray(labels)
    grid = [[made[s, rate] for rate in rates] for s in _pad(ready.group.seeds, seeds)]
    return ready.program.place("grid", np.stack([np.stack(row) for row in grid]))


def feed(ready: Ready) -> tuple[PyTree, ...]:
    """Seeds, traced fields, labels and data on the devices: the epoch's arguments that stay."""
    seeds, traced = _inputs(ready.group, ready.program)
    data = _device_data(ready.group.points[0], ready.workload, ready.program)
    return seeds, traced, _labels(ready), data


def resume(ready: Ready, workdir: Path) -> tuple[PyTree, int]:
    """The state to go on from and the number of epochs behind it; records cut back to match.

    Takes the newest checkpoint whose files match their hashes and whose rows are all on the disk;
    without one the group starts again.
    """
    epoch = processes.agreed(lambda: begun.cut_back(ready, workdir))
    if not epoch:
        return start(ready), 0
    saved = workdir / "groups" / ready.group.name / "checkpoints" / str(epoch)
    return checkpoint.restore(saved, ready.program.state), epoch


def train(
    ready: Ready,
    workdir: Path,
    *,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    profile: str = "",
    report: Callable[[int], None] = lambda epochs: None,
    going: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Trains a group to its end and marks its runs DONE. Resumes what was begun.

    Where SIGTERM comes (to any of several processes), it ends with a checkpoint after the epoch
    that the devices are in, by raising `stopping.Stopped`.

    Each run's `timing.jsonl` gets a line on this call; an epoch that is profiled is slower, and its
    time is in there too.

    Args:
      ready: the group.
      workdir: the sweep's folder; the runs' folders exist.
      checkpoint_seconds: least time between checkpoints (at ends of epochs).
      tensorboard: write event files too.
      profile: folder for a trace of one epoch, see `samop.profiling`; empty: none.
      report: called with the number of epochs newly done (or found done), as they are read.
      going: called whenever an epoch is on its way to the devices.
      check: called before anything is written; raises where the group is another worker's now.

    Returns:
      The number of epochs trained by this call.
    """
    group, folder = ready.group, workdir / "groups" / ready.group.name
    points = [workdir / "points" / name for name in group.names]
    check()
    if processes.several() and processes.any_of(stopping.announced()):
        raise stopping.Stopped
    if processes.agreed(lambda: begun.is_trained(group, workdir)):
        if processes.first():
            begun.finish(ready, workdir)
        return 0
    state, begin = resume(ready, workdir)
    evaluations = speed.grad_evals(state)
    report(begin)
    inputs = feed(ready)
    watching = watch.Watch(ready, workdir, inputs, check)
    # One writer of records; the others have no files.
    log = metrics.GroupRecords(points if processes.first() else [], tensorboard)
    saver = checkpoint.Writer(folder / "checkpoints")
    diverged = divergence.Divergence(ready, workdir)
    started = time.monotonic()
    pauses = Pauses(checkpoint_seconds)
    warned = False

    def read(number: int, values: PyTree) -> None:
        nonlocal warned
        values = jax.tree.map(functools.partial(real, group), processes.fetch(values))
        values = scores.scored(ready.workload, values)
        diverged.read(number + 1, values, saver)
        if not ready.run.due(number):
            values = {k: v for k, v in values.items() if not k.startswith(DIAGNOSIS)}
        elif not warned and (number + 1 < ready.epochs or ready.epochs == 1):
            warned = _warn_if_inactive(group, number + 1, values)
        log.add(metrics.rows_of((number + 1) * ready.run.steps_per_epoch, number + 1, values))
        report(1)

    def epochs(state: PyTree) -> PyTree:
        pending, flushed = None, started
        for number in range(begin, ready.epochs):
            watching.before(number, state)
            place = ready.program.place("every", np.int32(number))
            epoch = ready.epoch
            if profile and number == min(begin + 1, ready.epochs - 1):
                epoch = profiling.traced(epoch, profiling.place(Path(profile), group))
            state, values = epoch(state, *inputs, place)
            values = processes.together(values)
            going()
            watching.after(number, state)
            # Read one epoch late, so that the devices never wait for the host.
            if pending:
                read(*pending)
            pending = number, values
            save, stop = pauses.due()
            if save and number + 1 < ready.epochs:
                read(*pending)
                pending = None
                check()
                log.flush(sync=True)
                watching.sync()
                saver.save(number + 1, state)
                pauses.saved()
                flushed = time.monotonic()
                if stop:
                    raise stopping.Stopped
            elif time.monotonic() - flushed > FLUSH_SECONDS:
                check()
                log.flush()
                flushed = time.monotonic()
        if pending:
            read(*pending)
        check()
        log.flush(sync=True)
        watching.sync()
        return state

    try:
        with stopping.deferred():
            state = epochs(state)
    finally:
        try:
            saver.close()
        finally:
            log.close()
    seconds = time.monotonic() - started - watching.seconds
    evaluations = speed.grad_evals(state) - evaluations
    figures = speed.figures(ready, ready.epochs - begin, evaluations, seconds)
    params = transforms.eval_params(state.opt_state, state.params)
    variables = {"params": params, **state.model_state}
    final = jax.tree.map(lambda x: real(group, x), processes.fetch(variables))
    check()
    if processes.first():
        checkpoint.save(folder / "final", final)
        line = {
            "group": group.name,
            "runs": len(points),
            "epochs": ready.epochs - begin,
            "devices": ready.program.mesh.size,
            "processes": jax.process_count(),
            "jax": jax.__version__,
            "seconds": round(seconds, 3),
            "compile_seconds": round(ready.compile_seconds, 3),
            **figures,
        }
        if watching.seconds:
            line["curvature_seconds"] = round(watching.seconds, 3)
        for point in points:
            records.append_plain(point / "timing.jsonl", line)
        check()
        begun.finish(ready, workdir)
    return ready.epochs - begin


def _warn_if_inactive(group: Group, epoch: int, values: Mapping[str, np.ndarray]) -> bool:
    """Says it once where SAM does nothing in a run of the group, though it should."""
    fields = diagnostics.Diagnosis._fields
    if DIAGNOSIS + fields[0] not in values:
        return False
    for i, (name, rho) in enumerate(zip(group.names, group.rhos)):
        run = diagnostics.Diagnosis(*(values[DIAGNOSIS + field][i] for field in fields))
        if reason := diagnostics.inactive(run, rho):
            logging.warning("SAM is inactive in %s, epoch %d: %s", name, epoch, reason)
            return True
    return False


def real(group: Group, x: np.ndarray) -> np.ndarray:
    """[padded seeds, padded cells, ...] → [runs, ...], padding dropped."""
    grid = x[: group.layout.seeds, : group.layout.cells]
    return grid.reshape(-1, *grid.shape[2:])
