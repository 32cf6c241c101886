"""Errors that fall as a power of width, on logarithmic axes, with what was fitted."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import wording
from samop.errors import UserError
from samop.figures.curvature_parts import log_ticks
from samop.figures.layout import STYLE, Heading, Panel, count_label, layout, legend
from samop.figures.looks import BLUE, INK, LOOKS
from samop.statistics import estimate

# The base, then ρ ascending: colour, marker and dash.
SIDES: list[tuple[str, str, Any]] = [
    LOOKS["base"],
    ("#5AA7D6", "o", (0, (6, 1.5, 1.2, 1.5))),
    (BLUE, "^", "-"),
    ("#0B2F4E", "D", (0, (1, 1.2))),
]
BEYOND = "0.95"


def power_laws(errors: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Test error against width for each optimiser, a panel for each number of examples.

    Args:
      errors, exponents: the tables of experiments/two_layer_error.py.

    Raises:
      UserError: a table without rows, or more optimisers than there are colours.
    """
    if errors.empty or exponents.empty:
        raise UserError("power_laws: nothing to draw: errors and exponents should have rows")
    names = list(errors.sort_values("rho")["optimizer"].unique())
    if len(names) > len(SIDES):
        raise UserError(f"power_laws: {len(names)} optimisers, at most {len(SIDES)}")
    handles: list[Any] = [
        Line2D([], [], color=color, marker=marker, ls=dash, lw=1.6, ms=5, label=name)
        for name, (color, marker, dash) in zip(names, SIDES)
    ]
    handles += [
        Line2D([], [], color=INK, lw=1.0, ls=(0, (1, 3)), label="slope −1: M ∝ 1/ε"),
        Patch(color=BEYOND, lw=0, label="not fitted: few examples limit the error"),
    ]
    with matplotlib.rc_context(STYLE):
        heading = Heading(
            "Test error ε of a two-layer ReLU network against its width M",
            ["lines: ε ∝ M⁻ᵖ fitted to the widths before the grey; p: mean over seeds ± 95 % t "
             "interval · bars: 95 % t interval of ε · fixed teacher of 2,000 hidden units on 8 "
             "inputs"],
        )  # fmt: skip
        groups = errors.groupby("examples")
        figure, panels = layout(
            errors,
            heading,
            ["examples"],
            [f"{n:,} training examples, {g['seed'].nunique()} seeds" for n, g in groups],
            entries=[str(h.get_label()) for h in handles],
            below=0.17,
        )
        for panel in panels:
            here = exponents[exponents["examples"] == panel.key["examples"]]
            _draw(panel, names, here[here["of"] == "test"])
        legend(figure, handles)
    return figure


def _draw(panel: Panel, names: list[str], exponents: pd.DataFrame) -> None:
    axes, rows = panel.axes, panel.rows
    fitted = exponents[exponents["widths"] == "below the floor"]
    if fitted.empty:
        fitted = exponents
    widths = np.array(sorted(rows["width"].unique()), float)
    first, last = fitted["first"].iloc[0], fitted["last"].iloc[0]
    lines = []
    for i, name in enumerate(names):
        color, marker, dash = SIDES[i]
        series = rows[rows["optimizer"] == name].groupby("width")["test"]
        values = [estimate(group.to_numpy()) for _, group in series]
        shift = 1 + 0.03 * (i - (len(names) - 1) / 2)
        axes.errorbar(
            widths * shift, [v.mean for v in values], yerr=[v.half for v in values],
            color=color, marker=marker, ls="none", ms=5, elinewidth=1.2,
        )  # fmt: skip
        row = fitted[fitted["optimizer"] == name].iloc[0]
        x = np.array([first, last]) * shift
        axes.plot(x, row["constant"] * x ** -row["exponent"], color=color, ls=dash, lw=1.6)
        power = wording.with_interval(row["exponent"], row["exponent_half95"])
        lines.append((f"{name}: p = {power}", color))
    start = rows.loc[rows["width"] == widths[0], "test"].mean()
    axes.plot(widths, 0.8 * start * widths[0] / widths, color=INK, lw=1.0, ls=(0, (1, 3)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    edge = 1.2
    axes.set_xlim(widths[0] / edge, widths[-1] * edge)
    if last < widths[-1]:
        after = widths[widths > last][0]
        axes.axvspan(np.sqrt(last * after), widths[-1] * edge, color=BEYOND, lw=0, zorder=0)
    counts = rows.groupby("width")["parameters"].first()
    axes.set_xticks(widths, [f"{w:g}\n{count_label(counts[w])}" for w in widths])
    axes.minorticks_off()
    log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("width M, number of parameters")
    axes.set_ylabel("test loss ½(f − y)², targets of variance 1")
    for i, (text, color) in enumerate(lines):
        axes.text(
            0.97, 0.97 - 0.065 * i, text, transform=axes.transAxes, ha="right", va="top",
            size=8.5, color=color, weight="bold",
        )  # fmt: skip
