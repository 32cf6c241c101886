"""Gradient descent on any pure loss as one scan: the loop of the theory's experiments.

Sweeps train networks, with evaluation, records and resume. What is here follows a path of steps
that no sweep can: full-batch descent for 10⁵ steps, in float64, with something measured along it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def trajectory(
    tx: optax.GradientTransformationExtraArgs,
    loss_fn: Callable[[PyTree, Any], jax.Array],
    params: PyTree,
    batch_of: Callable[[jax.Array], Any],
    steps: int,
    *,
    every: int,
    record: Callable[[PyTree], PyTree],
) -> tuple[PyTree, PyTree]:
    """Descends for some steps and records along the way. Pure: jit and vmap it.

    Args:
      tx: such as `samop.sam(...)`; a plain optax optimiser wants `optax.with_extra_args_support`.
      loss_fn: `loss_fn(params, batch) -> scalar`.
      params: where to start.
      batch_of: `batch_of(step) -> batch` of that step, 0 … steps − 1; the same tree of shapes.
      steps: number of updates, a multiple of `every`.
      every: updates between two records.
      record: `record(params) -> values`.

    Returns:
      The last parameters, and the values before the first step and after each `every` steps, with
      a leading axis [1 + steps/every].

    Raises:
      ValueError: steps that `every` does not divide.
    """
    if every < 1 or steps < 1 or steps % every:
        raise ValueError(f"every={every} should divide steps={steps}, both ≥ 1")

    def one(i, carry):
        params, state, step = carry
        batch = batch_of(step)
        grad_fn = jax.grad(lambda p: loss_fn(p, batch))
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state, step + 1

    def some(carry, _):
        carry = jax.lax.fori_loop(0, every, one, carry)
        return carry, record(carry[0])

    start = (params, tx.init(params), jnp.zeros((), jnp.int32))
    (last, *_), values = jax.lax.scan(some, start, length=steps // every)
    first = record(params)
    return last, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, values)


def shuffled(data: PyTree, size: int, key: jax.Array) -> Callable[[jax.Array], PyTree]:
    """`batch_of` for `trajectory`: batches without replacement, reshuffled each epoch.

    Args:
      data: arrays [n, …].
      size: examples a batch, ≤ n; a remainder is left out (another each epoch).
      key: of the orders.
    """
    n = len(jax.tree.leaves(data)[0])
    if not 1 <= size <= n:
        raise ValueError(f"size={size} should be from 1 to {n}")
    if size == n:
        return lambda step: data
    per_epoch = n // size

    def batch_of(step):
        order = jax.random.permutation(jax.random.fold_in(key, step // per_epoch), n)
        index = jax.lax.dynamic_slice(order, (step % per_epoch * size,), (size,))
        return jax.tree.map(lambda a: a[index], data)

    return batch_of


def independent(data: PyTree, size: int, key: jax.Array) -> Callable[[jax.Array], PyTree]:
    """`batch_of` for `trajectory`: independent draws with replacement, as the theory has them."""
    n = len(jax.tree.leaves(data)[0])

    def batch_of(step):
        index = jax.random.randint(jax.random.fold_in(key, step), (size,), 0, n)
        return jax.tree.map(lambda a: a[index], data)

    return batch_of
