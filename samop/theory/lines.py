"""Least squares of a line, which rates and power laws are fits of after a logarithm."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Line(NamedTuple):
    """y ≈ level + slope · x.

    Attributes:
      slope: by ordinary least squares.
      half: half-width of its 95 % t interval, as if points scattered independently about the line.
      level: at x = 0.
      residual: standard deviation of y about the line, with n − 2 degrees of freedom.
      r2: share of the variance of y that the line takes up; NaN where there is none.
    """

    slope: float
    half: float
    level: float
    residual: float
    r2: float


def fit_line(x: np.ndarray, y: np.ndarray) -> Line:
    """The line through at least three points, not all at one x.

    Args:
      x, y: finite, [n].

    >>> fit_line(np.arange(4.0), 1 + 2 * np.arange(4.0))[:3]
    (2.0, 0.0, 1.0)
    """
    centred, rest = x - x.mean(), y - y.mean()
    square = float(centred @ centred)
    slope = float(centred @ rest) / square
    left, total = float(np.sum((rest - slope * centred) ** 2)), float(rest @ rest)
    residual = math.sqrt(left / (len(x) - 2))
    return Line(
        slope=slope,
        half=float(stats.t.ppf(0.975, len(x) - 2)) * residual / math.sqrt(square),
        level=float(y.mean() - slope * x.mean()),
        residual=residual,
        r2=1 - left / total if total > 0 else math.nan,
    )
