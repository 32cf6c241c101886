"""SAM's curvature over its base's: paired ratios with intervals, tests and slopes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop.comparison import check, choice_label, per_doubling
from samop.errors import UserError
from samop.flatness.readings import NOTHING, Reading, Track, at_equal_loss, at_last
from samop.flatness.records import QUANTITIES, Quantity, tracks
from samop.pairing import (
    WIDTH,
    Cell,
    Pairs,
    arm_columns,
    cells,
    condition_columns,
    metric,
    pair,
)
from samop.statistics import estimate, holm

AT = ("last", "equal_loss")


class _Both(NamedTuple):
    """The readings of one quantity in one cell; lists are [seeds]; a side without runs is empty."""

    cell: Cell
    paired: Pairs
    quantity: Quantity
    seeds: list[int]
    points: tuple[list[str], list[str]]
    base: list[Reading]
    sam: list[Reading]
    examples: list[float]
    unpaired: int

    def values(self, side: str, field: str = "value") -> np.ndarray:
        """A field of one side's readings, [seeds]; NaN throughout where it has no runs."""
        readings = getattr(self, side) or [NOTHING] * len(self.seeds)
        return np.array([getattr(reading, field) for reading in readings], float)

    @property
    def kept(self) -> np.ndarray:
        """Which seeds have a number on every side that has runs: bool [seeds]."""
        finite = [np.isfinite(self.values(s)) for s in ("base", "sam") if getattr(self, s)]
        return np.logical_and.reduce(finite) if finite else np.zeros(len(self.seeds), bool)

    def has_sign(self, side: str) -> np.ndarray:
        """Which seeds have a logarithm on a side: bool [seeds].

        An eigenvalue within its residual of zero has no sign: a ratio would be one of errors.
        """
        error = self.values(side, "error") if self.quantity.kind == "residual" else np.zeros(1)
        return self.quantity.sign * self.values(side) > np.nan_to_num(error)

    @property
    def log_ratio(self) -> np.ndarray:
        """Natural logarithm of SAM / base, [seeds]; NaN without one."""
        ratio = np.full(len(self.seeds), np.nan)
        there = self.has_sign("base") & self.has_sign("sam") & self.kept
        np.divide(self.values("sam"), self.values("base"), out=ratio, where=there)
        return np.log(ratio)


def present(measured: pd.DataFrame) -> list[Quantity]:
    """The quantities that some run was measured for, in the order of QUANTITIES."""
    return [q for q in QUANTITIES.values() if q.name in measured and measured[q.name].notna().any()]


def _cells(
    runs: pd.DataFrame, measured: pd.DataFrame, at: str, choice: str | float
) -> Iterator[_Both]:
    """The readings of every cell and quantity that has some."""
    check(runs, "last", choice)
    if at not in AT:
        raise UserError(f"at={at!r} is not allowed; allowed: {', '.join(AT)}")
    unit = metric(runs)
    quantities = [q for q in present(measured) if at == "last" or q.name != "loss"]
    by_run = tracks(measured if at == "equal_loss" else measured[measured["trained"]])
    whole = {point for point, rows in by_run.items() if rows[-1]["trained"]}
    for cell in cells(runs):
        if not isinstance(choice, str) and choice not in cell.sam:
            continue
        paired = pair(cell, unit, "last", choice)
        alone = not cell.sam
        seeds = list(cell.base) if alone else paired.seeds
        base = [cell.base[seed]["point"] for seed in seeds] if cell.base else []
        sam = [] if alone else [
            cell.sam[rho][seed]["point"] for rho, seed in zip(paired.rho, seeds)
        ]  # fmt: skip
        sides = [side for side in (base, sam) if side]
        there = [i for i in range(len(seeds)) if all(side[i] in whole for side in sides)]
        base, sam = ([side[i] for i in there] if side else [] for side in (base, sam))
        if not there or (at == "equal_loss" and not (base and sam)):
            continue
        pairs = [tuple(by_run[side[i]] for side in (base, sam) if side) for i in range(len(there))]
        examples = [float(track[-1]["examples"]) for both in pairs for track in both]
        for quantity in quantities:
            readings = [_read(both, quantity, at) for both in pairs]
            found = _Both(
                cell, paired, quantity, [seeds[i] for i in there], (base, sam),
                [r[0] for r in readings] if base else [], [r[-1] for r in readings] if sam else [],
                examples, paired.unpaired + len(seeds) - len(there),
            )  # fmt: skip
            if np.isfinite([r.value for r in (*found.base, *found.sam)]).any():
                yield found


def _read(both: Sequence[Track], quantity: Quantity, at: str) -> tuple[Reading, ...]:
    if at == "last":
        return tuple(at_last(track, quantity) for track in both)
    if min(len(track) for track in both) < 2:
        return NOTHING, NOTHING
    return at_equal_loss(both[0], both[1], quantity)


