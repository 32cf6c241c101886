"""The curvature of SAM's networks beside the base's, against the number of parameters."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samop import comparison, flatness, wording
from samop.errors import UserError
from samop.figures.curvature_parts import (
    SMALL,
    NothingToDraw,
    bars,
    explain,
    head_lines,
    log_axis,
    title_of,
)
from samop.figures.layout import STYLE, Heading, Panel, layout, legend, parameter_axis, text_width
from samop.figures.looks import FAINT, INK, LOOKS
from samop.figures.spectrum import spectrum
from samop.figures.training import curvature_training
from samop.flatness import QUANTITIES

HESSIAN = ("lambda_max", "trace", "s2")
GGN = ("ggn_lambda_max", "ggn_trace", "ggn_s2")
MOMENTS = ("s2", "s3", "s4")
GGN_MOMENTS = ("ggn_s2", "ggn_s3", "ggn_s4")


def curvatures(runs: pd.DataFrame, measured: pd.DataFrame) -> dict[str, Figure]:
    """Every figure of the curvature that has something to draw, by the name of its file.

    Args:
      runs: table of `samop.results.load`, of one variant (`comparison.only`).
      measured: table of `samop.flatness.load`.
    """
    table = flatness.compare(runs, measured)
    if table.empty:
        return {}
    found = {}
    for name, quantities in (("curvature", HESSIAN), ("curvature_ggn", GGN)):
        if table["quantity"].isin(quantities).any():
            found[name] = curvature(runs, measured, quantities)
    for name, moments in (("curvature_moments", MOMENTS), ("curvature_ggn_moments", GGN_MOMENTS)):
        if table["quantity"].isin(moments[1:]).any():
            found[name] = curvature(runs, measured, moments)
    for name, draw in (("spectrum", spectrum), ("curvature_training", curvature_training)):
        try:
            found[name] = draw(runs, measured)
        except NothingToDraw:
            continue
    return found


def curvature(
    runs: pd.DataFrame, measured: pd.DataFrame, quantities: Sequence[str] = HESSIAN
) -> Figure:
    """Curvature and training loss of the trained networks, and the ratio of SAM to its base.

    Per condition two rows of panels: the geometric means of both with 95 % t intervals, and the
    geometric mean of the ratio, paired by seed; where runs were measured at several steps also
    the ratio at equal training loss. A panel with values of both signs has a scale that is linear
    around 0, and no ratio there. Hollow markers: an iteration did not converge in some run.

    Args:
      runs: table of `samop.results.load`, of one variant (`comparison.only`).
      measured: table of `samop.flatness.load`.
      quantities: names of `flatness.QUANTITIES`, one column each where it was measured.

    Raises:
      UserError: nothing of it was measured.
    """
    table = flatness.compare(runs, measured)
    names = [q for q in quantities if len(table) and (table["quantity"] == q).any()]
    if not names:
        raise UserError(f"curvature: none of {', '.join(quantities)} was measured")
    names.append("loss")
    equal = flatness.compare(runs, measured, at="equal_loss")
    trends = flatness.slopes(runs, measured)
    conditions = [c for c in wording.panel_columns(runs) if c in table]
    drawn = _in_order(table, names, conditions)
    by = [*conditions, "row", "quantity"]
    keys = [dict(zip(by, key)) for key, _ in drawn.groupby(by, dropna=False, sort=False)]
    base, sam = wording.base_label(runs), wording.sam_label(runs).partition(" (")[0]
    titles = []
    for number, key in enumerate(keys):
        symbol = QUANTITIES[key["quantity"]].symbol
        name = symbol if key["row"] == "value" else f"{symbol}: {sam} / {base}"
        column = number % len(names)
        # The last one has no neighbour whose room it may use.
        room = SMALL[0] + (0.1 if column == len(names) - 1 else 0.75)
        titles.append(title_of(key, name, runs, room, always=column == 0))
    with matplotlib.rc_context(STYLE):
        handles = _handles(table[table["quantity"].isin(names)], equal, runs)
        figure, panels = layout(
            drawn, _heading(runs, table), by, titles,
            entries=[handle.get_label() for handle in handles],
            above=0.17, below=0.17, panel=SMALL, sentences=False, per_row=len(names),
        )  # fmt: skip
        for panel in panels:
            explain(panel, _subtitle(panel, trends))
            parameter_axis(panel, rho_star=panel.key["row"] == "ratio")
            if panel.key["row"] == "value":
                _values(panel)
            else:
                rows = comparison.matches(equal, panel.key, [*conditions, "quantity"])
                _ratios(panel, rows, base, sam)
        legend(figure, handles)
    return figure


def _in_order(table: pd.DataFrame, names: Sequence[str], by: list[str]) -> pd.DataFrame:
    """The rows once per panel, in the order of the panels: per condition values, then ratios."""
    parts = []
    for _, here in table.groupby(by, dropna=False, sort=False):
        for row in ("value", "ratio"):
            if row == "ratio" and not here["ratio"].notna().any():
                continue
            for name in names:
                one = here[here["quantity"] == name]
                # A panel for each name, so that the columns of all conditions are the same.
                shown = one if len(one) else here.drop_duplicates("width").assign(**_empty(name))
                parts.append(shown.assign(row=row))
    return pd.concat(parts, ignore_index=True)


def _empty(name: str) -> dict[str, Any]:
    gone = [f"{k}_{e}" for k in ("base", "sam") for e in ("mean", "low95", "high95", "unconverged")]
    gone += ["ratio", "ratio_low95", "ratio_high95"]
    return {"quantity": name, **dict.fromkeys(gone, np.nan), "scale": "log"}


def _heading(runs: pd.DataFrame, table: pd.DataFrame) -> Heading:
    base, sam = wording.base_label(runs), wording.sam_label(runs).partition(" (")[0]
    both = table["ratio"].notna().any()
    title = (
        f"How sharp the networks of {sam} and {base} are as they grow"
        if both
        else "How sharp the networks are as they grow"
    )
    return Heading(title, [line for line in head_lines(runs, table) if line])


def _subtitle(panel: Panel, trends: pd.DataFrame) -> str:
    quantity = QUANTITIES[panel.key["quantity"]]
    if panel.key["row"] == "value":
        linear = (panel.rows["scale"] == "linear").any()
        return quantity.text + ("; axis linear around 0" if linear else "")
    columns = [c for c in panel.key if c != "row"]
    here = comparison.matches(trends, panel.key, columns) if len(trends) else trends
    if here.empty or not np.isfinite(here["factor"].iloc[0]):
        return ""
    ends = here.iloc[0][["factor", "factor_low95", "factor_high95"]]
    text = f"× {flatness.ratio_text(*ends)} per doubling"
    longer = f"{text} of parameters"
    return longer if text_width(longer, 8.5) <= SMALL[0] + 0.15 else text


def _values(panel: Panel) -> None:
    axes, rows = panel.axes, panel.rows
    linear = (rows["scale"] == "linear").any()
    for side, (color, marker, dash) in LOOKS.items():
        if side == "equal" or not rows[f"{side}_mean"].notna().any():
            continue
        mean, low, high = (rows[f"{side}_{k}"].to_numpy(float) for k in ("mean", "low95", "high95"))
        x = dodged(panel, -1 if side == "base" else 1)
        bars(axes, x, mean, low, high, color)
        axes.plot(x, mean, color=color, ls=dash, lw=1.5, zorder=2.8)
        hollow = rows[f"{side}_unconverged"].to_numpy(float) > 0
        _marks(axes, x, mean, hollow, color, marker)
    middle = rows[["base_mean", "sam_mean"]].to_numpy(float)
    ends = rows[["base_low95", "base_high95", "sam_low95", "sam_high95"]].to_numpy(float)
    if linear:
        size = np.nanmax(np.abs(middle))
        axes.set_yscale("symlog", linthresh=size / 100 or 1.0)
        axes.axhline(0, color=INK, lw=1, zorder=1.5)
    else:
        log_axis(axes, middle, ends)
    axes.set_ylabel(QUANTITIES[panel.key["quantity"]].symbol)


def _ratios(panel: Panel, equal: pd.DataFrame, base: str, sam: str) -> None:
    axes, rows = panel.axes, panel.rows
    axes.axhline(1, color=INK, lw=1, zorder=1.5)
    equal = equal.set_index(["parameters", "width"]) if len(equal) else equal
    series = [("sam", rows, -1 if len(equal) else 0)]
    if len(equal):
        there = rows.drop(columns=equal.columns, errors="ignore")
        series.append(("equal", there.join(equal, on=["parameters", "width"]), 1))
    means, ends = [], []
    for name, table, side in series:
        color, marker, dash = LOOKS[name]
        mean, low, high = (
            table[k].to_numpy(float) for k in ("ratio", "ratio_low95", "ratio_high95")
        )
        x = dodged(panel, side)
        bars(axes, x, mean, low, high, color)
        axes.plot(x, mean, color=color, ls=dash, lw=1.5 if name == "sam" else 1.2, zorder=2.8)
        unconverged = table[["base_unconverged", "sam_unconverged"]].to_numpy(float)
        _marks(axes, x, mean, np.nansum(unconverged, axis=1) > 0, color, marker)
        means.append(mean)
        ends += [low, high]
    log_axis(axes, np.array([*means, np.full(len(rows), 1.0)]), np.array(ends), least=1.25)
    lacking = rows.loc[rows["scale"] == "linear", "width"]
    if len(lacking):
        axes.text(
            0.02, 0.03, f"no ratio (signs not clear): {', '.join(lacking)}",
            transform=axes.transAxes, size=7.5, color=FAINT,
        )  # fmt: skip
    sharper = panel.key["quantity"] != "loss"
    axes.set_ylabel(f"← {sam} flatter    {base} flatter →" if sharper else "ratio")


def dodged(panel: Panel, side: int) -> np.ndarray:
    """Where the points of a series stand: beside each other, so that no bar hides another."""
    x = panel.rows["parameters"].to_numpy(float)
    span = np.log(x.max() / x.min()) or 1.0
    return x * np.exp(0.011 * side * span)


def _marks(
    axes: Axes, x: np.ndarray, y: np.ndarray, hollow: np.ndarray, color: str, marker: str
) -> None:
    size = 4.6 if marker == "D" else 5.5
    for which, face in ((~hollow, color), (hollow, "white")):
        axes.plot(
            x[which], y[which], color=color, marker=marker, ls="", ms=size, mfc=face, mew=1.2,
            zorder=3,
        )  # fmt: skip


def _handles(table: pd.DataFrame, equal: pd.DataFrame, runs: pd.DataFrame) -> list[Any]:
    handles: list[Any] = []
    linear = "" if (table["scale"] == "log").all() else ", arithmetic where signs are not clear"
    grid = comparison.rho_grid(runs)
    for side, name in (("base", wording.base_label(runs)), ("sam", wording.sam_label(runs))):
        if table[f"{side}_mean"].notna().any():
            color, marker, dash = LOOKS[side]
            tuned = f" (ρ = {grid[0]:g})" if len(grid) == 1 else " (ρ chosen on validation)"
            label = name + (tuned if side == "sam" else "")
            handles.append(Line2D([], [], color=color, marker=marker, ls=dash, lw=1.5, label=label))
    seeds = wording.span(table.loc[table["n"] > 0, "n"])
    if table[["base_low95", "sam_low95"]].notna().any(axis=None):
        label = f"95 % t interval of the geometric mean{linear}, n = {seeds}"
        handles.append(Line2D([], [], color=INK, marker="|", ls="", ms=11, mew=1.1, label=label))
    if len(equal) and equal["ratio"].notna().any():
        color, marker, dash = LOOKS["equal"]
        label = "ratio at equal training loss: the lowest that both of a pair reach"
        handles.append(
            Line2D([], [], color=color, marker=marker, ls=dash, lw=1.2, ms=4.6, label=label)
        )
    if note := unconverged_text(table):
        handles.append(
            Line2D([], [], color=INK, marker="o", mfc="white", ls="", ms=5.5, label=note)
        )
    return handles


def unconverged_text(table: pd.DataFrame) -> str:
    """What hollow markers stand for; empty where every iteration converged."""
    parts = []
    for name, rows in table.groupby("quantity", sort=False):
        if bad := int((rows["base_unconverged"] + rows["sam_unconverged"]).sum()):
            sides = rows[["base_mean", "sam_mean"]].notna().sum(axis=1)
            whole = int((rows["n"] * sides).sum())
            parts.append(f"{QUANTITIES[str(name)].symbol} in {bad} of {whole} runs")
    return f"hollow: not converged, {'; '.join(parts)}" if parts else ""
