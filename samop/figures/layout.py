"""What the figures share: style, panels with room around them, the axis of widths, files."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from samop import comparison, wording
from samop.figures.looks import FAINT, INK

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
PANEL = (4.1, 3.1)  # inches, the axes alone
LEFT, RIGHT = 0.95, 0.2  # inches beside each panel
PER_ROW = 3


class Panel(NamedTuple):
    """One panel: its axes, the condition (and arm) it shows, its rows of `comparison.gains`."""

    axes: Axes
    key: Mapping[str, Any]
    rows: pd.DataFrame  # widths ascending


class Heading(NamedTuple):
    """What stands above the panels."""

    title: str
    lines: Sequence[str]


def save(figure: Figure, path_stem: str | Path) -> list[Path]:
    """Writes path_stem.png and path_stem.pdf, fonts embedded, no dates: same figure, same bytes.

    Args:
      figure: of one of this package's functions, or any other of matplotlib.
      path_stem: folder and name, without an ending; missing folders are made.

    Returns:
      The two paths. Each file is replaced as a whole.

    Raises:
      OSError: they cannot be written.
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


def all_left_out(gains: pd.DataFrame) -> bool:
    """Whether every ρ was chosen by other seeds than the one it is scored on."""
    return set(gains["selection"]) - {""} == {"leave-one-seed-out"}


def subtitle(runs: pd.DataFrame, epoch: str) -> str:
    """Data, model, metric and epoch, seeds."""
    done = comparison.finished(runs)
    shown = wording.metric_label(comparison.metric(runs)).removesuffix(" (%)")
    seeds = done["seed"].nunique()
    names = [", ".join(sorted(done[c].unique())) for c in ("dataset", "model")]
    when = wording.when_label(runs, epoch)
    return " · ".join([*names, f"{shown} at {when}", f"{seeds} seed{'s' if seeds > 1 else ''}"])


def layout(
    gains: pd.DataFrame,
    heading: Heading,
    by: list[str],
    names: Sequence[str],
    *,
    entries: Sequence[str],
    above: float = 0.0,
    below: float = 0.0,
    right: float = 0.0,
    panel: tuple[float, float] = PANEL,
    sentences: bool = True,
    per_row: int = PER_ROW,
) -> tuple[Figure, list[Panel]]:
    """A figure with one panel per group of gains, and room around them.

    Args:
      gains: table of `comparison.gains`.
      heading: the title and the lines beneath it, which are wrapped to the figure.
      by: columns that tell the panels apart.
      names: title of each panel, wrapped to it.
      entries: the labels that the legend may have.
      above, below, right: inches wanted around each panel beyond title and axis labels; `above`
        is between the axes and the title, .17 a line.
      panel: inches of the axes alone, across and up.
      sentences: whether names begin with a capital letter, which a symbol must not.
      per_row: the most panels beside each other.
    """
    groups = [(dict(zip(by, k)), rows) for k, rows in gains.groupby(by, dropna=False, sort=False)]
    across = min(len(groups), per_row)
    down = math.ceil(len(groups) / across)
    # A title may use the margin of its right neighbour's axis, the last one has none.
    spare = [LEFT - 0.3 if (i + 1) % across else 0.0 for i in range(len(groups))]
    room = [panel[0] + RIGHT + right - 0.05 + more for more in spare]
    names = [name[:1].upper() + name[1:] if sentences else name for name in names]
    titles = [wrap(name, inches, 10, "bold") for name, inches in zip(names, room)]
    over = 0.25 + (0.05 + 0.17 * max(map(len, titles)) if any(names) else 0) + above
    under = 0.55 + below
    cell = (LEFT + panel[0] + RIGHT + right, over + panel[1] + under)
    width = across * cell[0]
    lines = [part for text in heading.lines for part in wrap(text, width - 0.4, 9)]
    title = wrap(heading.title, width - 0.4, 13, "bold")
    head = 0.05 + 0.25 * len(title)
    top = 0.12 + head + 0.17 * len(lines)
    foot = 0.15 + 0.18 * math.ceil(len(entries) / legend_columns(width, entries))
    height = top + down * cell[1] + foot
    figure = Figure(figsize=(width, height))
    x, y = 0.2 / width, 1 - 0.16 / height
    figure.text(x, y, "\n".join(title), size=13, weight="bold", va="top", color=INK)
    whole = "\n".join(line for line in heading.lines if line)  # for who wraps them anew
    wrapped = "\n".join(lines)
    figure.text(x, y - head / height, wrapped, size=9, va="top", color=FAINT, label=whole)
    panels = []
    for number, (key, rows) in enumerate(groups):
        row, column = divmod(number, across)
        left = column * cell[0] + LEFT
        bottom = foot + (down - 1 - row) * cell[1] + under
        axes = figure.add_axes((left / width, bottom / height, panel[0] / width, panel[1] / height))
        axes.set_title("\n".join(titles[number]), color=INK, pad=8 + 72 * above)
        panels.append(Panel(axes, key, rows.sort_values("parameters", kind="stable")))
    return figure, panels


