"""Whether SAM does what it says: the perturbation of a step, measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samop import trees
from samop.ascents import TINY
from samop.precision import cast
from samop.transforms import SamTransformation

PyTree = Any
SURVIVED = 0.5  # share of the perturbation below which SAM counts as inactive


class Diagnosis(NamedTuple):
    """One step's perturbation, float scalars.

    Attributes:
      grad_norm: ‖g‖.
      epsilon_norm: ‖ε‖, ρ for the normalised rule.
      cosine: cos(g, g_ε); 0 where one of them vanishes.
      loss_increase: L(w+ε) − L(w).
      first_order: g·ε, what a linear loss would rise by; ρ‖g‖ for the normalised rule.
      moved: of the coordinates with ε ≠ 0 the share whose value in the second pass differs from
        that in the first; 0 where there are none.
      survived: share of ε that rounding leaves, δ·ε/‖ε‖² for the displacement δ between the two
        passes: mostly of the large coordinates, so that it exceeds `moved`; 0 where ε is 0.
    """

    grad_norm: jax.Array
    epsilon_norm: jax.Array
    cosine: jax.Array
    loss_increase: jax.Array
    first_order: jax.Array
    moved: jax.Array
    survived: jax.Array


def cosine(a: PyTree, b: PyTree) -> jax.Array:
    """cos of the angle between two pytrees; 0 where one of them vanishes. Scalar."""
    return trees.dot(trees.scale(1 / (trees.norm(a) + TINY), a), b) / (trees.norm(b) + TINY)


def diagnose(
    tx: SamTransformation,
    state: PyTree,
    params: PyTree,
    loss_fn: Callable[[PyTree], jax.Array],
    *,
    dtype: Any = None,
    loss_scale: jax.typing.ArrayLike = 1.0,
) -> Diagnosis:
    """Measures the perturbation with which `tx` would take its next step. Costs 2 gradients.

    Args:
      tx: a transform of samop, not inside a wrapper; its state, and the parameters.
      state, params: before the step.
      loss_fn: `loss_fn(params)`, the loss of the step's batch (of one ascent group for m-SAM).
      dtype: dtype that loss_fn computes in, where it is not the parameters' own: coordinates
        count as moved if they differ after being rounded to it.
      loss_scale: factor that loss_fn has, for the sake of float16; taken out here.

    Example:
      >>> import jax.numpy as jnp, optax, samop
      >>> tx = samop.sam(optax.sgd(0.1), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> d = samop.diagnose(tx, tx.init(w), w, lambda w: jnp.sum(w**2))
      >>> print(f"{d.loss_increase:.4f} of {d.first_order:.4f}, {d.moved:.0%} moved")
      0.1143 of 0.1118, 100% moved
    """
    if not isinstance(tx, SamTransformation):
        raise TypeError("diagnose: tx should be a transform of samop, as samop.sam(...) returns")
    # Where to take g is known before g is: whatever has its structure will do here.
    start = trees.wide(tx.perturbation(params, state, params)[0])

    def value_and_grad(w):
        return trees.scale(1 / jnp.asarray(loss_scale), jax.value_and_grad(loss_fn)(w))

    value, g = value_and_grad(start)
    _, epsilon = tx.perturbation(g, state, params)
    there = trees.add(start, epsilon)
    perturbed, g_sam = value_and_grad(there)
    pairs = zip(*(jax.tree.leaves(t) for t in (epsilon, cast(there, dtype), cast(start, dtype))))
    meant, moved, along = (jnp.zeros((), jnp.float32) for _ in range(3))
    for e, new, old in pairs:
        meant += jnp.sum(e != 0)
        moved += jnp.sum((e != 0) & (new != old))
        along += trees.dot(trees.subtract(new, old), e)
    length = trees.dot(epsilon, epsilon)
    return Diagnosis(
        trees.norm(g),
        trees.norm(epsilon),
        cosine(g, g_sam),
        perturbed - value,
        trees.dot(g, epsilon),
        moved / jnp.maximum(meant, 1),
        along / jnp.where(length > 0, length, 1),
    )


def inactive(diagnosis: Diagnosis, rho: float) -> str:
    """Why SAM does nothing though ρ > 0, in a few words; empty where it is active.

    Args:
      diagnosis: concrete values of one run.
      rho: the radius that was asked for.
    """
    if rho == 0 or not diagnosis.grad_norm > 0:
        return ""
    if diagnosis.epsilon_norm == 0:
        return f"ρ={rho:g} was asked for, but the perturbation is zero: a schedule has lost ρ"
    if diagnosis.survived < SURVIVED:
        left, moved = (100 * float(x) for x in (diagnosis.survived, diagnosis.moved))
        return (
            f"rounding leaves {left:.0f} % of a perturbation of ρ={rho:g} ({moved:.0f} % of its "
            "coordinates): compute the second pass in float32, or ask whether the weights have "
            "grown out of all proportion"
        )
    return ""
