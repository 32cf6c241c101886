"""Rates of convergence: the theorem against least squares that interpolate, and fits of rates."""

import math

import numpy as np
import pytest

from samop import theory
from samop.errors import UserError


def problem(rng, size):
    """Batches f_i(x) = ½‖A_i x‖² that are all 0 at 0, as [n, d, d] Hessians, and α, β, λ."""
    n, d = int(rng.integers(2, 9)), int(rng.integers(1, 6))
    rows = rng.normal(size=(n, size, d)) * rng.uniform(0.3, 2, d)
    hessians = np.einsum("nki,nkj->nij", rows, rows)
    mean = np.linalg.eigvalsh(hessians.mean(axis=0))
    positive = mean[mean > 1e-9 * mean[-1]]
    return hessians, positive[0], np.linalg.eigvalsh(hessians)[:, -1].max(), mean[-1]


def after_a_step(hessians, x, eta, rho):
    """E f after a step from x over f(x), exactly: the mean over the batch that is drawn."""
    h = hessians.mean(axis=0)
    g = hessians @ x
    moved = x - eta * (g + rho * np.einsum("nij,nj->ni", hessians, g))
    return np.mean(np.einsum("ni,ij,nj->n", moved, h, moved)) / (x @ h @ x)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_no_step_on_interpolating_least_squares_breaks_the_bound(size, share):
    rng = np.random.default_rng(size)
    worst = 0.0
    for _ in range(150):
        hessians, alpha, beta, lam = problem(rng, size)
        rho = share * theory.largest_rho(alpha, beta)
        best = theory.rate(alpha, beta, lam, rho)
        for eta in (best.eta, *rng.uniform(0, 2 * best.eta, 2)):
            bound = theory.rate(alpha, beta, lam, rho, eta)
            for x in rng.normal(size=(4, hessians.shape[1])):
                actual = after_a_step(hessians, x, eta, rho)
                assert actual <= bound.factor * (1 + 1e-9)
                worst = max(worst, math.log(bound.factor) / math.log(actual))
            assert best.factor <= bound.factor * (1 + 1e-12)
    assert worst > 0.05, "the bound is never within a factor of 20 of what happens"


def test_full_batch_bound_holds_on_convex_quadratics_for_every_rho():
    rng = np.random.default_rng(0)
    for _ in range(300):
        hessians, alpha, _, lam = problem(rng, 2)
        rho = float(rng.exponential()) / lam
        eta = rng.uniform(0, 2 * theory.full_batch_rate(alpha, lam, rho).eta)
        bound = theory.full_batch_rate(alpha, lam, rho, eta)
        x = rng.normal(size=hessians.shape[1])
        actual = after_a_step(hessians.mean(axis=0, keepdims=True), x, eta, rho)
        assert actual <= bound.factor * (1 + 1e-9)


def test_without_ascent_it_is_the_theorem_of_bassily_et_al():
    """η = α/(λβ), factor 1 − α²/(λβ) = 1 − αη (arXiv 1811.02564, theorem 4)."""
    found = theory.rate(0.5, 4.0, 2.0, 0.0)
    assert found == pytest.approx((1 - 0.25 / 8, 0.5 / 8, 0.5 / 8, 0.0))
    assert found.factor == pytest.approx(1 - 0.5 * found.eta)


