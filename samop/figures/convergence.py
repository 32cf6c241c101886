"""Training losses that fall linearly: curves, and rates and PL constants against width."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator

from samop.errors import UserError
from samop.figures.layout import STYLE, Heading, Panel, layout, legend
from samop.figures.looks import BLUE, FAINT, GREY, INK, ORANGE, shades

SERIES = ["optimizer", "rates"]
LOOKS: dict[tuple[str, str], dict[str, Any]] = {
    ("SGD", "fixed"): {"color": GREY, "marker": "s", "ls": (0, (4, 2)), "label": "SGD"},
    ("SAM", "fixed"): {"color": BLUE, "marker": "o", "ls": "-", "label": "SAM"},
    ("SAM", "theorem"): {
        "color": ORANGE, "marker": "D", "ls": (0, (6, 1.5, 1.2, 1.5)),
        "label": "SAM, η and ρ small enough for the theorem",
    },
}  # fmt: skip
BOUND: dict[str, Any] = {
    "color": ORANGE,
    "marker": "_",
    "ls": ":",
    "label": "the least rate it proves for these",
}
# Where one of the widths is much slower than the others, steps are drawn to here.
LIMITS = {"matrix factorisation": 1500}
UNDER = "0.955"  # behind widths that do not interpolate
BOTH = "both"  # the name of a start that all of a problem's starts come to at some width
LINE, AVERAGE = "line", "average slope"  # what a rate is the slope of
NEAR, FAR, NO_MINIMUM = "near its minimum", "not near its minimum", "f* > 0"  # where runs end
HOLLOW: dict[str, Any] = {
    "color": INK,
    "marker": "o",
    "mfc": "white",
    "ls": "none",
    "label": "hollow: an average slope, log loss is no line (R² < .95)",
}
CROSS: dict[str, Any] = {
    "color": INK, "marker": "x", "ls": "none",
    "label": "crossed: a seed ended above .01 of its first loss, not near its minimum",
}  # fmt: skip


def convergence(curves: pd.DataFrame, summary: pd.DataFrame) -> Mapping[str, Figure]:
    """ "loss": log loss against steps; "rates": rates and PL constants against width.

    Args:
      curves, summary: the tables of experiments/convergence.py.

    Raises:
      UserError: a table without rows.
    """
    for name, table in (("curves", curves), ("summary", summary)):
        if table.empty:
            raise UserError(f"convergence: {name} has no rows")
    with matplotlib.rc_context(STYLE):
        return {"loss": _losses(curves, summary), "rates": _rates(summary)}


def by_start(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose rows of the start `BOTH` stand under each other start of their problem.

    To show an arm whole; what is counted is counted before, as such runs are one run each.

    >>> table = pd.DataFrame({"problem": "p", "start": ["a", "both", "b"], "width": [1, 2, 3]})
    >>> by_start(table)[["start", "width"]].values.tolist()
    [['a', 1], ['a', 2], ['b', 2], ['b', 3]]
    """
    parts = []
    for _, rows in table.groupby("problem", sort=False):
        starts = [start for start in rows["start"].unique() if start != BOTH] or [BOTH]
        for start in starts:
            parts.append(rows[rows["start"].isin([start, BOTH])].assign(start=start))
    return pd.concat(parts, ignore_index=True)


