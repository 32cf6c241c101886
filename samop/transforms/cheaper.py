"""Transforms that take fewer second gradients: LookSAM, Momentum-SAM, and windows of training."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees
from samop.transforms.combined import orthogonal
from samop.transforms.core import (
    Active,
    PyTree,
    Rho,
    Rule,
    SamTransformation,
    check_count,
    check_number,
    check_rho,
    check_structure,
    two_gradients,
    with_perturbation,
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
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"window({start}, {end}) is not allowed: 0 ≤ start < end")

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

    def between(g, v):
        # n(v) of v = 0 is 0: before the first SAM step of a window there is nothing to reuse.
        return trees.mix(1, g, alpha * trees.norm(g), ascents.unit(v))

    rule = Rule(
        combine=lambda g, g_sam, v: (g_sam, orthogonal(g_sam, g)),
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


class MsamState(NamedTuple):
    """State of `msam`.

    Attributes:
      count, grad_evals: updates and gradient evaluations so far, int32 scalars.
      epsilon: the perturbation that is in the parameters, float32 [params].
      base: state of the base optimiser.
    """

    count: jax.Array  # type: ignore[assignment]
    grad_evals: jax.Array
    epsilon: PyTree
    base: PyTree


def msam(
    base: optax.GradientTransformation,
    rho: Rho = 0.3,
    *,
    mask: ascents.Mask | None = None,
) -> SamTransformation:
    """Momentum-SAM: perturbs along the base's momentum, which costs no second gradient.

    The parameters that training moves are the perturbed ones, w̃ = w − ρ n(v): gradients are
    taken there, v ← μv + ∇L(w̃), w ← w − ηv. Evaluate, measure and keep
    `samop.eval_params(state, params)`, which is w; training metrics are of w̃. The direction is
    the base's last update, −v for SGD with momentum (and −m̂/(√v̂ + ε), not Adam's first moment,
    for Adam); without momentum it is the last gradient. Weight decay in the base acts on w̃.
    Source: Becker et al. 2024, arXiv 2401.12033, and the authors' code. Cost: 1 gradient
    evaluation a step, and one more copy of the parameters.

    Args:
      base: optimiser with momentum.
      rho: as for `samop.sam`; of the authors' order for classification by default.
      mask: as for `samop.sam`.

    Returns:
      A transformation whose update needs `params`; `grad_fn` may be given and is not used.

    Raises:
      ValueError: as `samop.sam`; for low-precision parameters, in which a perturbation that
        stays in the parameters would round away.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.msam(optax.sgd(0.1, momentum=0.9), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w)
      >>> w = optax.apply_updates(w, updates)
      >>> print(np.asarray([samop.eval_params(state, w), w]).round(3))
      [[ 0.6   -0.45 ]
       [ 0.55  -0.444]]
    """
    check_rho(rho)
    base = optax.with_extra_args_support(base)
    along = ascents.normalized()
    if mask is not None:
        along = ascents.masked(along, mask)

    def init(params):
        for x in jax.tree.leaves(params):
            if jnp.finfo(x.dtype).bits < 32:
                raise ValueError(
                    f"msam: parameters of {x.dtype} cannot hold their perturbation: use float32"
                )
        along.init(params)
        zero = jnp.zeros((), jnp.int32)
        return MsamState(zero, zero, jax.tree.map(jnp.zeros_like, params), base.init(params))

    def update(grads, state, params=None, *, grad_fn=None, **extra):
        del grad_fn
        if params is None:
            raise ValueError("msam: update(grads, state, params) needs params")
        check_structure("msam", grads, params)
        updates, base_state = base.update(grads, state.base, params, **extra)
        size = rho(state.count) if callable(rho) else rho
        epsilon, _ = along.perturb(updates, (), params, size)
        moved = jax.tree.map(
            lambda u, new, old: (u + (new - old)).astype(u.dtype), updates, epsilon, state.epsilon
        )
        count, spent = optax.safe_increment(state.count), state.grad_evals + 1
        return moved, MsamState(count, spent, trees.like(epsilon, state.epsilon), base_state)

    def perturbation(grads, state, params):
        return trees.like(trees.subtract(params, state.epsilon), params), state.epsilon

    return with_perturbation(init, update, perturbation)
