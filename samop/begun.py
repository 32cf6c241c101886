"""What a group has left in the work folder: how far it is, and what a resumed one may keep."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from samop import checkpoint, records, watch
from samop import config as configs
from samop.groups import Group

if TYPE_CHECKING:
    from samop.loop import Ready

DONE = ("group", "steps", "rows", "metrics_sha256")  # fields of a finished run's file of that name


def is_begun(group: Group, workdir: Path) -> bool:
    """Whether a group has left anything but its members' names."""
    files = [workdir / "points" / name / "metrics.jsonl" for name in group.names]
    return (
        any(file.exists() for file in files) or (workdir / "groups" / group.name / "final").exists()
    )


def is_trained(group: Group, workdir: Path) -> bool:
    """Whether a group's final parameters and all its rows are there: only DONE may be missing."""
    if not checkpoint.is_good(workdir / "groups" / group.name / "final"):
        return False
    for name in group.names:
        point, epochs = workdir / "points" / name, configs.epochs(group.points[0])
        rows = records.read_rows(point / "metrics.jsonl", tolerate_tail=True)
        if not rows or rows[-1]["epoch"] != epochs:
            return False
        per_epoch = rows[-1]["step"] // epochs
        due = watch.due(group.points[0], per_epoch, epochs)
        if watch.recorded(point, due, per_epoch, epochs) != epochs:
            return False
    return True


def cut_back(ready: "Ready", workdir: Path) -> int:
    """The epoch to go on from, 0: none; the records are cut back to it."""
    group = ready.group
    saved = workdir / "groups" / group.name / "checkpoints"
    points = [workdir / "points" / name for name in group.names]
    files = [point / "metrics.jsonl" for point in points]
    rows = [records.read_rows(file, tolerate_tail=True) for file in files]
    recorded = min(own[-1]["epoch"] if own else 0 for own in rows)
    per_epoch = ready.run.steps_per_epoch
    due = watch.due(group.points[0], per_epoch, ready.epochs)
    recorded = min(watch.recorded(point, due, per_epoch, recorded) for point in points)
    epoch = checkpoint.newest_good(saved, recorded)
    for file, own in zip(files, rows):
        kept = [row for row in own if row["epoch"] <= epoch]
        if file.exists() or kept:
            records.rewrite_rows(file, kept)
    for point in points:
        watch.cut(point, epoch * per_epoch)
    return epoch


def finish(ready: "Ready", workdir: Path) -> None:
    """Marks a trained group's runs DONE and removes its checkpoints."""
    for name in ready.group.names:
        point = workdir / "points" / name
        text = (point / "metrics.jsonl").read_bytes()
        done = (
            ready.group.name,
            ready.epochs * ready.run.steps_per_epoch,
            text.count(b"\n"),
            hashlib.sha256(text).hexdigest(),
        )
        records.write_sealed(point / "DONE", dict(zip(DONE, done)))
    checkpoint.remove_all(workdir / "groups" / ready.group.name / "checkpoints")
