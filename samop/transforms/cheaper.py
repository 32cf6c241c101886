"""Transforms that take fewer second gradients: LookSAM, and windows of training."""

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees
from samop.transforms.combined import orthogonal
from samop.transforms.core import (
    Active,
    Rho,
    Rule,
    SamTransformation,
    check_count,
    check_number,
    two_gradients,
)


def window(start: int, end: int | None = None) -> Callable[[jax.Array], jax.Array]:
    """For the argument `active` of transforms: SAM at steps start ≤ step < end only.

    SAM late in training is enough in arXiv 2410.10373; arXiv 2406.09723 leaves out the beginning.
    Other steps cost one gradient evaluation, also in a vmapped group: the step count decides,
    not a run's own values.

    Args:
      start, end: numbers of updates; end None: to the end.

    Raises:
      ValueError: a window that is empty or begins before step 0.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.sam(optax.sgd(0.01), rho=0.05, active=samop.window(2, 5))
      >>> w = jnp.array([1.0, -0.5])
      >>> state = tx.init(w)
      >>> for _ in range(10):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w, grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> print(state.grad_evals)
      13
    """
    whole = all(isinstance(step, numbers.Integral) for step in (start, end) if step is not None)
    if not whole or start < 0 or (end is not None and end <= start):
        raise ValueError(
            f"window({start}, {end}) is not allowed: whole numbers of updates, 0 ≤ start < end"
        )

    def active(count):
        return count >= start if end is None else (count >= start) & (count < end)

    return active


def looksam(
    base: optax.GradientTransformation,
    rho: Rho = 0.1,
    *,
    k: int = 5,
    alpha: float = 0.7,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """LookSAM: SAM every k steps, its part orthogonal to g reused in between.

    At steps 0, k, 2k, … base(g_ε), and v ← g_ε − (g_ε·g/‖g‖²) g is kept; at the others
    base(g + α‖g‖ n(v)), without a second gradient.
    Source: Liu et al. 2022, arXiv 2203.02714. Cost: 1 + 1/k gradient evaluations a step, and
    one more copy of the parameters.

    Args:
      base, rho, ascent, mask, groups, ascent_steps, active: as for `samop.sam`.
      k: period, a whole number ≥ 1; with 1 it is SAM.
      alpha: α ≥ 0, weight of the reused part.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.looksam(optax.sgd(0.01), rho=0.05, k=5)
      >>> w = jnp.array([1.0, -0.5])
      >>> state = tx.init(w)
      >>> for _ in range(10):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w, grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> print(state.grad_evals)
      12
    """
    check_count("k", k)
    check_number("alpha", alpha, "a finite number ≥ 0")

    def between(g, direction):
        # Zeros before the first SAM step of a window: there is nothing to reuse yet.
        return trees.mix(1, g, alpha * trees.norm(g), direction)

    rule = Rule(
        # n(v) rather than v: it is made once in k steps.
        combine=lambda g, g_sam, direction: (g_sam, ascents.unit(orthogonal(g_sam, g))),
        init=lambda params: jax.tree.map(jnp.zeros_like, trees.wide(params)),
        ascends=lambda count: count % k == 0,
        between=between,
    )
    return two_gradients(
        "looksam",
        base,
        rho,
        ascent,
        rule,
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )
