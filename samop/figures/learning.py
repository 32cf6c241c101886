"""Learning curves: the test metric of the base and of SAM against the epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from samop import comparison, wording
from samop import curves as curves_
from samop.comparison import Metric
from samop.errors import UserError
from samop.figures.curvature_parts import SMALL
from samop.figures.layout import (
    RIGHT,
    STYLE,
    Heading,
    band,
    count_label,
    layout,
    legend,
    some,
    wrap,
)
from samop.figures.looks import FAINT, INK, LOOKS
from samop.variants import VARIANTS

MOST = 3  # widths beside each other
START = 0.25  # share of the epochs whose values may leave the axis
MARKS = 6  # markers along a line


class _Line(NamedTuple):
    """A line: the mean over the runs of one side that did not diverge."""

    mean: pd.DataFrame  # of `curves.mean`, in the metric's shown unit
    runs: int  # that have begun
    diverged: int
    going: int  # not finished


class _Place(NamedTuple):
    """What one panel shows."""

    key: Mapping[str, Any]  # condition, arm, width
    lines: Mapping[str, _Line]  # "base", "sam" → line
    rho: float  # of the SAM runs; NaN where there are none
    provisional: bool  # chosen before any seed had finished
    first: bool  # of its row


def learning_curves(runs: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """The test metric of the base and of SAM along training, in a few widths.

    A row of panels per condition (and variant), a panel per width: the smallest, the largest and
    one between. SAM has the one ρ that all seeds together choose on validation data. Lines are
    means over seeds with the 95 % t interval as a band; one seed has no band. The first quarter
    of the epochs may leave the axis. Unfinished runs are drawn as far as they got, thin where some
    of the seeds have not got there yet; diverged runs are left out, and counted in the panel.

    Args:
      runs: table of `samop.results.load`.
      curves: table of `samop.curves.load`.

    Raises:
      UserError: no run has recorded an epoch.
    """
    metric = comparison.metric(runs)
    curves = curves[curves["point"].isin(runs["point"])]
    if curves.empty:
        raise UserError("learning_curves: no run has recorded an epoch, there is nothing to draw")
    places = _places(runs, curves, metric)
    inches = SMALL[0] + RIGHT - 0.05
    notes = [wrap(_note(place, runs), inches, 8.5) for place in places]
    handles = _handles(places, runs)
    rows = sum(place.first for place in places)
    across = [place.first for place in places[1:]].index(True) + 1 if rows > 1 else len(places)
    table = pd.DataFrame({"panel": range(len(places)), "parameters": 0})
    with matplotlib.rc_context(STYLE):
        figure, panels = layout(
            table,
            _heading(runs, curves, places, metric),
            ["panel"],
            [_title(place, places, runs) for place in places],
            entries=[str(handle.get_label()) for handle in handles],
            above=0.17 * max(map(len, notes)),
            panel=SMALL,
            per_row=across,
        )
        for panel, place, note in zip(panels, places, notes):
            axes = panel.axes
            axes.set_title(axes.get_title("left"), color=INK, pad=8 + 12.24 * len(note))
            axes.text(
                0, 1.03, "\n".join(note), transform=axes.transAxes, size=8.5, color=FAINT,
                va="bottom",
            )  # fmt: skip
            _draw(axes, place, metric)
        legend(figure, handles)
    return figure


def _places(runs: pd.DataFrame, curves: pd.DataFrame, metric: Metric) -> list[_Place]:
    """The panels, by condition, arm and width; a condition without arms has one row of its base."""
    by, arm_by = comparison.condition_columns(runs), comparison.arm_columns(runs)
    stars = curves_.chosen(runs, curves)
    lost = curves_.diverged(curves)
    order = {name: number for number, name in enumerate(VARIANTS)}
    found = []
    for values, here in curves.groupby(by, dropna=False, sort=True):
        condition = dict(zip(by, values))
        arms = here.loc[here["transform"] != "base", arm_by].drop_duplicates().to_dict("records")
        arms.sort(key=lambda arm: order.get(arm["transform"], len(order)))
        widths = here[comparison.WIDTH].drop_duplicates().sort_values("parameters")
        for arm in arms or [{"transform": "none"}]:
            for number, width in enumerate(some(widths.to_dict("records"), MOST)):
                local = comparison.matches(here, width, comparison.WIDTH)
                key = {**condition, **arm, **width}
                sides = {"base": local[local["transform"] == "base"]}
                star = stars.iloc[:0]
                if arms:
                    star = comparison.matches(stars, key, [*by, *comparison.WIDTH, *arm_by])
                if len(star):
                    members = comparison.matches(local, arm, arm_by)
                    sides["sam"] = members[members["rho"] == star["rho_star"].iloc[0]]
                lines = {k: _line(rows, lost, metric) for k, rows in sides.items() if len(rows)}
                rho = float(star["rho_star"].iloc[0]) if len(star) else np.nan
                early = bool(len(star) and star["provisional"].iloc[0])
                found.append(_Place(key, lines, rho, early, number == 0))
    return found


def _line(rows: pd.DataFrame, lost: set[str], metric: Metric) -> _Line:
    column = f"test_{metric.name}"
    kept = rows[~rows["point"].isin(lost)]
    states = rows.drop_duplicates("point")
    return _Line(
        curves_.mean(kept.assign(**{column: metric.scale * kept[column]}), column),
        len(states),
        int(states["point"].isin(lost).sum()),
        int((states["status"] == "partial").sum()),
    )


def _title(place: _Place, places: Sequence[_Place], runs: pd.DataFrame) -> str:
    """Condition and arm, where there are several, before the width."""
    arm = place.key["transform"]
    parts = [wording.condition_label(place.key, runs)]
    if len({other.key["transform"] for other in places}) > 1 or len(comparison.arms(runs)) > 1:
        parts.append("" if arm == "none" else wording.arm_label(place.key, runs))
    told = ", ".join(part for part in parts if part)
    told = f"{told[:1].upper()}{told[1:]} · " if told else ""
    return f"{told}{place.key['width']}"


def _heading(
    runs: pd.DataFrame, curves: pd.DataFrame, places: Sequence[_Place], metric: Metric
) -> Heading:
    seeds = curves["seed"].nunique()
    names = [", ".join(sorted(curves[c].unique())) for c in ("dataset", "model")]
    what = f"{wording.metric_label(metric).removesuffix(' (%)')} along training"
    first = " · ".join([*names, what, f"{seeds} seed{'s' if seeds > 1 else ''}"])
    second = []
    if len(comparison.rho_grid(runs)) > 1:
        second.append("ρ*: the best mean over all seeds on validation data")
        if any(place.provisional for place in places):
            second.append("(ρ = …): the best so far, before any seed has finished its runs")
    shown = {place.key["width"] for place in places}
    left = curves.drop_duplicates("width").sort_values("parameters")["width"]
    if len(left := [width for width in left if width not in shown]):
        second.append(f"not shown: the widths {', '.join(left)}")
    if len(places) > 1:
        second.append("each panel has its own scale")
    sides = [
        list(dict.fromkeys(_name(side, p, runs) for p in places if side in p.lines))
        for side in ("sam", "base")
    ]
    who = " and ".join(name for side in sides for name in side)
    lines = [line for line in (first, " · ".join(second)) if line]
    return Heading(f"Learning curves of {who}", lines)


def _note(place: _Place, runs: pd.DataFrame) -> str:
    """The panel's size and ρ, and which runs are not in its lines or go on."""
    parts = [f"{count_label(place.key['parameters'])} parameters"]
    if np.isfinite(place.rho):
        star = "ρ*" if len(comparison.rho_grid(runs)) > 1 else "ρ"
        parts.append(f"(ρ = {place.rho:g})" if place.provisional else f"{star} = {place.rho:g}")
    gone = {_name(k, place, runs): line.diverged for k, line in place.lines.items()}
    if any(gone.values()):
        told = ", ".join(f"{number} of {name}" for name, number in gone.items() if number)
        parts.append(f"diverged, left out: {told}")
    if going := sum(line.going for line in place.lines.values()):
        every = sum(line.runs for line in place.lines.values())
        parts.append(f"{going} of {every} runs not finished")
    return " · ".join(parts)