def pairs(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    at: str = "last",
    choice: str | float = "validation",
) -> pd.DataFrame:
    """One row per cell, quantity and seed that both sides were measured for.

    Arguments and errors as for `compare`.

    Returns:
      The cell's condition, width and arm, quantity, seed, rho; for base and sam the run's name
      (`*_point`), value, error, whether it converged, training loss and epoch; log2_ratio of SAM /
      base, NaN where one of the values has the wrong sign or is not finite.
    """
    rows = []
    for both in _cells(runs, measured, at, choice):
        rho = dict(zip(both.paired.seeds, both.paired.rho))
        for i, seed in enumerate(both.seeds):
            row = {**both.cell.key, "quantity": both.quantity.name, "seed": seed}
            row["rho"] = rho.get(seed, np.nan)
            for side, points in zip(("base", "sam"), both.points):
                reading = (getattr(both, side) or [NOTHING] * len(both.seeds))[i]
                row[f"{side}_point"] = points[i] if points else ""
                row |= {f"{side}_{k}": v for k, v in reading._asdict().items()}
            rows.append({**row, "log2_ratio": both.log_ratio[i] / np.log(2)})
    table = pd.DataFrame(rows)
    table.attrs = dict(runs.attrs)
    return table


def compare(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    at: str = "last",
    choice: str | float = "validation",
) -> pd.DataFrame:
    """The curvature of SAM's networks beside that of the base's, per condition, width, quantity.

    Args:
      runs: table of `samop.results.load`.
      measured: table of `load`.
      at: "last": the trained networks. "equal_loss": each pair where it first reaches the lowest
        training loss that both reach, interpolated between measured steps; pairs that were
        measured once, or not yet above that loss, have no number.
      choice: where ρ comes from, as for `samop.comparison.gains`.

    Returns:
      One row per cell and quantity that was measured there; the arm's ρ as in `gains`. Over the
      `n` pairs with a number: *_mean with its 95 % t interval *_low95 … *_high95, geometric where
      all values have the quantity's sign, and more than their residual of it (`scale` = "log"),
      else arithmetic ("linear"); `ratio`:
      geometric mean of SAM / base with its t interval, `p` of the paired t test of log ratio = 0,
      `p_holm` adjusted over the widths of condition, arm and quantity. On the scale "linear"
      there is no ratio: leaving out the pairs of the wrong sign would flatter. difference: mean
      of SAM − base, with its half-width. *_error: median over the runs of the measurement's own
      error relative to the value, `error_max` the largest, `error_kind` what it is (a residual
      bounds the error of an eigenvalue, a standard error does not); *_unconverged: runs whose
      iteration did not end within its tolerance, which are in the means. base_loss, sam_loss,
      loss_ratio: geometric means of the training loss. `n_excluded` counts pairs without a number,
      `n_unpaired` seeds without a complete set of runs or of measurements, `n_diverged` runs.
      `examples`: how many the curvature is over; NaN where that differs.

    Raises:
      UserError: an unknown at or choice.
    """
    rows = [_row(both, at, choice) for both in _cells(runs, measured, at, choice)]
    table = pd.DataFrame(rows)
    if rows:
        by = [*condition_columns(runs), *(c for c in arm_columns(runs) if c in table), "quantity"]
        adjusted = table.groupby(by, dropna=False)["p"].transform(lambda p: holm(p.to_numpy()))
        table.insert(table.columns.get_loc("p") + 1, "p_holm", adjusted)
    table.attrs = dict(runs.attrs)
    return table


