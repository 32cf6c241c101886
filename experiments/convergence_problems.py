"""What `convergence.py` descends on: a matrix factorisation, and networks on digits' parity."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop.data import load
from samop.figures.convergence import BOTH
from samop.models.mlp import MLP

N, IMAGES, DIM = 200, 100, 10
INTERPOLATED = 1e-3  # of the first loss: a network that does not get there is not said to
LONGER = {10: 250, 16: 20}  # width: how many times the steps, and the steps between records


class Problem(NamedTuple):
    """What is trained.

    Attributes:
      starts: by name; where the width makes them one, `starts_of` says so.
      longer: width → how many times the steps for the theorem's rates; 1 where it is not named.
      draw: seed → arrays [n, …].
      init: width, start, key → parameters.
      loss: of parameters and a batch of the arrays.
      f_star: arrays, width, first and last loss → least loss, as far as it is known.
    """

    name: str
    widths: tuple[int, ...]
    starts: tuple[str, ...]
    steps: int
    every: int
    eta: float
    rho: float
    longer: dict[int, int]
    draw: Callable[[int], Any]
    init: Callable[[int, str, jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    f_star: Callable[[Any, int, float, float], float]


def draw_matrix(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target, x = rng.normal(size=(DIM, DIM)) / math.sqrt(DIM), rng.normal(size=(N, DIM))
    return x, x @ target.T


def init_matrix(width: int, start: str, key: jax.Array) -> dict[str, jax.Array]:
    one, two = jax.random.split(key)
    scale = math.sqrt(1 / DIM if start == "fan-in" else 1 / width)
    return {
        "first": scale * jax.random.normal(one, (width, DIM)),
        "second": math.sqrt(1 / width) * jax.random.normal(two, (DIM, width)),
    }


def matrix_loss(params, batch):
    x, y = batch
    return jnp.mean(jnp.sum((x @ params["first"].T @ params["second"].T - y) ** 2, axis=1))


def rank_floor(data, width: int, first: float, last: float) -> float:
    """The least loss of products of rank `width`: what the other singular values of AXᵀ hold."""
    values = np.linalg.svd(data[1], compute_uv=False)
    return float(np.sum(values[width:] ** 2) / N)


def draw_digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    digits = load("digits")
    rows = np.random.default_rng(seed).permutation(len(digits.train_x))[:IMAGES]
    x = digits.train_x[rows].reshape(IMAGES, -1) / digits.scale
    return x, 1.0 - 2.0 * (digits.train_y[rows] % 2)


def init_network(width: int, start: str, key: jax.Array) -> Any:
    return MLP((width,), 1, "tanh").init(key, jnp.zeros((1, 64)))["params"]


def network_loss(params, batch):
    x, y = batch
    width = params["Dense_0"]["bias"].shape[0]
    outputs = MLP((width,), 1, "tanh").apply({"params": params}, x)
    return 0.5 * jnp.mean((outputs[:, 0] - y) ** 2)


def seen_floor(data, width: int, first: float, last: float) -> float:
    """0 where training came near it: more is not known of a network."""
    return 0.0 if last <= INTERPOLATED * first else last


def problems(smoke: bool) -> list[Problem]:
    fewer = 10 if smoke else 1
    return [
        Problem(
            "matrix factorisation", (5, 10) if smoke else (5, 8, 10, 16, 32, 64),
            ("fan-in", "fixed scale"), 4000 // fewer, 5, 0.02, 0.02, {} if smoke else LONGER,
            draw_matrix, init_matrix, matrix_loss, rank_floor,
        ),
        Problem(
            "digits parity", (16,) if smoke else (1, 4, 16, 64),
            ("fan-in",), 24_000 // fewer, 100 // fewer, 0.04, 0.02, {},
            draw_digits, init_network, network_loss, seen_floor,
        ),
    ]  # fmt: skip


def starts_of(problem: Problem, width: int) -> tuple[str, ...]:
    """The starts that differ: variance 1/fan-in of both factors is 1/width where width = DIM."""
    same = len(problem.starts) > 1 and width == DIM
    return (BOTH,) if same else problem.starts


def patient(problem: Problem, width: int) -> Problem:
    """The problem with the steps that the theorem's rates get; as many records."""
    times = problem.longer.get(width, 1)
    return problem._replace(steps=times * problem.steps, every=times * problem.every)
