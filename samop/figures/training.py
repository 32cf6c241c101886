"""Curvature along training, where runs were measured at several steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samop import flatness, wording
from samop.figures.curvature_parts import (
    SMALL,
    NothingToDraw,
    explain,
    head_lines,
    log_axis,
    log_ticks,
    title_of,
)
from samop.figures.layout import STYLE, Heading, Panel, layout, legend, some
from samop.figures.looks import INK, LOOKS, ORANGE
from samop.flatness.readings import of_row

MOST = 4  # widths beside each other
EDGE = ORANGE
EXPLAINED = {"epoch": "against the epoch", "loss": "against the training loss"}


def curvature_training(runs: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """The largest eigenvalue against the epoch, and against the training loss, per width.

    One line is the geometric mean over seeds at each measured epoch, thin ones are the runs; the
    SAM runs have the ρ that was chosen on validation. Where two lines of the second row pass the
    same loss, the networks are compared at equal training loss. At most four widths: the smallest,
    the widest and those evenly between. The dashed line is 2(1 + momentum)/η, above which
    full-batch SGD with that rate is unstable, where it is near the values.

    Args:
      runs: table of `samop.results.load`, of one variant (`comparison.only`).
      measured: table of `samop.flatness.load`.

    Raises:
      NothingToDraw: no finished run was measured at two steps or more.
    """
    quantity = next((q for q in flatness.present(measured) if q.name != "loss"), None)
    pairs = flatness.pairs(runs, measured) if quantity else pd.DataFrame()
    by_run = flatness.tracks(measured)
    if quantity is None or pairs.empty or max(map(len, by_run.values()), default=0) < 2:
        raise NothingToDraw("curvature_training: no run was measured at two steps or more")
    pairs = pairs[pairs["quantity"] == quantity.name]
    conditions = [c for c in wording.panel_columns(runs) if c in pairs]
    drawn, left = _in_order(pairs, conditions)
    by = [*conditions, "row", "parameters", "width"]
    base, sam = wording.base_label(runs), wording.sam_label(runs)
    plainly = sam.partition(" (")[0]
    both = (pairs["base_point"] != "").any() and (pairs["sam_point"] != "").any()
    who = f"{plainly} and {base}" if both else (base if (pairs["base_point"] != "").any() else sam)
    head = head_lines(runs, flatness.compare(runs, measured))
    head[0] = head[0].replace(f"at {wording.when_label(runs, 'last')}", "along training")
    if both:
        head.append("against the training loss, networks above each other have the same loss")
    if left:
        head.append(f"not shown: the widths {', '.join(left)}")
    with matplotlib.rc_context(STYLE):
        edge = _edges(drawn, by_run, quantity.name)
        handles = _handles(runs, drawn, by_run, quantity, edge, base, sam)
        keys = [dict(zip(by, key)) for key, _ in drawn.groupby(by, dropna=False, sort=False)]
        titles = [title_of(key, key["width"], runs, SMALL[0], always=True) for key in keys]
        figure, panels = layout(
            drawn,
            Heading(f"{quantity.symbol} of {who} along training", [line for line in head if line]),
            by,
            titles,
            entries=[handle.get_label() for handle in handles],
            above=0.17, panel=SMALL, sentences=False, per_row=drawn["width"].nunique(),
        )  # fmt: skip
        for panel in panels:
            explain(panel, EXPLAINED[panel.key["row"]])
            _draw(panel, by_run, quantity, edge)
        legend(figure, handles)
    return figure


def _in_order(pairs: pd.DataFrame, by: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The pairs once for each panel, in the order of the panels; the widths that are left out."""
    widths = pairs.sort_values("parameters")["width"].drop_duplicates().tolist()
    shown = some(widths, MOST)
    parts = [
        here[here["width"] == width].assign(row=row)
        for _, here in pairs.groupby(by, dropna=False, sort=False)
        for row in EXPLAINED
        for width in shown
        if (here["width"] == width).any()
    ]
    return pd.concat(parts, ignore_index=True), [w for w in widths if w not in shown]


def _edges(
    drawn: pd.DataFrame, by_run: Mapping[str, Sequence[Mapping[str, Any]]], name: str
) -> bool:
    """Whether the edge of stability is near what is drawn somewhere: then it is shown."""
    if name != "lambda_max":
        return False
    for point in drawn.loc[drawn["base_point"] != "", "base_point"]:
        rows = by_run[point]
        if any(row[name] > row["edge"] / 1.5 for row in rows):
            return True
    return False


