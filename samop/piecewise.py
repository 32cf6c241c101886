"""Two-layer ReLU networks of one input as what they are: functions of finitely many linear pieces.

f(x) = Σ_j a_j max(0, w_j x + b_j). Its slope changes by a_j |w_j| at x = −b_j/w_j and nowhere else,
so what follows is exact, not read off a grid. Functions take `params` [3, n], the rows w, b and a.
"""

from typing import Any

import numpy as np

from samop.errors import UserError


def evaluate(params: Any, x: Any) -> Any:
    """f at x.

    Args:
      params: [3, n], of NumPy or JAX; differentiable, with the derivative 0 of the ReLU at 0.
      x: [m], of the same kind.

    Returns:
      [m].
    """
    w, b, a = params
    z = x[:, None] * w[None] + b[None]
    return (z * (z > 0)) @ a


def kinks(params: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Where in low < x < high the slope changes, and by how much.

    Neurons that bend at the very same x count as one kink; what cancels is none.

    Args:
      params: [3, n], finite.
      low, high: ends of the interval.

    Returns:
      Places [k], ascending, and changes of the slope [k], none of them 0.

    Raises:
      UserError: params of another shape or not finite, or an empty interval.

    >>> kinks(np.array([[1.0, -2.0], [0.0, 1.0], [3.0, 1.0]]), -1, 1)
    (array([0. , 0.5]), array([3., 2.]))
    """
    w, b, a = _checked(params)
    if not low < high:
        raise UserError(f"low={low} should be less than high={high}")
    bends = w != 0  # a neuron of input weight 0 is a constant
    places, which = np.unique(-b[bends] / w[bends] + 0.0, return_inverse=True)
    changes = np.zeros(len(places))
    np.add.at(changes, which, a[bends] * np.abs(w[bends]))
    kept = (low < places) & (places < high) & (changes != 0)
    return places[kept], changes[kept]


def pieces(params: np.ndarray, low: float, high: float) -> int:
    """Number of linear pieces between low and high, however slight the kinks between them.

    Arguments and errors as of `kinks`. Hardly ever less than 1 + the neurons that bend there, so it
    says little about how simple a function looks: see `visible_pieces`, `total_variation`.
    """
    return 1 + len(kinks(params, low, high)[0])


def total_variation(params: np.ndarray, low: float, high: float) -> float:
    """∫|f″| between low and high, in units of y/x: the total variation of the slope.

    The norm of a function that weight decay selects by (Savarese et al., arXiv 1902.05040).
    Arguments and errors as of `kinks`.
    """
    return float(np.abs(kinks(params, low, high)[1]).sum())


def path_norm(params: np.ndarray) -> float:
    """Σ_j |a_j| (|w_j| + |b_j|): all paths from input and bias to the output, in units of y.

    The ℓ₁ path norm (Neyshabur et al., arXiv 1503.00036), a bias being the weight of an input 1. On
    the whole line the total variation of the slope is at most its part without b.

    Args:
      params: [3, n], finite.

    Raises:
      UserError: params of another shape or not finite.
    """
    w, b, a = np.abs(_checked(params))
    return float(a @ (w + b))


def visible_pieces(params: np.ndarray, low: float, high: float, tolerance: float) -> int:
    """Pieces of a polyline that stays within a tolerance of f between low and high.

    Vertices are kinks of f (or ends), so the greedy search, each piece as long as it can be, gives
    the few that such a polyline needs or slightly more.

    Args:
      params, low, high: as of `kinks`.
      tolerance: largest distance in y, > 0.

    Raises:
      UserError: as `kinks`; a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise UserError(f"tolerance={tolerance} should be positive")
    x = np.concatenate([[low], kinks(params, low, high)[0], [high]])
    y = evaluate(np.asarray(params, float), x)
    start, count = 0, 0
    while start < len(x) - 1:
        # f less a chord is extreme at the kinks between: those alone need to be looked at.
        run = x[start + 1 :] - x[start]
        rise = y[start + 1 :] - y[start]
        most = np.minimum.accumulate((rise + tolerance) / run)
        least = np.maximum.accumulate((rise - tolerance) / run)
        fits = (rise / run <= most) & (rise / run >= least)
        start += 1 + int(np.flatnonzero(fits)[-1])
        count += 1
    return count


def _checked(params: np.ndarray) -> np.ndarray:
    params = np.asarray(params, float)
    if params.ndim != 2 or params.shape[0] != 3:
        raise UserError(f"params of shape {params.shape} should be [3, n]: the rows w, b and a")
    if not np.isfinite(params).all():
        raise UserError("params should be finite: the run diverged")
    return params
