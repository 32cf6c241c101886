"""One perturbation against its base: the gain with every fixed ρ, and the metric of both.

Blue is the comparison that counts, with ρ chosen on validation; each fixed ρ has a shade of
brown with a marker and a dash of its own, so that the figures can be read in grey.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import comparison, wording
from samop.comparison import Metric
from samop.errors import UserError
from samop.figures import family
from samop.figures.layout import (
    STYLE,
    Heading,
    Panel,
    all_left_out,
    band,
    layout,
    lean,
    legend,
    metric_axis,
    parameter_axis,
    subtitle,
)
from samop.figures.looks import BLUE, DASHES, FAINT, INK, LOOKS, MARKERS, shades_of_rho


def width_gap(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """The gain of SAM over its base optimiser against the number of parameters, and every fixed ρ.

    One panel per condition, each with a scale of its own; where there are several variants, one
    per condition and variant, so give it one of them: `comparison.only(runs, arm)`. Where networks
    too small for SAM collapse far below what it gains elsewhere, the axis is cut there and the
    values are written.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last", or "best" on validation.

    Raises:
      UserError: base and perturbed runs of one seed are needed.
    """
    gains = comparison.gains(runs, epoch=epoch)
    if gains.empty or not gains["gain"].notna().any():
        raise UserError("width_gap: no gain to draw: it takes finished base and perturbed runs")
    grid = comparison.rho_grid(runs)
    fixed = {rho: comparison.gains(runs, epoch=epoch, choice=rho) for rho in grid}
    slopes = {w: comparison.slopes(runs, epoch=epoch, widths=w) for w in ("all", "upper")}
    metric = comparison.metric(runs)
    base, sam = wording.base_label(runs), wording.sam_label(runs)
    chosen = f"ρ = {grid[0]:g}" if len(grid) == 1 else "ρ chosen on validation"
    chosen += ", for each seed by the other seeds" if all_left_out(gains) else ""
    who = "each variant" if sam == "variant" else sam
    better = sam.partition(" (")[0]
    with matplotlib.rc_context(STYLE):
        heading = Heading(
            f"What {who} gains over {base} as the network grows",
            [subtitle(runs, epoch), wording.compute_label(gains, runs), chosen],
        )
        by = _columns(runs, gains)
        drawn = []  # per panel: the gains of each fixed ρ, and the limits of the axis
        cut = False
        for values, rows in gains.groupby(by, dropna=False, sort=False):
            key = dict(zip(by, values))
            here = {
                rho: comparison.matches(table, key, [c for c in by if c in table])
                for rho, table in fixed.items()
                if len(grid) > 1
            }
            low, high = _limits(rows, here)
            cut |= bool((rows["gain"] < low).any())
            drawn.append((here, (low, high)))
        handles = _gap_handles(gains, grid, cut)
        figure, panels = _layout(runs, gains, heading, handles, for_gap=True)
        for panel, (here, limits) in zip(panels, drawn):
            parameter_axis(panel, rho_star=True)
            _gap_panel(panel, here, limits, grid, metric)
            _slope_text(panel, slopes, metric)
            unit = wording.unit_label(metric)
            panel.axes.set_ylabel(f"← {base} better    gain ({unit})    {better} better →")
        legend(figure, handles)
    return figure


def accuracy(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """The test metric of base and SAM, ρ chosen on validation, against the number of parameters.

    One panel per condition; several variants share it. Accuracies are in %, other metrics as
    recorded.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last", or "best" on validation.

    Raises:
      UserError: no run is finished.
    """
    gains = comparison.gains(runs, epoch=epoch)
    if gains.empty or not gains[["base_mean", "sam_mean"]].notna().any(axis=None):
        raise UserError("accuracy: no run is finished, there is nothing to draw")
    if len(comparison.arms(runs)) > 1:
        return family.accuracy(runs, gains, epoch)
    metric = comparison.metric(runs)
    base, sam = wording.base_label(runs), wording.sam_label(runs)
    arms = [("base", base, *LOOKS["base"]), ("sam", sam, *LOOKS["sam"])]
    arms = [arm for arm in arms if gains[f"{arm[0]}_mean"].notna().any()]
    with matplotlib.rc_context(STYLE):
        heading = Heading(
            f"{wording.metric_label(metric).capitalize()} as the network grows",
            [subtitle(runs, epoch), wording.compute_label(gains, runs)],
        )
        handles: list[Any] = []
        for arm, label, color, marker, dash in arms:
            tuned = " (ρ chosen on validation)" if arm == "sam" else ""
            if len(comparison.rho_grid(runs)) == 1 and arm == "sam":
                tuned = f" (ρ = {comparison.rho_grid(runs)[0]:g})"
            handles.append(
                Line2D([], [], color=color, marker=marker, ls=dash, lw=1.8, label=label + tuned)
            )
        if gains[["base_half95", "sam_half95"]].notna().any(axis=None):
            handles.append(Patch(color="0.8", label="95 % t interval of each mean"))
        figure, panels = _layout(runs, gains, heading, handles, for_gap=False)
        for panel in panels:
            x = panel.rows["parameters"].to_numpy(float)
            for arm, _, color, marker, dash in arms:
                mean, half = (panel.rows[f"{arm}_{k}"].to_numpy(float) for k in ("mean", "half95"))
                band(panel.axes, x, mean - half, mean + half, color)
                panel.axes.plot(x, mean, color=color, marker=marker, ls=dash, lw=1.8, ms=5)
            metric_axis(panel, metric)
            parameter_axis(panel, rho_star=False)
        legend(figure, handles)
    return figure


def _layout(
    runs: pd.DataFrame, gains: pd.DataFrame, heading: Heading, handles: list[Any], *, for_gap: bool
) -> tuple[Figure, list[Panel]]:
    """One panel per condition and arm, with room for slopes and ρ* where it is for the gap."""
    by = _columns(runs, gains)
    keys = [dict(zip(by, key)) for key, _ in gains.groupby(by, dropna=False, sort=False)]
    names = [wording.panel_label(key, runs) for key in keys]
    *lines, last = [line for line in heading.lines if line]
    last += " · each panel has its own scale" if len(keys) > 1 else ""
    return layout(
        gains,
        Heading(heading.title, [*lines, last]),
        by,
        names,
        entries=[handle.get_label() for handle in handles],
        above=0.35 if for_gap else 0.0,
        below=0.2 if for_gap else 0.0,
    )


def _columns(runs: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    return [c for c in wording.panel_columns(runs) if c in gains]


def _rho_style(rho: float, grid: list[float]) -> dict[str, Any]:
    place = grid.index(rho)
    color = shades_of_rho(len(grid))[place]
    return {"color": color, "marker": MARKERS[place % len(MARKERS)], "ls": DASHES[place % 4]}


def _limits(rows: pd.DataFrame, fixed: Mapping[float, pd.DataFrame]) -> tuple[float, float]:
    """Limits of the gain axis.

    It is cut where SAM somewhere loses far more than it gains anywhere, as networks too small for
    it do, while at least half of the widths stay in sight.
    """
    gain = rows["gain"].to_numpy(float)
    high = np.fmax(gain, rows["gain_high95"])
    low = np.fmin(gain, rows["gain_low95"])
    top = float(np.nanmax([np.nanmax(high), *(t["gain"].max() for t in fixed.values()), 0.0]))
    bottom = float(np.nanmin([np.nanmin(low), *(t["gain"].min() for t in fixed.values()), 0.0]))
    seen = gain > -1.5 * top
    if top > 0 and bottom < -1.5 * top and 2 * seen.sum() >= len(gain):
        floor = min(-0.4 * top, float(np.nanmin(low[seen])))
        span = top - floor
        return floor - 0.16 * span, top + 0.16 * span
    span = (top - bottom) or 1.0
    return bottom - 0.08 * span, top + 0.16 * span


def _gap_panel(
    panel: Panel,
    fixed: Mapping[float, pd.DataFrame],
    limits: tuple[float, float],
    grid: list[float],
    metric: Metric,
) -> None:
    """Draws one panel; values below the limits are written at the bottom."""
    axes, rows = panel.axes, panel.rows
    low, high = limits
    x, gain, half = (rows[c].to_numpy(float) for c in ("parameters", "gain", "gain_half95"))
    axes.axhline(0, color=INK, lw=1, zorder=1.5)
    for rho, table in fixed.items():
        table = table.sort_values("parameters")
        axes.plot(table["parameters"], table["gain"], lw=1.1, ms=4, **_rho_style(rho, grid))
    band(axes, x, gain - half, gain + half, BLUE, alpha=0.22, zorder=2.5)
    # Thick between points in sight, thin where it leaves the axis.
    axes.plot(x, gain, color=BLUE, lw=1.2, zorder=2.8)
    axes.plot(x, np.where(gain < low, np.nan, gain), color=BLUE, lw=2.8, zorder=3)
    axes.set_ylim(low, high)
    # One digit less than in the table; two for gains of less than a few points.
    digits = wording.decimals(half, metric) - (metric.scale != 100 or high > 3)
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for count, value, error, rho in zip(x, gain, half, rows["rho_star"]):
        if not np.isfinite(value):
            continue
        below = value < low
        style = _rho_style(rho, grid) if len(grid) > 1 else {"color": BLUE, "marker": "o"}
        y = low + 0.04 * (high - low) if below else value
        axes.plot(
            count, y, ms=9 if below else 7.5, zorder=4, mec=BLUE, mew=1.6, mfc=style["color"],
            marker="v" if below else style["marker"],
        )  # fmt: skip
        raised = y if below or not np.isfinite(error) else value + error
        text = wording.signed(value, digits)
        axes.annotate(
            text, (count, raised), (lean(panel, count, text, 8.5), 7), ha="center", va="bottom",
            textcoords="offset points", size=8.5, weight="bold", color=BLUE, zorder=5,
            path_effects=halo,
        )  # fmt: skip


def _slope_text(panel: Panel, slopes: Mapping[str, pd.DataFrame], metric: Metric) -> None:
    found = {
        k: comparison.matches(v, panel.key, [c for c in panel.key if c in v])
        for k, v in slopes.items()
    }
    if found["all"].empty or not np.isfinite(found["all"]["slope"].iloc[0]):
        return
    full = found["all"].iloc[0]
    where, unit = wording.gained_in(metric)
    line = f"{wording.slope_text(full, metric)}{unit}{where} per doubling of the parameters"
    for _, upper in found["upper"].iterrows():
        text = wording.slope_text(upper, metric)
        line += f"\n{text} over the {upper['n_widths']} largest widths alone"
    panel.axes.text(
        0, 1.03, line, transform=panel.axes.transAxes, size=8.5, color=FAINT, va="bottom"
    )


def _gap_handles(gains: pd.DataFrame, grid: list[float], cut: bool) -> list[Any]:
    several = len(grid) > 1
    label = "ρ chosen on validation; marker: ρ*" if several else f"ρ = {grid[0]:g}"
    marker: dict[str, Any] = {} if several else {"marker": "o"}
    handles: list[Any] = [Line2D([], [], color=BLUE, lw=2.8, label=label, **marker)]
    if gains["gain_half95"].notna().any():
        seeds = wording.span(gains.loc[gains["n"] > 0, "n"])
        text = f"95 % t interval, paired by seed, n = {seeds}"
        handles.append(Patch(color=BLUE, alpha=0.22, lw=0, label=text))
    for rho in grid if several else []:
        label = f"fixed ρ = {rho:g}"
        handles.append(Line2D([], [], lw=1.1, ms=4, label=label, **_rho_style(rho, grid)))
    if cut:
        label = "below the axis: value written"
        handles.append(Line2D([], [], color=BLUE, marker="v", ls="", ms=8, label=label))
    return handles