def test_a_quadratic_in_closed_form():
    """f = ½hx²: a step multiplies f by (1 − ηh(1 + ρh))²; the best bound reaches 0 at ρ = 0."""
    h = 3.0
    assert theory.rate(h, h, h, 0.0) == pytest.approx((0.0, 1 / h, 1 / h, 0.0))
    assert theory.rate(h, h, h, 0.0).slope == math.inf
    rho, eta = 0.1, 0.05
    found = theory.rate(h, h, h, rho, eta)
    assert found.kappa == pytest.approx(h * rho)
    assert found.factor == pytest.approx(
        1 - 2 * h * eta * (1 - h * rho) + (h * eta * (1 + h * rho)) ** 2
    )
    exact = after_a_step(np.array([[[h]]]), np.ones(1), eta, rho)
    assert exact == pytest.approx((1 - eta * h * (1 + rho * h)) ** 2)
    full = theory.full_batch_rate(h, h, rho, eta)
    assert exact < full.factor < found.factor
    assert found.slope == pytest.approx(-math.log(found.factor))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 4.0, 2.0, 0.125), r"assumes κ = βρ√\(β/α\) < 1; rho=0.125 gives κ = 1, .*rho < 0.1"),
        ((1.0, 4.0, 2.0, 0.0, 0.25), r"assumes 0 < η < 2η\*; eta=0.25, 2η\* = 0.25"),
        ((1.0, 4.0, 2.0, 0.0, 0.0), r"assumes 0 < η < 2η\*"),
        ((0.0, 4.0, 2.0, 0.1), "assumes ‖∇f‖² ≥ 2αf; alpha=0.0"),
        ((1.0, 4.0, 0.5, 0.1), "lam=0.5 should be at least alpha=1.0"),
        ((1.0, 1.0, 2.0, 0.1), "beta=1.0 should be at least lam=2.0"),
        ((1.0, 4.0, 2.0, -0.1), "rho=-0.1 should be a finite number ≥ 0"),
    ],
)
def test_assumptions_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        theory.rate(*arguments)


def test_without_interpolation_it_does_not_apply():
    for bound in (
        lambda: theory.rate(1.0, 4.0, 2.0, 0.0, f_star=0.1),
        lambda: theory.full_batch_rate(1.0, 2.0, 0.0, f_star=0.1),
    ):
        with pytest.raises(UserError, match=r"assumes interpolation: min f = 0; f_star=0\.1"):
            bound()


def test_pl_constant_of_a_quadratic_is_its_smallest_curvature():
    h = np.array([0.5, 2.0])
    x = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    losses, squares = 0.5 * x**2 @ h + 0.2, (x * h) ** 2 @ np.ones(2)
    assert theory.pl_constant(squares, losses, 0.2) == pytest.approx(0.5)
    assert theory.pl_constant(squares, losses) < 0.5
    with pytest.raises(UserError, match=r"above f_star=0\.7"):
        theory.pl_constant(squares, losses, 0.7)
    with pytest.raises(UserError, match="should be equal"):
        theory.pl_constant(squares[:2], losses)


def test_a_planted_rate_lies_in_its_interval():
    rng = np.random.default_rng(0)
    steps, inside = np.arange(0, 400, 4), 0
    for _ in range(200):
        losses = 3 * np.exp(-0.02 * steps + 0.3 * rng.normal(size=len(steps)))
        fit = theory.fit_rate(steps, losses)
        assert fit.residual == pytest.approx(0.3, rel=0.5)
        inside += abs(fit.rate - 0.02) <= fit.half
    assert 180 <= inside <= 199
    assert (fit.first, fit.last, fit.n) == (200, 396, 50)
    assert fit.r2 > 0.9


def test_the_window_ends_at_the_floor_and_leaves_the_transient_out():
    steps = np.arange(0, 1000, 10)
    losses = np.exp(-0.1 * steps) + 9 * np.exp(-0.4 * steps)
    losses[50:] = 0.0  # rounded away, long after the floor
    fit = theory.fit_rate(steps, losses, floor=1e-8)
    assert fit.rate == pytest.approx(0.1, rel=1e-3)
    assert (fit.first, fit.last) == (80, 160)
    stalled = theory.fit_rate(steps, np.full(len(steps), 0.3))
    assert stalled.rate == pytest.approx(0, abs=1e-12)
    assert math.isnan(stalled.r2)


@pytest.mark.parametrize(
    ("steps", "losses", "message"),
    [
        (range(20), [1.0, -0.5] + [0.1] * 18, "at step 1: -0.5"),
        (range(20), [1.0, math.nan] + [0.1] * 18, "at step 1: nan"),
        (range(20), [0.0] * 20, r"losses\[0\]=0.0 should be positive"),
        (range(6), [1.0] * 6, "3 points in the window of the fit, at least 5"),
        ([0, 2, 1], [1.0] * 3, "steps should ascend"),
        (range(3), [1.0] * 4, "as many as losses"),
    ],
)
def test_what_cannot_be_fitted_is_refused(steps, losses, message):
    with pytest.raises(UserError, match=message):
        theory.fit_rate(steps, losses)
