"""Which figures a report has, what stands below each and what it is in words. No jax."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from samop import comparison, curves, figures, wording
from samop.figures.curvature_parts import NothingToDraw
from samop.wording import decimals, with_interval

SECTIONS = ("gap", "variants", "metric", "training", "rho", "curvature")
CURVATURE = {
    "curvature": "Bars: 95 % t intervals of geometric means, and of the ratio paired by seed.",
    "curvature_ggn": "Of the Gauss–Newton matrix. Bars: 95 % t intervals, as above.",
    "curvature_moments": "Moments of the Hessian of single examples. Bars: 95 % t intervals.",
    "curvature_ggn_moments": "Moments of the Gauss–Newton matrix. Bars: 95 % t intervals.",
    "spectrum": "Band: ± the standard error over the probes of one pair of runs, not over seeds.",
    "curvature_training": "Lines: geometric means over seeds; thin: each run. No interval drawn.",
}


class Drawing(NamedTuple):
    """A figure of a report.

    Attributes:
      section: of SECTIONS: where a page shows it.
      stem: name of its files, unique in a report.
      figure: the figure itself.
      words: what is to be seen, for who does not.
      caption: what its marks and bands are.
    """

    section: str
    stem: str
    figure: Figure
    words: str
    caption: str


def drawings(root: Path, runs: pd.DataFrame, measured: pd.DataFrame | None) -> list[Drawing]:
    """The figures that there is something to draw for.

    Args:
      root: the work folder.
      runs: table of `samop.results.load`, with a run that has begun.
      measured: table of `samop.flatness.load`, or None.
    """
    found = list(_training(root, runs))
    if comparison.finished(runs).empty:
        return found
    gains = comparison.gains(runs)
    if gains["gain"].notna().any():
        if len(comparison.arms(runs)) > 1:
            caption = f"Intervals: {_band(gains)}"
            words = "The tables of every width have the numbers."
            found.append(Drawing("variants", "variants", figures.variants(runs), words, caption))
        found += _gaps(runs)
    caption = (
        f"Band: 95 % t interval of each mean over {_seeds(gains)} seeds; pairing by seed makes "
        "their difference clearer than two bands can show."
    )
    if not gains[["base_half95", "sam_half95"]].notna().any(axis=None):
        caption = "No band: one seed gives no interval."
    figure = figures.accuracy(runs)
    found.append(Drawing("metric", "accuracy", figure, _metric_words(runs, gains), caption))
    return [*found, *_best_rho(runs), *_curvatures(runs, measured)]


def _training(root: Path, runs: pd.DataFrame) -> Iterator[Drawing]:
    read = curves.load(root, runs)
    if len(read):
        caption = (
            "Lines: means over seeds, SAM with the ρ chosen on validation data. Bands: 95 % t "
            "intervals of each mean over the seeds that have got so far; one seed has none."
        )
        words = "No run is finished: there are no tables yet."
        if not comparison.finished(runs).empty:
            words = "The tables have the values at the last epoch."
        yield Drawing("training", "learning_curves", figures.learning_curves(runs, read), words,
                      caption)  # fmt: skip


def _best_rho(runs: pd.DataFrame) -> Iterator[Drawing]:
    if not comparison.rho_grid(runs):
        return
    try:
        figure = figures.best_rho(runs)
    except NothingToDraw:
        return
    caption = (
        "Cells: how far the mean over seeds on validation data is below that of the best ρ at its "
        "width. Bars, from eight seeds on: 95 % bootstrap intervals over seeds."
    )
    yield Drawing("rho", "best_rho", figure, "The tables have each width’s ρ*.", caption)


def _gaps(runs: pd.DataFrame) -> Iterator[Drawing]:
    """The gain of each arm that has one; the first is plain SAM's, where it was run."""
    for number, arm in enumerate(comparison.arms(runs)):
        alone = comparison.only(runs, arm)
        gains = comparison.gains(alone)
        if gains["gain"].notna().any():
            caption = (
                f"Band: {_band(gains)} Above zero {wording.sam_label(alone)} is better. The "
                "numbers above a panel are the slopes."
            )
            stem = "width_gap" + _suffix(number, arm, runs)
            words = _gap_words(alone, gains)
            yield Drawing("gap", stem, figures.width_gap(alone), words, caption)


def _curvatures(runs: pd.DataFrame, measured: pd.DataFrame | None) -> Iterator[Drawing]:
    if measured is None or measured.empty:
        return
    arms: list[Any] = [*comparison.arms(runs)]
    for number, arm in enumerate(arms or [None]):
        alone = comparison.only(runs, arm) if arm else runs
        suffix = _suffix(number, arm, runs) if arm else ""
        for name, figure in figures.curvatures(alone, measured).items():
            words = "The tables of this section have the numbers."
            yield Drawing("curvature", name + suffix, figure, words, CURVATURE[name])


def _suffix(number: int, arm: Any, runs: pd.DataFrame) -> str:
    """Of all arms' files but the first's the label: "SAM (m = 16)" → _sam_m_16."""
    # A sign tells two arms apart, a hyphen within a name does not.
    label = re.sub(r"-(?=[\d.])", " minus ", wording.arm_label(arm, runs).lower()).replace("-", "")
    return "_" + re.sub(r"[^a-z0-9.]+", "_", label).strip("_") if number else ""


def _band(gains: pd.DataFrame) -> str:
    if gains["gain_half95"].notna().any():
        return f"95 % t interval of the gain, paired by seed, over {_seeds(gains)} seeds."
    return "none, for one seed gives no interval."


def _seeds(gains: pd.DataFrame) -> str:
    counts = gains.loc[gains["n"] > 0, "n"]
    return wording.span(counts) if len(counts) else "the"


def _gap_words(runs: pd.DataFrame, gains: pd.DataFrame) -> str:
    """The gains of a figure in words."""
    digits = decimals(gains["gain_half95"], comparison.metric(runs))

    def text(row: pd.Series) -> str:
        return with_interval(row["gain"], row["gain_half95"], digits, sign=True)

    return _words(runs, gains, text)


def _metric_words(runs: pd.DataFrame, gains: pd.DataFrame) -> str:
    """The means of base and perturbed runs in words."""
    metric = comparison.metric(runs)
    digits = decimals([*gains["base_half95"], *gains["sam_half95"]], metric)
    names = wording.base_label(runs), wording.sam_label(runs)

    def text(row: pd.Series) -> str:
        values = (with_interval(row[f"{s}_mean"], float("nan"), digits) for s in ("base", "sam"))
        return ", ".join(f"{name} {value}" for name, value in zip(names, values))

    return _words(runs, gains, text)


def _words(runs: pd.DataFrame, gains: pd.DataFrame, text: Callable[[pd.Series], str]) -> str:
    by = [column for column in wording.panel_columns(runs) if column in gains]
    parts = []
    for values, rows in gains.groupby(by, dropna=False, sort=False):
        label = wording.panel_label(dict(zip(by, values)), runs)
        each = "; ".join(f"{row['width']}: {text(row)}" for _, row in rows.iterrows())
        parts.append(f"{label}: {each}" if label else each)
    return ". ".join(parts) + "."
