"""The best ρ of each width, over what every ρ of the grid reaches on validation data."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from samop import comparison, radius, wording
from samop.comparison import Metric
from samop.figures.curvature_parts import NothingToDraw, explain
from samop.figures.layout import STYLE, Heading, Panel, layout, legend, parameter_axis, subtitle
from samop.figures.looks import BLUE

SHADES = ("0.76", "0.87", "0.95")  # near the best of the width, farther, beyond that
UP, DOWN = "^", "v"


def best_rho(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """The ρ with the best mean on validation data against the number of parameters.

    One panel per condition, and per variant where there are several. Behind the line a cell for
    each width and ρ of the grid, the darker the nearer its validation metric is to the best of
    the width. A triangle instead of a dot: the best ρ ends the grid, one beyond it may be better
    (ρ = 0 is no such end). From eight seeds on, bars are 95 % bootstrap intervals over seeds, and
    the slope of log ρ* on the log of the parameters stands above the panel.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last", or "best" on validation.

    Raises:
      NothingToDraw: no seed has finished runs of two ρ or more.
      UserError: an unknown epoch.
    """
    stars, cells, growth = _tables(runs, epoch)
    metric = comparison.metric(runs)
    by = [column for column in wording.panel_columns(runs) if column in stars]
    cells["below"] = _below(cells, metric, by)
    levels = _levels(cells["below"].to_numpy(float))
    keys = [dict(zip(by, key)) for key, _ in stars.groupby(by, dropna=False, sort=False)]
    names = [wording.panel_label(key, runs) for key in keys]
    handles = _handles(stars, levels, metric)
    sam = wording.sam_label(runs)
    who = "each variant" if sam == "variant" else sam
    sloped = growth["slope"].notna().any()
    lines = [subtitle(runs, epoch).replace("test ", "validation ")]
    lines.append("ρ*: the best mean over all seeds on validation data")
    if growth["low95"].notna().any():
        lines[-1] += " · brackets: 95 % of the resamples of seeds"
    with matplotlib.rc_context(STYLE):
        figure, panels = layout(
            stars,
            Heading(f"The best ρ of {who} as the network grows", lines),
            by,
            names,
            entries=[str(handle.get_label()) for handle in handles],
            above=0.17 if sloped else 0.0,
        )
        for panel in panels:
            columns = [*panel.key]
            own = comparison.matches(cells, panel.key, columns)
            axis = _axis(panel, np.sort(own["rho"].unique()))
            parameter_axis(panel, rho_star=False)
            _strips(panel, own, levels, axis)
            _line(panel, axis)
            if sloped:
                explain(panel, _slope(comparison.matches(growth, panel.key, columns)))
        legend(figure, handles)
    return figure


def _tables(runs: pd.DataFrame, epoch: str) -> list[pd.DataFrame]:
    """ρ* per width, the validation metric per width and ρ, and the growth, of every arm."""
    comparison.check(runs, epoch, "validation")
    found: list[list[pd.DataFrame]] = [[], [], []]
    for arm in comparison.arms(runs):
        alone = comparison.only(runs, arm)
        if len(comparison.rho_grid(alone)) < 2:
            continue
        makers = (radius.best_rho, radius.on_validation, radius.growth)
        for tables, make in zip(found, makers):
            table = make(alone, epoch=epoch)
            if len(table):
                tables.append(table.assign(**arm))
    if not found[0]:
        raise NothingToDraw(
            "best_rho: no ρ was chosen: it takes a seed with finished runs of two ρ or more"
        )
    # In the order of the other figures: by condition, within it by arm.
    by = [c for c in comparison.condition_columns(runs) if c in found[0][0]]
    return [pd.concat(tables).sort_values(by, kind="stable", ignore_index=True) for tables in found]


def _below(cells: pd.DataFrame, metric: Metric, by: list[str]) -> pd.Series:
    """How far each ρ is below the best one of its width, in the metric's shown unit."""
    value = cells["value"] if metric.higher_is_better else -cells["value"]
    groups = cells.assign(value=value).groupby([*by, "width", "parameters"], dropna=False)
    return groups["value"].transform("max") - value


def _levels(below: np.ndarray) -> list[float]:
    """Up to two round numbers that part the shortfalls into near, farther and far."""
    below = below[np.isfinite(below) & (below > 1e-9)]
    return sorted({_round(float(np.quantile(below, q))) for q in (0.2, 0.6) if len(below)})


