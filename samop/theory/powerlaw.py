"""How an error falls with width: ε ∝ M^−p, by least squares on logarithms.

arXiv 2311.17539 states that a SAM-trained two-layer ReLU network reaches error ε with width
M ∝ 1/ε, which is p = 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samop.errors import UserError
from samop.theory.lines import fit_line

LEAST = 3  # widths of a fit


class PowerLaw(NamedTuple):
    """error ≈ constant · width^(−exponent).

    Attributes:
      exponent: p, positive where the error falls.
      half: half-width of its 95 % t interval over the widths, as if they scattered about a line.
      constant: the fitted error at width 1.
      r2: share of the variance of log error that the line takes up; NaN where there is none.
      n: widths.
    """

    exponent: float
    half: float
    constant: float
    r2: float
    n: int

    def at(self, width: float) -> float:
        """The fitted error at a width."""
        return self.constant * width**-self.exponent


def fit_power_law(
    widths: Sequence[float] | np.ndarray, errors: Sequence[float] | np.ndarray
) -> PowerLaw:
    """The exponent of a power law.

    Args:
      widths: positive, at least three that differ, [n].
      errors: positive, [n].

    Raises:
      UserError: fewer than three widths, or one or an error that is not finite and positive.

    >>> round(fit_power_law([4, 8, 16], [1 / 4, 1 / 8, 1 / 16]).exponent, 6)
    1.0
    """
    m, e = np.asarray(widths, float), np.asarray(errors, float)
    if m.shape != e.shape or m.ndim != 1:
        raise UserError(f"widths {m.shape} and errors {e.shape} should be equal, [n]")
    for name, values in (("widths", m), ("errors", e)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise UserError(f"{name} should be finite and positive, got {values[bad][0]}")
    if len(np.unique(m)) < LEAST:
        raise UserError(f"{len(np.unique(m))} widths, at least {LEAST}: two make any exponent")
    line = fit_line(np.log(m), np.log(e))
    return PowerLaw(
        exponent=-line.slope, half=line.half, constant=math.exp(line.level), r2=line.r2, n=len(m)
    )


def below_floor(
    train: Sequence[float] | np.ndarray, held_out: Sequence[float] | np.ndarray, most: float
) -> np.ndarray:
    """The widths whose error is not yet that of few examples: held_out ≤ most × train, bool [n].

    Up to there width limits the error; beyond, the number of examples does, and the error no
    longer falls as the network grows. It ends at the first width that breaks the rule.

    Args:
      train, held_out: mean errors, of ascending widths. Where the test error is to be fitted,
        held_out is the validation error: the test may not choose its own widths.
      most: the largest ratio.
    """
    kept = np.asarray(held_out, float) <= most * np.asarray(train, float)
    return np.logical_and.accumulate(kept)
