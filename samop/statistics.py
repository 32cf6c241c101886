"""The statistics of a paired comparison, on arrays: intervals, adjusted tests, the choice of ρ."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over n values, half-width of its 95 % t interval, two-sided p of mean = 0."""

    mean: float
    half: float
    p: float
    n: int


def estimate(values: np.ndarray) -> Estimate:
    """Mean of the finite values [n] with its t interval; below two of them half and p are NaN."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    if n < 2:
        return Estimate(mean, np.nan, np.nan, n)
    error = float(values.std(ddof=1)) / np.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    if error == 0:  # equal differences, as with rho = 0: t is 0/0 or infinite
        return Estimate(mean, half, 1.0 if mean == 0 else 0.0, n)
    return Estimate(mean, half, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p values [k]; NaN stays NaN and is no test."""
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    order = [i for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def choose(values: np.ndarray, diverged: np.ndarray, higher_is_better: bool) -> int:
    """Index of the best ρ by its mean over seeds; the first, the smallest, among equals.

    Args:
      values: [rhos, seeds], ρ ascending.
      diverged: bool [rhos, seeds]; a ρ with any diverged run is not chosen unless all have one.
      higher_is_better: sign of the metric.
    """
    return int(choose_each(values[:, None], diverged[:, None], higher_is_better)[0])


def choose_each(values: np.ndarray, diverged: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """`choose` for many samples of seeds at a time: int [samples].

    Args:
      values: [rhos, samples, seeds], ρ ascending.
      diverged: bool of that shape.
      higher_is_better: sign of the metric.
    """
    usable = ~diverged.any(axis=-1)
    usable |= ~usable.any(axis=0)
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    mean = np.where(finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1)
    score = np.where(usable & (count > 0), mean if higher_is_better else -mean, -np.inf)
    best = score.max(axis=0)
    # Accuracies are multiples of 1/examples: equal means differ by rounding only.
    near = score >= best - 1e-12 * np.where(np.isfinite(best), np.abs(best), 0.0)
    return np.where(np.isfinite(best), near, usable).argmax(axis=0)


def choose_leaving_out(
    values: np.ndarray, diverged: np.ndarray, higher_is_better: bool
) -> np.ndarray:
    """For each seed the index of the ρ that is best on the other seeds: int [seeds].

    Arguments as for `choose`, with at least two seeds.
    """
    seeds = values.shape[1]
    others = np.array([np.delete(np.arange(seeds), seed) for seed in range(seeds)])
    return choose_each(values[:, others], diverged[:, others], higher_is_better)
