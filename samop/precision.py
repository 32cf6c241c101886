"""Low precision: casts, and dynamic loss scaling that sees both of SAM's gradients.

At ρ = .05 and 10⁷ parameters a coordinate moves by 1.6e-5, below bfloat16's spacing at .05: made
in bfloat16 the perturbation loses most of its coordinates, and at small ρ what SAM adds is lost
with them (experiments/precision.py). So it is made in float32, and so is the gradient there;
`samop.diagnose` measures what is left.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import trees

PyTree = Any
HIDING = (optax.ApplyIfFiniteState, optax.ZeroNansState, optax.MultiStepsState)
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The floating-point leaves in a dtype; None leaves them as they are."""
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


class LossScaledState(NamedTuple):
    """State of `loss_scaled`; floats rather than counts, since runs of one program differ in them.

    Attributes:
      scale: factor that the next loss is to be multiplied by, float32 scalar.
      good: steps since it last changed, float32 scalar.
      skipped: steps without an update, float32 scalar.
      inner: the wrapped transformation's state.
    """

    scale: jax.Array
    good: jax.Array
    skipped: jax.Array
    inner: PyTree


def loss_scaled(
    tx: optax.GradientTransformation,
    initial: float = 2.0**15,
    *,
    growth_interval: int = 2000,
    factor: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Dynamic loss scaling around a SAM transform (or any other), for float16.

    The loss that is differentiated is to be `state.scale` times the loss, in both passes:
    gradients and what `grad_fn` returns are divided by it here. Where a gradient of either pass
    is not finite, the step changes nothing but the scale, which is divided by `factor` (not
    below 1), and step counts, which go on; after `growth_interval` good steps it is multiplied.
    An overflow of the second pass is seen in the updates, so nothing within may hide or keep it:
    `optax.apply_if_finite`, `zero_nans` and `MultiSteps` are refused. flax's DynamicScale sees
    one gradient a step only.

    Source: Micikevicius et al. 2018, arXiv 1710.03740, §3.2.

    Args:
      tx: the transformation; its state is made for float32 parameters.
      initial: first scale.
      growth_interval: number of good steps before it grows.
      factor: by how much it changes, > 1.

    Raises:
      ValueError: an argument out of range; when a state is made, a base that hides overflows.

    Example:
      >>> import jax, jax.numpy as jnp, optax, samop
      >>> tx = samop.loss_scaled(samop.sam(optax.sgd(0.1), rho=0.05), initial=2.0**10)
      >>> w = jnp.ones(3, jnp.float16)
      >>> state = tx.init(w)
      >>> grad = jax.grad(lambda w: state.scale * jnp.sum(w.astype(jnp.float16) ** 2))
      >>> updates, state = tx.update(grad(w), state, w, grad_fn=grad)
      >>> w = optax.apply_updates(w, updates)
      >>> print(w, state.skipped)
      [0.794 0.794 0.794] 0.0
    """
    if initial < 1 or growth_interval < 1 or factor <= 1:
        raise ValueError(
            f"loss_scaled: initial={initial} and growth_interval={growth_interval} should be ≥ 1, "
            f"factor={factor} > 1"
        )
    tx = optax.with_extra_args_support(tx)

    def init(params):
        inner = tx.init(trees.wide(params))
        for x in jax.tree.leaves(inner, is_leaf=lambda x: isinstance(x, HIDING)):
            if isinstance(x, HIDING):
                raise ValueError(f"loss_scaled: {type(x).__name__} within would hide an overflow")
        scale = jnp.full((), initial, jnp.float32)
        good, skipped = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
        return LossScaledState(scale, good, skipped, inner)

    def update(grads, state, params=None, *, grad_fn=None, **extra):
        def unscale(tree):
            tree = trees.scale(1 / state.scale, tree)
            # One bad coordinate spoils all: clipping in the base must not hide it.
            return trees.select(_finite(tree), tree, jax.tree.map(_nan, tree))

        if grad_fn is not None:
            extra["grad_fn"] = lambda p: unscale(grad_fn(p))
        grads = unscale(grads)
        updates, inner = tx.update(grads, state.inner, params, **extra)
        good = _finite(grads) & _finite(updates)
        updates = trees.select(good, updates, jax.tree.map(jnp.zeros_like, updates))
        inner = jax.tree.map(
            lambda new, old: new if _is_count(new) else jnp.where(good, new, old),
            inner,
            state.inner,
        )
        run = jnp.where(good, state.good + 1, 0)
        grown = run >= growth_interval
        scale = jnp.where(good, state.scale, jnp.maximum(state.scale / factor, 1))
        scale = jnp.where(grown, scale * factor, scale)
        skipped = state.skipped + jnp.where(good, 0.0, 1.0)
        return updates, LossScaledState(scale, jnp.where(grown, 0, run), skipped, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def _nan(x: jax.Array) -> jax.Array:
    return jnp.full_like(x, jnp.nan)


def _is_count(x: jax.Array) -> bool:
    return x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer)
