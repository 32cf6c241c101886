"""The spectral density of the Hessian of the smallest and the widest networks."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samop import flatness, wording
from samop.figures.curvature_parts import NothingToDraw, explain, head_lines, title_of
from samop.figures.layout import PANEL, STYLE, Heading, Panel, count_label, layout, legend
from samop.figures.looks import INK, LOOKS
from samop.flatness import Density

SMOOTH = 0.12  # width of the Gaussian, in units of asinh(λ/λ₀)
LINEAR = 0.01  # λ₀, below which the axis is linear: this share of the largest eigenvalue
GRID = 800


def spectrum(runs: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Spectral densities of the base and of SAM at the smallest and the widest network.

    One panel per condition and width, of one pair of runs: the one whose ratio of the largest
    eigenvalue is the median of the seeds (the lower of two). The nodes and weights of each probe
    of stochastic Lanczos quadrature are smoothed by a Gaussian of width SMOOTH on the axis as it is
    drawn, asinh(λ/λ₀), so that outliers and bulk are resolved alike; the band is ± the standard
    error over probes. Small strokes mark the largest eigenvalues.

    Args:
      runs: table of `samop.results.load`, of one variant (`comparison.only`).
      measured: table of `samop.flatness.load`.

    Raises:
      NothingToDraw: no network that is compared has a density.
    """
    drawn, found = _chosen(runs, measured)
    if drawn.empty:
        raise NothingToDraw("spectrum: no network that is compared has a spectral density")
    conditions = [c for c in wording.panel_columns(runs) if c in drawn]
    by = [*conditions, "parameters", "width"]
    base, sam = wording.base_label(runs), wording.sam_label(runs)
    head = head_lines(runs, flatness.compare(runs, measured))
    head.append(
        "each panel: one pair of runs, whose ratio of λ_max is the median of the seeds"
        if drawn["n"].max() > 1
        else "each panel: the one pair of runs that was measured"
    )
    head.append(
        f"density by stochastic Lanczos quadrature, smoothed by a Gaussian of width {SMOOTH:g} in "
        "asinh(λ/λ₀): narrower peaks have its shape"
    )
    ends = drawn["width"].nunique() > 1
    title = "The Hessian's eigenvalues" + (", smallest and widest network" if ends else "")
    with matplotlib.rc_context(STYLE):
        handles = _handles(drawn, found, base, sam)
        keys = [dict(zip(by, key)) for key, _ in drawn.groupby(by, dropna=False, sort=False)]
        titles = [title_of(key, _name(key), runs, PANEL[0], always=True) for key in keys]
        figure, panels = layout(
            drawn,
            Heading(title, [h for h in head if h]),
            by,
            titles,
            entries=[handle.get_label() for handle in handles],
            above=0.17, sentences=False, per_row=drawn["width"].nunique(),
        )  # fmt: skip
        for panel in panels:
            _draw(panel, found)
        legend(figure, handles)
    return figure


def one_spectrum(density: Density, lines: list[str]) -> Figure:
    """The spectral density of one network.

    Args:
      density: of it.
      lines: what it is, beneath the title.
    """
    found = {"network": density}
    row = {"base_point": "network", "sam_point": "", "parameters": density.parameters, "width": ""}
    drawn = pd.DataFrame([row])
    head = [
        *lines,
        f"density by stochastic Lanczos quadrature, smoothed by a Gaussian of width {SMOOTH:g} in "
        "asinh(λ/λ₀): narrower peaks have its shape",
    ]
    with matplotlib.rc_context(STYLE):
        handles = _handles(drawn, found, "density", "")
        figure, panels = layout(
            drawn,
            Heading("The Hessian's eigenvalues", head),
            ["parameters"],
            [f"{count_label(density.parameters)} parameters"],
            entries=[handle.get_label() for handle in handles],
            above=0.17,
            panel=(2 * PANEL[0], PANEL[1]),
        )
        _draw(panels[0], found)
        legend(figure, handles)
    return figure


