"""Tables of runs → figures that explain themselves. No jax, no training, no global pyplot state.

Blue is the comparison that counts, with ρ chosen on validation; each fixed ρ has a shade of
brown with a marker and a dash of its own, so that the figures can be read in grey.
"""

import logging
import math
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import comparison, summary
from samop.comparison import Metric
from samop.errors import UserError

STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": "0.91",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "pdf.fonttype": 42,  # embedded as TrueType: journals refuse Type 3
    "savefig.dpi": 200,
}
BLUE, INK, FAINT = "#0067A5", "0.2", "0.45"
MARKERS = "osD^vPX*<>"
DASHES: list[Any] = [(0, (6, 2)), (0, (3, 1.5)), (0, (1, 1.2)), (0, (6, 2, 1, 2))]
PANEL = (4.1, 3.1)  # inches, the axes alone
LEFT, RIGHT = 0.95, 0.2  # inches beside each panel
PER_ROW = 3


class _Panel(NamedTuple):
    axes: Axes
    key: Mapping[str, Any]
    rows: pd.DataFrame  # of comparison.gains, widths ascending


def width_gap(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """The gain of SAM over its base optimiser against the number of parameters.

    One panel per condition, each with a scale of its own. Where networks too small for SAM
    collapse far below what it gains elsewhere, the axis is cut there and the values are written.

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
    base, sam = summary.base_label(runs), summary.sam_label(runs)
    chosen = f"ρ = {grid[0]:g}" if len(grid) == 1 else "ρ chosen on validation"
    chosen += ", for each seed by the other seeds" if _all_left_out(gains) else ""
    cut = False
    with matplotlib.rc_context(STYLE):
        title = f"What {sam} gains over {base} as the network grows"
        head = [title, _subtitle(runs, epoch), chosen]
        figure, panels = _layout(runs, gains, head, entries=3 + len(grid), for_gap=True)
        for panel in panels:
            here = {}
            for rho, table in fixed.items():
                here[rho] = summary.matches(table, panel.key, list(panel.key))
            cut |= _gap_panel(panel, here if len(grid) > 1 else {}, grid, metric)
            _slope_text(panel, slopes, metric)
            _parameter_axis(panel, rho_star=True)
            unit = summary.unit_label(metric)
            panel.axes.set_ylabel(f"← {base} better    gain ({unit})    {sam} better →")
        _legend(figure, _gap_handles(gains, grid, cut))
    return figure


def accuracy(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """The test metric of base and SAM, ρ chosen on validation, against the number of parameters.

    Arguments as for `width_gap`.

    Raises:
      UserError: no run is finished.
    """
    gains = comparison.gains(runs, epoch=epoch)
    if gains.empty or not gains[["base_mean", "sam_mean"]].notna().any(axis=None):
        raise UserError("accuracy: no run is finished, there is nothing to draw")
    metric = comparison.metric(runs)
    base, sam = summary.base_label(runs), summary.sam_label(runs)
    arms = [("base", base, "0.35", "s", (0, (4, 2))), ("sam", sam, BLUE, "o", "-")]
    arms = [arm for arm in arms if gains[f"{arm[0]}_mean"].notna().any()]
    with matplotlib.rc_context(STYLE):
        title = f"{summary.metric_label(metric).capitalize()} as the network grows"
        figure, panels = _layout(
            runs, gains, [title, _subtitle(runs, epoch)], entries=3, for_gap=False
        )
        handles: list[Any] = []
        for panel in panels:
            x = panel.rows["parameters"].to_numpy(float)
            for arm, _, color, marker, dash in arms:
                mean, half = (panel.rows[f"{arm}_{k}"].to_numpy(float) for k in ("mean", "half95"))
                panel.axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)
                panel.axes.plot(x, mean, color=color, marker=marker, ls=dash, lw=1.8, ms=5)
            low, high = (f(panel.rows[["base_mean", "sam_mean"]]) for f in (np.nanmin, np.nanmax))
            if not metric.higher_is_better and low > 0 and high / low > 20:
                panel.axes.set_yscale("log")
            _parameter_axis(panel, rho_star=False)
            panel.axes.set_ylabel(summary.metric_label(metric))
        for arm, label, color, marker, dash in arms:
            tuned = " (ρ chosen on validation)" if arm == "sam" else ""
            if len(comparison.rho_grid(runs)) == 1 and arm == "sam":
                tuned = f" (ρ = {comparison.rho_grid(runs)[0]:g})"
            handles.append(
                Line2D([], [], color=color, marker=marker, ls=dash, lw=1.8, label=label + tuned)
            )
        if gains[["base_half95", "sam_half95"]].notna().any(axis=None):
            handles.append(Patch(color="0.8", label="95 % t interval of each mean"))
        _legend(figure, handles)
    return figure


def save(figure: Figure, path_stem: str | Path) -> list[Path]:
    """Writes path_stem.png and path_stem.pdf, fonts embedded, no dates: same figure, same bytes.

    Each file is replaced as a whole. Returns the two paths; missing folders are made.
    """
    # Its log of every glyph would reach the terminal, since absl opens the root logger.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": "samop"},
    }
    paths = []
    for kind, entries in metadata.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with matplotlib.rc_context(STYLE):
                figure.savefig(temporary, format=kind, metadata=entries)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths


def _all_left_out(gains: pd.DataFrame) -> bool:
    return set(gains["selection"]) - {""} == {"leave-one-seed-out"}


def _subtitle(runs: pd.DataFrame, epoch: str) -> str:
    done = comparison.finished(runs)
    metric = comparison.metric(runs)
    epochs = summary.span(done["last_epoch"])
    if epoch == "last":
        when = f"the last epoch ({epochs})"
    else:
        when = f"the best epoch on validation, of {epochs}"
    seeds = done["seed"].nunique()
    names = [", ".join(sorted(done[c].unique())) for c in ("dataset", "model")]
    shown = summary.metric_label(metric).removesuffix(" (%)")
    return " · ".join([*names, f"{shown} at {when}", f"{seeds} seed{'s' if seeds > 1 else ''}"])


def _layout(
    runs: pd.DataFrame, gains: pd.DataFrame, head: list[str], *, entries: int, for_gap: bool
) -> tuple[Figure, list[_Panel]]:
    """A figure with one panel per condition, and room around them.

    Args:
      runs, gains: what is drawn.
      head: the title, then the lines beneath it.
      entries: how many the legend may have.
      for_gap: room for the slopes above each panel and for ρ* below it.
    """
    by = summary.panel_columns(runs)
    groups = [(dict(zip(by, k)), rows) for k, rows in gains.groupby(by, dropna=False, sort=False)]
    names = [summary.condition_label(key, runs) for key, _ in groups]
    across = min(len(groups), PER_ROW)
    down = math.ceil(len(groups) / across)
    above = 0.25 + (0.22 if any(names) else 0) + (0.35 if for_gap else 0)
    below = 0.75 if for_gap else 0.55
    cell = (LEFT + PANEL[0] + RIGHT, above + PANEL[1] + below)
    width = across * cell[0]
    own = " · each panel has its own scale" if len(groups) > 1 else ""
    texts = [*head[1:-1], head[-1] + own]
    lines = [line for text in texts for line in textwrap.wrap(text, int(14 * (width - 0.4)))]
    top = 0.42 + 0.17 * len(lines)
    foot = 0.15 + 0.18 * math.ceil(entries / _legend_columns(width))
    height = top + down * cell[1] + foot
    figure = Figure(figsize=(width, height))
    x, y = 0.2 / width, 1 - 0.16 / height
    figure.text(x, y, head[0], size=13, weight="bold", va="top", color=INK)
    figure.text(x, y - 0.3 / height, "\n".join(lines), size=9, va="top", color=FAINT)
    panels = []
    for number, (key, rows) in enumerate(groups):
        row, column = divmod(number, across)
        left = column * cell[0] + LEFT
        bottom = foot + (down - 1 - row) * cell[1] + below
        axes = figure.add_axes((left / width, bottom / height, PANEL[0] / width, PANEL[1] / height))
        name = names[number]
        axes.set_title(name[:1].upper() + name[1:], color=INK, pad=33 if for_gap else 8)
        panels.append(_Panel(axes, key, rows.sort_values("parameters")))
    return figure, panels


def _rho_style(rho: float, grid: list[float]) -> dict[str, Any]:
    place = grid.index(rho)
    shade = 0.35 + 0.6 * place / max(1, len(grid) - 1)
    color = matplotlib.colormaps["YlOrBr"](shade)
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
    panel: _Panel, fixed: Mapping[float, pd.DataFrame], grid: list[float], metric: Metric
) -> bool:
    """Draws one panel; says whether values had to be written below the cut."""
    axes, rows = panel.axes, panel.rows
    low, high = _limits(rows, fixed)
    x, gain, half = (rows[c].to_numpy(float) for c in ("parameters", "gain", "gain_half95"))
    axes.axhline(0, color=INK, lw=1, zorder=1.5)
    for rho, table in fixed.items():
        table = table.sort_values("parameters")
        axes.plot(table["parameters"], table["gain"], lw=1.1, ms=4, **_rho_style(rho, grid))
    axes.fill_between(x, gain - half, gain + half, color=BLUE, alpha=0.22, lw=0, zorder=2.5)
    # Thick between points in sight, thin where it leaves the axis.
    axes.plot(x, gain, color=BLUE, lw=1.2, zorder=2.8)
    axes.plot(x, np.where(gain < low, np.nan, gain), color=BLUE, lw=2.8, zorder=3)
    axes.set_ylim(low, high)
    # One digit less than in the table; two for gains of less than a few points.
    digits = summary.decimals(half, metric) - (metric.scale != 100 or high > 3)
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    outside = False
    for count, value, error, rho in zip(x, gain, half, rows["rho_star"]):
        if not np.isfinite(value):
            continue
        below = value < low
        outside |= below
        style = _rho_style(rho, grid) if len(grid) > 1 else {"color": BLUE, "marker": "o"}
        y = low + 0.04 * (high - low) if below else value
        axes.plot(
            count, y, ms=9 if below else 7.5, zorder=4, mec=BLUE, mew=1.6, mfc=style["color"],
            marker="v" if below else style["marker"],
        )  # fmt: skip
        raised = y if below or not np.isfinite(error) else value + error
        axes.annotate(
            summary.signed(value, digits), (count, raised), (0, 7), ha="center", va="bottom",
            textcoords="offset points", size=8.5, weight="bold", color=BLUE, zorder=5,
            path_effects=halo,
        )  # fmt: skip
    return outside


def _slope_text(panel: _Panel, slopes: Mapping[str, pd.DataFrame], metric: Metric) -> None:
    found = {k: summary.matches(v, panel.key, list(panel.key)) for k, v in slopes.items()}
    if found["all"].empty or not np.isfinite(found["all"]["slope"].iloc[0]):
        return
    full = found["all"].iloc[0]
    digits = summary.decimals([full["slope_half95"]], metric)

    def text(row):
        return summary.with_interval(row["slope"], row["slope_half95"], digits, sign=True)

    line = f"{text(full)} {summary.unit_label(metric)} per doubling of the parameters"
    for _, upper in found["upper"].iterrows():
        line += f"\n{text(upper)} over the {upper['n_widths']} largest widths alone"
    panel.axes.text(
        0, 1.03, line, transform=panel.axes.transAxes, size=8.5, color=FAINT, va="bottom"
    )


def count_label(count: float) -> str:
    """A number of parameters in three characters or so: 610, 9.8k, 26k, 1.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return f"{count:.0f}"


def _parameter_axis(panel: _Panel, rho_star: bool) -> None:
    """Log axis; under each width its parameters, its name and, where wanted, its ρ*."""
    axes, rows = panel.axes, panel.rows
    x = rows["parameters"].to_numpy(float)
    axes.set_xscale("log")
    span = math.log(x.max() / x.min()) or 1.0
    edge = math.exp(0.09 * span)
    axes.set_xlim(x.min() / edge, x.max() * edge)
    head = ["parameters", "width"] + (["ρ*"] if rho_star else [])
    labels = []
    for _, row in rows.iterrows():
        lines = [count_label(row["parameters"]), row["width"]]
        if rho_star:
            star = row["rho_star"]
            lines.append(f"{star:g}" if np.isfinite(star) else summary.DASH)
        labels.append("\n".join(lines))
    # From the widest down, leave out what would run into its neighbour.
    kept: list[int] = []
    for i in reversed(range(len(x))):
        inches = PANEL[0] * math.log(x[kept[-1]] / x[i]) / (1.18 * span) if kept else math.inf
        letters = float(max(map(len, labels[i].split("\n"))))
        if kept:
            letters = (letters + max(map(len, labels[kept[-1]].split("\n")))) / 2
        if inches >= 0.078 * letters:
            kept.append(i)
    axes.set_xticks(x[kept], [labels[i] for i in kept], size=8.5, linespacing=1.3)
    axes.minorticks_off()
    axes.annotate(
        "\n".join(head), (0, 0), (-6, -6.5), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="top", size=8.5, linespacing=1.3, color=FAINT,
    )  # fmt: skip


def _gap_handles(gains: pd.DataFrame, grid: list[float], cut: bool) -> list[Any]:
    several = len(grid) > 1
    label = "ρ chosen on validation; marker: ρ*" if several else f"ρ = {grid[0]:g}"
    marker: dict[str, Any] = {} if several else {"marker": "o"}
    handles: list[Any] = [Line2D([], [], color=BLUE, lw=2.8, label=label, **marker)]
    if gains["gain_half95"].notna().any():
        seeds = summary.span(gains.loc[gains["n"] > 0, "n"])
        text = f"95 % t interval, paired by seed, n = {seeds}"
        handles.append(Patch(color=BLUE, alpha=0.22, lw=0, label=text))
    for rho in grid if several else []:
        label = f"fixed ρ = {rho:g}"
        handles.append(Line2D([], [], lw=1.1, ms=4, label=label, **_rho_style(rho, grid)))
    if cut:
        label = "below the axis: value written"
        handles.append(Line2D([], [], color=BLUE, marker="v", ls="", ms=8, label=label))
    return handles


def _legend_columns(width: float) -> int:
    return 4 if width > 7 else 2


def _legend(figure: Figure, handles: list[Any]) -> None:
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.1 / width, 0.05 / height),
        ncols=_legend_columns(width), columnspacing=1.6, handlelength=3,
    )  # fmt: skip
