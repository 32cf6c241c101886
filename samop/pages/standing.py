"""How far a sweep is, by its files alone: cheap enough to look again every few seconds. No jax.

Nothing is verified here and nothing written; `samop.results.load` is what reads the numbers.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from samop import variants
from samop.errors import UserError
from samop.records import CorruptRecord, decode, read_json

TAIL = 8192  # bytes at the end of a record among which its last row is
STEP_OVERHEAD = 3000  # parameters that a step of the smallest network costs as much as


class Run(NamedTuple):
    """How far one run is.

    Attributes:
      status: done, diverged (finished, values not finite), partial or missing.
      epoch, epochs: trained and planned; 0 planned: its config is not written yet.
      work: what all its epochs cost, in arbitrary units.
      claim_seconds: the config's field; 0: its config is not written yet.
    """

    name: str
    status: str
    epoch: int
    epochs: int
    work: float
    claim_seconds: float = 0.0


class Standing(NamedTuple):
    """How far a sweep is.

    Attributes:
      experiment, command: as its plan has them.
      runs: of the plan, in its order.
    """

    experiment: str
    command: str
    runs: tuple[Run, ...]

    def names(self, *statuses: str) -> list[str]:
        """The runs in one of these states."""
        return [run.name for run in self.runs if run.status in statuses]

    @property
    def finished(self) -> int:
        """How many runs are at their end, diverged ones among them."""
        return len(self.names("done", "diverged"))

    @property
    def whole(self) -> bool:
        """Whether nothing is left to train."""
        return self.finished == len(self.runs)

    @property
    def share(self) -> float:
        """Part of the work that is done, 0 to 1; a run whose config is missing counts as one."""
        middling = [run.work for run in self.runs if run.epochs]
        unknown = sum(middling) / len(middling) if middling else 1.0
        whole = sum(run.work if run.epochs else unknown for run in self.runs)
        done = sum(run.work * min(1.0, run.epoch / run.epochs) for run in self.runs if run.epochs)
        return done / whole

    @property
    def percent(self) -> int:
        """The share as whole per cent: 100 only where nothing is left to train."""
        return 100 if self.whole else min(99, math.floor(100 * self.share))

    @property
    def claim_seconds(self) -> float:
        """The config's field, for who would claim the report: the most patient run's."""
        if told := max(run.claim_seconds for run in self.runs):
            return told
        from samop import config  # brings jax along; only records without the field take it

        return float(config.defaults().run.claim_seconds)


def read(root: Path, known: dict[str, Run] | None = None) -> Standing | None:
    """How far the sweep in a work folder is; None where none has begun.

    Args:
      root: the work folder.
      known: finished runs of an earlier call, which are not read again; grows.

    Raises:
      UserError: its plan is damaged or lists no run.
    """
    known = {} if known is None else known
    try:
        plan = read_json(root / "plan.json", "points")
    except FileNotFoundError:
        return None
    except CorruptRecord as error:
        raise UserError(f"{error}; the sweep's command writes it again") from None
    if not plan["points"]:
        raise UserError(f"{root / 'plan.json'} lists no points")
    runs = []
    for name in sorted(plan["points"]):
        folder = root / "points" / name
        if name in known and (folder / "DONE").exists():
            runs.append(known[name])
            continue
        run = _run(folder, _config(folder / "config.json"))
        runs.append(run)
        if run.status in ("done", "diverged"):
            known[name] = run
    return Standing(str(plan.get("experiment", "")), str(plan.get("command", "")), tuple(runs))


def _config(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # not there yet; what is damaged is said where it is verified


def _run(folder: Path, record: Mapping[str, Any]) -> Run:
    done = (folder / "DONE").exists()  # before the rows: one that comes between is seen next time
    row = _last_row(folder / "metrics.jsonl")
    config = record.get("config")
    epochs, work, seconds = 0, 0.0, 0.0
    if config:
        train = config["train"]
        seconds = float(config.get("run", {}).get("claim_seconds", 0.0))
        cost = variants.cost(config["optimizer"])
        epochs = train["epochs"]
        if train.get("budget") == "grad_evals":
            epochs = max(1, math.floor(epochs / cost + 1e-9))
        work = epochs * cost * (record["parameters"] + STEP_OVERHEAD)
    status = "missing" if row is None else "partial"
    if done and row is not None:
        shown = ("loss", record.get("metric", {}).get("name", "loss"))
        values = [v for k, v in row.items() if k.partition("_")[2] in shown]
        status = "done" if all(map(math.isfinite, values)) else "diverged"
    return Run(folder.name, status, int(row["epoch"]) if row else 0, epochs, work, seconds)


def _last_row(path: Path) -> Mapping[str, Any] | None:
    """The last whole row; None where there is none yet."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):  # a row that is being written just now has no checksum yet
        try:
            return decode(line)
        except CorruptRecord:
            continue
    return None
