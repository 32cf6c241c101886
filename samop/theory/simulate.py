"""The linearised dynamics x ← B_i x themselves: many replicas, and E‖x‖² without any.

What the criteria say of E‖x‖² is checked against what happens: `simulate` draws, `mean_squares`
goes through the exact recursion of E[xxᵀ].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from samop.errors import UserError
from samop.theory import inputs

GROUPS = 20  # of replicas, whose means the interval is of


class Growth(NamedTuple):
    """What E‖x‖² did.

    Attributes:
      mean_square: E‖x_t‖² over replicas, `[steps + 1]`.
      rate: (E‖x_T‖²/E‖x_0‖²)^(1/T), the factor a step.
      low, high: its 95 % t interval over groups of replicas. E‖x‖² is carried by rare paths, the
        more so the longer they are: an interval of too few replicas of too many steps is too low.
      replicas: how many.
    """

    mean_square: np.ndarray
    rate: float
    low: float
    high: float
    replicas: int


def simulate(
    hessians: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    steps: int,
    replicas: int,
    rng: np.random.Generator,
    start: np.ndarray | None = None,
) -> Growth:
    """x ← x − η(H_i + ρH_i²)x with i drawn anew each step, from x₀ ~ N(0, start).

    Args:
      hessians: `[n, d, d]`.
      eta, rho: learning rate and radius.
      p: probabilities `[n]`; None: equal.
      steps: T ≥ 1.
      replicas: a multiple of 20.
      rng: of starts and draws.
      start: covariance `[d, d]` of x₀, ⪰ 0; None: the identity. From the matrix of a `Radius`
        E‖x_t‖² grows by the radius from the first step on.

    Raises:
      UserError: arguments out of range.
    """
    if steps < 1:
        raise UserError(f"steps={steps} should be at least 1")
    if replicas < 2 * GROUPS or replicas % GROUPS:
        raise UserError(
            f"replicas={replicas} should be a multiple of {GROUPS}, {2 * GROUPS} or more"
        )
    b, p, covariance = _maps(hessians, eta, rho, p, start)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    x = rng.normal(size=(replicas, len(root))) @ root.T
    squares = np.empty((steps + 1, replicas))
    squares[0] = np.einsum("ri,ri->r", x, x)
    for t in range(steps):
        drawn = rng.choice(len(b), size=replicas, p=p)
        for i in range(len(b)):
            here = drawn == i
            x[here] = x[here] @ b[i]
        squares[t + 1] = np.einsum("ri,ri->r", x, x)
    first, last = (squares[t].reshape(GROUPS, -1).mean(1) for t in (0, -1))
    # The ratio of means, and its spread to first order.
    ratio = last.mean() / first.mean()
    spread = (last - ratio * first).std(ddof=1) / first.mean() / np.sqrt(GROUPS)
    half = stats.t.ppf(0.975, GROUPS - 1) * spread
    rate, low, high = (
        float(max(r, 0.0) ** (1 / steps)) for r in (ratio, ratio - half, ratio + half)
    )
    return Growth(squares.mean(1), rate, low, high, replicas)


def mean_squares(
    hessians: np.ndarray,
    eta: float,
    rho: float,
    p: np.ndarray | None = None,
    *,
    steps: int,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """E‖x_t‖² = tr Φ^t(start) for t = 0 … steps, exactly: `[steps + 1]`. Arguments as above."""
    b, p, x = _maps(hessians, eta, rho, p, start)
    found = [np.trace(x)]
    for _ in range(steps):
        x = np.tensordot(p, b @ x @ b, 1)
        found.append(np.trace(x))
    return np.array(found)


def mean_squares_of(
    apply: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int
) -> np.ndarray:
    """The same of any map X → E[BXB], such as `exact.rank_one_map`: `[steps + 1]`."""
    x, found = start, [np.trace(start)]
    for _ in range(steps):
        x = apply(x)
        found.append(np.trace(x))
    return np.array(found)


def lyapunov(
    gradients: np.ndarray, eta: float, rho: float, *, epochs: int, rng: np.random.Generator
) -> float:
    """How fast ‖x‖ grows along one path: the mean of log(‖x_{t+1}‖/‖x_t‖) of H_i = g_i g_iᵀ.

    Every example once an epoch, in a new order, as networks are trained. Below 0 the path returns
    to the minimum. That may be where E‖x‖² grows, which is carried by paths that hardly ever
    happen, and which independent draws make larger.

    Args:
      gradients: g_i `[n, d]`.
      eta, rho: learning rate and radius.
      epochs: ≥ 2; the first half is forgotten.
      rng: of start and orders.
    """
    if epochs < 2:
        raise UserError(f"epochs={epochs} should be at least 2")
    inputs.rates(eta, rho)
    g = inputs.gradients(gradients)
    c = eta * (1 + rho * np.einsum("ij,ij->i", g, g))
    scaled = c[:, None] * g
    x, total = rng.normal(size=(g.shape[1],)), 0.0
    for epoch in range(epochs):
        x = x / np.linalg.norm(x)
        for i in rng.permutation(len(g)):
            x = x - (g[i] @ x) * scaled[i]
        if epoch >= epochs // 2:
            total += float(np.log(np.linalg.norm(x)))
    return total / (len(g) * (epochs - epochs // 2))


def _maps(hessians, eta, rho, p, start):
    inputs.rates(eta, rho)
    h = inputs.hessians(hessians)
    b = np.eye(h.shape[1]) - eta * (h + rho * h @ h)
    start = np.eye(h.shape[1]) if start is None else np.asarray(start, np.float64)
    if start.shape != b[0].shape:
        raise UserError(
            f"start should have the shape {list(b[0].shape)}; it is {list(start.shape)}"
        )
    return b, inputs.probabilities(p, len(h)), start
