"""What runs recorded of their speed in timing.jsonl → columns, a table and a line. No jax.

Nothing that is compared depends on it: what cannot be read is said and left out.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import logging

from samop import comparison, wording
from samop.variants import base_label
from samop.wording import DASH, align, fill

RATES = ("steps_per_second", "examples_per_second", "model_flops_per_second")
HEADER = ["width", "optimiser", "runs", "seconds", "steps/s", "examples/s", "model GFLOP/s"]


def read(root: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """The lines of the runs' timing.jsonl.

    Args:
      root: the work folder.
      runs: table of `samop.results.load`.

    Returns:
      One row a line, each call that trained a run having left one: point, group (its runs have the
      same lines), runs (how many it has), seconds, and `RATES`, of the whole group and NaN where
      an earlier version did not record them.
    """
    found = []
    for name in runs["point"]:
        path = root / "points" / name / "timing.jsonl"
        if not path.exists():
            continue
        for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
            try:
                found.append({"point": name, **_entry(name, json.loads(text))})
            except (ValueError, AttributeError, KeyError, TypeError):
                # A killed process may leave half a line; nothing that is compared depends on it.
                logging.warning("%s, line %d is unreadable and not counted", path, number)
    return pd.DataFrame(found, columns=["point", "group", "runs", "seconds", *RATES])


def _entry(point: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of a line; raises where something is not what it should be."""
    group = line.get("group", point)
    if not isinstance(group, str):
        raise TypeError
    rates = {name: _number(line[name]) if name in line else math.nan for name in RATES}
    number = _number(line.get("runs", 1))
    if number < 1:
        raise ValueError
    return {"group": group, "runs": number, "seconds": _number(line["seconds"]), **rates}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not 0 <= value < math.inf:
        raise ValueError
    return float(value)


def joined(runs: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """The runs with the columns `RATES`: the speed of each run's group over all its calls."""
    rates = _rates(lines, lines["point"])
    return runs.assign(**{rate: runs["point"].map(rates[rate]).astype(float) for rate in RATES})


def _rates(lines: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Work of the lines that say it over the seconds of the same, a row for each value of `by`."""
    found = {}
    for rate in RATES:
        seconds = lines["seconds"].where(lines[rate].notna(), 0.0)
        work = (lines[rate] * lines["seconds"]).fillna(0.0)
        spent = seconds.groupby(by).sum()
        found[rate] = work.groupby(by).sum() / spent.where(spent > 0)
    return pd.DataFrame(found)


def section(runs: pd.DataFrame, lines: pd.DataFrame) -> str:
    """The terminal block on speed: a row a width and optimiser; empty where no run recorded any.

    Args:
      runs: table of `samop.results.load`.
      lines: table of `read`.
    """
    cells = rows(runs, lines)
    if not cells:
        return ""
    title = (
        "Speed: the runs of a group train as one program; rates are of a group's runs together, "
        "evaluation included. A model flop is one of the matrix products and convolutions, a "
        "gradient counting as three forward passes"
    )
    return f"{fill(title)}\n\n{align(HEADER, cells, left=(0, 1))}\n"


def rows(runs: pd.DataFrame, lines: pd.DataFrame) -> list[list[str]]:
    """The rows of `section`, columns as in HEADER; none where no run recorded a speed."""
    if not lines[list(RATES)].notna().any(axis=None):
        return []
    place = ["dataset", "model", "width"]
    named = [column for column in place if column == "width" or runs[column].nunique() > 1]
    timed = runs[runs["point"].isin(lines["point"])].dropna(subset="width")
    kinds = ["base", *comparison.arm_columns(runs)]
    labels = pd.Series("", timed.index)
    for _, same in timed.groupby(kinds, dropna=False, sort=False):
        labels[same.index] = _label(same.iloc[0], runs)
    timed = timed.assign(label=labels)
    cells = []
    for (*_, label), here in timed.groupby([*place, "parameters", "label"], sort=False):
        own = _of_groups(lines[lines["point"].isin(here["point"])])
        rates = _rates(own, pd.Series(0, own.index)).iloc[0]
        first = here.iloc[0]
        cells.append(
            [
                " ".join(first[column] for column in named),
                label,
                f"{len(here)}",
                f"{own['seconds'].sum():,.1f}",
                _text(rates["steps_per_second"]),
                _text(rates["examples_per_second"]),
                _text(rates["model_flops_per_second"] / 1e9),
            ]
        )
    return cells


def _label(row: pd.Series, runs: pd.DataFrame) -> str:
    """The optimiser's name as the other tables have it."""
    if row["transform"] == "base":
        return base_label(row["base"])
    return wording.arm_label(dict(row), runs)


def _of_groups(lines: pd.DataFrame) -> pd.DataFrame:
    """Each group's lines once: those of the run that has most, for one may have lost its folder."""
    kept = []
    for _, own in lines.groupby("group", sort=False):
        points = own["point"].value_counts()
        kept.append(own[own["point"] == points.index[0]])
    return pd.concat(kept)


def _text(value: float) -> str:
    """Three digits at least: 0.0123, 12.3, 1,234; a dash where there is no number."""
    if not np.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def compute(runs: pd.DataFrame, lines: pd.DataFrame) -> str:
    """One line on the time the runs recorded; empty where they recorded none."""
    if lines.empty:
        return ""
    # A group of runs trains as one program; each of them has the group's time.
    seconds = (lines["seconds"] / lines["runs"]).sum()
    evaluations = comparison.finished(runs)["grad_evals"].sum()
    return (
        f"compute: {evaluations:.3g} gradient evaluations; {seconds:,.0f} s of training recorded "
        f"by {lines['point'].nunique()} runs\n"
    )
