"""Work folders → one row per run, and what is computed from them. No jax.

`load` reads and verifies the run folders; the paired statistics are in `samop.comparison`, the
terminal table in `samop.summary`, and all of them can be had from here.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from samop.comparison import (
    Metric,
    between,
    finished,
    gains,
    metric,
    pairs,
    slopes,
    tidy,
)
from samop.errors import UserError
from samop.records import CorruptRecord, read_json, read_rows
from samop.summary import table
from samop.variants import LABELS, base_label
from samop.varying import add_varying, settings

__all__ = [
    "Completeness",
    "Metric",
    "Unfinished",
    "between",
    "completeness",
    "finished",
    "gains",
    "load",
    "metric",
    "pairs",
    "slopes",
    "table",
    "tidy",
]

SPLITS = ("train", "validation", "test")
# What a row may hold besides: how both parts of a noisy training set are fitted, ‖w‖.
BESIDES = (
    "train_clean_accuracy",
    "train_noisy_accuracy",
    "train_noisy_true_accuracy",
    "weight_norm",
)


class Unfinished(UserError):
    """A sweep some of whose runs are not at their end."""


class Completeness(NamedTuple):
    """Names of the points in each state; a diverged run is a finished one."""

    done: tuple[str, ...]
    diverged: tuple[str, ...]
    partial: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def incomplete(self) -> tuple[str, ...]:
        """What is left to train."""
        return self.partial + self.missing

    @property
    def total(self) -> int:
        """Number of points."""
        return sum(len(names) for names in self)


def completeness(runs: pd.DataFrame) -> Completeness:
    """Which points are in which state.

    Args:
      runs: table of `load(…, allow_incomplete=True)`.
    """
    return Completeness(
        **{s: tuple(runs.loc[runs["status"] == s, "point"]) for s in Completeness._fields}
    )


def load(
    workdir: str | Path, *, allow_incomplete: bool = False, every: bool = False
) -> pd.DataFrame:
    """Reads the runs of a work folder.

    Args:
      workdir: folder with `plan.json` and `points/`.
      allow_incomplete: accept missing and partial runs; they are rows, but enter no mean.
      every: also the points of earlier sweeps in the same folder. Otherwise only those of the
        latest plan, and `attrs["others"]` says how many were passed over.

    Returns:
      One row per run, sorted: point, experiment, status (done, diverged: finished, with a
      non-finite value in the last row; partial, missing), dataset, model, width, parameters,
      optimizer ("SGD", "LookSAM"), base ("sgd"), transform ("base", "looksam"), rho (0 for the
      base), label_noise, seed, epochs and grad_evals reached; a column "section.field" for every
      other config field that differs between the runs, one of the perturbation only if it does
      between runs of one variant (a variant's defaults are filled in; empty where a run does not
      read it); `last_*` and `best_*`: epoch, and loss and metric of the three splits at the last
      epoch and at the epoch that is best on validation (the earliest among equals). Values are as
      recorded, unscaled; training values of the variants in `variants.EVALUATE_ELSEWHERE` were
      taken at perturbed weights. `attrs` holds plain values: metric, experiment, command, planned,
      others, notes; varying: these fields; ascent: those of the perturbation; kinds: transform →
      those that differ within it; settings: transform → fields that are the same in all its runs.

    Raises:
      UserError: no work folder, an incomplete grid, or a record that is corrupt, by its name.
    """
    root = Path(workdir)
    plan, names, others = _names(root, every)
    read = [_point(root / "points" / name) for name in names]
    known = [(row, record) for row, record in read if record is not None]
    specs = {json.dumps(record["metric"], sort_keys=True) for _, record in known}
    if len(specs) > 1:
        raise UserError(f"{root}: runs of different metrics cannot be compared: {sorted(specs)}")

    varying, ascent, kinds = add_varying(known)
    runs = pd.DataFrame([row for row, _ in read], columns=_columns(known, varying))
    for column in varying:
        runs[column] = _uniform(runs[column])
    order = ["dataset", "model", "base", *varying, "label_noise", "parameters", "width"]
    runs = runs.sort_values([*order, "transform", "rho", "seed", "point"], ignore_index=True)
    runs.attrs = {
        "metric": json.loads(specs.pop()) if specs else None,
        "experiment": plan.get("experiment", ""),
        "command": plan.get("command", ""),
        "planned": len(plan.get("points", [])),
        "others": 0 if every else len(others),
        "varying": varying,
        "ascent": ascent,
        "kinds": kinds,
        "settings": settings(known, kinds),
        "notes": _notes(known),
    }
    _check_complete(root, completeness(runs), allow_incomplete)
    return runs


def _names(root: Path, every: bool) -> tuple[dict[str, Any], list[str], list[str]]:
    if not root.is_dir():
        raise UserError(f"workdir={str(root)!r} does not exist")
    points = root / "points"
    found = sorted(p.name for p in points.iterdir() if p.is_dir()) if points.is_dir() else []
    if (root / "plan.json").exists():
        plan = _json(root / "plan.json", "points")
    elif every and found:
        plan = {"points": []}
    else:
        raise UserError(
            f"workdir={str(root)!r} holds no plan.json: it should be the --workdir of a sweep "
            "that was started"
        )
    planned = set(plan["points"])
    others = [name for name in found if name not in planned]
    names = sorted(planned) + (others if every else [])
    if not names:
        raise UserError(f"{root / 'plan.json'} lists no points")
    return plan, names, others


def _check_complete(root: Path, state: Completeness, allowed: bool) -> None:
    if len(state.missing) == state.total:
        raise Unfinished(f"workdir={str(root)!r}: none of its {state.total} runs was started")
    if state.incomplete and not allowed:
        some = ", ".join(state.incomplete[:3]) + (" …" if len(state.incomplete) > 3 else "")
        raise Unfinished(
            f"workdir={str(root)!r}: {len(state.incomplete)} of {state.total} runs are not "
            f"finished ({len(state.missing)} missing, {len(state.partial)} partial): {some}; "
            "run the sweep again to finish it, or give --allow_incomplete "
            "(load(…, allow_incomplete=True))"
        )


def _json(path: Path, *keys: str) -> dict[str, Any]:
    try:
        return read_json(path, *keys)
    except CorruptRecord as error:
        raise UserError(f"{error}; the sweep's command writes it again") from None


def _point(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The row of one run and its config.json; None where the run has none yet."""
    # Before all it vouches for, and once: a run may end while it is read.
    finished = (folder / "DONE").exists()
    if not (folder / "config.json").exists():
        if finished:
            raise UserError(f"{folder} is corrupt: it has DONE but no config.json")
        return {"point": folder.name, "status": "missing"}, None
    record = _json(folder / "config.json", "name", "config", "width", "parameters", "metric")
    if record["name"] != folder.name:
        raise UserError(f"{folder / 'config.json'} belongs to another run: {record['name']!r}")
    path = folder / "metrics.jsonl"
    rows = _verified(path, folder / "DONE") if finished else read_rows(path, tolerate_tail=True)
    row = {"point": folder.name, "status": "partial" if rows else "missing", **_fields(record)}
    if rows:
        row.update(_values(path, rows, Metric(**record["metric"])))
        if finished:
            told = {k: v for k, v in row.items() if k.startswith("last_")}
            finite = all(math.isfinite(told[k]) for k in told if k[5:] not in BESIDES)
            row["status"] = "done" if finite else "diverged"
    return row, record


