"""What a sweep takes of a device's memory, foretold before anything trains: for `--dry_run`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from samop import config as configs
from samop import environment, loop, memory, sweep, variants
from samop.errors import UserError
from samop.groups import Group
from samop.workloads import parameters

# Parameters from which a program is compiled to be asked. What is compiled is kept in the cache of
# compiled programs, so that training need not do it again.
LARGE = 1_000_000


def lines(todo: Sequence[Group], workdir: Path, used: Sequence[jax.Device]) -> list[str]:
    """The memory that one device gives to each width: of large networks as XLA plans it.

    Args:
      todo: groups still to train.
      workdir: the sweep's folder.
      used: the devices.
    """
    dearest: dict[str, Group] = {}
    for group in todo:
        width = configs.width_label(group.points[0])
        if width not in dearest or _cost(group) > _cost(dearest[width]):
            dearest[width] = group
    large = {w: g for w, g in dearest.items() if parameters(g.points[0]) > LARGE}
    small = [width for width in dearest if width not in large]
    found, wrong, data = [], [], 0
    if small:
        found.append(f"{', '.join(small)}: small (up to {LARGE // 10**6} M parameters a run)")
    for width, group in large.items():
        try:
            ready = _fitting(group, workdir, used)
        except UserError as error:
            wrong.append(f"  would not fit: {error}")
            continue
        data = max(data, ready.footprint.data)
        found.append(f"{width}: {_of_a_device(ready)}")
    if large:
        cpu = used[0].platform == "cpu"
        if not cpu:
            data //= len(used)
        free = environment.free_bytes(used) / (1 if cpu else len(used))
        shared = f" for all {len(used)}" if cpu and len(used) > 1 else ""
        found.append(f"data {_gib(data)}{shared}; free {_gib(free)} GiB{shared}")
    where = f", as XLA plans it for a {used[0].platform}" if large else ""
    if any(g.points[0]["run"]["shard_parameters"] and not g.layout.divided for g in todo):
        wrong.append("  run.shard_parameters has no effect: no devices share a run's batches here")
    return [f"  memory a device{where}: {'; '.join(found)}", *wrong] if found else []


def _cost(group: Group) -> tuple[float, int]:
    return variants.cost(group.points[0]["optimizer"]), len(group.names)


def _fitting(group: Group, workdir: Path, used: Sequence[jax.Device]) -> loop.Ready:
    """The group compiled, or as much of it as the sweep would take for one program.

    Raises:
      UserError: a single run that does not fit.
    """
    while True:
        ready = loop.compiled(group, used)
        # On a CPU the data are in memory already.
        held = 0 if used[0].platform == "cpu" else ready.footprint.data
        halves = sweep.smaller(ready, workdir, used, environment.free_bytes(used) - held)
        if not halves:
            return ready
        group = halves[0]


def _of_a_device(ready: loop.Ready) -> str:
    needs, devices, layout = ready.footprint, ready.program.mesh.size, ready.group.layout
    total, state, workspace = (
        _gib(n / devices) for n in (needs.more, needs.state, needs.workspace)
    )
    notes = [f"state {state}, workspace {workspace}"]
    if layout.runs_a_device > 1:
        notes.append(f"{layout.runs_a_device} runs")
    if layout.batch > 1:
        divided = ", large arrays divided" if layout.divided else ""
        notes.append(f"batches shared by {layout.batch}{divided}")
    notes += _how(ready.group.points[0])
    return f"{total} GiB ({'; '.join(notes)})"


def _how(point: Any) -> list[str]:
    """What a config asks for that makes a difference."""
    said, notes = variants.resolved(point["optimizer"]), []
    if point["precision"]["compute"] != "float32":
        notes.append(f"computes in {point['precision']['compute']}")
    if said.get("m"):
        notes.append(f"m = {said['m']}")
    if point["train"]["remat"]:
        notes.append("blocks computed again")
    return notes


def _gib(size: float) -> str:
    return f"{size / memory.GIB:.2f}"
