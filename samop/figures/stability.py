"""Minima beside the bounds of linear stability, and random ensembles that try to break them."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samop.errors import UserError
from samop.figures.layout import STYLE, legend, wrap
from samop.figures.looks import BLUE, FAINT, GREY, INK, ORANGE, shades

SIDES = {"SGD": GREY, "SAM": BLUE}
BROKEN = ORANGE
DASHED = {"SGD": (4, 2), "SAM": (6, 1.5, 1.2, 1.5)}  # the best bound of each
# Column of the table, title, label, columns of the bounds (best, paper's).
PANELS = (
    ("a", "curvature a = λ_max(H)", "η a", "a_bound", ""),
    ("s2", "non-uniformity s₂", "η s₂", "s2_best_bound", "s2_paper_bound"),
    ("s3", "non-uniformity s₃", "η s₃", "s3_best_bound", "s3_paper_bound"),
    ("s4", "non-uniformity s₄", "η s₄", "", "s4_paper_bound"),
    ("noise_ratio", "exact criterion", "noise ratio (≤ 1: stable)", "", ""),
)
SIZE = (2.0, 1.75)  # inches of a panel
# How the bounds of `samop.theory.ensembles` are written out, in this order.
BOUNDS = {
    "a": "a ≤ a*",
    "λ_max(H + ρM₂)": "λ_max(H + ρM₂) ≤ 2/η",
    "each direction v": "η E[(vᵀAv)²] ≤ 2 vᵀE[A]v",
    "λ_max(Var A)": "λ_max(Var A) ≤ 1/η²",
    "s₂, best": "s₂ ≤ a*/2 (best)",
    "s₂, sharper": "s₂, sharper",
    "s₂, paper": "s₂ ≤ (η(η − 2ρ))^(−1/2)",
    "s₃, best": "s₃ ≤ 0.73 a* (best)",
    "s₃, paper": "s₃ ≤ (2η²ρ)^(−1/3)",
    "s₄, paper": "s₄ ≤ (ηρ)^(−1/2)",
}


def minima(table: pd.DataFrame) -> Figure:
    """Where the minima of SGD and SAM lie against their bounds: a row of panels a learning rate.

    Args:
      table: a row a run, as `experiments/linear_stability.py` writes `minima.csv`.

    Raises:
      UserError: no run of it has a minimum.
    """
    kept = table[table["left_out"].fillna("") == ""]
    if kept.empty:
        raise UserError("no run has a minimum to draw")
    rates = sorted(kept["eta"].unique())
    left, gap, over, under = 0.75, 0.72, 0.5, 0.62
    width = left + len(PANELS) * (SIZE[0] + gap)
    title = "Where SGD's and SAM's minima lie against the bounds of linear stability"
    out = int((table["left_out"].fillna("") != "").sum())
    ratio = sorted((kept["rho"] / kept["eta"])[kept["rho"] > 0].round(6).unique())
    lines = wrap(
        "tanh networks interpolating the parity of 100 digits, squared loss, one example a step, "
        f"ρ/η = {', '.join(f'{r:g}' for r in ratio)} · a dot a run, lines join SGD and SAM of one "
        "seed, bars are means · in units of 1/η, in which the bounds are the same at every η"
        + (f" · {out} of {len(table)} runs left out: diverged or not interpolating" if out else ""),
        width - 0.4,
        9,
    )
    head, foot = 0.45 + 0.17 * len(lines), 0.62
    height = head + len(rates) * (over + SIZE[1] + under) + foot
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        y = 1 - 0.16 / height
        figure.text(0.2 / width, y, title, size=13, weight="bold", va="top", color=INK)
        figure.text(0.2 / width, y - 0.3 / height, "\n".join(lines), size=9, va="top", color=FAINT)
        for row, eta in enumerate(rates):
            cell = kept[kept["eta"] == eta]
            for column, panel in enumerate(PANELS):
                bottom = foot + (len(rates) - 1 - row) * (over + SIZE[1] + under) + under
                box = (
                    (left + column * (SIZE[0] + gap)) / width, bottom / height,
                    SIZE[0] / width, SIZE[1] / height,
                )  # fmt: skip
                _minima_panel(figure.add_axes(box), cell, panel, column == 0, eta)
        legend(figure, _minima_legend())
    return figure


def _minima_panel(axes: Axes, cell: pd.DataFrame, panel, first: bool, eta: float) -> None:
    name, title, label, best, paper = panel
    unit = 1.0 if name == "noise_ratio" else eta
    widths = sorted(cell["width"].unique())
    for place, width in enumerate(widths):
        here = cell[cell["width"] == width]
        pair = here.pivot(index="seed", columns="optimizer", values=name).reindex(
            columns=list(SIDES)
        )
        for _, values in pair.dropna().iterrows():
            axes.plot([place - 0.18, place + 0.18], unit * values, color="0.85", lw=0.7, zorder=1)
        for side, (optimizer, color) in zip((-0.18, 0.18), SIDES.items()):
            rows = here[here["optimizer"] == optimizer]
            _dots(axes, place + side, unit * rows[name].to_numpy(float), rows, color)
    for optimizer, color in SIDES.items():
        rows = cell[cell["optimizer"] == optimizer]
        for column, dashes in ((best, DASHED[optimizer]), (paper, (1, 1.5))):
            # SGD's bound of the paper's form is the best one.
            if not column or rows.empty or (column == paper and optimizer == "SGD"):
                continue
            if np.isfinite(bound := eta * float(rows[column].iloc[0])):
                axes.axhline(bound, color=color, lw=1.3, dashes=dashes, zorder=1.5)
    if name == "noise_ratio":
        axes.axhline(1.0, color=INK, lw=1.3, zorder=1.5)
    axes.set_ylim(0, None)
    axes.set_xlim(-0.5, len(widths) - 0.5)
    counts = [_pairs(cell[cell["width"] == width]) for width in widths]
    axes.set_xticks(range(len(widths)), [f"{w}\nn={n}" for w, n in zip(widths, counts)], size=8.5)
    axes.set_xlabel("hidden units", size=8.5)
    axes.set_ylabel(label)
    axes.set_title(f"η = {eta:g} · {title}" if first else title, color=INK, size=8.5)


def _pairs(here: pd.DataFrame) -> str:
    n = [int((here["optimizer"] == name).sum()) for name in SIDES]
    return str(n[0]) if n[0] == n[1] else f"{n[0]}, {n[1]}"


def _dots(axes: Axes, x: float, values: np.ndarray, rows: pd.DataFrame, color: str) -> None:
    sure = rows["edge_sufficient"].to_numpy(float) >= 1
    stable = rows["noise_ratio"].to_numpy(float) <= 1
    at = np.full(len(values), x)
    for chosen, face, edge, marker, size in (
        (sure, color, color, "o", 11),
        (~sure & stable, "white", color, "o", 11),
        (~stable, BROKEN, BROKEN, "X", 16),
    ):
        axes.scatter(
            at[chosen], values[chosen], s=size, c=face, edgecolors=edge, marker=marker, lw=0.6,
            zorder=2,
        )  # fmt: skip
    if len(values):
        axes.plot([x - 0.13, x + 0.13], [values.mean()] * 2, color=color, lw=2.2, zorder=3)


def _minima_legend() -> list[Line2D]:
    def dot(face, edge, text, marker="o"):
        return Line2D([], [], ls="", marker=marker, ms=4, mfc=face, mec=edge, label=text)

    return [
        dot(SIDES["SGD"], SIDES["SGD"], "SGD (left), E[B²] ⪯ I"),
        dot(SIDES["SAM"], SIDES["SAM"], "SAM (right), E[B²] ⪯ I"),
        dot("white", INK, "stable, though E[B²] ⋠ I"),
        dot(BROKEN, BROKEN, "unstable in mean square: radius > 1", "X"),
        *(
            Line2D([], [], color=color, dashes=DASHED[name], label=f"best bound of {name}")
            for name, color in SIDES.items()
        ),
        Line2D([], [], color=BLUE, dashes=(1, 1.5), label="SAM's bound of arXiv 2311.17539"),
        Line2D([], [], color=INK, label="noise ratio 1: spectral radius 1"),
    ]


def ensembles(table: pd.DataFrame) -> Figure:
    """How near random ensembles at the edge of a criterion come to each bound, and what breaks.

    Args:
      table: a row for each ρ/η ("ratio"), criterion and bound: `samop.theory.ensembles.Finding`.

    Raises:
      UserError: an empty table.
    """
    if table.empty:
        raise UserError("no ensemble to draw")
    criteria = list(dict.fromkeys(table["criterion"]))
    names = [name for name in BOUNDS if (table["bound"] == name).any()]
    ratios = sorted(table["ratio"].unique())
    tall, wide, left, gap, over = 0.42 * len(names), 4.0, 2.05, 0.3, 1.2
    width, height = left + len(criteria) * (wide + gap), over + tall + 1.35
    draws = int(table["draws"].iloc[0])
    lines = wrap(
        f"{draws:,} random ensembles of 2 to 6 Hessians in 1 to 3 dimensions a row, scaled to the "
        "edge of the criterion · from their median to the worst that hill climbing found · beyond "
        "1 the bound is broken · in each row ρ/η ascends downwards · a* = (√(1 + 8ρ/η) − 1)/(2ρ)",
        width - 0.4,
        9,
    )
    colors = shades(len(ratios))[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        figure.text(
            0.2 / width, 1 - 0.16 / height, "Which bounds on Hessian moments are theorems",
            size=13, weight="bold", va="top", color=INK,
        )  # fmt: skip
        figure.text(0.2 / width, 1 - 0.46 / height, "\n".join(lines), size=9, va="top", color=FAINT)
        for i, criterion in enumerate(criteria):
            box = ((left + i * (wide + gap)) / width, 1.2 / height, wide / width, tall / height)
            axes = figure.add_axes(box)
            rows = table[table["criterion"] == criterion]
            _ensemble_panel(axes, rows, names, dict(zip(ratios, colors)))
            exact = criterion == "exact"
            axes.set_title("given a spectral radius ≤ 1 (exact)" if exact else f"given {criterion}")
            axes.set_xlim(0, 1.08 * float(table["worst"].max()))
            if i:
                axes.set_yticklabels([])
        handles = [
            Line2D([], [], color=color, lw=2, label=f"ρ/η = {r:g}")
            for r, color in zip(ratios, colors)
        ]
        for marker, face, text in (
            ("o", INK, "a theorem, not broken"),
            ("o", "white", "no theorem, not broken"),
            ("X", BROKEN, "broken: value > bound"),
        ):
            edge = face if marker == "X" else INK
            handles.append(
                Line2D([], [], ls="", marker=marker, ms=5, mfc=face, mec=edge, label=text)
            )
        legend(figure, handles)
    return figure


def _ensemble_panel(axes: Axes, rows: pd.DataFrame, names: list[str], colors: dict) -> None:
    offsets = dict(zip(colors, np.linspace(-0.32, 0.32, len(colors))))
    for row in rows.to_dict("records"):
        y = names.index(row["bound"]) + offsets[row["ratio"]]
        color = colors[row["ratio"]]
        axes.plot([row["median"], row["worst"]], [y, y], color=color, lw=1.4, zorder=2)
        if row["worst"] > 1 + 1e-6:
            axes.plot(row["worst"], y, "X", ms=6, color=BROKEN, mec="white", mew=0.4, zorder=4)
        else:
            face = color if row["theorem"] else "white"
            axes.plot(row["worst"], y, "o", ms=4, mfc=face, mec=color, zorder=3)
    axes.axvline(1.0, color=INK, lw=1.2, dashes=(4, 2), zorder=1.5)
    for i in range(0, len(names), 2):
        axes.axhspan(i - 0.5, i + 0.5, color="0.96", lw=0, zorder=0)
    axes.grid(False)
    axes.set_yticks(range(len(names)), [BOUNDS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("value / bound")