def _round(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(min((k * power for k in (1, 2, 5, 10)), key=lambda k: abs(np.log(k / value))))


def _axis(panel: Panel, grid: np.ndarray) -> dict[float, float]:
    """A logarithmic axis with a tick at each ρ; where each stands, 0 one step below the others."""
    positive = grid[grid > 0]
    steps = np.diff(np.log(positive))
    step = float(np.exp(np.median(steps))) if len(steps) else 2.0
    places = {float(rho): float(rho) or float(positive[0] / step) for rho in grid}
    at = list(places.values())
    axes = panel.axes
    axes.set_yscale("log")
    axes.set_ylim(at[0] / step**0.75, at[-1] * step**0.75)
    axes.set_yticks(at, [f"{rho:g}" for rho in places])
    axes.minorticks_off()
    axes.grid(False)
    axes.set_ylabel("ρ (log scale)")
    return places


def _strips(
    panel: Panel, cells: pd.DataFrame, levels: list[float], places: dict[float, float]
) -> None:
    """A cell for each width and ρ, up to half the way to its neighbours."""
    at = np.log(list(places.values()))
    middle = (at[1:] + at[:-1]) / 2
    edges = np.exp(np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]]))
    counts = np.log(np.unique(cells["parameters"].to_numpy(float)))
    # As wide as there is room between the widths, and to the ends of the axis.
    side = np.exp(0.4 * np.diff(counts).min(initial=0.2 * (np.ptp(counts) or 1.0)))
    order = list(places)
    for x, rho, below in zip(cells["parameters"], cells["rho"], cells["below"]):
        if not np.isfinite(below) or not levels:
            continue
        low, high = edges[order.index(rho)], edges[order.index(rho) + 1]
        shade = SHADES[int(np.searchsorted(levels, below - 1e-9))]
        panel.axes.add_patch(
            Rectangle((x / side, low), x * side - x / side, high - low, color=shade, lw=0, zorder=1)
        )


def _line(panel: Panel, places: dict[float, float]) -> None:
    axes, rows = panel.axes, panel.rows
    x, star = rows["parameters"].to_numpy(float), rows["rho_star"].to_numpy(float)
    y = np.array([places[rho] for rho in star])
    low, high = (
        np.array([places.get(r, np.nan) for r in rows[f"rho_{e}95"]]) for e in ("low", "high")
    )
    there = np.isfinite(low)
    axes.vlines(x[there], low[there], high[there], color=BLUE, lw=1.2, zorder=2.5)
    axes.plot(x, y, color=BLUE, lw=1.8, zorder=2.8)
    for which, marker in ((_ends(rows) == "highest", UP), (_ends(rows) == "lowest", DOWN)):
        axes.plot(
            x[which], y[which], color=BLUE, marker=marker, ls="", ms=8, mfc="white", mew=1.6,
            zorder=3,
        )  # fmt: skip
    inside = _ends(rows) == ""
    axes.plot(x[inside], y[inside], color=BLUE, marker="o", ls="", ms=6, zorder=3)


def _ends(rows: pd.DataFrame) -> np.ndarray:
    """Which end of the grid ρ* is; ρ = 0 is where the range ends, not where the grid was cut."""
    return np.where(rows["rho_star"] == 0, "", rows["edge"]).astype(str)


def _slope(growth: pd.DataFrame) -> str:
    if growth.empty or not np.isfinite(growth["slope"].iloc[0]):
        return ""
    slope, low, high = (
        wording.signed(growth[c].iloc[0]).lstrip("+") for c in ("slope", "low95", "high95")
    )
    return f"ρ* ∝ parameters^{slope}" + (f" [{low}, {high}]" if low != wording.DASH else "")


def _handles(stars: pd.DataFrame, levels: list[float], metric: Metric) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=BLUE, marker="o", lw=1.8, ms=6, label="ρ*, chosen on validation")
    ]
    enough = stars["rho_low95"].notna()
    if enough.any():
        seeds = wording.span(stars.loc[enough, "n"])
        label = f"95 % bootstrap interval over seeds, n = {seeds}"
        handles.append(Line2D([], [], color=BLUE, marker="|", ls="", ms=11, mew=1.2, label=label))
    for edge, marker, word in (("highest", UP, "larger"), ("lowest", DOWN, "smaller")):
        if (_ends(stars) == edge).any():
            label = f"ρ* is the {edge} of the grid: a {word} one may be better"
            handles.append(
                Line2D(
                    [],
                    [],
                    color=BLUE,
                    marker=marker,
                    ls="",
                    ms=8,
                    mfc="white",
                    mew=1.6,
                    label=label,
                )
            )
    shown = f"validation {metric.name.replace('_', ' ')}"
    unit = f" {metric.unit}" if metric.unit else ""
    for level, shade in zip(levels, SHADES):
        away = (
            f"{level:g}{unit}".replace("1 points", "1 point") if level == 1 else f"{level:g}{unit}"
        )
        label = f"{shown} within {away} of the width's best"
        handles.append(Patch(color=shade, lw=0, label=label))
    if levels:
        handles.append(Patch(color=SHADES[len(levels)], lw=0, label="worse"))
    return handles
