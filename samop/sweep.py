"""A sweep: from a config and its axes to points, groups and trained runs in one work folder."""

import contextlib
import copy
import fcntl
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from samop import config as configs
from samop import (
    environment,
    groups,
    loop,
    memory,
    metrics,
    modes,
    profiling,
    records,
    timings,
    validation,
    variants,
)
from samop.errors import UserError, nearest
from samop.progress import Progress
from samop.workloads import build, parameters

Point = Mapping[str, Any]
Axes = Mapping[str, Sequence[Any]]
COMPILERS = 2  # programs compiled at a time while another trains
KEPT = 4  # compiled programs that later groups of the same shape may use


class Plan(NamedTuple):
    """What a command is going to do.

    Attributes:
      experiment: name of the sweep.
      command: the command line, for the record.
      axes: swept fields and their values, one mapping for each product of axes.
      points: configs by run name, in order.
      run: the config's `run` section.
      profile: folder for a profiler's traces; empty: none.
    """

    experiment: str
    command: str
    axes: tuple[Axes, ...]
    points: Mapping[str, Point]
    run: Mapping[str, Any]
    profile: str = ""


def expand(config: Mapping[str, Any], axes: Axes | Sequence[Axes]) -> list[Point]:
    """All runs of a sweep: the product of the axes, the last varying fastest.

    Runs that are the same (ρ is not swept where the optimiser has none) appear once.

    Args:
      config: the full config.
      axes: dotted field → values; or several such, whose products follow each other, where
        optimisers want grids of their own.

    Raises:
      UserError: an axis that is no field or has no values, an invalid run, or a field of the
        perturbation that is set but that no run reads.
    """
    products = [axes] if isinstance(axes, Mapping) else list(axes)
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    points: dict[str, Point] = {}
    unread: dict[str, str] = {}
    read: set[str] = set()
    for product in products:
        _check_axes(product, config)
        for values in itertools.product(*product.values()):
            point = _point(plain, dict(zip(product, values)))
            ignored = variants.unread(point["optimizer"])
            unread.update(ignored)
            read.update(set(variants.FIELDS).difference(ignored))
            # What a variant does not read is not said of its runs.
            for field in ignored:
                point["optimizer"][field] = variants.FIELDS[field]
            if point["optimizer"]["name"] == "base":
                point["optimizer"]["rho"] = 0.0
            validation.validate(point)
            points.setdefault(configs.digest(configs.canonical(point)), point)
    for field, reason in unread.items():
        if field not in read:
            value = configs.get(config, f"optimizer.{field}")
            raise UserError(f"optimizer.{field}={value!r} would be ignored: {reason}")
    return list(points.values())


def _check_axes(axes: Axes, config: Mapping[str, Any]) -> None:
    allowed = configs.flatten(config)
    for field, values in axes.items():
        if field not in allowed:
            raise UserError(f"sweep axis {field!r} is no field{nearest(field, allowed)}")
        if not len(values):
            raise UserError(f"sweep axis {field!r} has no values")


