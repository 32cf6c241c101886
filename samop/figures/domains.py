"""What SAM gains in several workloads, a panel each: the first figure of arXiv 2311.17539."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import wording
from samop.comparison import Metric
from samop.errors import UserError
from samop.figures.layout import (
    STYLE,
    Heading,
    Panel,
    band,
    layout,
    lean,
    legend,
    parameter_axis,
)
from samop.figures.looks import BLUE, FAINT, INK
from samop.variants import base_label

SIZE = (2.75, 2.1)  # inches of a panel
COLUMNS = ("metric", "unit", "base", "width", "parameters", "gain", "gain_half95", "rho_star", "n")


def domains(tables: Mapping[str, pd.DataFrame], *, per_row: int = 4) -> Figure:
    """The gain of SAM over its base optimiser against the number of parameters, a panel a workload.

    Args:
      tables: title of each panel → its rows, one a width, of the `results.csv` that a sweep leaves
        (or of `comparison.gains`): one condition, one variant, one way to choose ρ.
      per_row: panels beside each other.

    Raises:
      UserError: a table without rows, with several rows of one width, or without gains.
    """
    for title, table in tables.items():
        _check(title, table)
    everything = pd.concat([table.assign(domain=title) for title, table in tables.items()])
    handles = [
        Line2D(
            [], [], color=BLUE, lw=2, marker="o", label="gain; of several ρ, chosen on validation"
        ),
        Patch(color=BLUE, alpha=0.22, lw=0, label="95 % t interval, paired by seed"),
    ]
    with matplotlib.rc_context(STYLE):
        heading = Heading(
            "What SAM gains over its base optimiser as networks grow",
            ["above 0: SAM is better on test data · base optimiser, metric and seeds in each panel "
             "· each panel has its own scale"],
        )  # fmt: skip
        figure, panels = layout(
            everything,
            heading,
            ["domain"],
            list(tables),
            entries=[str(handle.get_label()) for handle in handles],
            above=0.17,
            below=0.2,
            panel=SIZE,
            per_row=per_row,
        )
        for panel in panels:
            parameter_axis(panel, rho_star=True)
            _draw(panel)
        legend(figure, handles)
    return figure


def _check(title: str, table: pd.DataFrame) -> None:
    lacking = [column for column in COLUMNS if column not in table]
    if lacking:
        raise UserError(f"{title}: the table lacks {', '.join(lacking)}")
    if table.empty or not table["gain"].notna().any():
        raise UserError(f"{title}: no gain to draw")
    twice = table.loc[table["width"].duplicated(), "width"]
    if len(twice):
        raise UserError(
            f"{title}: several rows of width {twice.iloc[0]}: choose one condition, one variant "
            "and one way to choose ρ"
        )


def _draw(panel: Panel) -> None:
    axes, rows = panel.axes, panel.rows
    first = rows.iloc[0]
    unit = first["unit"] if isinstance(first["unit"], str) else ""
    metric = Metric(first["metric"], True, 100.0 if unit == "points" else 1.0, unit)
    x, gain, half = (rows[c].to_numpy(float) for c in ("parameters", "gain", "gain_half95"))
    axes.axhline(0, color=INK, lw=1, zorder=1.5)
    band(axes, x, gain - half, gain + half, BLUE, alpha=0.22)
    axes.plot(x, gain, color=BLUE, lw=2, marker="o", ms=5)
    low = np.nanmin(np.append(np.fmin(gain, gain - half), 0.0))
    high = np.nanmax(np.append(np.fmax(gain, gain + half), 0.0))
    span = (high - low) or 1.0
    axes.set_ylim(low - 0.06 * span, high + 0.2 * span)
    digits = wording.decimals(half, metric) - (metric.scale != 100 or high > 3)
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    # Of many widths the ends alone have room for a number.
    told = range(len(x)) if len(x) <= 4 else (0, len(x) - 1)
    for count, value, error in ((x[i], gain[i], half[i]) for i in told):
        raised = value + error if np.isfinite(error) else value
        text = wording.signed(value, digits)
        axes.annotate(
            text, (count, raised), (lean(panel, count, text, 8), 4), ha="center", va="bottom",
            textcoords="offset points", size=8, weight="bold", color=BLUE, path_effects=halo,
        )  # fmt: skip
    seeds = wording.span(rows["n"])
    line = [base_label(first["base"]), wording.metric_label(metric), f"{seeds} seeds"]
    axes.text(
        0, 1.03, " · ".join(line).replace(" 1 seeds", " 1 seed"),
        transform=axes.transAxes, size=8.5, color=FAINT, va="bottom",
    )  # fmt: skip
    axes.set_ylabel(f"gain ({wording.unit_label(metric)})")
