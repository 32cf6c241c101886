"""What SAM gains over its base optimiser, paired by seed, with intervals and tests. No jax.

The functions take the table of `samop.results.load`, one row a run; `samop.pairing` says what is
compared with what.

Divergence: a diverged run stays in. An accuracy is finite even where the loss is not, and enters
as recorded (chance level). A value that is not finite itself cannot enter a mean: its pair is
left out and counted in `n_excluded`, which flatters the optimiser that diverged.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from samop.errors import UserError
from samop.pairing import (
    WIDTH,
    Cell,
    Metric,
    Pairs,
    arm_columns,
    arms,
    cells,
    condition_columns,
    finished,
    matches,
    metric,
    only,
    pair,
    place,
    rho_grid,
)
from samop.statistics import estimate, holm
from samop.variants import FIELDS, VARIANTS

__all__ = [
    "EPOCHS",
    "ORACLE",
    "WIDTH",
    "Metric",
    "arm_columns",
    "arms",
    "between",
    "check",
    "choice_label",
    "condition_columns",
    "finished",
    "gains",
    "matches",
    "metric",
    "only",
    "pairs",
    "per_doubling",
    "rho_grid",
    "slopes",
    "tidy",
]

EPOCHS = ("last", "best")
ORACLE = "oracle (chosen on test)"
# Fields of the perturbation that are not in the config's section `optimizer`.
BUDGET, SECOND_PASS = "train.budget", "precision.second_pass"


def check(runs: pd.DataFrame, epoch: str, choice: str | float) -> None:
    """Raises UserError for an epoch or a choice that the functions here do not know."""
    if epoch not in EPOCHS:
        raise UserError(f"epoch={epoch!r} is not allowed; allowed: {', '.join(EPOCHS)}")
    if isinstance(choice, str):
        if choice not in ("validation", "oracle"):
            raise UserError(f"choice={choice!r} is not allowed; allowed: validation, oracle, a rho")
    elif choice not in rho_grid(runs):
        grid = ", ".join(f"{rho:g}" for rho in rho_grid(runs))
        raise UserError(f"choice={choice!r} is no rho of these runs; allowed: {grid or 'none'}")


def choice_label(choice: str | float) -> str:
    """How a choice is called in tables; one made on test must show it."""
    if not isinstance(choice, str):
        return "fixed"
    return ORACLE if choice == "oracle" else choice


def _gain(pairs: Pairs, metric: Metric) -> np.ndarray:
    sign = 1 if metric.higher_is_better else -1
    return sign * metric.scale * (pairs.sam - pairs.base)


def pairs(
    runs: pd.DataFrame, *, epoch: str = "last", choice: str | float = "validation"
) -> pd.DataFrame:
    """One row per cell and seed: base, sam (scaled), rho of that seed's SAM run, gain.

    Arguments and errors as for `gains`.
    """
    check(runs, epoch, choice)
    unit = metric(runs)
    columns = [*condition_columns(runs), *WIDTH, *arm_columns(runs)]
    rows = []
    for cell in cells(runs):
        paired = pair(cell, unit, epoch, choice)
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
      it over the widths of the condition; `base_epochs`, `base_grad_evals`, `sam_epochs` and
      `sam_grad_evals` are means over the runs. `n_diverged` counts runs, `n_excluded` pairs
      without a number, `n_unpaired` seeds without a complete set of runs.

    Raises:
      UserError: an unknown epoch or choice.
    """
    return _gain_table(runs, cells(runs), epoch, choice)


def _gain_table(
    runs: pd.DataFrame, every: list[Cell], epoch: str, choice: str | float
) -> pd.DataFrame:
    check(runs, epoch, choice)
    unit = metric(runs)
    column = f"{epoch}_test_{unit.name}"
    columns = arm_columns(runs)
    # Each arm has its own grid: where a ρ was never run, there is no row for it.
    ran = {place(cell.key, columns) for cell in every if choice in cell.sam}
    rows = []
    for cell in every:
        if not isinstance(choice, str) and place(cell.key, columns) not in ran:
            continue
        paired = pair(cell, unit, epoch, choice)
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
                "choice": choice_label(choice),
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
                **paired.costs,
                "n_diverged": paired.diverged,
                "n_excluded": len(paired.seeds) - gain.n if cell.base else 0,
                "n_unpaired": paired.unpaired,
            }
        )
    table = pd.DataFrame(rows)
    if rows:
        by = [*condition_columns(runs), *(c for c in columns if c in table)]
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
        fitted = per_doubling(group, "gain", widths)
        if fitted is None:
            continue
        rows.append(
            {
                **key,
                "epoch": epoch,
                "choice": choice_label(choice),
                "rho": np.nan if isinstance(choice, str) else choice,
                "widths": widths,
                **fitted,
            }
        )
    return pd.DataFrame(rows)