def _draw(
    panel: Panel,
    by_run: Mapping[str, Sequence[Mapping[str, Any]]],
    quantity: flatness.Quantity,
    edge: bool,
) -> None:
    axes, rows, across = panel.axes, panel.rows, str(panel.key["row"])
    seen = []
    for side in ("base", "sam"):
        tracks = [by_run[point] for point in rows[f"{side}_point"] if point]
        if not tracks:
            continue
        color, marker, dash = LOOKS[side]
        points: dict[float, list[tuple[float, float, bool]]] = {}
        for track in tracks:
            at, value = (
                np.array([float(row.get(k, np.nan)) for row in track])
                for k in (across, quantity.name)
            )
            usable = quantity.sign * value > 0
            if across == "loss":
                usable &= at > 0
            x, y = (np.where(usable, v, np.nan) for v in (at, quantity.sign * value))
            axes.plot(x, y, color=color, lw=0.7, alpha=0.35, zorder=2)
            for row, one, two in zip(track, x, y):
                unconverged = row.get(quantity.converged, True) is False
                points.setdefault(row["epoch"], []).append((one, two, unconverged))
            seen.append(y)
        # Of epochs at which every run was measured: a mean over fewer would jump.
        epochs = [epoch for epoch in sorted(points) if len(points[epoch]) == len(tracks)]
        whole = [points[epoch] for epoch in epochs]
        numbers = np.array([[p[:2] for p in group] for group in whole]).reshape(-1, len(tracks), 2)
        middle = _geometric(numbers[:, :, 1])
        along = np.array(epochs, float) if across == "epoch" else _geometric(numbers[:, :, 0])
        hollow = np.array([any(p[2] for p in group) for group in whole], bool)
        axes.plot(along, middle, color=color, ls=dash, lw=1.7, zorder=2.8)
        for which, face in ((~hollow, color), (hollow, "white")):
            axes.plot(
                along[which], middle[which], color=color, marker=marker, ls="", ms=4.4, mfc=face,
                mew=1.1, zorder=3,
            )  # fmt: skip
        seen.append(middle)
    log_axis(axes, np.concatenate(seen), np.empty(0))
    axes.set_ylabel(quantity.symbol if quantity.sign > 0 else f"−{quantity.symbol}")
    if across == "epoch":
        axes.set_xlabel("epoch")
        if edge:
            track = by_run[next(point for point in rows["base_point"] if point)]
            axes.plot(
                *([row[k] for row in track] for k in ("epoch", "edge")),
                color=EDGE,
                ls=(0, (5, 2)),
                lw=1.1,
                drawstyle="steps-post",
                zorder=1.8,
            )
            lowest = min(row["edge"] for row in track)
            axes.set_ylim(top=max(axes.get_ylim()[1], 1.3 * lowest))
    else:
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("training loss (log scale, falling to the right)")
        log_ticks(axes.xaxis, *sorted(axes.get_xlim()))


def _geometric(values: np.ndarray) -> np.ndarray:
    """Geometric means over runs, [steps, runs] → [steps]; NaN where one has no logarithm."""
    return np.exp(np.log(values).mean(axis=1))


def _handles(
    runs: pd.DataFrame,
    drawn: pd.DataFrame,
    by_run: Mapping[str, Sequence[Mapping[str, Any]]],
    quantity: flatness.Quantity,
    edge: bool,
    base: str,
    sam: str,
) -> list[Any]:
    handles: list[Any] = []
    for side, name in (("base", base), ("sam", sam)):
        number = drawn.loc[drawn[f"{side}_point"] != ""].groupby(["width", "row"]).size()
        if len(number):
            color, marker, dash = LOOKS[side]
            label = f"{name}: geometric mean over seeds; thin: each run"
            handles.append(
                Line2D([], [], color=color, marker=marker, ls=dash, lw=1.7, ms=4.4, label=label)
            )
    if edge:
        label = f"2(1 + momentum)/η of {base}: above it full-batch {base} is unstable"
        handles.append(Line2D([], [], color=EDGE, ls=(0, (5, 2)), lw=1.1, label=label))
    points = {p for side in ("base", "sam") for p in drawn[f"{side}_point"] if p}
    rows = [row for point in points for row in by_run[point]]
    # At any step that is drawn, not only of the trained network.
    if any(not of_row(row, quantity).converged for row in rows):
        label = "hollow: not converged in some run"
        handles.append(
            Line2D([], [], color=INK, marker="o", mfc="white", ls="", ms=4.4, label=label)
        )
    return handles
