"""The loss around a point: the worst perturbation of a radius, by APGD, and random ones."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from samop import precision, trees
from samop.hessian import draws
from samop.hessian.basis import unit
from samop.hessian.operators import LossFn, join

PyTree = Any
MOMENTUM = 0.75  # of APGD (arXiv 2003.01690)
RISING = 0.75  # share of steps that must have raised the loss for the step size to stay


class _Apgd(NamedTuple):
    u: jax.Array
    before: jax.Array
    value: jax.Array
    grad: jax.Array
    best: jax.Array
    best_u: jax.Array
    best_grad: jax.Array
    size: jax.Array
    rises: jax.Array
    halved: jax.Array
    best_then: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def worst(
    loss_fn: LossFn,
    dtype: Any,
    norm: float,
    steps: int,
    sub: PyTree,
    rest: PyTree,
    scales: PyTree,
    subsets: PyTree,
    rho: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """max over ‖δ/c‖_p ≤ ρ of L_S(w + δ) − L_S(w), a lower bound by APGD, for each subset S.

    In the coordinates u = δ/c the ball is a plain one, and the steepest direction of the ℓ2 norm
    is c⊙g/‖c⊙g‖. The first step has length 2ρ; the start is random, and w itself counts too.

    Args:
      loss_fn: mean loss.
      dtype: what it computes in, or None.
      norm: 2 or inf.
      steps: gradients a subset.
      sub, rest: parameters that are perturbed, and the others.
      scales: c, like `sub`.
      subsets: leaves [number, m, ...].
      rho: radius.
      key: of the random starts.

    Returns:
      [number]; at least 0.
    """
    checks = jnp.asarray(_checkpoints(steps))

    # Flat, so that what is compiled does not grow with the number of leaves.
    flat, unravel = ravel_pytree(sub)
    c = ravel_pytree(scales)[0]
    rho = rho.astype(flat.dtype)

    def one(item):
        batch, key = item

        def loss(u):
            return _loss(loss_fn, dtype, unravel(flat + c * u), rest, batch)

        gradient = jax.value_and_grad(loss)
        here = loss(jnp.zeros_like(flat))
        u = _start(key, flat, norm, rho)
        value, grad = gradient(u)
        two = 2.0 * rho
        count = jnp.zeros((), jnp.int32)
        state = _Apgd(u, u, value, grad, value, u, grad, two, count, jnp.zeros((), bool), value)

        def body(i, s):
            ahead = _project(s.u + s.size * _direction(s.grad, norm), norm, rho)
            # The first step has no momentum.
            a = jnp.where(i == 0, 1.0, MOMENTUM).astype(flat.dtype)
            u = _project(s.u + a * (ahead - s.u) + (1 - a) * (s.u - s.before), norm, rho)
            value, grad = gradient(u)
            better = value > s.best
            s = s._replace(
                before=s.u,
                u=u,
                grad=grad,
                rises=s.rises + (value > s.value),
                value=value,
                # A NaN stays: no bound can be told from a loss that is not a number.
                best=jnp.where(better | jnp.isnan(value), value, s.best),
                best_u=jnp.where(better, u, s.best_u),
                best_grad=jnp.where(better, grad, s.best_grad),
            )
            return jax.lax.cond(checks[i + 1] > 0, lambda: _checked(s, checks[i + 1]), lambda: s)

        best = jax.lax.fori_loop(0, steps - 1, body, state).best
        return jnp.maximum(best - here, 0)

    number = len(jax.tree.leaves(subsets)[0])
    return jax.lax.map(one, (subsets, jax.random.split(key, number)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def at_random(
    loss_fn: LossFn,
    dtype: Any,
    sub: PyTree,
    rest: PyTree,
    scales: PyTree,
    subsets: PyTree,
    rho: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """L(w + δ) − L(w) with δ ~ N(0, ρ² diag c²), the mean over subsets, for each key: [keys].

    Arguments as for `worst`. Each δ comes with −δ, which cancels the gradient's part.
    """

    def mean(params):
        return mean_loss(loss_fn, dtype, params, rest, subsets)

    here = mean(sub)

    def draw(key):
        delta = jax.tree.map(jnp.multiply, scales, draws.normal(key, sub))
        both = [mean(trees.mix(1.0, sub, sign * rho, delta)) for sign in (1, -1)]
        return (both[0] + both[1]) / 2 - here

    return jax.lax.map(draw, keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def mean_loss(loss_fn: LossFn, dtype: Any, sub: PyTree, rest: PyTree, subsets: PyTree) -> jax.Array:
    """The mean of the losses of all subsets, leaves [number, m, ...]."""
    return jnp.mean(jax.lax.map(lambda batch: _loss(loss_fn, dtype, sub, rest, batch), subsets))


def _loss(loss_fn, dtype, sub, rest, batch):
    return loss_fn(precision.cast(join(sub, rest), dtype), precision.cast(batch, dtype))


def _checked(s: _Apgd, interval: jax.Array) -> _Apgd:
    """Halves the step and goes back to the best point where it rose too seldom or not at all."""
    seldom = s.rises < RISING * interval
    stuck = ~s.halved & (s.best == s.best_then)
    halve = seldom | stuck
    return s._replace(
        size=jnp.where(halve, s.size / 2, s.size),
        u=jnp.where(halve, s.best_u, s.u),
        grad=jnp.where(halve, s.best_grad, s.grad),
        value=jnp.where(halve, s.best, s.value),
        rises=jnp.zeros_like(s.rises),
        halved=halve,
        best_then=s.best,
    )


def _checkpoints(steps: int) -> np.ndarray:
    """[steps + 1]: at step i the number of steps since the checkpoint before, 0 where none is."""
    at, shares = [0], [0.0, 0.22]
    while shares[-1] <= 1:
        at.append(int(np.ceil(shares[-1] * steps)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    since = np.zeros(steps + 1, np.int32)
    for before, now in itertools.pairwise(at):
        since[min(now, steps)] = now - before
    return since


def _start(key, like, norm, rho):
    if norm == 2:
        return rho * unit(jax.random.normal(key, like.shape, like.dtype))
    return rho * jax.random.uniform(key, like.shape, like.dtype, -1, 1)


def _direction(g, norm):
    return unit(g) if norm == 2 else jnp.sign(g)


def _project(u, norm, rho):
    if norm == 2:
        length = jnp.linalg.norm(u)
        return jnp.where(length > rho, rho, length) * unit(u)
    return jnp.clip(u, -rho, rho)
