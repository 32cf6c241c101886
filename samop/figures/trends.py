"""Several lines against the number of parameters, a panel each kind: gains by condition."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop.errors import UserError
from samop.figures.layout import STYLE, Heading, layout, legend, parameter_axis
from samop.figures.looks import DASHES, FAINT, INK, KINDS, MARKERS, shades

SIZE = (3.3, 2.6)  # inches of a panel
Lines = Mapping[str, pd.DataFrame]


def trends(
    panels: Mapping[str, Lines],
    heading: Heading,
    label: str,
    *,
    notes: Mapping[str, str] | None = None,
    reference: float | None = 0.0,
    interval: str = "95 % t interval over seeds",
    log: bool = False,
    share: bool = True,
    limits: tuple[float, float] | None = None,
    ordered: bool = True,
    per_row: int = 3,
) -> Figure:
    """Lines with their intervals against the number of parameters.

    Args:
      panels: title of a panel → label of a line → its rows: width, parameters, mean, and half95
        (half-width of the interval, NaN for none) or low95 and high95.
      heading: what stands above.
      label: of the value axis.
      notes: title of a panel → a line of text in it, below its title.
      reference: a level to draw a line at; None: none.
      interval: what the band is, as the legend says it.
      log: a logarithmic value axis.
      share: one scale for all panels, by the means; otherwise each has its own.
      limits: of the value axis; None: as `share` says.
      ordered: the lines are degrees of one thing (shades of one colour), or kinds.
      per_row: panels beside each other.

    Raises:
      UserError: nothing to draw.
    """
    rows = [
        _ends(table).assign(panel=panel, line=line)
        for panel, lines in panels.items()
        for line, table in lines.items()
        if len(table)
    ]
    everything = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({"mean": []})
    if not everything["mean"].notna().any():
        raise UserError("trends: there is nothing to draw")
    names = list(dict.fromkeys(everything["line"]))
    looks = {name: _look(i, len(names), ordered) for i, name in enumerate(names)}
    handles: list[Any] = [Line2D([], [], lw=2, ms=5, label=name, **looks[name]) for name in names]
    if everything["low95"].notna().any():
        handles.append(Patch(color="0.8", label=interval))
    with matplotlib.rc_context(STYLE):
        figure, drawn = layout(
            everything,
            heading,
            ["panel"],
            list(dict.fromkeys(everything["panel"])),
            entries=[str(handle.get_label()) for handle in handles],
            above=0.17 if notes else 0.0,
            panel=SIZE,
            per_row=per_row,
        )
        for panel in drawn:
            axes = panel.axes
            if log:
                axes.set_yscale("log")
            if reference is not None:
                axes.axhline(reference, color=INK, lw=1, zorder=1.5)
            for name, own in panel.rows.groupby("line", sort=False):
                x, mean = own["parameters"].to_numpy(float), own["mean"].to_numpy(float)
                low, high = own["low95"].to_numpy(float), own["high95"].to_numpy(float)
                axes.fill_between(x, low, high, color=looks[name]["color"], alpha=0.16, lw=0)
                axes.plot(x, mean, lw=1.9, ms=5, **looks[name])
            shown = everything if share else panel.rows
            axes.set_ylim(*(limits or _limits(shown, reference, log)))
            axes.set_ylabel(label)
            parameter_axis(panel, rho_star=False)
            if notes and (text := notes.get(panel.key["panel"])):
                axes.text(
                    0, 1.03, text, transform=axes.transAxes, size=8.5, color=FAINT, va="bottom"
                )
        legend(figure, handles)
    return figure


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    if "low95" in table:
        return table
    half = table["half95"]
    return table.assign(low95=table["mean"] - half, high95=table["mean"] + half)


def _look(place: int, count: int, ordered: bool) -> dict[str, Any]:
    if not ordered:
        color, marker, dash = KINDS[place % len(KINDS)]
        return {"color": color, "marker": marker, "ls": dash}
    color = shades(count)[place]
    dash = "-" if place == 0 else DASHES[(place - 1) % len(DASHES)]
    return {"color": color, "marker": MARKERS[place % len(MARKERS)], "ls": dash}


def _limits(rows: pd.DataFrame, reference: float | None, log: bool) -> Sequence[float]:
    """By the means, with room for intervals of their size; wider ones leave the axis."""
    values = rows["mean"].to_numpy(float)
    values = values[np.isfinite(values)]
    if reference is not None and not (log and reference <= 0):
        values = np.append(values, reference)
    if log:
        low, high = np.log(values[values > 0].min()), np.log(values.max())
        room = 0.15 * ((high - low) or 1.0)
        return float(np.exp(low - room)), float(np.exp(high + room))
    low, high = float(values.min()), float(values.max())
    room = 0.2 * ((high - low) or 1.0)
    return low - room, high + room
