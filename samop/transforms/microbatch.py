"""m-SAM by a scan over micro-batches: the memory of one, whatever the batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees
from samop.transforms.core import (
    Rho,
    SamState,
    SamTransformation,
    check_count,
    check_rho,
    counters,
    radius,
    with_perturbation,
)

PyTree = Any


class Clean(NamedTuple):
    """What the clean pass at `params` saw, averaged over the groups.

    Attributes:
      value: what loss_fn returns, the loss or (loss, aux).
      grads: gradient at params, in at least float32.
    """

    value: PyTree
    grads: PyTree


def sam_gradient(
    loss_fn: Callable[..., Any],
    ascent: ascents.Ascent | None = None,
    rho: Rho = 0.05,
    *,
    m: int,
    has_aux: bool = False,
    perturbed_loss_fn: Callable[..., Any] | None = None,
    unroll: bool = False,
) -> Callable[..., tuple[PyTree, Clean]]:
    """m-SAM: mean over groups G_j of m examples of ∇L_{G_j}(w + ε_j), ε_j from ∇L_{G_j}(w).

    Groups are computed one after another, so that memory is that of m examples: gradient
    accumulation falls out of it. The result is a finished gradient for any optax optimiser. With
    m equal to the batch it is SAM. `samop.sam(groups=batch // m)` is the same with all groups at
    once. Inside `shard_map` make replicated parameters varying first (`jax.lax.pcast`): JAX sums
    gradients of replicated ones over the devices, before the ascent.

    Source: m-sharpness, arXiv 2010.01412 §4.1, and arXiv 2206.06232. Cost: 2 gradient evaluations
    of the whole batch.

    Args:
      loss_fn: `loss_fn(params, batch, *args)`, the mean loss over the examples of a batch.
      ascent: a rule of `samop.ascents` that keeps no state; default: normalised.
      rho: radius ≥ 0, a number or a traced array.
      m: examples per group; divides the batch.
      has_aux: loss_fn returns (loss, aux).
      perturbed_loss_fn: another form of the loss for the second pass, e.g. in higher precision.
      unroll: compile the groups one by one instead of as a loop: for networks so small that the
        loop itself weighs. XLA may then hold the activations of all groups at once.

    Returns:
      `gradient(params, batch, *args) -> (grads, Clean)`. `batch` is a pytree of arrays [B, ...],
      group j is examples jm … (j+1)m − 1. Low-precision parameters are seen as float32 ones at
      both points. grads are in at least float32.

    Raises:
      ValueError: an ascent with a state, a bad ρ or m; where called, m that does not divide the
        batch.

    Example:
      >>> import jax.numpy as jnp, optax, samop
      >>> loss = lambda w, x: jnp.mean((x @ w) ** 2)
      >>> w, x = jnp.ones(2), jnp.arange(12.0).reshape(6, 2)
      >>> gradient = samop.sam_gradient(loss, rho=0.05, m=2)
      >>> g, clean = gradient(w, x)
      >>> print(g.round(1), clean.value.round(2))
      [162.2 185. ] 167.67
    """
    check_rho(rho)
    check_count("m", m)
    if callable(rho):
        raise ValueError("sam_gradient: rho is a number here, not a schedule: it counts no steps")
    ascent = ascents.normalized() if ascent is None else ascent
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)
    perturbed_grad = jax.grad(perturbed_loss_fn or loss_fn, has_aux=has_aux)

    def gradient(params, batch, *args):
        if jax.tree.leaves(jax.eval_shape(ascent.init, params)):
            raise ValueError(
                "sam_gradient: this ascent keeps a state between steps: use sam(..., groups=G)"
            )
        groups = _divide(batch, m)
        start = trees.wide(params)

        def both(group):
            value, g = value_and_grad(start, group, *args)
            epsilon, _ = ascent.perturb(g, (), params, rho)
            g_sam = perturbed_grad(trees.add(start, epsilon), group, *args)
            # Of a truth value the mean is a share.
            value = jax.tree.map(lambda x: jnp.where(x, 1.0, 0.0) if _is_bool(x) else x, value)
            return g_sam[0] if has_aux else g_sam, Clean(value, g)

        first, rest = jax.tree.map(lambda x: x[0], groups), jax.tree.map(lambda x: x[1:], groups)
        count = len(jax.tree.leaves(groups)[0])
        # The first group gives the sum its shapes and dtypes.
        total, _ = jax.lax.scan(
            lambda total, group: (jax.tree.map(jnp.add, total, both(group)), None),
            both(first),
            rest,
            unroll=unroll,
        )
        return jax.tree.map(lambda x: x / count, total)

    return gradient


def finished(
    base: optax.GradientTransformation, rho: Rho, ascent: ascents.Ascent
) -> SamTransformation:
    """`base` for gradients that `sam_gradient` has made: counts steps and gradient evaluations.

    Args:
      base: the optimiser that takes them.
      rho, ascent: what they are made with, so that `samop.diagnose` can measure it.
    """
    base = optax.with_extra_args_support(base)

    def init(params):
        return SamState(*counters(), ascent.init(params), (), base.init(params))

    def update(grads, state, params=None, **extra):
        updates, base_state = base.update(grads, state.base, params, **extra)
        count, spent = optax.safe_increment(state.count), state.grad_evals + 2
        return updates, SamState(count, spent, state.ascent, (), base_state)

    def perturbation(grads, state, params):
        size = radius(rho, state.count)
        return params, ascent.perturb(grads, state.ascent, params, size)[0]

    return with_perturbation(init, update, perturbation)


def _is_bool(x: jax.typing.ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.bool)


def _divide(batch: PyTree, m: int) -> PyTree:
    shapes = [jnp.shape(x) for x in jax.tree.leaves(batch)]
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"sam_gradient: all arrays of a batch should have its length first: shapes {shapes}"
        )
    size = shapes[0][0]
    if size % m or not size:
        raise ValueError(f"m={m} does not divide the batch of {size} examples")
    return jax.tree.map(lambda x: x.reshape(size // m, m, *x.shape[1:]), batch)
