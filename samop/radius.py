"""The best ρ of each width with its uncertainty, and what the ascent adds to the loss. No jax.

f(w + ρ∇f/‖∇f‖) ≈ f + ρ‖∇f‖: what SAM adds scales with ρ, so the best ρ says how much of it a
network wants (arXiv 2311.17539).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from samop import comparison
from samop.errors import UserError
from samop.pairing import WIDTH, Cell, Metric, cells, condition_columns, metric
from samop.records import read_rows
from samop.statistics import choose, choose_each, estimate

SEEDS = 8  # a bootstrap over fewer says little
DRAWS = 2000


def best_rho(
    runs: pd.DataFrame, *, epoch: str = "last", draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """The ρ with the best mean on validation data, resampled over seeds.

    Args:
      runs: table of `samop.results.load`, of one variant (`comparison.only`).
      epoch: "last" or "best".
      draws: resamples of the seeds, the same for all widths.
      seed: of the resamples.

    Returns:
      One row per condition and width: `rho_star`; `rho_low95`, `rho_high95`, the 2.5 and 97.5 %
      quantiles over resamples, NaN below eight seeds; `at_edge`, the share of resamples whose
      choice ends the grid; `edge`, whether rho_star does; `n` seeds.

    Raises:
      UserError: an unknown epoch, or no perturbed runs.
    """
    rows = []
    for cell, grid, picks, star in _resampled(runs, epoch, draws, seed):
        enough = picks is not None
        ends = (0, len(grid) - 1)
        low, high = np.nan, np.nan
        if enough:  # values of the grid, not between them
            low, high = np.quantile(grid[picks], [0.025, 0.975], method="inverted_cdf")
        rows.append(
            {
                **{c: cell.key[c] for c in (*condition_columns(runs), *WIDTH)},
                "epoch": epoch,
                "n": len(next(iter(cell.sam.values()))),
                "rho_star": grid[star],
                "rho_low95": low,
                "rho_high95": high,
                "at_edge": float(np.isin(picks, ends).mean()) if enough else np.nan,
                "edge": {ends[0]: "lowest", ends[1]: "highest"}.get(star, ""),
            }
        )
    return pd.DataFrame(rows)


def growth(
    runs: pd.DataFrame, *, epoch: str = "last", draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """How the best ρ grows with width: the slope of log₂ ρ* on log₂ of the parameters.

    Arguments as for `best_rho`. A best ρ at the edge of the grid makes the slope too small.

    Returns:
      One row per condition: `slope` of the choice of all seeds, and the 2.5 and 97.5 % quantiles
      over resamples, `low95` and `high95` (NaN below eight seeds); `n_widths`. NaN where the
      best ρ is 0, which has no logarithm.
    """
    found: dict[tuple, list] = {}
    columns = condition_columns(runs)
    for cell, grid, picks, star in _resampled(runs, epoch, draws, seed):
        key = tuple(cell.key[c] for c in columns)
        found.setdefault(key, []).append((cell.key["parameters"], grid, picks, star))
    rows = []
    for key, parts in found.items():
        x = np.log2([float(part[0]) for part in parts])
        x = x - x.mean()

        def slope(rhos, x=x):
            if not (x**2).sum() or (np.asarray(rhos) == 0).any():  # 0 has no logarithm
                return np.nan
            return np.tensordot(x, np.log2(rhos), 1) / (x**2).sum()

        row = {**dict(zip(columns, key)), "epoch": epoch, "n_widths": len(parts)}
        row["slope"] = float(slope([grid[star] for _, grid, _, star in parts]))
        row["low95"] = row["high95"] = np.nan
        if all(picks is not None for _, _, picks, _ in parts):
            every = slope([grid[picks] for _, grid, picks, _ in parts])
            row["low95"], row["high95"] = np.quantile(every, [0.025, 0.975])
        rows.append(row)
    return pd.DataFrame(rows)


def on_validation(runs: pd.DataFrame, *, epoch: str = "last") -> pd.DataFrame:
    """What `best_rho` chooses from: the validation metric of every ρ of the grid.

    Arguments and errors as for `best_rho`.

    Returns:
      One row per condition, width and ρ: `value`, the mean over the `n` seeds that have every ρ, in
      the metric's shown unit, NaN where none has a number; `n_diverged`, how many diverged.
    """
    unit = metric(runs)
    rows = []
    for cell in _complete(runs, epoch):
        values, diverged = _validation(cell, unit, epoch)
        key = {c: cell.key[c] for c in (*condition_columns(runs), *WIDTH)}
        for rho, here, lost in zip(cell.sam, values, diverged):
            mean = estimate(unit.scale * here).mean
            rows.append(
                {**key, "rho": rho, "value": mean, "n": len(here), "n_diverged": lost.sum()}
            )
    return pd.DataFrame(rows)


def _complete(runs: pd.DataFrame, epoch: str) -> list[Cell]:
    """The cells in which some seed has every ρ."""
    comparison.check(runs, epoch, "validation")
    here = [cell for cell in cells(runs) if cell.sam]
    if not here:
        raise UserError("best_rho: it takes finished perturbed runs")
    return [cell for cell in here if set.intersection(*map(set, cell.sam.values()))]


def _resampled(runs: pd.DataFrame, epoch: str, draws: int, seed: int):
    """Per cell: (cell, grid of ρ, chosen places [draws] or None, place of all seeds' choice)."""
    unit = metric(runs)
    for cell in _complete(runs, epoch):
        values, diverged = _validation(cell, unit, epoch)
        count, higher = values.shape[1], unit.higher_is_better
        star = choose(values, diverged, higher)
        picks = None
        if count >= SEEDS:
            rng = np.random.default_rng(seed)  # the same seeds for every width
            drawn = rng.integers(0, count, (draws, count))
            picks = choose_each(values[:, drawn], diverged[:, drawn], higher)
        yield cell, np.array(list(cell.sam)), picks, star


def _validation(cell: Cell, unit: Metric, epoch: str) -> tuple[np.ndarray, np.ndarray]:
    """Validation values and whether a run diverged, both [rhos, seeds]."""
    seeds = sorted(set.intersection(*(set(of) for of in cell.sam.values())))

    def of(column):
        return np.array([[float(rows[s][column]) for s in seeds] for rows in cell.sam.values()])

    values = of(f"{epoch}_validation_{unit.name}")
    finite = np.isfinite(of("last_train_loss")) & np.isfinite(of("last_validation_loss"))
    return values, ~(finite & np.isfinite(values))


def regularizer(workdir: str | Path, runs: pd.DataFrame) -> pd.DataFrame:
    """ρ‖∇f‖ along training, of the runs whose perturbation was measured.

    Args:
      workdir: the folder that the runs were loaded from.
      runs: its table, or a part of it.

    Returns:
      One row per run and measured epoch: the run's condition, width, rho, seed; `epoch`;
      `grad_norm`, ‖∇f‖ of a batch; `regularizer`, ρ‖∇f‖; `rise`, the measured f(w + ε) − f(w);
      `weight_norm`, ‖w‖.

    Raises:
      UserError: runs whose ascent is not the normalised one at a constant ρ, for which it is not
        ρ‖∇f‖ to first order.
    """
    for column, wanted in (
        ("optimizer.ascent", "normalized"),
        ("optimizer.rho_schedule", "constant"),
    ):
        if column in runs and set(runs[column]) - {wanted, ""}:
            raise UserError(f"regularizer: {column} should be {wanted!r} in all of these runs")
    rows: list[dict[str, Any]] = []
    keep = [*condition_columns(runs), *WIDTH, "rho", "seed"]
    for run in runs[runs["transform"] != "base"].to_dict("records"):
        for row in read_rows(Path(workdir) / "points" / run["point"] / "metrics.jsonl"):
            if "sam_grad_norm" not in row:
                continue
            size = row["sam_grad_norm"]
            rows.append(
                {
                    **{column: run[column] for column in keep},
                    "epoch": row["epoch"],
                    "grad_norm": size,
                    "regularizer": run["rho"] * size,
                    "rise": row["sam_loss_increase"],
                    "weight_norm": row["weight_norm"],
                }
            )
    return pd.DataFrame(rows)