def _name(side: str, place: _Place, runs: pd.DataFrame) -> str:
    if side == "base":
        return wording.base_label(runs)
    return wording.arm_label(place.key, runs).partition(" (")[0]


def _draw(axes: Axes, place: _Place, metric: Metric) -> None:
    ends = [line.mean["epoch"].max() for line in place.lines.values() if len(line.mean)]
    seen = []
    for side, line in place.lines.items():
        if line.mean.empty:
            continue
        color, marker, dash = LOOKS[side]
        x, y, half, n = (line.mean[c].to_numpy(float) for c in ("epoch", "mean", "half95", "n"))
        band(axes, x, y - half, y + half, color)
        # Thin from where the last of what every run has reached ends.
        every = n == line.runs - line.diverged
        axes.plot(x, np.where(every, y, np.nan), color=color, ls=dash, lw=1.8, zorder=2.8)
        fewer = ~every | ~np.append(every[1:], True)
        axes.plot(x, np.where(fewer, y, np.nan), color=color, ls=dash, lw=0.8, zorder=2.7)
        at = np.unique(np.linspace(0, len(x) - 1, MARKS).round().astype(int))
        axes.plot(x[at], y[at], color=color, marker=marker, ls="", ms=4.4, zorder=3)
        late = x >= START * max(ends)
        seen.append(np.stack([y, np.nan_to_num(half)])[:, late])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(wording.metric_label(metric))
    if not seen:
        axes.text(
            0.5, 0.5, "every run diverged", transform=axes.transAxes, ha="center", color=FAINT
        )
        return
    y, half = np.concatenate(seen, axis=1)
    if not metric.higher_is_better and y.min() > 0 and y.max() / y.min() > 20:
        axes.set_yscale("log")
        axes.set_ylim(y.min() / 1.2, y.max() * 1.2)
        return
    # Bands as far as they do not more than double the axis.
    room = 0.5 * (y.max() - y.min() or 2 * half.max() or 1.0)
    low = max((y - half).min(), y.min() - room)
    high = min((y + half).max(), y.max() + room)
    if metric.scale == 100:
        high = max(min(high, 100.0), y.max())
    spare = 0.06 * (high - low or 1.0)
    axes.set_ylim(low - spare, high + spare)


