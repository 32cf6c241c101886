"""The exact criterion of mean-square stability: no E‖x‖² of x ← B_i x grows.

E[xxᵀ] goes through Φ: X → E[B_i X B_i], B_i = I − ηA_i, A_i = H_i + ρH_i², and stays bounded for
every start exactly where the spectral radius of Φ is at most 1. Φ is self-adjoint in ⟨X, Y⟩ =
tr XY, since the B_i are symmetric, and keeps X ⪰ 0, so the radius is its largest eigenvalue.

With more parameters than examples there are directions that no H_i sees; in them nothing moves and
the radius is never below 1. What is judged is the rest: the span of the ranges of the H_i.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from samop.errors import UserError
from samop.theory import inputs
from samop.theory.lanczos import Radius, top

TOL = 1e-9
MAX_ITERATIONS = 400
UNSEEN = (
    "the mean Hessian is singular: there is a direction that no example sees, in which nothing "
    "moves; judge the minimum in the span of the gradients (theory.span)"
)


def span(gradients: np.ndarray) -> np.ndarray:
    """Coordinates of the rows g_i `[n, d]` in an orthonormal basis of their span: `[n, r]`, r ≤ n.

    All inner products stay, so every criterion does too. Directions whose curvature, the square of
    a singular value, is below rounding (n or d times machine precision of the largest) are no part
    of the span: beside the others nothing moves in them. Columns are orthogonal.
    """
    g = inputs.gradients(gradients)
    u, s, _ = np.linalg.svd(g, full_matrices=False)
    kept = s**2 > max(g.shape) * np.finfo(float).eps * s[0] ** 2
    return u[:, kept] * s[kept]


def batches(gradients: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Hessians Σ_j w_bj g_j g_jᵀ of batches: `[b, d, d]`.

    Args:
      gradients: `[n, d]`, in coordinates of their span.
      weights: `[b, n]`, ≥ 0: of a mean over a batch 1/size for its members, else 0.

    Raises:
      UserError: shapes that do not fit, or a negative weight.
    """
    g, w = inputs.gradients(gradients), np.asarray(weights, np.float64)
    if w.ndim != 2 or w.shape[1] != len(g) or not (w >= 0).all():
        raise UserError(f"weights should be numbers ≥ 0 of shape [batches, {len(g)}]")
    return np.einsum("bn,ni,nj->bij", w, g, g)


def radius(
    hessians: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    tol: float = TOL,
    max_iterations: int = MAX_ITERATIONS,
) -> Radius:
    """Spectral radius of X → E[B_i X B_i].

    Args:
      hessians: H_i ⪰ 0 of what one step sees, `[n, d, d]`.
      eta: learning rate, > 0.
      rho: radius of unnormalised SAM, ≥ 0; 0 is SGD.
      p: probabilities `[n]`; None: equal.
      tol: residual, relative to the value, at which it has converged.
      max_iterations: applications of the map at most.

    Raises:
      UserError: arguments out of range.
    """
    inputs.rates(eta, rho)
    h = inputs.hessians(hessians)
    p = inputs.probabilities(p, len(h))
    b = np.eye(h.shape[1]) - eta * (h + rho * h @ h)
    return top(lambda x: np.tensordot(p, b @ x @ b, 1), h.shape[1], tol, max_iterations)


