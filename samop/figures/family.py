"""Several variants of SAM in one panel: lines that colour, marker and dash tell apart.

A variant looks the same in every figure: as `looks.KINDS` has it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import comparison, wording
from samop.errors import UserError
from samop.figures.layout import (
    PANEL,
    STYLE,
    Heading,
    Panel,
    all_left_out,
    band,
    inches_of,
    layout,
    lean,
    legend,
    metric_axis,
    parameter_axis,
    subtitle,
    text_width,
)
from samop.figures.looks import INK, KINDS, LOOKS
from samop.variants import LABELS

# Up to FEW lines, and beyond it: size of a panel in inches, and the share of the gap between two
# widths that the points of one width take.
FEW = 6
SIZES = (PANEL, (6.0, 4.2))
DODGES = (0.36, 0.6)
LONGEST = 1.8  # inches of a label that is written beside its line


class _Line(NamedTuple):
    label: str
    key: Mapping[str, Any]
    look: tuple[str, str, Any]


def variants(runs: pd.DataFrame, *, epoch: str = "last") -> Figure:
    """What every variant gains over the base optimiser against the number of parameters.

    One panel per condition, one line per variant, ρ chosen on validation, with the 95 % t interval
    of each gain. Points of one width are moved apart a little, so that no bar hides another. Panels
    share their scale unless one would be flat in it; networks that lose far more than any gains
    are cut off as in `width_gap`.

    Args:
      runs: table of `samop.results.load`.
      epoch: "last", or "best" on validation.

    Raises:
      UserError: base and perturbed runs of one seed are needed.
    """
    gains = comparison.gains(runs, epoch=epoch)
    if gains.empty or not gains["gain"].notna().any():
        raise UserError("variants: no gain to draw: it takes finished base and perturbed runs")
    by = comparison.condition_columns(runs)
    gains = gains[gains.groupby(by, dropna=False)["gain"].transform("count") > 0]
    metric = comparison.metric(runs)
    base, unit = wording.base_label(runs), wording.unit_label(metric)
    lines = _lines(runs, gains)
    with matplotlib.rc_context(STYLE):
        title = f"What the variants of SAM gain over {base} as the network grows"
        limits = _limits_of_all(gains, by)
        own = len({tuple(limit) for limit in limits}) > 1
        handles = _handles(gains, by, lines, limits, base)
        figure, panels = _panels(runs, gains, title, epoch, lines, own, handles)
        for panel, (low, high) in zip(panels, limits):
            axes = panel.axes
            axes.axhline(0, color=INK, lw=1, zorder=1.5)
            axes.set_ylim(low, high)
            parameter_axis(panel, rho_star=False)
            _stripes(panel, len(lines))
            ends = []
            for number, line in enumerate(lines):
                x, rows = _dodged(panel, line, number, len(lines), runs)
                y, half = (rows[c].to_numpy(float) for c in ("gain", "gain_half95"))
                _draw(panel, line, x, y, half)
                below = y < low
                _mark(panel, line, x[below], np.full(below.sum(), low + 0.03 * (high - low)), "v")
                ends.append((line, x, np.where(below, low + 0.03 * (high - low), y)))
            _write_cut(panel, low, high, metric)
            if _fit(lines):
                _label(panel, ends)
            axes.set_ylabel(f"← {base} better    gain ({unit})    variant better →")
        legend(figure, handles)
    return figure


def accuracy(runs: pd.DataFrame, gains: pd.DataFrame, epoch: str) -> Figure:
    """The test metric of the base and of every variant: `figures.accuracy` of several variants."""
    metric = comparison.metric(runs)
    base = wording.base_label(runs)
    lines = _lines(runs, gains)
    alone = _Line(base, {}, LOOKS["base"])
    handles: list[Any] = [] if _fit(lines) else [_handle(line) for line in [alone, *lines]]
    if gains[["base_half95", "sam_half95"]].notna().any(axis=None):
        handles.append(Patch(color="0.8", label=f"95 % t interval of the mean of {base}"))
        handles.append(_bar("95 % t interval of a variant's mean"))
    with matplotlib.rc_context(STYLE):
        title = f"{wording.metric_label(metric).capitalize()} as the network grows"
        own = gains.groupby(comparison.condition_columns(runs), dropna=False).ngroups > 1
        figure, panels = _panels(runs, gains, title, epoch, lines, own, handles)
        for panel in panels:
            metric_axis(panel, metric)
            parameter_axis(panel, rho_star=False)
            _stripes(panel, len(lines))
            ends = []
            plain = panel.rows.drop_duplicates("parameters")
            x, y, half = (
                plain[c].to_numpy(float) for c in ("parameters", "base_mean", "base_half95")
            )
            band(panel.axes, x, y - half, y + half, LOOKS["base"][0])
            _draw(panel, alone, x, y, np.full(len(y), np.nan))
            ends.append((alone, x, y))
            for number, line in enumerate(lines):
                x, rows = _dodged(panel, line, number, len(lines), runs)
                y, half = (rows[c].to_numpy(float) for c in ("sam_mean", "sam_half95"))
                _draw(panel, line, x, y, half)
                ends.append((line, x, y))
            if _fit(lines):
                panel.axes.set_ylim(panel.axes.get_ylim())
                _label(panel, ends)
        legend(figure, handles)
    return figure


def _lines(runs: pd.DataFrame, gains: pd.DataFrame) -> list[_Line]:
    """One per arm that has something to show; the looks belong to the variants' names."""
    columns = comparison.arm_columns(runs)
    found = []
    for arm in comparison.arms(runs):
        if comparison.matches(gains, arm, columns)["sam_mean"].notna().any():
            found.append(arm)
    names = list(LABELS)
    taken: list[int] = []
    for arm in found:
        wanted = names.index(arm["transform"]) if arm["transform"] in names else len(names)
        free = [i for i in [wanted, *range(len(names), len(KINDS)), *range(len(KINDS))]
                if i not in taken] or [wanted]  # fmt: skip
        taken.append(free[0])
    return [_Line(wording.arm_label(a, runs), a, KINDS[i]) for a, i in zip(found, taken)]


