"""Runs of one table brought together: cells, and within them pairs by seed. No jax.

The table is that of `samop.results.load`, one row a run. Runs that agree in every config field but
the seed and the perturbation form a *condition*; a kind of perturbation (a variant with its fields,
apart from ρ) is an *arm*. One condition, width and arm is a cell. Within it, run and run are paired
by seed: same initialisation, batch order and label noise.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop.errors import UserError
from samop.statistics import choose, choose_leaving_out
from samop.variants import VARIANTS

WIDTH = ["width", "parameters"]


class Metric(NamedTuple):
    """What is compared: `scale` turns a recorded value into what is shown (accuracy: 100, %)."""

    name: str
    higher_is_better: bool
    scale: float
    unit: str


def metric(runs: pd.DataFrame) -> Metric:
    """The metric of a table that `samop.results.load` made."""
    if "metric" not in runs.attrs:
        raise UserError("the table has no attrs['metric']: it should come from results.load")
    return Metric(**runs.attrs["metric"])


def condition_columns(runs: pd.DataFrame) -> list[str]:
    """Columns that base and SAM runs of one comparison share, apart from the width."""
    ascent = runs.attrs.get("ascent", [])
    common = [c for c in runs.attrs.get("varying", []) if c not in ascent]
    return ["dataset", "model", "base", *common, "label_noise"]


def arm_columns(runs: pd.DataFrame) -> list[str]:
    """Columns that tell the kinds of perturbation apart, apart from ρ."""
    return ["transform", *runs.attrs.get("ascent", [])]


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that enter means: a partial run has no last epoch to compare."""
    return runs[runs["status"].isin(["done", "diverged"])]


def rho_grid(runs: pd.DataFrame) -> list[float]:
    """All ρ of the perturbed runs, ascending."""
    perturbed = runs[runs["status"] != "missing"]
    return sorted(perturbed.loc[perturbed["transform"] != "base", "rho"].unique())