def rank_one_map(
    gradients: np.ndarray, eta: float, rho: float, p: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """X → E[B_i X B_i] of H_i = g_i g_iᵀ in O(n d²): A_i = (1 + ρ‖g_i‖²) g_i g_iᵀ."""
    inputs.rates(eta, rho)
    g = inputs.gradients(gradients)
    p = inputs.probabilities(p, len(g))
    c = eta * (1 + rho * np.einsum("ij,ij->i", g, g))
    drift = (g.T * (p * c)) @ g

    def apply(x: np.ndarray) -> np.ndarray:
        noise = p * c**2 * np.einsum("ij,ij->i", g @ x, g)
        moved = drift @ x
        return x - moved - moved.T + (g.T * noise) @ g

    return apply


def rank_one_radius(
    gradients: np.ndarray, eta: float, rho: float, p: np.ndarray | None = None
) -> Radius:
    """`radius` of H_i = g_i g_iᵀ in the span of the g_i, from gradients `[n, d]`.

    Those of one output of a network under the loss ½(f − y)², where it interpolates. Small
    curvatures crowd the eigenvalues below 1, where an iteration on matrices hardly moves; so the
    largest λ is found at which λ − Φ = L + (λ − 1) − Q (see `noise_ratio`) is singular, a root of
    one decreasing function of λ > 1 − 2γ, γ the smallest eigenvalue of the drift. `iterations` are
    evaluations of it, n×n eigenvalues; `residual` is of the matrix found, by Φ itself.

    Raises:
      UserError: arguments out of range.
    """
    inputs.rates(eta, rho)
    problem = _Noise(span(gradients), eta, rho, p)
    evaluations = 0

    def log(x: float) -> float:
        nonlocal evaluations
        evaluations += 1
        return math.log(problem.ratio(math.exp(x)))

    high = math.log(problem.least)  # λ = 1
    step = 1.0
    sign = np.sign(log(high))
    low, other = high, high
    while sign * log(other) > 0 and -80 < other < 80:
        low, other, step = other, other + sign * step, 2 * step
    root = brentq(log, *sorted((low, other)), xtol=1e-6) if -80 < other < 80 else other
    x = problem.matrix(math.exp(root))
    apply = rank_one_map(problem.g, eta, rho, p)
    image = apply(x)
    value = float(np.vdot(x, image))
    residual = float(np.linalg.norm(image - value * x))
    return Radius(value, residual, evaluations, residual <= 1e-6 * value, x)


def noise_ratio(
    hessians: np.ndarray, eta: float, rho: float, p: np.ndarray | None = None, tol: float = TOL
) -> float:
    """What noise adds to E‖x‖² over what the drift removes: ≤ 1 exactly where the radius is.

    Φ = I − L + Q with L(X) = η(ĀX + XĀ), Ā = E[A_i], and Q(X) = η²E[A_i X A_i]: I − Φ ⪰ 0 exactly
    where λ_max(L^{−½} Q L^{−½}) ≤ 1. Unlike the radius, which is next to 1 wherever some curvature
    is small, it says how far from the edge a minimum is: of SGD it is proportional to η.

    Raises:
      UserError: arguments out of range, or a direction that no H_i sees (use `span`).
    """
    inputs.rates(eta, rho)
    h = inputs.hessians(hessians)
    p = inputs.probabilities(p, len(h))
    a = eta * (h + rho * h @ h)
    gamma, u = _drift(np.tensordot(p, a, 1))
    a = u.T @ a @ u
    scale = 1 / np.sqrt(gamma[:, None] + gamma)
    found = top(
        lambda x: scale * np.tensordot(p, a @ (scale * x) @ a, 1), len(gamma), tol, MAX_ITERATIONS
    )
    if not found.converged:
        raise UserError(f"the noise ratio did not converge: its residual is {found.residual:.1g}")
    return found.value


def rank_one_noise_ratio(
    gradients: np.ndarray, eta: float, rho: float, p: np.ndarray | None = None
) -> float:
    """`noise_ratio` of H_i = g_i g_iᵀ, without an iteration; gradients `[n, d]` of full span.

    Q has the range of the g_i g_iᵀ, so it is the largest eigenvalue of an n×n matrix.
    """
    inputs.rates(eta, rho)
    problem = _Noise(inputs.gradients(gradients), eta, rho, p)
    return problem.ratio(problem.least)


class _Noise:
    """L + λ − 1 and Q of rank-one Hessians, in the eigenbasis of the drift (`noise_ratio`).

    λ is given as by how much, `over`, it is above 1 − 2γ (γ the smallest eigenvalue of the drift),
    where L + λ − 1 is singular: the two may be closer than doubles next to 1 are to each other.

    Attributes:
      least: 2γ, the `over` of λ = 1.
    """

    def __init__(self, g: np.ndarray, eta: float, rho: float, p: np.ndarray | None):
        p = inputs.probabilities(p, len(g))
        c = eta * (1 + rho * np.einsum("ij,ij->i", g, g))
        # From singular values, since squares lose what `span` still sees: the probabilities and
        # lengths of the examples can make a curvature much smaller here than it is there.
        _, s, vt = np.linalg.svd(np.sqrt(p * c)[:, None] * g, full_matrices=False)
        if len(s) < g.shape[1] or s[-1] <= max(g.shape) * np.finfo(float).eps * s[0]:
            raise UserError(UNSEEN)
        gamma, self._u = s[::-1] ** 2, vt[::-1].T
        self.least, self._gaps = 2 * float(gamma[0]), gamma - gamma[0]
        self.g, self._turned, self._root = g, g @ self._u, c * np.sqrt(p)

    def _inverse(self, over: float) -> np.ndarray:
        return 1 / (self._gaps[:, None] + self._gaps + over)

    def _kernel(self, over: float) -> np.ndarray:
        inverse = self._inverse(over)
        found = np.empty((len(self.g), len(self.g)))
        for i, row in enumerate(self._turned):
            shared = row * self._turned[i:]
            found[i, i:] = found[i:, i] = np.einsum("ij,ij->i", shared @ inverse, shared)
        return self._root[:, None] * found * self._root

    def ratio(self, over: float) -> float:
        """λ_max of (L + λ − 1)^{−½} Q (L + λ − 1)^{−½}."""
        return float(np.linalg.eigvalsh(self._kernel(over))[-1])

    def matrix(self, over: float) -> np.ndarray:
        """The X of norm 1 with Q(X) = ratio·(L + λ − 1)(X), in the coordinates of g."""
        weights = self._root * np.linalg.eigh(self._kernel(over))[1][:, -1]
        inverse = self._inverse(over)
        x = self._u @ (inverse * ((self._turned.T * weights) @ self._turned)) @ self._u.T
        return x / np.linalg.norm(x)


def _drift(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gamma, u = np.linalg.eigh(mean)
    if gamma[0] <= len(mean) * np.finfo(float).eps * gamma[-1]:
        raise UserError(UNSEEN)
    return gamma, u


def edge(ratio_at: Callable[[float], float], limit: float = 1e6) -> float:
    """The t at which ratio_at(t), below 1 for small t, is 1.

    As a criterion's distance: the multiple of η and ρ, or of all Hessians, at which it breaks.

    Raises:
      UserError: it does not between 1/limit and limit.
    """

    def over(x: float) -> float:
        return ratio_at(math.exp(x)) - 1

    # In proportion to t, as SGD's ratios are, 1 would be reached there; SAM's grow faster.
    at_one = over(0.0) + 1
    low, high = sorted((0.0, -math.log(at_one) if at_one > 0 else 0.1))
    most = math.log(limit)
    while low > -most and over(low) > 0:
        low -= 0.1
    while high < most and over(high) < 0:
        high += 0.1
    if not -most < low or not high < most:
        raise UserError(f"no edge between {1 / limit:g} and {limit:g} times these rates")
    return math.exp(brentq(over, low - 1e-9, high + 1e-9, xtol=1e-9))
