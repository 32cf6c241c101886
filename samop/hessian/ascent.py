"""The loss around a point: the worst perturbation of a radius, by APGD, and random ones."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import precision, trees
from samop.hessian import draws
from samop.hessian.operators import LossFn, join

PyTree = Any
MOMENTUM = 0.75  # of APGD (arXiv 2003.01690)
RISING = 0.75  # share of steps that must have raised the loss for the step size to stay


class _Apgd(NamedTuple):
    u: PyTree
    before: PyTree
    value: jax.Array
    grad: PyTree
    best: jax.Array
    best_u: PyTree
    best_grad: PyTree
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

    def one(item):
        batch, key = item

        def loss(u):
            moved = trees.add(sub, jax.tree.map(jnp.multiply, scales, u))
            return _loss(loss_fn, dtype, moved, rest, batch)

        gradient = jax.value_and_grad(loss)
        here = loss(jax.tree.map(jnp.zeros_like, sub))
        u = _start(key, sub, norm, rho)
        value, grad = gradient(u)
        two = 2.0 * rho.astype(value.dtype)
        count = jnp.zeros((), jnp.int32)
        state = _Apgd(u, u, value, grad, value, u, grad, two, count, jnp.zeros((), bool), value)

        def body(i, s):
            ahead = _project(trees.mix(1.0, s.u, s.size, _direction(s.grad, norm)), norm, rho)
            # u + .75 (ahead − u) + .25 (u − before); the first step has no momentum.
            a = jnp.where(i == 0, 1.0, MOMENTUM)
            moved = trees.add(
                trees.mix(1.0, s.u, a, trees.subtract(ahead, s.u)),
                trees.scale(1 - a, trees.subtract(s.u, s.before)),
            )
            u = _project(moved, norm, rho)
            value, grad = gradient(u)
            better = value > s.best
            s = s._replace(
                before=s.u,
                u=u,
                grad=grad,
                rises=s.rises + (value > s.value),
                value=value,
                best=jnp.where(better, value, s.best),
                best_u=trees.select(better, u, s.best_u),
                best_grad=trees.select(better, grad, s.best_grad),
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
        u=trees.select(halve, s.best_u, s.u),
        grad=trees.select(halve, s.best_grad, s.grad),
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
        return trees.scale(rho, _direction(draws.normal(key, like), norm))
    return trees.scale(rho, draws.uniform(key, like))


def _direction(g, norm):
    if norm == 2:
        length = trees.norm(g)
        return trees.scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0), g)
    return jax.tree.map(jnp.sign, g)


def _project(u, norm, rho):
    if norm == 2:
        length = trees.norm(u)
        return trees.scale(jnp.where(length > rho, rho / jnp.where(length > 0, length, 1), 1), u)
    return jax.tree.map(lambda x: jnp.clip(x, -rho.astype(x.dtype), rho.astype(x.dtype)), u)