def arms(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The arms of the finished runs, as values of `arm_columns`, in the order of VARIANTS."""
    done = finished(runs)
    columns = arm_columns(runs)
    perturbed = done.loc[done["transform"] != "base", columns].drop_duplicates().to_dict("records")
    return [key for key, _ in _ordered(_split(perturbed, columns))]


def only(runs: pd.DataFrame, arm: Mapping[str, Any]) -> pd.DataFrame:
    """The base runs, and of the others those of one arm; `arm` is one of `arms(runs)`."""
    members = matches(runs, arm, arm_columns(runs)).index
    return runs[(runs["transform"] == "base") | runs.index.isin(members)]


def matches(rows: pd.DataFrame, key: Mapping[str, object], columns: list[str]) -> pd.DataFrame:
    """The rows that agree with the key in the columns; nothing agrees with nothing."""
    agree = np.ones(len(rows), bool)
    for column in columns if len(rows) else []:
        same = rows[column].isna() if pd.isna(key[column]) else rows[column] == key[column]
        agree &= same.to_numpy(bool)
    return rows[agree]


class Cell(NamedTuple):
    """The runs of one condition, width and arm.

    Attributes:
      key: their condition, width and arm.
      base: seed → row of the runs.
      sam: ρ ascending → seed → row.
    """

    key: dict[str, Any]
    base: dict[int, dict[str, Any]]
    sam: dict[float, dict[int, dict[str, Any]]]


def _by_seed(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if (other := found.setdefault(int(row["seed"]), row)) is not row:
            raise UserError(
                f"two runs of seed {row['seed']:g} differ in nothing: {other['point']}, "
                f"{row['point']}"
            )
    return dict(sorted(found.items()))


def place(key: Mapping[str, Any], columns: list[str]) -> tuple:
    """The key's values in the columns as something to sort by, "not given" (NaN) last."""
    return tuple((True, 0) if pd.isna(key[c]) else (False, key[c]) for c in columns)


def _split(rows: list[dict], columns: list[str]) -> list[tuple[dict[str, Any], list[dict]]]:
    """Rows by their values in the columns, ascending."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        # NaN is not itself: as it stands, each would be a group of its own.
        values = tuple(None if (value := row[c]) != value else value for c in columns)
        groups.setdefault(values, []).append(row)
    split = [({c: same[0][c] for c in columns}, same) for same in groups.values()]
    return sorted(split, key=lambda group: place(group[0], columns))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries of plain values; `to_dict` takes ten times as long."""
    columns = list(table.columns)
    return [dict(zip(columns, row)) for row in zip(*(table[c].tolist() for c in columns))]


def _ordered(split: list[tuple[dict[str, Any], list[dict]]]) -> list:
    """Arms in the order in which `samop.variants` lists them."""
    rank = {name: number for number, name in enumerate(VARIANTS)}
    return sorted(split, key=lambda item: rank.get(item[0]["transform"], len(rank)))


def cells(runs: pd.DataFrame) -> list[Cell]:
    """The finished runs by condition, arm and width; a condition without arms has arm "none"."""
    # Plain dictionaries: thousands of small pandas frames would take seconds.
    records = _records(finished(runs))
    found = []
    for condition, rows in _split(records, condition_columns(runs)):
        perturbed = [row for row in rows if row["transform"] != "base"]
        kinds = _ordered(_split(perturbed, arm_columns(runs)))
        for arm, members in kinds or [({"transform": "none"}, [])]:
            for width, local in _split(rows, ["parameters", "width"]):
                base = _by_seed([row for row in local if row["transform"] == "base"])
                here = [row for row in members if all(row[k] == v for k, v in width.items())]
                sam = {key["rho"]: _by_seed(group) for key, group in _split(here, ["rho"])}
                key = {**condition, **{k: width[k] for k in WIDTH}, **arm}
                found.append(Cell(key, base, sam))
    return found


class Pairs(NamedTuple):
    """Base and perturbed runs of a cell, one pair a seed; arrays are [n], values as recorded.

    Attributes:
      seeds: those with a complete set of runs, ascending.
      base, sam: test metric of each seed's base run, and of its perturbed run.
      rho: ρ of each seed's perturbed run.
      rho_star: the ρ that all seeds together choose.
      edge: "highest" or "lowest" where rho_star ends the grid.
      selection: how ρ was found.
      diverged: number of runs among the pairs that diverged.
      unpaired: number of seeds left out because a run is missing.
      costs: mean epochs and gradient evaluations of the runs: base_epochs, base_grad_evals,
        sam_epochs, sam_grad_evals.
    """

    seeds: list[int]
    base: np.ndarray
    sam: np.ndarray
    rho: np.ndarray
    rho_star: float
    edge: str
    selection: str
    diverged: int
    unpaired: int
    costs: dict[str, float]


def pair(cell: Cell, metric: Metric, epoch: str, choice: str | float) -> Pairs:
    """The pairs of a cell; epoch and choice as for `samop.comparison.gains`."""
    fixed = not isinstance(choice, str)
    grid = {rho: runs for rho, runs in cell.sam.items() if not fixed or rho == choice}
    every = set(cell.base).union(*cell.sam.values())
    # Without base runs the choice can still be shown, though no gain.
    complete = set(cell.base or every).intersection(*grid.values())
    seeds = sorted(complete) if grid else []
    if not seeds:
        none = np.empty(0)
        unpaired = len(every) if cell.sam else 0
        costs = _costs([] if cell.sam else list(cell.base.values()), [])
        return Pairs([], none, none, none, np.nan, "", "", 0, unpaired, costs)

    def of(column: str) -> np.ndarray:
        return np.array([[runs[seed][column] for seed in seeds] for runs in grid.values()])

    rhos = np.array(list(grid))
    test = of(f"{epoch}_test_{metric.name}")
    split = "test" if choice == "oracle" else "validation"
    shown = of(f"{epoch}_{split}_{metric.name}")
    # Not `status`, which sees the test split: nothing of it may reach the choice.
    finite = [np.isfinite(of(f"last_{s}_loss")) for s in ("train", "validation")]
    diverged = ~(finite[0] & finite[1] & np.isfinite(shown))

    star = choose(shown, diverged, metric.higher_is_better)
    chosen = np.full(len(seeds), star)
    if fixed:
        selection = "fixed in advance"
    elif choice == "oracle":
        selection = "chosen on test: optimistic"
    elif len(rhos) == 1:
        selection = "only one rho"
    elif len(seeds) == 1:
        selection = "same seed: only one"
    else:
        selection = "leave-one-seed-out"
        chosen = choose_leaving_out(shown, diverged, metric.higher_is_better)
    edge = ""
    if not fixed and len(rhos) > 1:
        # ρ = 0 is where the range ends, not where the grid was cut off.
        edge = "highest" if star == len(rhos) - 1 else "lowest" if star == 0 < rhos[0] else ""
    base = [cell.base[seed] for seed in seeds] if cell.base else []
    sam = [list(grid.values())[rho][seed] for rho, seed in zip(chosen, seeds)]
    scores = [run[f"{epoch}_test_{metric.name}"] for run in base] or [np.nan] * len(seeds)
    return Pairs(
        seeds=seeds,
        base=np.array(scores),
        sam=test[chosen, np.arange(len(seeds))],
        rho=rhos[chosen],
        rho_star=float(rhos[star]),
        edge=edge,
        selection=selection,
        diverged=sum(run["status"] == "diverged" for run in sam + base),
        unpaired=len(every) - len(seeds),
        costs=_costs(base, sam),
    )


def _costs(base: list[dict[str, Any]], sam: list[dict[str, Any]]) -> dict[str, float]:
    return {
        f"{arm}_{kind}": float(np.mean([run[kind] for run in rows])) if rows else np.nan
        for arm, rows in (("base", base), ("sam", sam))
        for kind in ("epochs", "grad_evals")
    }