def some(items: Sequence[Any], most: int) -> list[Any]:
    """The first, the last and those evenly between, so many at the most."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def inches_of(panel: Panel) -> tuple[float, float]:
    """The size of the panel's axes, across and up."""
    figure = panel.axes.get_figure(root=True)
    assert figure is not None
    size, box = figure.get_size_inches(), panel.axes.get_position()
    return float(box.width * size[0]), float(box.height * size[1])


def band(
    axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, **look: Any
) -> None:
    """An interval from point to point; a bar where a point has no neighbour with one."""
    look = {"alpha": 0.2, **look}
    axes.fill_between(x, low, high, color=color, lw=0, **look)
    there = np.isfinite(low) & np.isfinite(high)
    beside = np.pad(there, 1)
    alone = there & ~beside[:-2] & ~beside[2:]
    axes.vlines(x[alone], low[alone], high[alone], color=color, lw=6, **look)


def count_label(count: float) -> str:
    """A number of parameters in three characters or so: 610, 9.8k, 26k, 1.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return f"{count:.0f}"


def parameter_axis(panel: Panel, rho_star: bool) -> None:
    """Log axis; under each width its parameters, its name and, where wanted, its ρ*."""
    axes, rows = panel.axes, panel.rows.drop_duplicates(["parameters", "width"])
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
            lines.append(f"{star:g}" if np.isfinite(star) else wording.DASH)
        labels.append("\n".join(lines))
    # From the widest down, leave out what would run into its neighbour.
    across = inches_of(panel)[0]
    kept: list[int] = []
    for i in reversed(range(len(x))):
        inches = across * math.log(x[kept[-1]] / x[i]) / (1.18 * span) if kept else math.inf
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


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a line of text is wide."""
    font = FontProperties(family=STYLE["font.family"], weight=weight, size=size)
    points, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return 1.03 * float(points) / 72  # letters are wider where they are drawn as whole pixels


def wrap(text: str, inches: float, size: float, weight: str = "normal") -> list[str]:
    """The text in lines of at most so many inches."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def lean(panel: Panel, count: float, text: str, size: float, weight: str = "bold") -> float:
    """Points by which a number over a width leans inwards, clear of the ends of the axis."""
    low, high = np.log(panel.axes.get_xlim())
    across = inches_of(panel)[0]
    at = across * (math.log(count) - low) / (high - low)
    reach = 0.04 + text_width(text, size, weight) / 2
    return 72 * (max(reach - at, 0.0) + min(across - at - reach, 0.0))


def metric_axis(panel: Panel, metric: comparison.Metric) -> None:
    """The y axis of a metric; logarithmic for a loss that spans more than a factor of 20."""
    values = panel.rows[["base_mean", "sam_mean"]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    if not metric.higher_is_better and low > 0 and high / low > 20:
        panel.axes.set_yscale("log")
    panel.axes.set_ylabel(wording.metric_label(metric))


def legend_columns(width: float, labels: Sequence[str]) -> int:
    """How many entries fit side by side in the legend of a figure so many inches wide."""
    for columns in (4, 3, 2):
        parts = [part for part in np.array_split(np.array(labels), columns) if len(part)]
        if 0.2 + sum(0.65 + max(text_width(str(t), 8.5) for t in part) for part in parts) <= width:
            return columns
    return 1


def legend(figure: Figure, handles: list[Any]) -> None:
    """The legend, below the panels."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.1 / width, 0.05 / height),
        ncols=legend_columns(width, [handle.get_label() for handle in handles]),
        columnspacing=1.6, handlelength=3,
    )  # fmt: skip
