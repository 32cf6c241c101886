"""Solutions of gradient descent and of SAM on a 1-D regression: functions, measures, the plane."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from samop import statistics
from samop.figures.layout import STYLE, Heading, layout, legend
from samop.figures.looks import AMBER, BLUE, FAINT, INK

# Pale enough for the trajectories to stand out where the loss is highest.
LIGHT = LinearSegmentedColormap.from_list("light", ["#FFFFFF", "#C9CDD3", "#83898F"])
START, GD = "initialisation", "GD"
# Measure → title of its panel, label of its axis.
MEASURES = {
    "total_variation": ("Total variation of the slope", "∫|f″| over the points' interval"),
    "path_norm": ("Path norm", "Σ |a| (|w| + |b|)"),
    "visible_pieces": ("Pieces one can see", "pieces, to within 0.1 of f"),
    "lambda_max": ("Sharpness", "λ_max of the Hessian"),
    "seed_variance": ("Variance of f over seeds", "variance, mean over x"),
    "distance": ("Distance in parameters", "Euclidean distance"),
}


def sam(rho: float) -> str:
    """How SAM of a radius is called in tables and legends."""
    return f"SAM ρ={rho:g}"


def then_gd(rho: float) -> str:
    """How SAM that GD continued is called."""
    return f"{sam(rho)}, then GD"


class View(NamedTuple):
    """A plane through the initialisation (at 0, 0) and both solutions of one width and seed.

    Attributes:
      width, seed: which.
      c1, c2: [k], [m], coordinates of the grid.
      losses: [m, k].
      paths: name of the arm → projected trajectory [records, 2], GD's among them.
      shares: name of the arm → the part of its distance from the start that is in the plane.
    """

    width: int
    seed: int
    c1: np.ndarray
    c2: np.ndarray
    losses: np.ndarray
    paths: Mapping[str, np.ndarray]
    shares: Mapping[str, float]


def functions(
    curves: pd.DataFrame, points: np.ndarray, arms: Sequence[str], subtitle: str
) -> Figure:
    """The fitted functions of all seeds, a panel for each width and arm.

    Args:
      curves: values of f; index width, arm and seed; columns the x.
      points: [n, 2], what was fitted.
      arms: to show, in order.
      subtitle: what was trained.
    """
    cells = curves.index.to_frame(index=False)[["width", "arm"]].drop_duplicates()
    cells = cells[cells["arm"].isin(arms)]
    cells = cells.assign(order=cells["arm"].map(list(arms).index)).sort_values(["order", "width"])
    seeds = curves.index.get_level_values("seed").nunique()
    lines = [subtitle, f"thin: one seed each, {seeds} in all · thick: their mean"]
    x = curves.columns.to_numpy(float)
    spread = points[:, 1].max() - points[:, 1].min()
    with matplotlib.rc_context(STYLE):
        handles: list[Any] = [
            *(Line2D([], [], color=_look(arm)["color"], lw=2, label=arm) for arm in arms),
            Line2D([], [], ls="", marker="o", color=INK, label="points that are fitted"),
        ]
        figure, panels = layout(
            cells.assign(parameters=3 * cells["width"]),
            Heading("The functions that GD and SAM fit, with few neurons and with many", lines),
            ["width", "arm"],
            [f"{arm}, {width} neurons" for width, arm in zip(cells["width"], cells["arm"])],
            entries=[handle.get_label() for handle in handles],
            per_row=cells["width"].nunique(),
            panel=(3.5, 2.3),
        )
        for panel in panels:
            mine = curves.loc[(panel.key["width"], panel.key["arm"])].to_numpy(float)
            color = _look(panel.key["arm"])["color"]
            panel.axes.plot(x, mine.T, color=color, lw=0.7, alpha=0.4)
            panel.axes.plot(x, mine.mean(0), color=color, lw=2.2)
            panel.axes.plot(*points.T, "o", color=INK, ms=5, zorder=3)
            low, high = points[:, 1].min() - 0.5 * spread, points[:, 1].max() + 0.5 * spread
            panel.axes.set(xlabel="x", ylabel="f(x)", xlim=(x[0], x[-1]), ylim=(low, high))
        legend(figure, handles)
    return figure


def measures(rows: pd.DataFrame, arms: Sequence[str], subtitle: str) -> Figure:
    """Measures of the solutions against the number of neurons: geometric means, 95 % t intervals.

    Args:
      rows: a row for each width, arm and seed, with the columns of MEASURES, `log_seed_variance`,
        `travel` and `distance_gd`.
      arms: to show beside the initialisation.
      subtitle: what was trained.
    """
    panels_of = pd.DataFrame({"measure": list(MEASURES), "parameters": 0})
    seeds = rows["seed"].nunique()
    lines = [
        subtitle,
        f"geometric means and 95 % t intervals over {seeds} seeds, of the variance by jackknife "
        "· for comparisons paired by seed see summary.csv",
    ]
    with matplotlib.rc_context(STYLE):
        handles: list[Any] = [Line2D([], [], label=arm, **_look(arm)) for arm in (*arms, START)]
        handles.append(Patch(color="0.85", label="95 % t interval"))
        figure, panels = layout(
            panels_of,
            Heading("How simple, flat, alike and far apart the solutions of GD and SAM are", lines),
            ["measure"],
            [title for title, _ in MEASURES.values()],
            entries=[handle.get_label() for handle in handles],
            panel=(2.8, 2.1),
        )
        for panel in panels:
            name = panel.key["measure"]
            if name == "distance":
                _distances(panel.axes, rows, arms)
            else:
                # Functions at the initialisation differ by powers of ten more than fitted ones.
                for arm in arms if name == "seed_variance" else (START, *arms):
                    _line(panel.axes, rows[rows["arm"] == arm], name, _look(arm))
            _neurons(panel.axes, rows, MEASURES[name][1])
        legend(figure, handles)
    return figure


def planes(views: Sequence[View], arm: str, subtitle: str) -> Figure:
    """The loss in the plane through initialisation and solutions, and both projected trajectories.

    Args:
      views: a panel each.
      arm: SAM's, beside GD's.
      subtitle: what was trained.
    """
    lines = [
        subtitle,
        "of each width the seed whose distance between the solutions is the median · trajectories "
        "are projected: of their distance from the start the share above the panel is in the plane",
    ]
    with matplotlib.rc_context(STYLE):
        handles: list[Any] = [
            *(Line2D([], [], color=_look(a)["color"], lw=2, label=a) for a in (GD, arm)),
            Line2D([], [], ls="", marker="s", color="white", mec="black", label=START),
            Line2D([], [], ls="", marker="*", ms=11, color="white", mec="black", label="solution"),
        ]
        figure, panels = layout(
            pd.DataFrame({"width": [view.width for view in views], "parameters": 0}),
            Heading("Where GD and SAM go from one initialisation", lines),
            ["width"],
            [f"{view.width} neurons, seed {view.seed}" for view in views],
            entries=[handle.get_label() for handle in handles],
            above=0.17, right=0.9, panel=(3.9, 3.9),
        )  # fmt: skip
        for panel, view in zip(panels, views):
            _plane(figure, panel.axes, view)
        legend(figure, handles)
    return figure


def _look(arm: str) -> dict[str, Any]:
    """Colour, line and marker of an arm."""
    if arm == START:
        return {"color": FAINT, "ls": (0, (1, 1.5)), "marker": "x", "lw": 1.2}
    if arm == GD:
        return {"color": AMBER, "ls": "-", "marker": "o", "lw": 2}
    if arm.endswith(", then GD"):
        return {**_look(arm.removesuffix(", then GD")), "ls": (0, (4, 2)), "mfc": "white"}
    strong = float(arm.removeprefix("SAM ρ=")) >= 0.3
    color, dash = (BLUE, "-") if strong else ("#7FB2D6", (0, (6, 1.5, 1.2, 1.5)))
    return {"color": color, "ls": dash, "marker": "s" if strong else "^", "lw": 2}


def _line(axes: Axes, rows: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """Geometric mean and interval of a positive measure at each width."""
    found = []
    for width, mine in rows.groupby("width"):
        values = mine["log_seed_variance"] if name == "seed_variance" else np.log(mine[name])
        of = statistics.estimate(values.to_numpy(float))
        found.append((width, of.mean, of.mean - of.half, of.mean + of.half))
    x, *logarithms = np.array(found).T
    mean, low, high = np.exp(logarithms)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.16, lw=0)
    axes.plot(x, mean, ms=4.5, **look)


def _distances(axes: Axes, rows: pd.DataFrame, arms: Sequence[str]) -> None:
    """Of each SAM arm the distance from GD's solution, beside GD's own way from the start."""
    for arm in arms:
        name = "travel" if arm == GD else "distance_gd"
        _line(axes, rows[rows["arm"] == arm], name, _look(arm))
    axes.text(
        0.03, 0.97, "SAM: from GD's solution\nGD: from its initialisation",
        transform=axes.transAxes, size=8, color=FAINT, va="top",
    )  # fmt: skip


def _neurons(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    widths = sorted(rows["width"].unique())
    axes.set(xscale="log", yscale="log", xlabel="neurons", ylabel=label)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    # Less than two powers of ten: a tick at each would leave the axis without numbers.
    axes.yaxis.set_minor_formatter(
        FuncFormatter(lambda v, _: f"{v:,.10g}" if f"{v:e}"[0] in "235" else "")
        if high / low < 60
        else FuncFormatter(lambda *_: "")
    )


def _plane(figure: Figure, axes: Axes, view: View) -> None:
    halo = [patheffects.withStroke(linewidth=3.2, foreground="white")]
    levels = np.arange(
        np.floor(np.log10(view.losses.min()) * 2) / 2, np.log10(view.losses.max()) + 0.5, 0.5
    )
    filled = axes.contourf(
        view.c1, view.c2, np.log10(view.losses), levels=levels, cmap=LIGHT, zorder=0
    )
    x, y, across, up = axes.get_position().bounds
    size = figure.get_size_inches()
    bar = figure.add_axes((x + across + 0.12 / size[0], y, 0.13 / size[0], up))
    figure.colorbar(filled, cax=bar, label="log₁₀ of the loss")
    for arm, path in view.paths.items():
        color = _look(arm)["color"]
        axes.plot(*path.T, color=color, lw=1.8, path_effects=halo)
        axes.plot(*path[-1], "*", ms=14, color=color, mec="white", mew=1, zorder=4)
    axes.plot(0, 0, "s", ms=7, color="white", mec="black", zorder=4)
    parts = " · ".join(f"{arm} {100 * share:.0f} %" for arm, share in view.shares.items())
    axes.text(0, 1.03, f"in the plane: {parts}", transform=axes.transAxes, size=8.5, color=FAINT)
    axes.grid(False)
    axes.set_aspect("equal")
    axes.set(
        xlabel="distance towards SAM's solution", ylabel="distance at right angles, towards GD's"
    )
