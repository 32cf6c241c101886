"""A number that was estimated from random vectors, with what it may be wrong by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from samop.errors import NotFinite, UserError


class Estimate(NamedTuple):
    """Mean of independent estimates, or what a method says of itself.

    Attributes:
      value: the estimate.
      std_error: standard error over the random vectors. NaN for a single one.
      num_samples: how many independent estimates `value` is the mean of; an interval takes
        Student's t with one less.
      num_matvecs: products taken.
      method: how; see `trace`.
    """

    value: float
    std_error: float
    num_samples: int
    num_matvecs: int
    method: str


def mean(samples: np.ndarray, num_matvecs: int, method: str, offset: float = 0.0) -> Estimate:
    """The mean of independent samples [n], plus a constant, with its standard error."""
    n = len(samples)
    spread = float(np.std(samples, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Estimate(offset + float(np.mean(samples)), spread, n, num_matvecs, method)


def jackknife(
    function: Callable[[Any], Any], samples: np.ndarray, num_matvecs: int, method: str
) -> Estimate:
    """A smooth function of the mean of samples [n, ...], bias-corrected, by leaving one out."""
    n = len(samples)
    whole = float(function(samples.mean(0)))
    if n == 1:
        return Estimate(whole, float("nan"), 1, num_matvecs, method)
    left = np.array([function(np.delete(samples, i, 0).mean(0)) for i in range(n)])
    value = n * whole - (n - 1) * left.mean()
    error = np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2))
    return Estimate(float(value), float(error), n, num_matvecs, method)


def finite(values: Any, what: str) -> np.ndarray:
    """The values as float64; raises UserError where one is not finite."""
    values = np.asarray(jax.device_get(values), float)
    if not np.all(np.isfinite(values)):
        raise NotFinite(
            f"{what} is not finite: is the loss finite on every batch, and twice differentiable at "
            "these parameters?"
        )
    return values


def at_least(name: str, value: int, least: int) -> None:
    """Raises UserError unless a whole number is large enough."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise UserError(f"{name}={value} should be a whole number of at least {least}")
