"""What the functions of this package accept, checked once: rates, Hessians, their probabilities."""

import math

import numpy as np

from samop.errors import UserError


def rates(eta: float, rho: float) -> None:
    """Raises UserError unless η is finite and > 0, and ρ finite and ≥ 0."""
    if not (math.isfinite(eta) and eta > 0):
        raise UserError(f"eta={eta} should be a finite number > 0")
    if not (math.isfinite(rho) and rho >= 0):
        raise UserError(f"rho={rho} should be a finite number ≥ 0")


def probabilities(p: np.ndarray | None, count: int) -> np.ndarray:
    """float64 `[count]` with sum 1; None: all alike.

    Raises:
      UserError: another shape, or no probabilities.
    """
    if p is None:
        return np.full(count, 1 / count)
    p = np.asarray(p, np.float64)
    if p.shape != (count,) or not (np.all(p >= 0) and abs(p.sum() - 1) < 1e-9):
        raise UserError(
            f"p should be {count} probabilities, ≥ 0 with sum 1; its shape is {p.shape}"
        )
    return p


def hessians(h: np.ndarray) -> np.ndarray:
    """float64 `[count, d, d]`, symmetric and finite.

    Raises:
      UserError: anything else.
    """
    h = np.asarray(h, np.float64)
    if h.ndim != 3 or h.shape[1] != h.shape[2] or not h.size:
        raise UserError(f"hessians should have the shape [count, d, d]; it is {list(h.shape)}")
    if not np.isfinite(h).all():
        raise UserError("hessians should be finite")
    size = np.abs(h).max()
    if np.abs(h - h.transpose(0, 2, 1)).max() > 1e-9 * size:
        raise UserError("hessians should be symmetric")
    return h


def gradients(g: np.ndarray) -> np.ndarray:
    """float64 `[count, d]`, finite and not all 0.

    Raises:
      UserError: anything else.
    """
    g = np.asarray(g, np.float64)
    if g.ndim != 2 or not g.size:
        raise UserError(f"gradients should have the shape [count, d]; it is {list(g.shape)}")
    if not np.isfinite(g).all():
        raise UserError("gradients should be finite")
    if not g.any():
        raise UserError("gradients are all 0: every Hessian vanishes, and nothing moves")
    return g