def _chosen(runs: pd.DataFrame, measured: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Density]]:
    """A row of `flatness.pairs` per panel, with the number `n` it is one of; the densities."""
    nothing: tuple[pd.DataFrame, dict[str, Density]] = pd.DataFrame(), {}
    pairs = flatness.pairs(runs, measured) if len(measured) else pd.DataFrame()
    if pairs.empty or "density_probes" not in measured:
        return nothing
    first = next((q for q in ("lambda_max", "trace") if (pairs["quantity"] == q).any()), "loss")
    there = {"", *measured.loc[measured["density_probes"].notna(), "point"]}
    pairs = pairs[pairs["quantity"] == first]
    pairs = pairs[pairs["base_point"].isin(there) & pairs["sam_point"].isin(there)]
    if pairs.empty:
        return nothing
    counts = pairs["parameters"]
    pairs = pairs[counts.isin([counts.min(), counts.max()])]
    by = [*(c for c in wording.panel_columns(runs) if c in pairs), "parameters", "width"]
    rows = []
    for _, here in pairs.groupby(by, dropna=False, sort=False):
        ordered = here.sort_values(["log2_ratio", "seed"], na_position="last")
        rows.append(ordered.iloc[[(len(ordered) - 1) // 2]].assign(n=len(ordered)))
    drawn = pd.concat(rows, ignore_index=True)
    found = {}
    for point in [*drawn["base_point"], *drawn["sam_point"]]:
        density = flatness.density(measured, point) if point else None
        if density is not None:
            found[point] = density
    return drawn, found


def _name(key: Mapping[str, Any]) -> str:
    return f"{key['width']}, {count_label(key['parameters'])} parameters"


def smoothed(density: Density, grid: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The density on an axis of u = asinh(λ/unit), and its standard error over probes.

    Args:
      density: nodes and weights [probes, steps].
      grid: values of u [k].
      unit: λ₀, in the unit of the nodes.

    Returns:
      Mean and standard error [k], per unit of u; the integral over u is 1. One probe has no error:
      NaN.
    """
    places = np.arcsinh(density.nodes / unit)
    kernel = np.exp(-0.5 * ((grid - places[..., None]) / SMOOTH) ** 2)
    each = (density.weights[..., None] * kernel).sum(axis=1) / (SMOOTH * np.sqrt(2 * np.pi))
    error = np.full(len(grid), np.nan)
    if len(each) > 1:
        error = each.std(axis=0, ddof=1) / np.sqrt(len(each))
    return each.mean(axis=0), error


def _draw(panel: Panel, found: Mapping[str, Density]) -> None:
    axes, row = panel.axes, panel.rows.iloc[0]
    shown = {side: found[row[f"{side}_point"]] for side in ("base", "sam") if row[f"{side}_point"]}
    nodes = np.concatenate([d.nodes.ravel() for d in shown.values()])
    tops = [d.eigenvalues for d in shown.values()]
    size = float(np.nanmax(np.abs(np.concatenate([nodes, *tops])))) or 1.0
    unit = LINEAR * size
    of = [f"seed {row['seed']}"] if "seed" in row else []
    of += [f"ρ = {row['rho']:g}"] if "sam" in shown else []
    explain(panel, " · ".join([*([", ".join(of)] if of else []), f"λ₀ = {unit:.2g}"]))
    low, high = (np.arcsinh(end(nodes) / unit) for end in (np.nanmin, np.nanmax))
    grid = np.linspace(low - 5 * SMOOTH, high + 5 * SMOOTH, GRID)
    x = unit * np.sinh(grid)
    axes.set_xscale("asinh", linear_width=unit)
    peak = 0.0
    # The height of one eigenvalue alone among all of them.
    single = 1 / (next(iter(shown.values())).parameters * SMOOTH * np.sqrt(2 * np.pi))
    floor = 0.2 * single
    for number, (side, density) in enumerate(shown.items()):
        color, _, dash = LOOKS[side]
        mean, error = smoothed(density, grid, unit)
        spread = np.nan_to_num(error)
        axes.fill_between(
            x, np.maximum(mean - spread, floor / 10), mean + spread, color=color, alpha=0.22, lw=0
        )
        axes.plot(x, np.maximum(mean, floor / 10), color=color, ls=dash, lw=1.5)
        top = density.eigenvalues[np.isfinite(density.eigenvalues)]
        axes.vlines(
            top, 0.955 - 0.05 * number, 0.995 - 0.05 * number, color=color, lw=1.6,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        peak = max(peak, float(mean.max()))
    axes.set_yscale("log")
    axes.set_ylim(floor, peak * 10 ** (0.18 * np.log10(peak / floor)))
    axes.set_xlim(x[0], x[-1])
    axes.axhline(single, color=INK, lw=0.8, ls=(0, (1, 2)), zorder=1.5)
    _ticks(panel, unit, size)
    axes.set_xlabel("eigenvalue λ (axis linear near 0, logarithmic beyond)")
    axes.set_ylabel("density per unit of asinh(λ/λ₀)")


def _ticks(panel: Panel, unit: float, size: float) -> None:
    """Ticks at 0 and at powers of ten of either sign."""
    powers = 10.0 ** np.arange(np.floor(np.log10(unit)), np.floor(np.log10(2 * size)) + 1)
    for steps in ((1.0,), (1.0, 3.0)):
        above = np.sort(np.outer(powers, steps).ravel())
        above = above[(above >= 2 * unit) & (above <= 2 * size)]
        if len(above) > 2:
            break
    places = [*(-above[::-1]), 0.0, *above]
    low, high = panel.axes.get_xlim()
    inside = [place for place in places if low <= place <= high]
    labels = [f"{place:g}".replace("-", "−") for place in inside]
    panel.axes.set_xticks(inside, labels)
    panel.axes.minorticks_off()


def _handles(drawn: pd.DataFrame, found: Mapping[str, Density], base: str, sam: str) -> list[Any]:
    handles: list[Any] = []
    for side, name in (("base", base), ("sam", sam)):
        if (drawn[f"{side}_point"] != "").any():
            color, _, dash = LOOKS[side]
            handles.append(Line2D([], [], color=color, ls=dash, lw=1.5, label=name))
    probes = wording.span(pd.Series([len(d.nodes) for d in found.values()]))
    if any(len(d.nodes) > 1 for d in found.values()):
        label = f"± standard error over {probes} random probes"
        handles.append(Patch(color="0.8", label=label))
    if any(len(d.eigenvalues) for d in found.values()):
        most = wording.span(pd.Series([len(d.eigenvalues) for d in found.values()]))
        sides = (drawn[["base_point", "sam_point"]] != "").any().sum()
        label = f"the {most} largest eigenvalues"
        label += f"; above: {base}, below: {sam}" if sides == 2 else ""
        handles.append(Line2D([], [], color=INK, marker="|", ls="", ms=8, mew=1.6, label=label))
    label = "height of one single eigenvalue"
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (1, 2)), label=label))
    return handles
