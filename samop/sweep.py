"""A sweep: from a config and its axes to points, groups and trained runs in one work folder."""

import contextlib
import functools
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from absl import logging

from samop import (
    begun,
    claims,
    environment,
    groups,
    loop,
    memory,
    metrics,
    modes,
    processes,
    profiling,
    stopping,
    timings,
)
from samop import config as configs
from samop.errors import UserError
from samop.planning import (
    Plan,
    devices,
    expand,
    freeze,
    fresh_points,
    is_done,
    is_open,
    pending_groups,
    plan,
    with_fields,
    write_plan,
)
from samop.progress import Progress

__all__ = [
    "Plan",
    "devices",
    "expand",
    "fresh_points",
    "is_done",
    "pending_groups",
    "plan",
    "run",
    "write_plan",
]

PLANNING = "planning"  # the claim under which groups are formed and divided
COMPILERS = 2  # programs compiled at a time while another trains
KEPT = 4  # compiled programs that later groups of the same shape may use


def run(plan: Plan, workdir: Path) -> list[str]:
    """Trains whatever the plan has that the work folder has not.

    Other workers may do the same in the same folder: each group is trained by who claims it first,
    and taken over where its worker has died.

    Returns:
      Who is still training what is not finished, in words, one for each group; nobody is waited
      for.

    Raises:
      UserError: the folder, or that for traces, cannot be written, or another worker took over.
    """
    if plan.profile:
        profiling.check(Path(plan.profile))
    tried: set[str] = set()
    while True:
        told, others = processes.agreed(lambda: _free(plan, workdir, tried))
        if not told:
            return others
        free = [groups.heard(each, workdir, plan.points) for each in told]
        runs, work = sum(len(group.names) for group in free), sum(map(timings.work, free))
        with (
            Progress(runs, work, quiet=not processes.first()) as progress,
            contextlib.closing(_prepared(free, plan, workdir, progress)) as prepared,
        ):
            for ready, claim, training in prepared:
                tried.add(ready.group.name)
                _train(ready, plan, workdir, progress, training, claim)
                if stopping.announced() and not processes.several():
                    raise stopping.Stopped  # several vote on it in the next group
        # Others' groups may be free by now, or have been divided.


def _free(plan: Plan, workdir: Path, tried: set[str]) -> tuple[list[Any], list[str]]:
    """Groups to train that nobody has claimed, as `groups.told`; in words who has the others."""
    todo = _planned(plan, workdir, first=not tried)
    held = {
        group.name: claims.holder(workdir, group.name, _patience(plan))
        for group in todo
        if group.name not in tried
    }
    free = [groups.told(g) for g in todo if g.name in held and not held[g.name]]
    return free, [str(owner) for owner in held.values() if owner]


def _patience(plan: Plan) -> float:
    return plan.run["claim_seconds"]


def _planned(plan: Plan, workdir: Path, first: bool = False) -> list[groups.Group]:
    """The groups to train, all of them frozen; one worker at a time, so that each run is in one."""
    with claims.hold(workdir, PLANNING, _patience(plan), "plans") as claim:
        if first:
            write_plan(plan, workdir)
            fresh = fresh_points(plan, workdir)
            for shape, choice in modes.settle(fresh, plan.run, devices(plan.run)).items():
                print(f"{shape}: {choice.mode}, by a few timed steps: {modes.describe(choice)}")
        todo = pending_groups(plan, workdir)
        claim.check()
        # All of them before the first step: what remains after a kill could be grouped otherwise.
        for group in todo:
            freeze(group, plan, workdir)
    return todo


