"""The necessary test along single directions: for every unit v, η(q² + Var_i(vᵀA_iv)) ≤ 2q.

q = vᵀE[A]v. Φ maps vvᵀ to E[B_i vvᵀ B_i] and is self-adjoint, so a spectral radius ≤ 1 makes
⟨vvᵀ, Φ(vvᵀ)⟩ = E[(1 − ηvᵀA_iv)²] ≤ 1: this is the test, sharper than λ_max(E A) ≤ 2/η by the
variance. For every η > 0 and ρ ≥ 0, under the exact criterion.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from samop.theory import inputs

STARTS = 8


class Direction(NamedTuple):
    """The worst direction found.

    Attributes:
      value: η E[(vᵀA_iv)²]/(2 vᵀE[A]v), ≤ 1 at every stable minimum. As a function of v it has many
        maxima: the largest may be above this one, so a violation is at least as large as it says.
      vector: the unit vector v, `[d]`.
    """

    value: float
    vector: np.ndarray


def worst_direction(
    hessians: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    starts: int = STARTS,
) -> Direction:
    """Maximises the test's ratio over v, from top eigenvectors of E[A] and random directions.

    Args:
      hessians: `[n, d, d]`.
      eta, rho: learning rate and radius.
      p: probabilities `[n]`; None: equal.
      starts: directions to start from; half of them eigenvectors, as far as there are any.
    """
    inputs.rates(eta, rho)
    h = inputs.hessians(hessians)
    p = inputs.probabilities(p, len(h))
    a = h + rho * h @ h
    mean = np.tensordot(p, a, 1)
    return _worst(lambda v: a @ v, _starts(mean, starts), p, eta)


def rank_one_worst_direction(
    gradients: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    starts: int = STARTS,
) -> Direction:
    """`worst_direction` of H_i = g_i g_iᵀ, gradients `[n, d]`; besides from the longest g_i."""
    inputs.rates(eta, rho)
    g = inputs.gradients(gradients)
    p = inputs.probabilities(p, len(g))
    squares = np.einsum("ij,ij->i", g, g)
    scaled = np.sqrt(1 + rho * squares)[:, None] * g  # A_i is its outer product with itself
    longest = g[np.argsort(-squares)[: starts // 2]]
    begin = np.concatenate([_starts((scaled.T * p) @ scaled, starts), longest])
    return _worst(lambda v: scaled * (scaled @ v)[:, None], begin, p, eta)


def _starts(mean: np.ndarray, starts: int) -> np.ndarray:
    vectors = np.linalg.eigh(mean)[1].T[::-1][: max(1, starts // 2)]
    rng = np.random.default_rng(0)  # a measurement should not vary from call to call
    random = rng.normal(size=(max(1, starts - len(vectors)), len(mean))) @ mean
    return np.concatenate([vectors, random])


def _worst(apply: Callable, starts: np.ndarray, p: np.ndarray, eta: float) -> Direction:
    def negative(v: np.ndarray) -> tuple[float, np.ndarray]:
        moved = apply(v)  # A_i v, [n, d]
        values = moved @ v
        mean, square, norm = p @ values, p @ values**2, v @ v
        slope = 4 * ((p * values) @ moved) / square - 2 * (p @ moved) / mean - 2 * v / norm
        return -float(np.log(square / mean / norm)), -slope

    best = Direction(-np.inf, starts[0])
    for start in starts:
        v = start / np.linalg.norm(start)
        # Where no example sees v nothing moves, and there is nothing to climb.
        if not p @ (apply(v) @ v) > 0:
            continue
        found = minimize(negative, v, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        value = eta / 2 * float(np.exp(-found.fun))
        if value > best.value:
            best = Direction(value, found.x / np.linalg.norm(found.x))
    return best
