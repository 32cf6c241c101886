"""Power laws: planted exponents, noise, and what is refused."""

import math

import numpy as np
import pytest

from samop import theory
from samop.errors import UserError

WIDTHS = 2.0 ** np.arange(2, 9)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_planted_exponent_is_found(exponent):
    fit = theory.fit_power_law(WIDTHS, 3 * WIDTHS**-exponent)
    assert fit.exponent == pytest.approx(exponent, abs=1e-12)
    assert fit.constant == pytest.approx(3)
    assert fit.at(32) == pytest.approx(3 * 32**-exponent)
    assert fit.n == 7
    assert math.isnan(fit.r2) if exponent == 0 else fit.r2 == pytest.approx(1)


def test_under_noise_the_interval_holds_it():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        fit = theory.fit_power_law(WIDTHS, WIDTHS**-1.0 * np.exp(0.2 * rng.normal(size=7)))
        inside += abs(fit.exponent - 1) <= fit.half
    assert 270 <= inside <= 297


@pytest.mark.parametrize(
    ("widths", "errors", "message"),
    [
        ([4, 8], [1.0, 0.5], "2 widths, at least 3"),
        ([4, 4, 8, 8], [1.0] * 4, "2 widths, at least 3"),
        ([4, 8, 16], [1.0, 0.0, 0.1], "errors should be finite and positive, got 0.0"),
        ([4, 8, 16], [1.0, math.nan, 0.1], "errors should be finite and positive, got nan"),
        ([0, 8, 16], [1.0, 0.5, 0.1], "widths should be finite and positive, got 0.0"),
        ([4, 8, 16], [1.0, 0.5], "should be equal"),
    ],
)
def test_what_is_no_power_law_is_refused(widths, errors, message):
    with pytest.raises(UserError, match=message):
        theory.fit_power_law(widths, errors)


def test_the_floor_begins_at_the_first_width_beyond_the_ratio():
    kept = theory.below_floor([1.0, 0.5, 0.2, 0.1], [1.0, 0.6, 0.4, 0.11], 1.5)
    assert kept.tolist() == [True, True, False, False]
