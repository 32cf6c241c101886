"""The plane through three points of parameter space: what it shows of a loss and of trajectories.

As in Garipov et al. (arXiv 1802.10026). Points are flat vectors of P parameters, in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from samop.errors import UserError

# Below this sine of the angle at the origin the second direction would be rounding alone.
STRAIGHT = 1e-8


class Plane(NamedTuple):
    """origin + c₁ e₁ + c₂ e₂.

    Attributes:
      origin: [P].
      basis: [2, P], orthonormal rows e₁ and e₂.
    """

    origin: np.ndarray
    basis: np.ndarray

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """(c₁, c₂) of the orthogonal projections of points [..., P]: [..., 2], in their units."""
        return (points - self.origin) @ self.basis.T

    def points(self, coordinates: np.ndarray) -> np.ndarray:
        """The points [..., P] at coordinates [..., 2]."""
        return self.origin + coordinates @ self.basis

    def share(self, points: np.ndarray) -> np.ndarray:
        """Of the distance of points [..., P] from the origin the share within the plane: [...].

        The length of the projection over the distance, from 0 (at right angles) to 1 (in the
        plane); NaN at the origin.
        """
        far = np.linalg.norm(points - self.origin, axis=-1)
        near = np.linalg.norm(self.coordinates(points), axis=-1)
        return np.divide(near, far, out=np.full(np.shape(far), np.nan), where=far > 0)


def through(origin: np.ndarray, first: np.ndarray, second: np.ndarray) -> Plane:
    """The plane of three points [P]; `first` lies on its first axis, `second` at c₂ > 0.

    Raises:
      UserError: points of different shapes, not finite, or on one line.
    """
    origin, first, second = (np.asarray(point, float) for point in (origin, first, second))
    if origin.ndim != 1 or not origin.shape == first.shape == second.shape:
        shapes = ", ".join(str(point.shape) for point in (origin, first, second))
        raise UserError(f"three flat vectors of one size are wanted, not {shapes}")
    if not all(np.isfinite(point).all() for point in (origin, first, second)):
        raise UserError("three finite points are wanted: a run diverged")
    along, other = first - origin, second - origin
    length = np.linalg.norm(along)
    e1 = along / length if length > 0 else along
    rest = other - (e1 @ other) * e1
    rest -= (e1 @ rest) * e1  # once more, so that what was rounded off is gone
    height = np.linalg.norm(rest)
    if length == 0 or not height > STRAIGHT * np.linalg.norm(other):
        raise UserError("the three points lie on one line: no plane is theirs alone")
    return Plane(origin, np.stack([e1, rest / height]))


def loss_grid(
    losses: Callable[[np.ndarray], np.ndarray], plane: Plane, c1: np.ndarray, c2: np.ndarray
) -> np.ndarray:
    """The loss at every pair of coordinates.

    Args:
      losses: points [k, P] → losses [k].
      plane: of `through`.
      c1: [k] along the first axis.
      c2: [m] along the second.

    Returns:
      [m, k], as contour plots want it.
    """
    rows = [plane.points(np.stack([c1, np.full_like(c1, height)], axis=1)) for height in c2]
    return np.stack([np.asarray(losses(row)) for row in rows])


def barrier(
    losses: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    end: np.ndarray,
    points: int = 101,
) -> float:
    """How far the loss on the straight way from start to end rises above that of its higher end.

    In units of the loss; 0 where it never does. A barrier on the straight way alone does not rule
    out a curved way round it (arXiv 1802.10026).

    Args:
      losses: points [k, P] → losses [k].
      start, end: [P].
      points: that are looked at, both ends among them, at least 3.

    Raises:
      UserError: fewer than 3 points.
    """
    if points < 3:
        raise UserError(f"points={points} should be at least 3")
    t = np.linspace(0, 1, points)[:, None]
    seen = np.asarray(losses((1 - t) * start + t * end))
    return float(seen.max() - max(seen[0], seen[-1]))