def _handles(places: Sequence[_Place], runs: pd.DataFrame) -> list[Any]:
    handles: list[Any] = []
    lines = [(side, place) for place in places for side in place.lines]
    means = [line.mean for place in places for line in place.lines.values() if len(line.mean)]
    n = pd.concat([mean["n"] for mean in means]) if means else pd.Series(dtype=float)
    over = ": mean over seeds" if (n > 1).any() else ""
    for side in ("base", "sam"):
        names = list(dict.fromkeys(_name(k, place, runs) for k, place in lines if k == side))
        if names:
            color, marker, dash = LOOKS[side]
            label = (names[0] if len(names) == 1 else "the variant") + over
            handles.append(
                Line2D([], [], color=color, marker=marker, ls=dash, lw=1.8, ms=4.4, label=label)
            )
    if (n > 1).any():
        label = f"95 % t interval of the mean, n = {wording.span(n[n > 1])}"
        handles.append(Patch(color="0.8", label=label))
    if (n == 1).any():
        only = "one seed: no interval" if (n == 1).all() else "where one seed is left: no interval"
        handles.append(Line2D([], [], ls="", label=only))
    if any(
        (line.mean["n"] < line.runs - line.diverged).any()
        for place in places
        for line in place.lines.values()
    ):
        label = "thin: not all seeds have got there"
        handles.append(Line2D([], [], color=INK, lw=0.8, label=label))
    return handles
