"""What SAM gains over its base optimiser, paired by seed, with intervals and tests. No jax.

The functions take the table of `samop.results.load`, one row a run. Runs that agree in every
config field but the seed and the perturbation form a cell, one per condition and width. Within a
cell, run and run are paired by seed: same initialisation, batch order and label noise.

Divergence: a diverged run stays in. An accuracy is finite even where the loss is not, and enters
as recorded (chance level). A value that is not finite itself cannot enter a mean: its pair is
left out and counted in `n_excluded`, which flatters the optimiser that diverged.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop.errors import UserError
from samop.statistics import choose, choose_leaving_out, estimate, holm

WIDTH = ["width", "parameters"]
EPOCHS = ("last", "best")
ORACLE = "oracle (chosen on test)"


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


class _Cell(NamedTuple):
    key: dict[str, Any]  # condition, width and arm
    base: dict[int, dict[str, Any]]  # seed → row of the runs
    sam: dict[float, dict[int, dict[str, Any]]]  # ρ ascending → seed → row


def _by_seed(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if (other := found.setdefault(int(row["seed"]), row)) is not row:
            raise UserError(
                f"two runs of seed {row['seed']:g} differ in nothing: {other['point']}, "
                f"{row['point']}"
            )
    return dict(sorted(found.items()))


def _split(rows: list[dict], columns: list[str]) -> list[tuple[dict[str, Any], list[dict]]]:
    """Rows by their values in the columns, ascending, "not given" (NaN) last."""
    groups: dict[tuple, tuple[dict[str, Any], list[dict]]] = {}
    for row in rows:
        key = {column: row[column] for column in columns}
        place = tuple((True, 0) if pd.isna(v) else (False, v) for v in key.values())
        groups.setdefault(place, (key, []))[1].append(row)
    return [groups[place] for place in sorted(groups)]


def _cells(runs: pd.DataFrame) -> list[_Cell]:
    # Plain dictionaries: thousands of small pandas frames would take seconds.
    records = finished(runs).to_dict("records")
    cells = []
    for condition, rows in _split(records, condition_columns(runs)):
        perturbed = [row for row in rows if row["transform"] != "base"]
        arms = _split(perturbed, arm_columns(runs))
        for arm, members in arms or [({"transform": "none"}, [])]:
            for place, local in _split(rows, ["parameters", "width"]):
                base = _by_seed([row for row in local if row["transform"] == "base"])
                here = [row for row in members if all(row[k] == v for k, v in place.items())]
                sam = {key["rho"]: _by_seed(group) for key, group in _split(here, ["rho"])}
                key = {**condition, **{k: place[k] for k in WIDTH}, **arm}
                cells.append(_Cell(key, base, sam))
    return cells


class _Pairs(NamedTuple):
    seeds: list[int]
    base: np.ndarray  # [n], recorded values of the test split
    sam: np.ndarray
    rho: np.ndarray  # [n], of each seed's SAM run
    rho_star: float  # of all seeds together
    edge: str
    selection: str
    diverged: int  # runs among the pairs
    unpaired: int  # seeds left out because a run is missing


def _pair(cell: _Cell, metric: Metric, epoch: str, choice: str | float) -> _Pairs:
    fixed = not isinstance(choice, str)
    arms = {rho: runs for rho, runs in cell.sam.items() if not fixed or rho == choice}
    every = set(cell.base).union(*cell.sam.values())
    # Without base runs the choice can still be shown, though no gain.
    complete = set(cell.base or every).intersection(*arms.values())
    seeds = sorted(complete) if arms else []
    if not seeds:
        none = np.empty(0)
        return _Pairs([], none, none, none, np.nan, "", "", 0, len(every) if cell.sam else 0)

    def of(column: str) -> np.ndarray:
        return np.array([[runs[seed][column] for seed in seeds] for runs in arms.values()])

    rhos = np.array(list(arms))
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
    place = np.arange(len(seeds))
    base = [cell.base[seed] for seed in seeds] if cell.base else []
    scores = [run[f"{epoch}_test_{metric.name}"] for run in base] or [np.nan] * len(seeds)
    failed = of("status")[chosen, place] == "diverged"
    return _Pairs(
        seeds=seeds,
        base=np.array(scores),
        sam=test[chosen, place],
        rho=rhos[chosen],
        rho_star=float(rhos[star]),
        edge=edge,
        selection=selection,
        diverged=int(failed.sum()) + sum(run["status"] == "diverged" for run in base),
        unpaired=len(every) - len(seeds),
    )


def _check(runs: pd.DataFrame, epoch: str, choice: str | float) -> None:
    if epoch not in EPOCHS:
        raise UserError(f"epoch={epoch!r} is not allowed; allowed: {', '.join(EPOCHS)}")
    if isinstance(choice, str):
        if choice not in ("validation", "oracle"):
            raise UserError(f"choice={choice!r} is not allowed; allowed: validation, oracle, a rho")
    elif choice not in rho_grid(runs):
        grid = ", ".join(f"{rho:g}" for rho in rho_grid(runs))
        raise UserError(f"choice={choice!r} is no rho of these runs; allowed: {grid or 'none'}")


def _choice(choice: str | float) -> str:
    """How a choice is called in tables; one made on test must show it."""
    if not isinstance(choice, str):
        return "fixed"
    return ORACLE if choice == "oracle" else choice


def _gain(pairs: _Pairs, metric: Metric) -> np.ndarray:
    sign = 1 if metric.higher_is_better else -1
    return sign * metric.scale * (pairs.sam - pairs.base)


def pairs(
    runs: pd.DataFrame, *, epoch: str = "last", choice: str | float = "validation"
) -> pd.DataFrame:
    """One row per cell and seed: base, sam (scaled), rho of that seed's SAM run, gain.

    Arguments and errors as for `gains`.
    """
    _check(runs, epoch, choice)
    unit = metric(runs)
    columns = [*condition_columns(runs), *WIDTH, *arm_columns(runs)]
    rows = []
    for cell in _cells(runs):
        paired = _pair(cell, unit, epoch, choice)
        for values in zip(paired.seeds, paired.base, paired.sam, paired.rho, _gain(paired, unit)):
            seed, base, sam, rho, gain = values
            scaled = {"base_value": unit.scale * base, "sam_value": unit.scale * sam}
            rows.append({**cell.key, "seed": seed, **scaled, "rho": rho, "gain": gain})
    return pd.DataFrame(rows, columns=[*columns, "seed", "base_value", "sam_value", "rho", "gain"])


def gains(
    runs: pd.DataFrame, *, epoch: str = "last", choice: str | float = "validation"
) -> pd.DataFrame:
    """The gain of SAM on the test split, per condition and width.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last", or "best": each run's own best epoch on validation.
      choice: where ρ comes from. "validation", the headline: for each seed the ρ with the best
        mean over the *other* seeds' validation values, so that no run is scored with a ρ it
        helped to choose. "oracle": the best on test, optimistic. A number: that ρ everywhere.

    Returns:
      One row per cell. `selection` says how ρ was found; `rho_star` is the choice of all seeds
      together, `rho_low` … `rho_high` the range of the `rho_seeds` per-seed choices, `rho_votes`
      how many of these agree with rho_star, `edge` whether rho_star ends the grid. Means are in
      the metric's shown unit, over the `n` pairs (where an arm has no runs, over all of the
      other); gain is the mean paired difference, positive where SAM is better, also for a loss;
      *_half95 are half-widths of 95 % t intervals; `p` is the paired t test's, `p_holm` adjusts
      it over the widths of the condition. `n_diverged` counts runs, `n_excluded` pairs without a
      number, `n_unpaired` seeds without a complete set of runs.

    Raises:
      UserError: an unknown epoch or choice.
    """
    return _gain_table(runs, _cells(runs), epoch, choice)


def _gain_table(
    runs: pd.DataFrame, cells: list[_Cell], epoch: str, choice: str | float
) -> pd.DataFrame:
    _check(runs, epoch, choice)
    unit = metric(runs)
    arms = arm_columns(runs)
    column = f"{epoch}_test_{unit.name}"
    rows = []
    for cell in cells:
        paired = _pair(cell, unit, epoch, choice)
        gain = estimate(_gain(paired, unit))
        kept = np.isfinite(paired.sam) & (np.isfinite(paired.base) | (not cell.base))
        base, sam = paired.base[kept], paired.sam[kept]
        if not paired.seeds and not cell.sam:
            base = np.array([run[column] for run in cell.base.values()])
        base_mean, sam_mean = estimate(unit.scale * base), estimate(unit.scale * sam)
        rows.append(
            {
                **cell.key,
                "epoch": epoch,
                "choice": _choice(choice),
                "selection": paired.selection,
                "rho_star": paired.rho_star if isinstance(choice, str) else choice,
                "rho_low": paired.rho.min(initial=np.inf) if paired.seeds else np.nan,
                "rho_high": paired.rho.max(initial=0.0) if paired.seeds else np.nan,
                "rho_votes": int((paired.rho == paired.rho_star).sum()),
                "rho_seeds": len(paired.rho),
                "edge": paired.edge,
                "metric": unit.name,
                "unit": unit.unit,
                "n": gain.n,
                "base_mean": base_mean.mean,
                "base_half95": base_mean.half,
                "sam_mean": sam_mean.mean,
                "sam_half95": sam_mean.half,
                "gain": gain.mean,
                "gain_half95": gain.half,
                "gain_low95": gain.mean - gain.half,
                "gain_high95": gain.mean + gain.half,
                "p": gain.p,
                "n_diverged": paired.diverged,
                "n_excluded": len(paired.seeds) - gain.n if cell.base else 0,
                "n_unpaired": paired.unpaired,
            }
        )
    table = pd.DataFrame(rows)
    if rows:
        by = [*condition_columns(runs), *(c for c in arms if c in table)]
        adjusted = table.groupby(by, dropna=False)["p"].transform(lambda p: holm(p.to_numpy()))
        table.insert(table.columns.get_loc("p") + 1, "p_holm", adjusted)
    table.attrs = dict(runs.attrs)
    return table


def slopes(
    runs: pd.DataFrame,
    *,
    epoch: str = "last",
    choice: str | float = "validation",
    widths: str = "all",
) -> pd.DataFrame:
    """How the gain grows with width: the primary test.

    Each seed's gains are fitted by least squares against log₂ of the number of parameters; the
    slopes are then averaged over seeds with a t interval. Only seeds with a gain at every width
    count, so that all slopes are over the same widths.

    Args:
      runs, epoch, choice: as for `gains`.
      widths: "all", or "upper": the larger half, which shows whether the slope is more than the
        collapse of networks too small for SAM. Below four widths it has no rows.

    Returns:
      One row per condition: slope in the metric's unit per doubling of parameters, its t
      interval, p, n seeds, n_widths, n_left_out seeds. NaN where it cannot be computed.
    """
    if widths not in ("all", "upper"):
        raise UserError(f"widths={widths!r} is not allowed; allowed: all, upper")
    by = [*condition_columns(runs), *arm_columns(runs)]
    rows = []
    frame = pairs(runs, epoch=epoch, choice=choice)
    for values, group in frame.groupby(by, dropna=False, sort=True):
        key = dict(zip(by, values))
        wide = group.pivot_table(
            index="seed", columns=["parameters", "width"], values="gain", dropna=False
        ).sort_index(axis=1)
        wide = wide.loc[:, wide.columns.isin(list(zip(group["parameters"], group["width"])))]
        seeds = len(wide)
        if widths == "upper":
            if wide.shape[1] < 4:
                continue
            wide = wide.iloc[:, wide.shape[1] // 2 :]
        wide = wide.dropna()
        x = np.log2(np.array([count for count, _ in wide.columns], float))
        x = x - x.mean() if len(x) else x
        enough = (x**2).sum() > 0 and len(wide)
        fitted = estimate(wide.to_numpy() @ x / (x**2).sum() if enough else np.empty(0))
        rows.append(
            {
                **key,
                "epoch": epoch,
                "choice": _choice(choice),
                "rho": np.nan if isinstance(choice, str) else choice,
                "widths": widths,
                "n_widths": wide.shape[1],
                "n": fitted.n,
                "slope": fitted.mean,
                "slope_half95": fitted.half,
                "slope_low95": fitted.mean - fitted.half,
                "slope_high95": fitted.mean + fitted.half,
                "p": fitted.p,
                "n_left_out": seeds - len(wide),
            }
        )
    return pd.DataFrame(rows)


def tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """`gains` for last and best epoch × ρ from validation, oracle and each fixed ρ, stacked."""
    choices: list[str | float] = ["validation", "oracle", *rho_grid(runs)]
    if len(choices) == 2:
        choices = ["validation"]  # no perturbed runs: one table of the base says it all
    cells = _cells(runs)
    tables = [_gain_table(runs, cells, epoch, choice) for epoch in EPOCHS for choice in choices]
    return pd.concat(tables, ignore_index=True)
