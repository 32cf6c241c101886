"""The largest eigenvalue of a positive map on symmetric matrices."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal


class Radius(NamedTuple):
    """A spectral radius.

    Attributes:
      value: the Rayleigh quotient, never above the radius.
      residual: ‖Φ(X) − value·X‖_F of its unit X: an eigenvalue of Φ is at most this far.
      iterations: applications of Φ.
      converged: whether the residual came below the tolerance.
      matrix: X, `[d, d]`; at the radius of a positive map it can be chosen ⪰ 0.
    """

    value: float
    residual: float
    iterations: int
    converged: bool
    matrix: np.ndarray


def top(
    apply: Callable[[np.ndarray], np.ndarray], d: int, tol: float, max_iterations: int
) -> Radius:
    """Power iteration from the identity, with everything it went through kept (Lanczos).

    Plain power iteration takes thousands of steps where small curvatures crowd the eigenvalues
    below 1. A map that keeps matrices ⪰ 0 there has its radius as an eigenvalue, with an
    eigenvector ⪰ 0, which the identity is never orthogonal to.

    Args:
      apply: a map of symmetric `[d, d]` matrices, self-adjoint in ⟨X, Y⟩ = tr XY, that keeps X ⪰ 0.
      d: size.
      tol: residual to reach, relative to the value.
      max_iterations: applications at most.
    """
    basis = np.empty((min(max_iterations, d * (d + 1) // 2), d, d))
    diagonal: list[float] = []
    beside: list[float] = []
    x = np.eye(d) / np.sqrt(d)
    for k in range(len(basis)):
        basis[k] = x
        y = apply(x)
        diagonal.append(float(np.vdot(x, y)))
        for _ in range(2):  # once leaves rounding errors that grow into copies of the top
            y = y - np.tensordot(np.tensordot(basis[: k + 1], y, 2), basis[: k + 1], 1)
        y = (y + y.T) / 2
        norm = float(np.linalg.norm(y))
        last = k + 1 == len(basis) or norm <= 1e-14 * max(map(abs, diagonal))
        if last or k % 5 == 4:
            values, vectors = eigh_tridiagonal(diagonal, beside)
            value, residual = float(values[-1]), norm * abs(float(vectors[-1, -1]))
            if last or residual <= tol * abs(value):
                break
        beside.append(norm)
        x = y / norm
    found = np.tensordot(vectors[:, -1], basis[: k + 1], 1)
    return Radius(value, residual, k + 1, residual <= tol * abs(value), found)
