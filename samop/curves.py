"""Every recorded epoch of the runs of a work folder, one row each, and means over seeds. No jax.

`samop.results.load` keeps the last and the best row of a run; what lies between is read here, from
the same `metrics.jsonl`. The files are read again rather than kept in memory by `load`, which most
callers do not need the curves from: 1,000 runs of 50 epochs take about a second more.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from samop.comparison import WIDTH, arm_columns, condition_columns, gains, metric
from samop.errors import UserError
from samop.records import CorruptRecord, read_rows
from samop.results import SPLITS
from samop.statistics import choose

# Columns of `results.load` that tell a run from the others; the fields that vary join them.
FIRST = ("point", "status", "dataset", "model", "width", "parameters", "optimizer", "base")
THEN = ("transform", "rho", "label_noise")


def load(workdir: str | Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Reads the curves of runs.

    Args:
      workdir: the folder that the runs were loaded from.
      runs: table of `samop.results.load`, or a part of it. Runs that are not finished have the
        rows that they have written so far, those that have not begun none.

    Returns:
      One row per run and recorded epoch, in the order of `runs` and then of the epochs: what tells
      the run apart as in `runs` (point, status, dataset, model, width, parameters, optimizer, base,
      transform, rho, label_noise, every column of `attrs["varying"]`, seed); epoch, step,
      grad_evals; train_loss, validation_loss, test_loss, and train_NAME, validation_NAME,
      test_NAME of the metric: as recorded, unscaled, NaN where a row has none. `attrs` as of
      `runs`.

    Raises:
      UserError: a finished run whose record is not what was written, by its name.
    """
    kinds = dict.fromkeys((metric(runs).name, "loss"))
    names = ["epoch", "step", "grad_evals"]
    names += [f"{split}_{kind}" for kind in kinds for split in SPLITS]
    points = Path(workdir) / "points"
    values: dict[str, list[Any]] = {name: [] for name in names}
    counts = []
    for point, status in zip(runs["point"], runs["status"]):
        rows = [] if status == "missing" else _rows(points / point / "metrics.jsonl", status)
        counts.append(len(rows))
        for name, column in values.items():
            column.extend([row.get(name, math.nan) for row in rows])
    columns = [*FIRST, *THEN, *runs.attrs.get("varying", []), "seed"]
    at = np.repeat(np.arange(len(runs)), counts)
    curves = runs[columns].iloc[at].reset_index(drop=True).assign(**values)
    curves.attrs = dict(runs.attrs)
    return curves


def _rows(path: Path, status: str) -> list[dict[str, Any]]:
    try:
        # A run that goes on may be in the middle of a line.
        return read_rows(path, tolerate_tail=status == "partial")
    except CorruptRecord as error:
        raise UserError(f"{error}; delete the run's folder and run the sweep again") from None


def diverged(curves: pd.DataFrame) -> set[str]:
    """The points with a value that is not finite in their last row, also of unfinished runs."""
    last = curves.drop_duplicates("point", keep="last")
    losses = last[[f"{split}_loss" for split in SPLITS]].to_numpy(float)
    gone = (last["status"] == "diverged") | ~np.isfinite(losses).all(axis=1)
    return set(last.loc[gone, "point"])


def chosen(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The ρ of each condition, arm and width that is best on validation data at the last epoch.

    Args:
      runs: table of `samop.results.load`.
      curves: table of `load`.

    Returns:
      One row per condition, arm and width of the perturbed runs: `rho_star` as in
      `comparison.gains`. Where no seed has finished all its runs it is that of the best mean at the
      last epoch which all of the cell's runs have reached, and `provisional`.
    """
    by = [*condition_columns(runs), *WIDTH, *arm_columns(runs)]
    final = gains(runs)
    stars = {}
    if len(final) and set(by) <= set(final):
        stars = dict(zip(_places(final, by), final["rho_star"]))
    perturbed = curves[curves["transform"] != "base"]
    lost = diverged(perturbed)
    rows = []
    for values, cell in perturbed.groupby(by, dropna=False, sort=False):
        star = stars.get(_places(cell.iloc[:1], by)[0], math.nan)
        row = {**dict(zip(by, values)), "rho_star": star, "provisional": not math.isfinite(star)}
        if row["provisional"]:
            row["rho_star"] = _best_so_far(cell, lost, runs)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "rho_star", "provisional"])


def _places(table: pd.DataFrame, by: list[str]) -> list[tuple]:
    """The values of the columns, row by row, with one "not given" that equals itself."""
    return list(table[by].astype(object).where(table[by].notna(), None).itertuples(False, None))


def _best_so_far(cell: pd.DataFrame, lost: set[str], runs: pd.DataFrame) -> float:
    unit = metric(runs)
    reached = cell.groupby("point")["epoch"].max()
    alive = reached[~reached.index.isin(lost)]
    at = alive.min() if len(alive) else reached.min()
    rhos, seeds = (sorted(cell[column].unique()) for column in ("rho", "seed"))
    values = np.full((len(rhos), len(seeds)), math.nan)
    gone = np.zeros(values.shape, bool)
    for (rho, seed, point), rows in cell.groupby(["rho", "seed", "point"]):
        place = rhos.index(rho), seeds.index(seed)
        gone[place] = point in lost
        values[place] = rows.loc[rows["epoch"] == at, f"validation_{unit.name}"].mean()
    return float(rhos[choose(values, gone, unit.higher_is_better)])


def mean(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """The mean over runs at each epoch.

    Args:
      curves: rows of `load`, of runs that differ in the seed alone.
      column: what to average.

    Returns:
      One row per epoch at which some run has a number: epoch, `mean` over the `n` runs that have
      one there, and `half95`, the half-width of its 95 % t interval, NaN below two runs.
    """
    wide = curves.pivot_table(index="epoch", columns="point", values=column, dropna=True)
    values = wide.to_numpy(float)
    n = np.isfinite(values).sum(axis=1)
    error = wide.std(axis=1, ddof=1).to_numpy(float) / np.sqrt(n)
    half = np.where(n > 1, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * error, np.nan)
    means = wide.mean(axis=1).to_numpy(float)
    return pd.DataFrame({"epoch": wide.index, "mean": means, "half95": half, "n": n})
