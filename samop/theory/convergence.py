"""How fast unnormalised SAM converges where it interpolates: what is proven, what was measured.

x ← x − η∇f_i(x + ρ∇f_i(x)), i drawn anew at each step, f = E f_i ≥ 0. The theorem (arXiv
2311.17539) assumes that every f_i is β-smooth and f is λ-smooth, that a minimum has every f_i = 0
(interpolation), the Polyak–Łojasiewicz inequality ‖∇f‖² ≥ 2αf, and κ = βρ√(β/α) < 1. At ρ = 0 it
is that of Bassily et al. (arXiv 1811.02564). f_i is what one step sees: the loss of a batch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samop.errors import UserError
from samop.theory.lines import fit_line

SMOOTH = "f_i ≥ 0 are β-smooth, f = E f_i is λ-smooth"
INTERPOLATION = "interpolation: min f = 0"
PL = "‖∇f‖² ≥ 2αf"
SMALL_KAPPA = "κ = βρ√(β/α) < 1"
FLOOR = 1e-12  # of the first loss: below it rounding in float64 can be what is seen
LEAST = 5  # points of a fit


class Rate(NamedTuple):
    """E f(x_t) ≤ factorᵗ f(x₀).

    Attributes:
      factor: of one step, in [0, 1).
      eta: the learning rate that it is of.
      eta_star: the rate that makes the factor smallest; it contracts for every η < 2η*.
      kappa: κ = βρ√(β/α); 0 where it plays no part.
    """

    factor: float
    eta: float
    eta_star: float
    kappa: float

    @property
    def slope(self) -> float:
        """−log(factor): how much log f falls a step, at least, on average."""
        return -math.log(self.factor) if self.factor > 0 else math.inf


class Fit(NamedTuple):
    """A line through log loss.

    Attributes:
      rate: −d log f/dt a step, positive where the loss falls.
      half: half-width of its 95 % t interval by ordinary least squares. Successive losses are not
        independent: an interval over runs says more.
      r2: share of the variance of log loss that the line takes up; NaN where there is none.
      residual: standard deviation of log loss about the line.
      first, last: steps at the ends of the window.
      n: points in it.
    """

    rate: float
    half: float
    r2: float
    residual: float
    first: int
    last: int
    n: int


def kappa(alpha: float, beta: float, rho: float) -> float:
    """κ = βρ√(β/α): below 1 the ascent turns no gradient away; infinite at α = 0."""
    return beta * rho * math.sqrt(beta / alpha) if alpha > 0 else math.inf


def largest_rho(alpha: float, beta: float) -> float:
    """ρ < β⁻¹√(α/β), which is κ < 1."""
    return math.sqrt(alpha / beta) / beta


def rate(
    alpha: float,
    beta: float,
    lam: float,
    rho: float,
    eta: float | None = None,
    *,
    f_star: float = 0.0,
) -> Rate:
    """The theorem's factor 1 − 2αη(1 − κ) + λβη²(1 + βρ)² for stochastic SAM.

    Args:
      alpha: PL constant, > 0.
      beta: smoothness of every f_i, ≥ lam.
      lam: smoothness of f, ≥ alpha.
      rho: radius of unnormalised SAM, ≥ 0; 0 is SGD.
      eta: learning rate; None: η* = α(1 − κ)/(λβ(1 + βρ)²), where the factor is
        1 − α²(1 − κ)²/(λβ(1 + βρ)²).
      f_star: the least value of f, which the theorem wants to be 0.

    Raises:
      UserError: constants that no f has, or an assumption that fails, by its name.
    """
    _constants(alpha, lam, rho, f_star)
    if not (math.isfinite(beta) and beta >= lam):
        raise UserError(f"beta={beta} should be at least lam={lam}: f is the mean of the f_i")
    k = kappa(alpha, beta, rho)
    if k >= 1:
        raise UserError(
            f"the theorem assumes {SMALL_KAPPA}; rho={rho:g} gives κ = {k:.3g}, allowed: "
            f"rho < {largest_rho(alpha, beta):.3g}"
        )
    curve = lam * beta * (1 + beta * rho) ** 2
    return _at(eta, alpha * (1 - k), curve, k)


def full_batch_rate(
    alpha: float, lam: float, rho: float, eta: float | None = None, *, f_star: float = 0.0
) -> Rate:
    """The same for full-batch SAM on a convex f: 1 − 2αη + αλη²(1 + λρ)², and no κ.

    Monotone gradients make ⟨∇f(x), ∇f(x + ρ∇f(x))⟩ ≥ ‖∇f(x)‖² for every ρ. Best at
    η* = 1/(λ(1 + λρ)²), with the factor 1 − α/(λ(1 + λρ)²).

    Arguments and errors as of `rate`.
    """
    _constants(alpha, lam, rho, f_star)
    return _at(eta, alpha, alpha * lam * (1 + lam * rho) ** 2, 0.0)


def _constants(alpha: float, lam: float, rho: float, f_star: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise UserError(f"the theorem assumes {PL}; alpha={alpha} should be a finite number > 0")
    if not (math.isfinite(lam) and lam >= alpha):
        raise UserError(f"lam={lam} should be at least alpha={alpha}: 2αf ≤ ‖∇f‖² ≤ 2λf")
    if not (math.isfinite(rho) and rho >= 0):
        raise UserError(f"rho={rho} should be a finite number ≥ 0")
    if not f_star == 0:
        raise UserError(f"the theorem assumes {INTERPOLATION}; f_star={f_star:g}")


def _at(eta: float | None, linear: float, curve: float, k: float) -> Rate:
    """Of the factor 1 − 2η·linear + η²·curve."""
    best = linear / curve
    eta = best if eta is None else eta
    if not 0 < eta < 2 * best:
        raise UserError(f"the theorem assumes 0 < η < 2η*; eta={eta:g}, 2η* = {2 * best:.3g}")
    return Rate(1 - 2 * eta * linear + eta**2 * curve, eta, best, k)


def pl_constant(
    gradients: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    f_star: float = 0.0,
) -> float:
    """The largest α with ‖∇f‖² ≥ 2α(f − f*) at every point seen: min ‖∇f‖²/(2(f − f*)).

    Along one run it is an upper bound on the constant of a region that contains the run.

    Args:
      gradients: ‖∇f‖² at each point, [n].
      losses: f there, above f_star.
      f_star: the least value of f.

    Raises:
      UserError: no points, unequal lengths, or a loss at or below f_star.
    """
    squares, f = np.asarray(gradients, float), np.asarray(losses, float) - f_star
    if squares.shape != f.shape or f.ndim != 1 or not len(f):
        raise UserError(f"gradients {squares.shape} and losses {f.shape} should be equal, [n ≥ 1]")
    if not (np.all(f > 0) and np.all(np.isfinite(f)) and np.all(squares >= 0)):
        raise UserError(f"losses should be finite and above f_star={f_star:g}; smallest: {f.min()}")
    return float(np.min(squares / (2 * f)))


def window(
    steps: Sequence[int] | np.ndarray, losses: Sequence[float] | np.ndarray, floor: float = FLOOR
) -> np.ndarray:
    """Which points a rate is fitted to: the later half of the way down, [k] indices.

    The way ends before the loss first falls below floor × the first loss, or with the run; its
    later half (by steps) leaves out the transient, where a slope is not yet that of the minimum.

    Raises:
      UserError: arrays that do not fit, steps that do not ascend, a loss that is negative or not
        finite, or 0 at the first step.
    """
    t, f = np.asarray(steps, float), np.asarray(losses, float)
    if t.shape != f.shape or t.ndim != 1 or len(t) < 2 or np.any(np.diff(t) <= 0):
        raise UserError("steps should ascend, as many as losses, at least 2")
    if not f[0] > 0:
        raise UserError(f"losses[0]={f[0]} should be positive: its logarithm is fitted")
    below = np.flatnonzero(f < floor * f[0])
    end = int(below[0]) if len(below) else len(f)
    # A zero is below the floor, as what rounding leaves of a small loss; no loss is negative.
    bad = ~(np.isfinite(f) & (f >= 0))
    if bad.any():
        raise UserError(f"losses should be finite and positive; at step {t[bad][0]:g}: {f[bad][0]}")
    return np.flatnonzero((t >= (t[0] + t[end - 1]) / 2) & (np.arange(len(t)) < end))


def fit_rate(
    steps: Sequence[int] | np.ndarray, losses: Sequence[float] | np.ndarray, floor: float = FLOOR
) -> Fit:
    """The rate at which a training loss falls, by least squares on its logarithm.

    Args:
      steps: ascending, [n].
      losses: the loss after so many steps, [n].
      floor: the window is as `window` says.

    Raises:
      UserError: as of `window`, or fewer than 5 points in the window.

    >>> fit_rate(range(20), [0.5**t for t in range(20)]).rate  # doctest: +ELLIPSIS
    0.693...
    """
    kept = window(steps, losses, floor)
    t, y = np.asarray(steps, float)[kept], np.log(np.asarray(losses, float)[kept])
    n = len(t)
    if n < LEAST:
        raise UserError(f"{n} points in the window of the fit, at least {LEAST}: record more often")
    line = fit_line(t, y)
    return Fit(
        rate=-line.slope,
        half=line.half,
        r2=line.r2,
        residual=line.residual,
        first=int(t[0]),
        last=int(t[-1]),
        n=n,
    )