def _settings(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(table[["problem", "start"]].drop_duplicates().itertuples(index=False, name=None))


def _name(problem: str, start: str, table: pd.DataFrame) -> str:
    several = table.loc[table["problem"] == problem, "start"].nunique() > 1
    return f"{problem}, {start} start" if several else problem


def _losses(curves: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    curves = by_start(curves[curves["rates"] == "fixed"])
    settings = _settings(curves)
    handles: list[Any] = [
        Line2D([], [], color=INK, lw=1.8, label="SAM"),
        Line2D([], [], color=INK, lw=1.4, ls="--", label="SGD"),
        Line2D(
            [], [], color=INK, lw=7, alpha=0.18, label="SAM: from the lowest to the highest seed"
        ),
    ]
    heading = Heading(
        "Training loss of SAM and SGD as the network grows: straight lines are linear convergence",
        [f"geometric mean of {summary['n'].min()} seeds · the number at a line is its width · "
         "unnormalised SAM, constant η, batches of 20"],
    )  # fmt: skip
    figure, panels = layout(
        curves,
        heading,
        ["problem", "start"],
        [_name(*setting, curves) for setting in settings],
        entries=[str(h.get_label()) for h in handles],
        right=0.3,
    )
    for panel in panels:
        _curves(panel)
    legend(figure, handles)
    return figure


def _curves(panel: Panel) -> None:
    axes, rows = panel.axes, panel.rows
    widths = sorted(rows["width"].unique())
    end = min(LIMITS.get(panel.key["problem"], np.inf), rows["step"].max())
    low = rows["log10_loss"].min()
    placed: list[tuple[float, float]] = []
    for width, shade in zip(widths, shades(len(widths))):
        for name, look in (("SGD", "--"), ("SAM", "-")):
            line = rows[(rows["width"] == width) & (rows["optimizer"] == name)].sort_values("step")
            axes.plot(line["step"], line["log10_loss"], color=shade, ls=look, lw=1.7)
            if name == "SAM":
                axes.fill_between(
                    line["step"], line["log10_loss_low"], line["log10_loss_high"],
                    color=shade, alpha=0.15, lw=0,
                )  # fmt: skip
        seen = line[line["step"] <= end].iloc[-1]
        x, y = float(seen["step"]), float(seen["log10_loss"])
        # Labels at the right end share it: each keeps clear of those already there.
        while any(abs(y - b) < -0.045 * low and abs(x - a) < 0.06 * end for a, b in placed):
            y += -0.012 * low
        placed.append((x, y))
        axes.annotate(
            f"{width}", (x, y), (4, 0), textcoords="offset points", size=8.5, weight="bold",
            color=shade, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_xlabel("steps")
    axes.set_ylabel("log₁₀ training loss")


def _rates(summary: pd.DataFrame) -> Figure:
    verdict, summary = _verdict(summary), by_start(summary)
    settings = _settings(summary)
    kinds = [look for look in LOOKS if (summary[SERIES].apply(tuple, axis=1) == look).any()]
    looks = [LOOKS[kind] for kind in kinds]
    if summary["bound"].notna().any():
        looks.append(BOUND)
    if ((summary["end"] != NO_MINIMUM) & (summary["slope"] == AVERAGE)).any():
        looks.append(HOLLOW)
    if (summary["end"] == FAR).any():
        looks.append(CROSS)
    handles = [Line2D([], [], lw=1.8, ms=5, **look) for look in looks]
    handles.append(
        Line2D([], [], color=UNDER, lw=7, label="widths that did not come to interpolate")
    )
    heading = Heading(
        "How fast the training loss falls, and the PL constant along the way, against width",
        [f"means of {summary['n'].min()} seeds, bars: 95 % t intervals", *verdict],
    )  # fmt: skip
    double = pd.concat([summary.assign(part=0), summary.assign(part=1)])
    figure, panels = layout(
        double,
        heading,
        ["part", "problem", "start"],
        [_name(*setting, summary) for setting in settings] * 2,
        entries=[str(h.get_label()) for h in handles],
        per_row=len(settings),
    )
    for panel in panels:
        _against_width(panel, kinds)
    legend(figure, handles)
    return figure


def _verdict(summary: pd.DataFrame) -> list[str]:
    """What the theorem says of SAM and SGD at the rates that all widths share, and at its own."""
    fixed = summary[summary["rates"] == "fixed"]
    sam, small = fixed[fixed["optimizer"] == "SAM"], summary[summary["rates"] == "theorem"]
    said = [
        "at the η and ρ of the blue and grey lines the theorem proves a rate for "
        f"{fixed['bound_holds'].sum():.0f} of {fixed['n'].sum():.0f} runs: κ = βρ√(β/α) of "
        f"SAM's is {sam['kappa_min'].min():.3g} to {sam['kappa_max'].max():.3g}, where it assumes "
        "κ < 1, and η is too large, or f* > 0, where SGD has none"
    ]
    if len(small):
        proved = f"{small['bound_holds'].sum():.0f} of {small['n'].sum():.0f} runs"
        said.append(f"at those of the orange lines it proves one for {proved}")
    if (summary["start"] == BOTH).any():
        said[-1] += " · a width whose starts are the same is drawn under both, counted once"
    return said


def _against_width(panel: Panel, kinds: list[tuple[str, str]]) -> None:
    axes, rows = panel.axes, panel.rows
    column = "alpha" if panel.key["part"] else "fit_rate"
    widths = np.array(sorted(rows["width"].unique()), float)
    # Rates of what stalls would stretch the axis; without any other, they are all there is.
    drawn = rows[(rows["f_star"] == 0) & (rows[column] > 0)] if column == "fit_rate" else rows
    drawn = drawn if len(drawn) else rows[rows[column] > 0]
    floor = drawn[column].min() / 5 if len(drawn) else 1e-6
    stalled = False
    for kind in kinds:
        series = rows[rows[SERIES].apply(tuple, axis=1) == kind].sort_values("width")
        if series.empty:
            continue
        look = LOOKS[kind]
        x, y = series["width"].to_numpy(float), series[column].to_numpy(float)
        half = np.nan_to_num(series[f"{column}_half95"].to_numpy(float))
        shown = y > floor
        down = np.where(shown, np.minimum(half, np.maximum(y - floor, 0)), 0)
        shift = {"s": 0.985, "o": 1.015, "D": 1.0}[look["marker"]]
        axes.errorbar(
            x[shown] * shift, y[shown], yerr=(down[shown], half[shown]), lw=1.6, ms=4.5,
            elinewidth=1.2, **look,
        )  # fmt: skip
        ends = series["end"].to_numpy()
        hollow = shown & (ends != NO_MINIMUM) & (series["slope"].to_numpy() == AVERAGE)
        if column == "fit_rate" and hollow.any():
            axes.plot(
                x[hollow] * shift, y[hollow], ls="none", marker=look["marker"], ms=5,
                mfc="white", mec=look["color"], mew=1.4, zorder=4,
            )  # fmt: skip
        far = shown & (ends == FAR)
        if far.any():
            axes.plot(
                x[far] * shift, y[far], ls="none", marker="x", ms=9, mew=1.4, color=INK, zorder=5
            )
        stalled |= not shown.all()
        for place in x[~shown]:  # a rate of no size has no place on a logarithmic axis
            axes.plot(place * shift, floor, marker="v", color=look["color"], ms=5, clip_on=False)
        if column == "fit_rate" and series["bound"].notna().any():
            axes.plot(x, series["bound"], lw=1.4, ms=9, mew=2, **BOUND)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    low, high = axes.get_ylim()
    if high < 100 * low:  # a power of ten or two alone would not say what is between
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xticks(widths, [f"{w:g}" for w in widths])
    axes.minorticks_off()
    edge = max(1.1, (widths[-1] / widths[0]) ** 0.06)  # one width alone has a range too
    axes.set_xlim(widths[0] / edge, widths[-1] * edge)
    under = rows.loc[rows["f_star"] > 0, "width"]
    if len(under):
        after = widths[widths > under.max()]
        middle = np.sqrt(under.max() * after[0]) if len(after) else widths[-1] * edge
        axes.axvspan(widths[0] / edge, middle, color=UNDER, lw=0, zorder=0)
    axes.set_xlabel("inner width" if "matrix" in panel.key["problem"] else "hidden width")
    axes.set_ylabel(
        "PL constant α: min ‖∇f‖²/(2f)" if column == "alpha" else "rate: −d log loss/step"
    )
    axes.yaxis.label.set_color(INK)
    axes.tick_params(colors=INK)
    if stalled:
        axes.annotate(
            "▼ stalls", (0.03, 0.05), xycoords="axes fraction", size=8, color=FAINT, va="bottom"
        )