def per_doubling(group: pd.DataFrame, column: str, widths: str) -> dict[str, Any] | None:
    """The mean over seeds of each seed's least-squares slope on log₂ of the parameters.

    Args:
      group: rows with seed, parameters, width and the column; a seed without a number at one of
        the widths is left out.
      column: what the slope is of.
      widths: "all", or "upper": the larger half.

    Returns:
      n_widths, n, slope and its interval, p and n_left_out as columns of `slopes`; None for the
      larger half of fewer than four widths.
    """
    wide = group.pivot_table(
        index="seed", columns=["parameters", "width"], values=column, dropna=False
    ).sort_index(axis=1)
    wide = wide.loc[:, wide.columns.isin(list(zip(group["parameters"], group["width"])))]
    seeds = len(wide)
    if widths == "upper":
        if wide.shape[1] < 4:
            return None
        wide = wide.iloc[:, wide.shape[1] // 2 :]
    wide = wide.dropna()
    x = np.log2(np.array([count for count, _ in wide.columns], float))
    x = x - x.mean() if len(x) else x
    enough = (x**2).sum() > 0 and len(wide)
    fitted = estimate(wide.to_numpy() @ x / (x**2).sum() if enough else np.empty(0))
    return {
        "n_widths": wide.shape[1],
        "n": fitted.n,
        "slope": fitted.mean,
        "slope_half95": fitted.half,
        "slope_low95": fitted.mean - fitted.half,
        "slope_high95": fitted.mean + fitted.half,
        "p": fitted.p,
        "n_left_out": seeds - len(wide),
    }


def between(
    runs: pd.DataFrame,
    *,
    reference: str = "sam",
    epoch: str = "last",
    choice: str | float = "validation",
) -> pd.DataFrame:
    """How the variants differ from one of them on the test split, paired by seed.

    Each side is scored with its own ρ, found as `gains` does. Where the reference was run in
    several kinds (m-SAM groups, windows, ascents), the one with default fields is compared with;
    where it was run at both budgets, the one of the variant's budget.

    Args:
      runs, epoch, choice: as for `gains`.
      reference: name of the variant to compare the others with.

    Returns:
      One row per condition, width and arm other than the reference, in the metric's shown unit
      over the `n` seeds that both have: means, `difference` (positive where the variant is
      better, also for a loss) with its 95 % t interval, the paired t test's `p`, and `p_holm`,
      adjusted over arms × widths of the condition. `*_grad_evals` are means over the runs: equal
      numbers are equal compute. `n_excluded` counts pairs without a number, `n_unpaired` seeds
      that only one side has. A field that all runs of the reference share is no matter of kinds,
      also where it is not the default. No rows where no kind has the default in what differs.

    Raises:
      UserError: a reference that was not run, an unknown epoch or choice.
    """
    check(runs, epoch, choice)
    found = sorted({arm["transform"] for arm in arms(runs)})
    if reference not in found:
        raise UserError(
            f"reference={reference!r} is no variant of these runs; allowed: "
            f"{', '.join(found) or 'none'}"
        )
    unit = metric(runs)
    by = condition_columns(runs)
    places: dict[tuple, list[Cell]] = {}
    for cell in cells(runs):
        places.setdefault(place(cell.key, [*by, *WIDTH]), []).append(cell)
    rows = []
    for here in places.values():
        for cell in here:
            against = next((c for c in here if _is_plain(c, cell, reference, runs)), None)
            if against is not None and against is not cell:
                one, other = (pair(side, unit, epoch, choice) for side in (cell, against))
                fields = {"reference": reference, "epoch": epoch, "choice": choice_label(choice)}
                rows.append({**cell.key, **fields, **_difference(one, other, unit)})
    table = pd.DataFrame(rows)
    if rows:
        adjusted = table.groupby(by, dropna=False)["p"].transform(lambda p: holm(p.to_numpy()))
        table.insert(table.columns.get_loc("p") + 1, "p_holm", adjusted)
    table.attrs = dict(runs.attrs)
    return table


def _is_plain(cell: Cell, other: Cell, reference: str, runs: pd.DataFrame) -> bool:
    """Whether a cell holds the runs of the reference with which `other` is to be compared."""
    if cell.key["transform"] != reference:
        return False
    own = VARIANTS[reference].own if reference in VARIANTS else {}
    defaults = {f"optimizer.{name}": value for name, value in {**FIELDS, **own}.items()}
    defaults[SECOND_PASS] = "float32"
    for column in runs.attrs.get("kinds", {}).get(reference, []):
        value = cell.key[column]
        if column == BUDGET:
            if value != other.key[column]:
                return False
        elif not (pd.isna(value) or value == ""):  # a field that this kind does not read
            default = defaults.get(column)
            if value != (json.dumps(default) if isinstance(default, bool) else default):
                return False
    return True


def _difference(variant: Pairs, reference: Pairs, unit: Metric) -> dict[str, Any]:
    seeds = sorted(set(variant.seeds) & set(reference.seeds))
    scores = [dict(zip(side.seeds, unit.scale * side.sam)) for side in (variant, reference)]
    values = np.array([[side[seed] for seed in seeds] for side in scores]).reshape(2, -1)
    kept = values[:, np.isfinite(values).all(axis=0)]
    difference = estimate((kept[0] - kept[1]) * (1 if unit.higher_is_better else -1))
    return {
        "metric": unit.name,
        "unit": unit.unit,
        "rho_star": variant.rho_star,
        "reference_rho_star": reference.rho_star,
        "n": difference.n,
        "mean": estimate(kept[0]).mean,
        "reference_mean": estimate(kept[1]).mean,
        "difference": difference.mean,
        "difference_half95": difference.half,
        "difference_low95": difference.mean - difference.half,
        "difference_high95": difference.mean + difference.half,
        "p": difference.p,
        "grad_evals": variant.costs["sam_grad_evals"],
        "reference_grad_evals": reference.costs["sam_grad_evals"],
        "n_excluded": len(seeds) - difference.n,
        "n_unpaired": len(set(variant.seeds) ^ set(reference.seeds)),
    }


def tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """`gains` for last and best epoch × ρ from validation, oracle and each fixed ρ, stacked."""
    choices: list[str | float] = ["validation", "oracle", *rho_grid(runs)]
    if len(choices) == 2:
        choices = ["validation"]  # no perturbed runs: one table of the base says it all
    every = cells(runs)
    tables = [_gain_table(runs, every, epoch, choice) for epoch in EPOCHS for choice in choices]
    return pd.concat(tables, ignore_index=True)