def _point(plain: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config with some fields set."""
    point = copy.deepcopy(dict(plain))
    for field, value in fields.items():
        *parents, last = field.split(".")
        node = point
        for key in parents:
            node = node[key]
        # ρ = 1 and ρ = 1.0 are one run.
        whole = isinstance(value, int) and not isinstance(value, bool)
        node[last] = float(value) if isinstance(node[last], float) and whole else value
    return point


def plan(config: Mapping[str, Any], axes: Axes | Sequence[Axes], command: str = "") -> Plan:
    """The plan of a config with its axes; see `expand`."""
    points = {configs.point_name(point): point for point in expand(config, axes)}
    products = (axes,) if isinstance(axes, Mapping) else tuple(axes)
    experiment, profile = config["experiment"], config["profile"]
    return Plan(experiment, command, products, points, config["run"], profile)


def devices(run: Mapping[str, Any]) -> list[jax.Device]:
    """The devices that a config's `run` section asks for."""
    found = jax.devices()
    if run["devices"] > len(found):
        raise UserError(
            f"run.devices={run['devices']} is more than there are: {len(found)} "
            f"({found[0].platform})"
        )
    return found[: run["devices"] or len(found)]


def pending_groups(plan: Plan, workdir: Path) -> list[groups.Group]:
    """The groups still to train, those begun earlier first; DONE runs are left alone."""
    used = devices(plan.run)
    most = functools.partial(modes.most_runs, run=plan.run, used=used)
    batch = functools.partial(modes.shared_batch, run=plan.run, used=used)
    fresh = fresh_points(plan, workdir)
    return _unfinished(plan, workdir) + groups.form(fresh, len(used), most, batch)


def _unfinished(plan: Plan, workdir: Path) -> list[groups.Group]:
    """Groups begun earlier and not at their end.

    A group with a DONE run has been trained to its end. Where one of its other runs has lost its
    folder since, that run trains anew in a group of its own.
    """
    unfinished = []
    for group in groups.frozen(workdir, plan.points):
        done = [is_done(workdir, name) for name in group.names]
        if not any(done) or (not all(done) and loop.is_trained(group, workdir)):
            unfinished.append(group)
    return unfinished


def fresh_points(plan: Plan, workdir: Path) -> list[Point]:
    """The runs that no group has begun."""
    taken = {name for group in _unfinished(plan, workdir) for name in group.names}
    return [
        point
        for name, point in plan.points.items()
        if name not in taken and not is_done(workdir, name)
    ]


def is_done(workdir: Path, name: str) -> bool:
    """Whether a run is finished."""
    return (workdir / "points" / name / "DONE").exists()


def run(plan: Plan, workdir: Path) -> None:
    """Trains whatever the plan has that the work folder has not. Holds the folder's lock.

    Raises:
      UserError: the folder, or that for traces, cannot be written, or another process works in it.
    """
    if plan.profile:
        profiling.check(Path(plan.profile))
    with lock(workdir):
        write_plan(plan, workdir)
        fresh = fresh_points(plan, workdir)
        for shape, choice in modes.settle(fresh, plan.run, devices(plan.run)).items():
            print(f"{shape}: {choice.mode}, by a few timed steps: {modes.describe(choice)}")
        todo = pending_groups(plan, workdir)
        # All of them before the first step: what remains after a kill could be grouped otherwise.
        for group in todo:
            _freeze(group, plan, workdir)
        runs = sum(len(group.names) for group in todo)
        with Progress(runs, sum(map(timings.work, todo))) as progress:
            training = threading.Event()
            for ready in _prepared(todo, plan, workdir, training):
                _train(ready, plan, workdir, progress, training)


def _freeze(group: groups.Group, plan: Plan, workdir: Path, replaces: str = "") -> None:
    folder = workdir / "groups" / group.name
    if not (folder / groups.MEMBERS).exists():
        choice = modes.choose(group.points[0], plan.run, devices(plan.run))
        how = {**choice._asdict(), **({"replaces": replaces} if replaces else {})}
        groups.freeze(group, folder, how)


def write_plan(plan: Plan, workdir: Path) -> None:
    """Writes plan.json and, for each run that is new, its folder with config.json."""
    axes = [{f: list(values) for f, values in product.items()} for product in plan.axes]
    surroundings = environment.describe()
    for name, point in plan.points.items():
        folder = workdir / "points" / name
        if _is_json(folder / "config.json"):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        workload = build(point)
        value = {
            "name": name,
            "experiment": plan.experiment,
            "config": configs.to_json(point),
            "width": configs.width_label(point),
            "parameters": parameters(point),
            "metric": workload.metric._asdict(),
            "data": dict(workload.source),
            "train_metrics_at": (
                "perturbed weights"
                if point["optimizer"]["name"] in variants.EVALUATE_ELSEWHERE
                else "weights"
            ),
            "environment": surroundings,
        }
        records.write_json(folder / "config.json", value, sync=False)
    value = {
        "experiment": plan.experiment,
        "command": plan.command,
        "axes": axes,
        "points": list(plan.points),
    }
    records.write_json(workdir / "plan.json", value)


def _is_json(file: Path) -> bool:
    """Whether a file is there and whole; one damaged by a power failure is written again."""
    if not file.exists():
        return False
    try:
        json.loads(file.read_text())
    except ValueError:
        logging.warning("%s is damaged; writing it again", file)
        return False
    return True


def _prepared(
    todo: list[groups.Group], plan: Plan, workdir: Path, training: threading.Event
) -> Iterator[loop.Ready]:
    """Groups ready to train, in order; the next ones compile while one trains.

    Args:
      todo, plan, workdir: as in `run`.
      training: set once the first group trains. Until then only one other compiles, so that nobody
        waits longer than needed for the first step.
    """
    used = devices(plan.run)
    queue = list(todo)
    futures: list[Future[loop.Ready]] = []
    pool = ThreadPoolExecutor(COMPILERS, thread_name_prefix="compile")
    over, submitted = threading.Event(), 0
    programs: dict[str, Future[loop.Ready]] = {}

    def compiled(group: groups.Group, at_once: bool, same: Future[loop.Ready] | None):
        if not at_once:
            training.wait()
        if over.is_set():
            raise CancelledError
        if same is not None:
            return same.result()._replace(group=group, compile_seconds=0.0)
        return loop.prepare(group, used)

    try:
        while queue or futures:
            while queue and len(futures) <= COMPILERS:
                group = queue.pop(0)
                shape = configs.digest([configs.static(group.points[0]), list(group.layout)])
                future = pool.submit(compiled, group, submitted < COMPILERS, programs.get(shape))
                programs = {**programs, shape: future}
                while len(programs) > KEPT:
                    del programs[next(iter(programs))]
                futures.append(future)
                submitted += 1
            ready = futures.pop(0).result()
            halves = smaller(ready, workdir, used, environment.free_bytes(used))
            for group in halves:
                _freeze(group, plan, workdir, replaces=ready.group.name)
            if halves:
                groups.thaw(ready.group, workdir / "groups" / ready.group.name)
                queue = halves + queue
            else:
                yield ready
            training.set()
    finally:
        over.set()
        training.set()
        # An interrupt should not wait for a compilation that nobody needs any more.
        pool.shutdown(wait=False, cancel_futures=True)


def smaller(
    ready: loop.Ready, workdir: Path, used: Sequence[jax.Device], free: float
) -> list[groups.Group]:
    """The halves of a group that would not fit into so many bytes; none where it does.

    Raises:
      UserError: a single run that needs more than there is.
    """
    group, needs = ready.group, ready.footprint
    if needs.more <= memory.SHARE * free or loop.is_begun(group, workdir):
        return []
    size = f"{needs.more / memory.GIB:.2g} GiB, and {free / memory.GIB:.2g} GiB are free"
    if len(group.names) > 1:
        others = len(group.names) - 1
        logging.info("%s and %d more need %s: fewer at a time", group.names[0], others, size)
        return groups.form(group.points, len(used), lambda _: len(group.names) // 2)
    point, platform = group.points[0], used[0].platform
    sizes = {name: point["train"][name] for name in ("batch_size", "eval_batch_size")}
    halved = _point(point, {f"train.{n}": -(-size // 2) for n, size in sizes.items()})
    half = loop.compiled(groups.make([[halved]], len(used)), used).footprint
    shared = 1 if ready.workload.splits is None else len(used)
    also = memory.others(point, shared, group.layout.divided, platform)
    advice = memory.what_would_fit(needs, half, memory.SHARE * free, sizes, also)
    if needs.more > free:
        raise UserError(f"{group.names[0]} needs {size}: {advice}")
    logging.warning("%s needs %s; trying all the same. %s", group.names[0], size, advice)
    return []


def _train(
    ready: loop.Ready, plan: Plan, workdir: Path, progress: Progress, training: threading.Event
) -> None:
    group, point = ready.group, ready.group.points[0]
    label = configs.optimizer_label(point)
    what = f"{label} {configs.width_label(point)}"
    share = timings.work(group) / ready.epochs
    progress.advance(what)
    tensorboard = plan.run["tensorboard"] and metrics.tensorboard_available()
    begin = time.monotonic()
    trained = loop.train(
        ready,
        workdir,
        checkpoint_seconds=plan.run["checkpoint_seconds"],
        tensorboard=tensorboard,
        profile=plan.profile,
        report=lambda epochs: progress.advance(what, share * epochs),
        begun=training.set,
    )
    if trained == ready.epochs and not plan.profile:  # a traced epoch foretells too much
        timings.remember(group, trained, time.monotonic() - begin)
    progress.advance(what, finished=len(group.names))


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Makes the work folder this process's own; the system frees it when the process ends.

    Raises:
      UserError: the folder cannot be written or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / ".lock", "a+")  # noqa: SIM115 - held for as long as the context
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written: {error.strerror}; choose a folder that can"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"--workdir={workdir} is in use by process {file.read().strip() or 'unknown'}: "
                "wait for it, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