def _prepared(
    todo: list[groups.Group], plan: Plan, workdir: Path, progress: Progress
) -> Generator[tuple[loop.Ready, claims.Claim | None, threading.Event]]:
    """Groups ready to train, in order; the next ones compile while one trains.

    Each is claimed when its turn to compile comes, and given free when the next is asked for.
    Those that other workers have by then are passed over.

    Yields:
      The group, its claim (of several processes the first one has it), and what should be set once
      it trains. Until the first is, only one other compiles, so that nobody waits longer than
      needed for the first step.
    """
    training = threading.Event()
    used = devices(plan.run)
    queue = list(todo)
    futures: list[Future[loop.Ready]] = []
    claimed: list[claims.Claim | None] = []  # of the group that trains and those of `futures`
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
                claim = None

                def take(group: groups.Group = group) -> bool:
                    nonlocal claim
                    claim = _claimed(group, plan, workdir)
                    return claim is not None

                if not processes.agreed(take):
                    progress.leave_out(len(group.names), timings.work(group))
                    continue
                claimed.append(claim)
                shape = configs.digest([configs.static(group.points[0]), list(group.layout)])
                future = pool.submit(compiled, group, submitted < COMPILERS, programs.get(shape))
                programs = {**programs, shape: future}
                while len(programs) > KEPT:
                    del programs[next(iter(programs))]
                futures.append(future)
                submitted += 1
            if not futures:
                break
            ready = futures.pop(0).result()
            own = claimed[0]
            parts = processes.agreed(functools.partial(_divided, ready, plan, workdir, own))
            queue = [groups.heard(part, workdir, plan.points) for part in parts] + queue
            if not parts:
                yield ready, own, training
            if own := claimed.pop(0):
                own.release()
            training.set()
    finally:
        over.set()
        training.set()
        # An interrupt should not wait for a compilation that nobody needs any more.
        pool.shutdown(wait=False, cancel_futures=True)
        for own in filter(None, claimed):
            own.release()


def _claimed(group: groups.Group, plan: Plan, workdir: Path) -> claims.Claim | None:
    """The claim of a group; None where it is another worker's, or nothing is left to do."""
    claim = claims.take(workdir, group.name, _patience(plan))
    if not isinstance(claim, claims.Claim):
        return None
    if not is_open(group, workdir):
        claim.release()
        return None
    return claim


def _divided(ready: loop.Ready, plan: Plan, workdir: Path, claim: claims.Claim | None) -> list[Any]:
    """The groups, as `groups.told`, that take the place of one that would not fit; or none.

    Nobody plans meanwhile, or would see both.
    """
    group, used = ready.group, devices(plan.run)
    parts = smaller(ready, workdir, used, environment.free_bytes(used))
    if not parts:
        return []
    assert claim is not None
    with claims.hold(workdir, PLANNING, _patience(plan), "plans") as planning:
        claim.check()
        planning.check()
        for part in parts:
            freeze(part, plan, workdir, replaces=group.name)
        groups.thaw(group, workdir / "groups" / group.name)
    return [groups.told(part) for part in parts]


def smaller(
    ready: loop.Ready, workdir: Path, used: Sequence[jax.Device], free: float
) -> list[groups.Group]:
    """The halves of a group that would not fit into so many bytes; none where it does.

    Raises:
      UserError: a single run that needs more than there is.
    """
    group, needs = ready.group, ready.footprint
    if needs.more <= memory.SHARE * free or begun.is_begun(group, workdir):
        return []
    size = f"{needs.more / memory.GIB:.2g} GiB, and {free / memory.GIB:.2g} GiB are free"
    if len(group.names) > 1:
        others = len(group.names) - 1
        logging.info("%s and %d more need %s: fewer at a time", group.names[0], others, size)
        batch = lambda p: modes.shared_batch(p, p["run"], used)  # noqa: E731
        return groups.form(group.points, len(used), lambda _: len(group.names) // 2, batch)
    if processes.several():
        # One of several processes asks: a program cannot be compiled by it alone.
        if needs.more > free:
            raise UserError(f"{group.names[0]} needs {size}: take smaller batches or more devices")
        logging.warning("%s needs %s; trying all the same", group.names[0], size)
        return []
    point, platform = group.points[0], used[0].platform
    sizes = {name: point["train"][name] for name in ("batch_size", "eval_batch_size")}
    halved = with_fields(point, {f"train.{n}": -(-size // 2) for n, size in sizes.items()})
    batch_size = modes.shared_batch(halved, halved["run"], used)
    half = loop.compiled(groups.make([[halved]], len(used), batch_size), used).footprint
    shared = 1 if ready.workload.world is not None else len(used)
    also = memory.others(point, shared, group.layout.divided, platform)
    advice = memory.what_would_fit(needs, half, memory.SHARE * free, sizes, also)
    if needs.more > free:
        raise UserError(f"{group.names[0]} needs {size}: {advice}")
    logging.warning("%s needs %s; trying all the same. %s", group.names[0], size, advice)
    return []


def _train(
    ready: loop.Ready,
    plan: Plan,
    workdir: Path,
    progress: Progress,
    training: threading.Event,
    claim: claims.Claim | None,
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
        going=training.set,
        check=claim.check if claim else lambda: None,
    )
    if trained == ready.epochs and not plan.profile:  # a traced epoch foretells too much
        timings.remember(group, trained, time.monotonic() - begin)
    progress.advance(what, finished=len(group.names))
