"""What the figures of curvature share: looks, heads, logarithmic axes with plain numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from samop import comparison, wording
from samop.errors import UserError
from samop.figures.layout import Panel, all_left_out, text_width
from samop.figures.looks import FAINT

# Finer and finer ticks of a decade, until three are in sight.
STEPS: list[tuple[float, ...]] = [
    (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7),
    (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
]  # fmt: skip
SMALL = (2.9, 2.0)  # inches of one of four panels beside each other


class NothingToDraw(UserError):
    """A figure that was asked for where nothing of it was measured."""


def head_lines(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Data and what was measured; what is equal between the arms; where ρ comes from.

    Args:
      runs: table of `samop.results.load`.
      table: of `flatness.compare`.
    """
    done = comparison.finished(runs)
    names = [", ".join(sorted(done[c].unique())) for c in ("dataset", "model")]
    seeds = done["seed"].nunique()
    examples = table["examples"].dropna()
    over = f"on {wording.span(examples)} examples " if len(examples) else ""
    what = f"curvature of the training loss {over}at {wording.when_label(runs, 'last')}"
    first = " · ".join([*names, what, f"{seeds} seed{'s' if seeds > 1 else ''}"])
    gains = comparison.gains(runs)
    return [first, wording.compute_label(gains, runs), chosen_text(runs, gains)]


def chosen_text(runs: pd.DataFrame, gains: pd.DataFrame) -> str:
    """How the ρ of the networks that are shown was chosen; empty for the base alone."""
    grid = comparison.rho_grid(runs)
    if not grid:
        return ""
    text = f"ρ = {grid[0]:g}" if len(grid) == 1 else "ρ chosen on validation per width"
    return text + (", for each seed by the other seeds" if all_left_out(gains) else "")


def explain(panel: Panel, text: str) -> None:
    """A faint line between a panel's title and its axes, for which `layout` left .17 inches."""
    panel.axes.text(
        0, 1.03, text, transform=panel.axes.transAxes, size=8.5, color=FAINT, va="bottom"
    )


def bars(
    axes: Axes, x: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, color: str
) -> None:
    """Intervals; none where one run gives none."""
    there = np.isfinite(low) & np.isfinite(high)
    axes.vlines(x[there], low[there], high[there], color=color, lw=1.2, zorder=2.5)


def log_axis(axes: Axes, middle: np.ndarray, ends: np.ndarray, least: float = 1.6) -> None:
    """A logarithmic y axis with plain numbers at its ticks.

    Args:
      axes: to set.
      middle: points that must be in sight.
      ends: of intervals, in sight as far as that does not more than double the axis.
      least: ratio of the ends of the axis at the least, about the middle.
    """
    points = middle[np.isfinite(middle) & (middle > 0)]
    if not len(points):
        return
    low, high = np.log(points.min()), np.log(points.max())
    room = max(high - low, np.log(least))
    reach = np.log(ends[np.isfinite(ends) & (ends > 0)])
    low, high = min(low, *reach, low), max(high, *reach, high)
    low = max(low, np.log(points.min()) - room / 2)
    high = min(high, np.log(points.max()) + room / 2)
    spare = max(0.0, np.log(least) - (high - low)) / 2 + 0.07 * max(high - low, np.log(least))
    low, high = low - spare, high + spare
    axes.set_yscale("log")
    axes.set_ylim(np.exp(low), np.exp(high))
    log_ticks(axes.yaxis, np.exp(low), np.exp(high))


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Three to six ticks with plain numbers on a logarithmic axis between positive ends."""
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in STEPS:
        ticks = np.sort([step * 10.0**power for power in powers for step in steps])
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: 1 + (len(ticks) - 1) // 6]
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def plain(value: float) -> str:
    """A tick: 0.003, 20, 1,000, and 1e−05 or 1e6 beyond."""
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.10g}"
    return f"{value:.2g}".replace("e-0", "e−").replace("e-", "e−").replace("e+0", "e")


def title_of(
    key: Mapping[str, Any], name: str, runs: pd.DataFrame, inches: float, always: bool
) -> str:
    """A panel's title: its condition, and arm where there are several, before its name.

    Without them where that is wider than so many inches and they are not always wanted.
    """
    condition = wording.panel_label({"transform": "none", **key}, runs)
    # A name is no sentence: λ_max must not become Λ_max.
    whole = f"{condition[0].upper()}{condition[1:]} · {name}" if condition else name
    return whole if always or text_width(whole, 10, "bold") <= inches else name
