"""The SAM family as optax gradient transformations.

A transform takes gradients at `params` and a `grad_fn`, and returns updates. It knows nothing of
models, batches or BatchNorm. It is the outermost transformation: clipping, weight decay and
accumulation belong into `base`, where they act on the SAM gradient.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees

PyTree = Any
Rho = float | jax.Array | Callable[[jax.Array], jax.typing.ArrayLike]


class SamState(NamedTuple):
    """State of `sam`: update count, gradient evaluations so far (int32 scalars), inner states."""

    count: jax.Array  # type: ignore[assignment]  # the name that optax's states have
    grad_evals: jax.Array
    ascent: PyTree
    base: PyTree


def sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    ascent: ascents.Ascent | None = None,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-aware minimisation: `base` applied to ∇L(w + ε), ε = ρ ∇L(w)/‖∇L(w)‖₂.

    Source: Foret et al. 2021, arXiv 2010.01412. Cost: 2 gradient evaluations a step.

    Args:
      base: the optimiser that receives the SAM gradient, e.g. `optax.sgd(0.1, 0.9)`.
      rho: radius of the perturbation, ≥ 0: a number, a traced array, or a schedule of the
        number of updates done so far. With 0 the updates are those of `base`.
      ascent: another perturbation rule from `samop.ascents`; the default normalises globally.
      mask: booleans of the parameters' structure (or a prefix), or a function that makes them
        from the parameters: perturb only these leaves and take the norm over them alone.

    Returns:
      A transformation whose `update(grads, state, params, *, grad_fn, **extra)` needs `params`
      and `grad_fn(params) -> grads`, the gradient on the same batch and with the same dropout
      key as `grads`; further keyword arguments are passed on to `base`. Low-precision
      parameters are perturbed in float32: `grad_fn` then receives float32 parameters.

    Raises:
      ValueError: ρ is a concrete number that is negative or not finite; at an update without
        `params` or `grad_fn`, or where gradients and parameters differ in structure.

    Example:
      >>> import jax, jax.numpy as jnp, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.sam(optax.sgd(0.1), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, grad_fn=jax.grad(loss))
      >>> w = optax.apply_updates(w, updates)
      >>> print(jnp.round(w, 3), state.grad_evals)
      [ 0.537 -0.448] 2
    """
    check_rho(rho)
    base = optax.with_extra_args_support(base)
    ascent = ascents.normalized() if ascent is None else ascent
    if mask is not None:
        ascent = ascents.masked(ascent, mask)

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return SamState(zero, zero, ascent.init(params), base.init(params))

    def update(grads, state, params=None, *, grad_fn=None, **extra):
        check_update("sam", grads, params, grad_fn)
        radius = rho(state.count) if callable(rho) else rho
        epsilon, ascent_state = ascent.perturb(grads, state.ascent, params, radius)
        sam_grads = grad_fn(trees.add(params, epsilon))
        updates, base_state = base.update(sam_grads, state.base, params, **extra)
        return updates, SamState(
            optax.safe_increment(state.count), state.grad_evals + 2, ascent_state, base_state
        )

    return optax.GradientTransformationExtraArgs(init, update)


def grad_evals(opt_state: PyTree, steps: jax.Array) -> jax.Array:
    """Gradient evaluations behind an optimiser state: counted by a SAM transform, else `steps`."""
    return opt_state.grad_evals if hasattr(opt_state, "grad_evals") else steps


def check_rho(rho: Rho) -> None:
    """Refuses a concrete ρ that is negative or not finite; traced values and schedules pass."""
    if callable(rho) or isinstance(rho, jax.core.Tracer):
        return
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho={rho} is not allowed: the radius is a finite number ≥ 0")


def check_update(name: str, grads: PyTree, params: PyTree, grad_fn: Callable | None) -> None:
    """Raises at trace time where an update lacks what it needs: never a silent base step."""
    if params is None:
        raise ValueError(f"{name}: update(grads, state, params, grad_fn=...) needs params")
    if grad_fn is None:
        raise ValueError(
            f"{name}: update needs grad_fn=, a function params -> grads on the same batch; "
            "inside optax.chain pass it to the chain's update"
        )
    of_grads: Any = jax.tree.structure(grads)
    of_params: Any = jax.tree.structure(params)
    if of_grads != of_params:
        raise ValueError(
            f"{name}: gradients and parameters differ in structure: {of_grads} against {of_params}"
        )