def _verified(path: Path, done: Path) -> list[dict[str, Any]]:
    claim = _json(done, "rows", "metrics_sha256")
    mend = "delete the run's folder and run the sweep again"
    try:
        rows = read_rows(path)
    except (CorruptRecord, KeyError, TypeError, AttributeError) as error:
        # CorruptRecord names the file; the others are rows that are no objects with a step.
        text = str(error) if isinstance(error, CorruptRecord) else f"{path}: a row is no record"
        raise UserError(f"{text}; {mend}") from None
    if len(rows) != claim["rows"] or not rows:
        raise UserError(f"{path} has {len(rows)} rows, DONE says {claim['rows']}; {mend}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != claim["metrics_sha256"]:
        raise UserError(f"{path} is not the file of which DONE holds the sha256; {mend}")
    return rows


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    optimizer = config["optimizer"]
    plain = optimizer["name"] == "base"
    return {
        "experiment": record.get("experiment", ""),
        "dataset": config["data"]["name"],
        "model": config["model"]["name"],
        "width": record["width"],
        "parameters": record["parameters"],
        "optimizer": LABELS.get(optimizer["name"])
        or (base_label(optimizer["base"]) if plain else optimizer["name"].upper()),
        "base": optimizer["base"],
        "transform": optimizer["name"],
        "rho": 0.0 if plain else float(optimizer["rho"]),
        "label_noise": float(config["data"].get("label_noise", 0.0)),
        "seed": config["seed"],
    }


def _values(path: Path, rows: list[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    names = [f"{split}_{kind}" for split in SPLITS for kind in dict.fromkeys((metric.name, "loss"))]
    # A metric of whole splits is not taken of the training part.
    if f"train_{metric.name}" not in rows[-1]:
        names.remove(f"train_{metric.name}")
    lacking = [name for name in ("epoch", "grad_evals", *names) if name not in rows[-1]]
    if lacking:
        raise UserError(f"{path}: the last row lacks {', '.join(lacking)}")
    sign = 1 if metric.higher_is_better else -1
    scores = [sign * row.get(f"validation_{metric.name}", math.nan) for row in rows]
    finite = [score for score in scores if math.isfinite(score)]
    best = rows[scores.index(max(finite))] if finite else rows[-1]
    names += [name for name in BESIDES if name in rows[-1]]
    values = {"epochs": rows[-1]["epoch"], "grad_evals": rows[-1]["grad_evals"]}
    for when, row in (("last", rows[-1]), ("best", best)):
        values[f"{when}_epoch"] = row["epoch"]
        values.update({f"{when}_{name}": row.get(name, math.nan) for name in names})
    return values


def _columns(known: list, varying: list[str]) -> list[str]:
    """All columns in reading order; those of the values come from the runs that have some."""
    first = ["point", "experiment", "status", "dataset", "model", "width", "parameters"]
    first += ["optimizer", "base", "transform", "rho", "label_noise", *varying, "seed"]
    first += ["epochs", "grad_evals"]
    values = dict.fromkeys(k for row, _ in known for k in row if k.startswith(("last_", "best_")))
    return first + list(values)


def _uniform(column: pd.Series) -> pd.Series:
    """Numbers stay numbers; anything else becomes text, nothing an empty one."""
    present = [value for value in column if not (value is None or value is pd.NA)]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present):
        return column.astype(float)
    texts = [v if isinstance(v, str) else json.dumps(v) for v in column.where(column.notna(), "")]
    return pd.Series(texts, index=column.index, dtype="str")


def _notes(known: list) -> list[str]:
    """What runs of one table should have in common and have not."""
    notes = []
    data = {(row["dataset"], record.get("data", {}).get("sha256")) for row, record in known}
    for name in sorted({name for name, _ in data}):
        if (hashes := sum(name == other for other, _ in data)) > 1:
            notes.append(f"the runs on {name} saw {hashes} different versions of the data")
    keys = ("jax", "device")
    places = {tuple(record.get("environment", {}).get(k) for k in keys) for _, record in known}
    if len(places) > 1:
        notes.append(f"the runs come from {len(places)} environments (jax version, device)")
    return notes