def _fit(lines: Sequence[_Line]) -> bool:
    """Whether the labels fit beside the lines; where not, they go into the legend."""
    return _longest(lines) <= LONGEST


def _longest(lines: Sequence[_Line]) -> float:
    return max((text_width(line.label, 8.5, "bold") for line in lines), default=0.0)


def _panels(
    runs: pd.DataFrame,
    gains: pd.DataFrame,
    title: str,
    epoch: str,
    lines: Sequence[_Line],
    own: bool,
    handles: Sequence[Any],
) -> tuple[Figure, list[Panel]]:
    """One panel per condition, with room for labels beside the lines where they fit."""
    by = comparison.condition_columns(runs)
    keys = [dict(zip(by, key)) for key, _ in gains.groupby(by, dropna=False, sort=False)]
    names = [wording.condition_label(key, runs) for key in keys]
    grid = comparison.rho_grid(runs)
    chosen = f"ρ = {grid[0]:g}" if len(grid) == 1 else "ρ chosen on validation for each variant"
    if len(grid) > 1 and set(gains["selection"]) <= {"only one rho", ""}:
        chosen = "one ρ for each variant, nothing was chosen"
    chosen += " and width, for each seed by the other seeds" if all_left_out(gains) else ""
    chosen += " · each panel has its own scale" if own and len(keys) > 1 else ""
    compute = wording.compute_label(gains, runs)
    head = [line for line in (subtitle(runs, epoch), compute, chosen) if line]
    return layout(
        gains, Heading(title, head), by, names,
        entries=[handle.get_label() for handle in handles],
        right=max(_longest(lines), 0.4) + 0.25 if _fit(lines) else 0.0,
        panel=SIZES[len(lines) > FEW or not _fit(lines)],
    )  # fmt: skip


