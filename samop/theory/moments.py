"""Moments M_k = E[H_i^k] as matrices, and what follows from them alone.

Small problems, whole in memory: d×d matrices in float64. Of a network's parameters without forming
one: `samop.hessian.hessian_moments`. Notation as in `samop.theory.stability`.
"""

from collections.abc import Sequence

import numpy as np

from samop.errors import UserError
from samop.theory import inputs

ORDER = 4  # of the highest moment in E[B²]


def dense_moments(hessians: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
    """M₁ … M₄, `[4, d, d]`, of Hessians `[n, d, d]` with probabilities p `[n]` (None: equal)."""
    h = inputs.hessians(hessians)
    return each(h, inputs.probabilities(p, len(h)))


def each(h: np.ndarray, p: np.ndarray) -> np.ndarray:
    """M₁ … M₄ `[4, …, d, d]` of many ensembles at once, from H_i `[…, n, d, d]` and p `[…, n]`.

    Unchecked, as a search calls it. `excess`, `tops` and `root` take what comes of it.
    """
    power, found = h, [np.einsum("...n,...nij->...ij", p, h)]
    for _ in range(ORDER - 1):
        power = power @ h
        found.append(np.einsum("...n,...nij->...ij", p, power))
    return np.stack(found)


def rank_one_moments(gradients: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
    """M₁ … M₄ of H_i = g_i g_iᵀ, for which H_i^k = ‖g_i‖^{2(k−1)} H_i; `[4, d, d]`.

    Args:
      gradients: `[n, d]`, of single outputs in the parameters; of a network in coordinates of their
        span (`exact.span`), so that d ≤ n.
      p: probabilities `[n]`; None: equal.
    """
    g = inputs.gradients(gradients)
    p = inputs.probabilities(p, len(g))
    squares = np.einsum("ij,ij->i", g, g)
    return np.stack([(g.T * (p * squares**k)) @ g for k in range(ORDER)])


def excess(m: np.ndarray, k: int) -> np.ndarray:
    """Σ_k = M_k − H^k, `[…, d, d]`, of moments `[4, …, d, d]`."""
    if k not in range(2, len(m) + 1):
        raise UserError(f"k={k} should be from 2 to {len(m)}")
    return m[k - 1] - np.linalg.matrix_power(m[0], k)


def tops(matrices: np.ndarray) -> np.ndarray:
    """λ_max `[…]` of symmetric matrices `[…, d, d]`."""
    return np.linalg.eigvalsh(matrices)[..., -1]


def top(matrix: np.ndarray) -> float:
    """λ_max of a symmetric matrix `[d, d]`."""
    return float(tops(matrix))


def root(x: np.ndarray | float, k: int) -> np.ndarray:
    """The k-th root of |x|, with the sign of x."""
    return np.sign(x) * np.abs(x) ** (1 / k)


def nonuniformities(m: np.ndarray, orders: Sequence[int] = (2, 3, 4)) -> dict[int, float]:
    """k → s_k with s_k^k = λ_max(Σ_k), and the sign of λ_max; of moments `[4, d, d]`."""
    return {k: float(root(top(excess(m, k)), k)) for k in orders}


def mean_square(m: np.ndarray, eta: float, rho: float) -> np.ndarray:
    """E[B²] `[d, d]` from the moments `[4, d, d]` alone.

    (I − ηH − ηρH²)² + η(η − 2ρ)Σ₂ + 2η²ρΣ₃ + η²ρ²Σ₄: with A = H + ρH² of the mean, what a single
    deterministic step would leave, and what the spread of the H_i adds. No two H_i need commute:
    B_i² is a polynomial of the one matrix H_i.
    """
    inputs.rates(eta, rho)
    h = m[0]
    step = np.eye(len(h)) - eta * (h + rho * h @ h)
    return (
        step @ step
        + eta * (eta - 2 * rho) * excess(m, 2)
        + 2 * eta**2 * rho * excess(m, 3)
        + eta**2 * rho**2 * excess(m, 4)
    )


def contraction(m: np.ndarray, eta: float, rho: float) -> float:
    """λ_max(E[B²]) − 1, of moments `[4, d, d]`: at most 0 where stability is sure.

    From the terms that are left after the identity is taken out, so that next to nothing cancels.
    """
    inputs.rates(eta, rho)
    return eta * top(
        -2 * m[0] + (eta - 2 * rho) * m[1] + 2 * eta * rho * m[2] + eta * rho**2 * m[3]
    )


def variance(m: np.ndarray, rho: float) -> float:
    """λ_max(E[A²] − (E A)²), A_i = H_i + ρH_i², of moments `[4, d, d]`."""
    mean = m[0] + rho * m[1]
    return top(m[1] + 2 * rho * m[2] + rho**2 * m[3] - mean @ mean)


def of_batches(n: int, size: int) -> float:
    """Σ₂ of batches of `size` drawn from n without replacement, as a share of that of examples.

    Of Σ₃ and Σ₄ no single factor is true: for them, make the batches (`exact.batches`).
    """
    return (n - size) / (size * (n - 1)) if n > 1 else 0.0


def batch_second(m: np.ndarray, n: int, size: int) -> np.ndarray:
    """M₂ `[d, d]` of the mean Hessians of batches of `size` out of n, from moments of examples."""
    if not 1 <= size <= n:
        raise UserError(f"size={size} should be from 1 to n={n}")
    return m[0] @ m[0] + of_batches(n, size) * excess(m, 2)
