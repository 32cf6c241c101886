"""The exact criterion of mean-square stability: no E‖x‖² of x ← B_i x grows.

E[xxᵀ] goes through Φ: X → E[B_i X B_i], B_i = I − ηA_i, A_i = H_i + ρH_i², and stays bounded for
every start exactly where the spectral radius of Φ is at most 1. Φ is self-adjoint in ⟨X, Y⟩ =
tr XY, since the B_i are symmetric, and keeps X ⪰ 0, so the radius is its largest eigenvalue.

With more parameters than examples there are directions that no H_i sees; in them nothing moves and
the radius is never below 1. What is judged is the rest: the span of the ranges of the H_i.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from samop.errors import UserError
from samop.theory import inputs
from samop.theory.lanczos import Radius, top

TOL = 1e-9
MAX_ITERATIONS = 400


def span(gradients: np.ndarray) -> np.ndarray:
    """Coordinates of the rows g_i `[n, d]` in an orthonormal basis of their span: `[n, r]`, r ≤ n.

    All inner products stay, so every criterion does too. Directions below rounding (n or d times
    machine precision of the largest singular value) are no part of the span.
    """
    g = inputs.gradients(gradients)
    u, s, _ = np.linalg.svd(g, full_matrices=False)
    kept = s > max(g.shape) * np.finfo(float).eps * s[0]
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
    gradients: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    tol: float = TOL,
    max_iterations: int = MAX_ITERATIONS,
) -> Radius:
    """`radius` of H_i = g_i g_iᵀ in the span of the g_i, from gradients `[n, d]`.

    Those of one output of a network under the loss ½(f − y)², where it interpolates.
    """
    g = span(gradients)
    return top(rank_one_map(g, eta, rho, p), g.shape[1], tol, max_iterations)


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
    g = inputs.gradients(gradients)
    p = inputs.probabilities(p, len(g))
    c = eta * (1 + rho * np.einsum("ij,ij->i", g, g))
    gamma, u = _drift((g.T * (p * c)) @ g)
    g = g @ u
    inverse = 1 / (gamma[:, None] + gamma)
    overlap = np.empty((len(g), len(g)))
    for i, row in enumerate(g):
        shared = row * g
        overlap[i] = np.einsum("ij,ij->i", shared @ inverse, shared)
    root = c * np.sqrt(p)
    return float(np.linalg.eigvalsh(root[:, None] * overlap * root)[-1])


def _drift(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gamma, u = np.linalg.eigh(mean)
    if gamma[0] <= len(mean) * np.finfo(float).eps * gamma[-1]:
        raise UserError(
            "the mean Hessian is singular: there is a direction that no example sees, in which "
            "nothing moves; judge the minimum in the span of the gradients (theory.span)"
        )
    return gamma, u


def edge(ratio_at: Callable[[float], float], limit: float = 1e6) -> float:
    """The t at which an increasing ratio_at(t), 0 at 0, is 1.

    As a criterion's distance: the multiple of η and ρ, or of all Hessians, at which it breaks.

    Raises:
      UserError: it does not between 1/limit and limit.
    """

    def log(t: float) -> Any:
        return math.log(ratio_at(math.exp(t)))

    ends = -math.log(limit), math.log(limit)
    low, high = -0.5, 0.5
    while log(low) > 0 and low > ends[0]:
        low -= 1.0
    while log(high) < 0 and high < ends[1]:
        high += 1.0
    if log(low) > 0 or log(high) < 0:
        raise UserError(f"no edge between {1 / limit:g} and {limit:g} times these rates")
    return math.exp(brentq(log, low, high, xtol=1e-10))