def _row(both: _Both, at: str, choice: str | float) -> dict[str, Any]:
    paired, quantity = both.paired, both.quantity
    kept = both.kept
    base, sam = (both.values(side)[kept] for side in ("base", "sam"))
    sides = [side for side in ("base", "sam") if getattr(both, side)]
    log = all(both.has_sign(side)[kept].all() for side in sides)
    ratio = estimate(both.log_ratio[kept] if log else np.empty(0))
    difference = estimate(sam - base)
    losses = [both.values(side, "loss")[kept] for side in ("base", "sam")]
    with np.errstate(divide="ignore", invalid="ignore"):
        loss_ratio = estimate(np.log(losses[1] / losses[0]))
    errors = [_errors(both, side) for side in ("base", "sam")]
    every = np.concatenate(errors)
    counts = sorted(set(both.examples))
    return {
        **both.cell.key,
        "at": at,
        "choice": choice_label(choice),
        "selection": paired.selection,
        "rho_star": paired.rho_star if isinstance(choice, str) else choice,
        "edge": paired.edge,
        "quantity": quantity.name,
        "scale": "log" if log else "linear",
        "n": int(kept.sum()),
        **_mean("base", base, quantity.sign if log else 0),
        **_mean("sam", sam, quantity.sign if log else 0),
        "ratio": np.exp(ratio.mean),
        "ratio_low95": np.exp(ratio.mean - ratio.half),
        "ratio_high95": np.exp(ratio.mean + ratio.half),
        "p": ratio.p,
        "difference": difference.mean,
        "difference_half95": difference.half,
        "error_kind": quantity.kind,
        **{f"{s}_error": _or_nan(np.median, e) for s, e in zip(("base", "sam"), errors)},
        "error_max": _or_nan(np.max, every),
        **{f"{side}_unconverged": _unconverged(both, side) for side in ("base", "sam")},
        **{f"{s}_loss": _mean("", loss, 1)["_mean"] for s, loss in zip(("base", "sam"), losses)},
        "loss_ratio": np.exp(loss_ratio.mean),
        "loss_ratio_low95": np.exp(loss_ratio.mean - loss_ratio.half),
        "loss_ratio_high95": np.exp(loss_ratio.mean + loss_ratio.half),
        "examples": counts[0] if len(counts) == 1 else np.nan,
        "n_diverged": paired.diverged,
        "n_excluded": len(both.seeds) - int(kept.sum()),
        "n_unpaired": both.unpaired,
    }


def _mean(side: str, values: np.ndarray, sign: int) -> dict[str, float]:
    """Mean and interval; geometric, of values of that sign, unless the sign is 0."""
    if sign and (sign * values > 0).all():
        found = estimate(np.log(sign * values))
        ends = sorted(sign * np.exp([found.mean - found.half, found.mean + found.half]))
        mean = sign * np.exp(found.mean)
    else:
        found = estimate(values)
        mean, ends = found.mean, [found.mean - found.half, found.mean + found.half]
    return {f"{side}_mean": mean, f"{side}_low95": ends[0], f"{side}_high95": ends[1]}


def _errors(both: _Both, side: str) -> np.ndarray:
    """The errors of one side relative to its values, [runs]."""
    value, error = (both.values(side, k)[both.kept] for k in ("value", "error"))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error / np.abs(value)
    return relative[~np.isnan(relative)]


def _or_nan(of: Any, values: np.ndarray) -> float:
    return float(of(values)) if len(values) else np.nan


def _unconverged(both: _Both, side: str) -> int:
    return int((both.values(side, "converged")[both.kept] == 0).sum())


def slopes(
    runs: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    at: str = "last",
    choice: str | float = "validation",
    widths: str = "all",
) -> pd.DataFrame:
    """How SAM / base changes with width: the primary test of "grows with width".

    As `samop.comparison.slopes`, of log₂(SAM / base) on log₂ of the number of parameters: per seed,
    then averaged over seeds. Widths at which some value has no logarithm are left out, and counted.

    Returns:
      One row per condition, arm and quantity: slope with its interval and p; `factor`, by which
      the ratio changes per doubling of the parameters, with its interval: 2 to the slope; n seeds,
      n_widths, n_left_out seeds, n_no_ratio widths. NaN where it cannot be computed.

    Raises:
      UserError: an unknown at, choice or widths.
    """
    if widths not in ("all", "upper"):
        raise UserError(f"widths={widths!r} is not allowed; allowed: all, upper")
    frame = pairs(runs, measured, at=at, choice=choice)
    rows = []
    if not frame.empty:
        frame = frame[(frame["base_point"] != "") & (frame["sam_point"] != "")]
        finite = np.isfinite(frame["base_value"]) & np.isfinite(frame["sam_value"])
        wrong = finite & frame["log2_ratio"].isna()
        by = [*condition_columns(runs), *(c for c in arm_columns(runs) if c in frame), "quantity"]
        frame = frame.assign(wrong=wrong.groupby([frame[c] for c in [*by, *WIDTH]], dropna=False)
                             .transform("any"))  # fmt: skip
        for values, group in frame.groupby(by, dropna=False, sort=False):
            usable = group[~group["wrong"]]
            fitted = per_doubling(usable, "log2_ratio", widths) if len(usable) else None
            if fitted is None:
                continue
            ends = {f"factor{k}": 2.0 ** fitted[f"slope{k}"] for k in ("", "_low95", "_high95")}
            gone = group.loc[group["wrong"], "parameters"].nunique()
            fields = {"at": at, "choice": choice_label(choice), "widths": widths, **fitted, **ends}
            fields["rho"] = np.nan if isinstance(choice, str) else choice
            rows.append({**dict(zip(by, values)), **fields, "n_no_ratio": gone})
    return pd.DataFrame(rows)