def _limits_of_all(gains: pd.DataFrame, by: list[str]) -> list[tuple[float, float]]:
    """Limits of the gain axis of each condition; shared unless that hides what one shows."""
    found = [_limits(rows) for _, rows in gains.groupby(by, dropna=False, sort=False)]
    spans = [high - low for low, high in found]
    if max(spans) <= 2 * min(spans):
        shared = min(low for low, _ in found), max(high for _, high in found)
        return [shared] * len(found)
    return found


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits that show every gain, and bars as far as they do not shrink the gains to a line.

    Cut where networks lose far more than any gains, while at least half of the gains stay.
    """
    rows = rows[rows["gain"].notna()]
    gain, half = (rows[c].to_numpy(float) for c in ("gain", "gain_half95"))
    half = np.nan_to_num(half)
    top, bottom = max(0.0, *gain, 0.0), min(0.0, *gain, 0.0)
    seen = gain > -1.5 * top
    if top > 0 and bottom < -1.5 * top and 2 * seen.sum() >= len(gain):
        bottom = min(-0.4 * top, float(gain[seen].min()))
    else:
        seen = np.ones(len(gain), bool)
    reach = 0.35 * (top - bottom)
    high = min(float((gain + half)[seen].max(initial=0.0)), top + reach)
    low = max(float((gain - half)[seen].min(initial=0.0)), bottom - reach)
    low, high = min(low, bottom), max(high, top)
    span = (high - low) or 1.0
    return low - (0.14 if not seen.all() else 0.06) * span, high + 0.06 * span


def _dodged(
    panel: Panel, line: _Line, number: int, total: int, runs: pd.DataFrame
) -> tuple[np.ndarray, pd.DataFrame]:
    """The rows of a line and where they stand: moved within the gap between two widths."""
    rows = comparison.matches(panel.rows, line.key, comparison.arm_columns(runs))
    _, gap = _widths(panel)
    side = DODGES[total > FEW]
    share = 0.0 if total == 1 else number / (total - 1) - 0.5
    return rows["parameters"].to_numpy(float) * np.exp(side * gap * share), rows


def _widths(panel: Panel) -> tuple[np.ndarray, float]:
    """The numbers of parameters in a panel, and the room of each on the log axis.

    That is the least gap between two of them, or less, so that the outermost stay in the panel.
    """
    counts = np.unique(panel.rows["parameters"].to_numpy(float))
    places = np.log(counts)
    span = float(np.ptp(places)) or 1.0
    return counts, float(np.diff(places).min(initial=0.2 * span))


def _stripes(panel: Panel, total: int) -> None:
    """A pale stripe behind the points of each width, which stand beside each other."""
    counts, gap = _widths(panel)
    side = np.exp(0.6 * DODGES[total > FEW] * gap)
    for count in counts:
        panel.axes.axvspan(count / side, count * side, color="0.955", lw=0, zorder=0)


def _draw(panel: Panel, line: _Line, x: np.ndarray, y: np.ndarray, half: np.ndarray) -> None:
    color, marker, dash = line.look
    low = panel.axes.get_ylim()[0] if panel.axes.get_autoscaley_on() is False else -np.inf
    seen = np.where(y < low, np.nan, y)
    panel.axes.errorbar(
        x, seen, np.where(np.isfinite(half), half, 0.0), fmt="none", ecolor=color, elinewidth=1.1,
        alpha=0.75, zorder=2.5,
    )  # fmt: skip
    # Dashed lines between gains, the way down to one that is cut off included.
    panel.axes.plot(
        x, y, color=color, ls=dash, lw=2.0 if line.look is KINDS[0] else 1.4, zorder=2.8
    )
    _mark(panel, line, x, seen, marker)


def _mark(panel: Panel, line: _Line, x: np.ndarray, y: np.ndarray, marker: str) -> None:
    panel.axes.plot(
        x, y, color=line.look[0], marker=marker, ls="", ms=_size(marker), mec="white", mew=0.6,
        zorder=3,
    )  # fmt: skip


def _size(marker: str) -> float:
    return 7.5 if marker in "XP*" else 5.8


def _write_cut(panel: Panel, low: float, high: float, metric: comparison.Metric) -> None:
    """Over the markers at the bottom the values that they stand for."""
    rows = panel.rows[panel.rows["gain"] < low]
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for count, values in rows.groupby("parameters")["gain"]:
        texts = [wording.signed(v, 0 if metric.scale == 100 else 2) for v in sorted(values)]
        text = texts[0] if texts[0] == texts[-1] else f"{texts[0]} … {texts[-1]}"
        panel.axes.annotate(
            text, (count, low + 0.03 * (high - low)), (lean(panel, count, text, 7.5), 5),
            textcoords="offset points",
            ha="center", va="bottom", size=7.5, color=INK, path_effects=halo, zorder=4,
        )  # fmt: skip


def _label(panel: Panel, ends: list[tuple[_Line, np.ndarray, np.ndarray]]) -> None:
    """Names at the right, in the order of the lines' ends, moved apart, each with its marker."""
    axes = panel.axes
    to_axes = axes.transScale + axes.transLimits  # data → shares of the panel
    placed = []
    for line, x, y in ends:
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):
            placed.append((line, *to_axes.transform((x[finite[-1]], y[finite[-1]]))))
    placed.sort(key=lambda item: item[2])
    spots = spread(np.array([y for _, _, y in placed]), 0.155 / inches_of(panel)[1])
    for (line, x, y), spot in zip(placed, spots):
        color, marker, _ = line.look
        shared = {"color": color, "transform": axes.transAxes, "clip_on": False}
        axes.plot([x, 1.02], [y, spot], lw=0.6, alpha=0.6, **shared)
        axes.plot([1.02], [spot], marker=marker, ms=_size(marker), mec="white", mew=0.6, **shared)
        axes.text(
            1.02, spot, f"  {line.label}", transform=axes.transAxes, size=8.5, va="center_baseline",
            color=INK, weight="bold" if line.look is KINDS[0] else "normal",
        )  # fmt: skip


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Places in [0, 1] at least `gap` apart, in the same order, nearest to those wanted.

    Args:
      wanted: ascending [n].
      gap: least distance of neighbours; smaller where n of them would not fit.
    """
    n = len(wanted)
    if n < 2:
        return np.clip(wanted, 0, 1)
    gap = min(gap, 1 / (n - 1))
    steps = gap * np.arange(n)
    # Nearest ascending values to wanted − steps: neighbours out of order are pooled at their mean.
    pools: list[list[float]] = []
    for value in np.asarray(wanted, float) - steps:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    flat = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    return np.clip(flat, 0, 1 - steps[-1]) + steps


def _handle(line: _Line) -> Line2D:
    color, marker, dash = line.look
    return Line2D(
        [], [], color=color, marker=marker, ls=dash, lw=1.6, ms=_size(marker), label=line.label
    )


def _bar(label: str) -> Line2D:
    return Line2D([], [], color=INK, marker="|", ls="", ms=11, mew=1.1, label=label)


def _handles(
    gains: pd.DataFrame,
    by: list[str],
    lines: Sequence[_Line],
    limits: list[tuple[float, float]],
    base: str,
) -> list[Any]:
    """The entries of the legend; of what is cut off, only where something is."""
    handles: list[Any] = [] if _fit(lines) else [_handle(line) for line in lines]
    order = gains.groupby(by, dropna=False, sort=False).ngroup()
    low, high = (np.array(limits)[order, side] for side in (0, 1))
    inside = gains["gain"] >= low
    longer = (gains["gain_low95"] < low) | (gains["gain_high95"] > high)
    if gains["gain_half95"].notna().any():
        seeds = wording.span(gains.loc[gains["n"] > 0, "n"])
        text = f"95 % t interval of the gain over {base}, paired by seed, n = {seeds}"
        more = "; cut at the edge" if (inside & longer).any() else ""
        handles.append(_bar(text + more))
    if (gains["gain"] < low).any():
        label = "below the axis: values written"
        handles.append(Line2D([], [], color=INK, marker="v", ls="", ms=6, label=label))
    return handles
