"""Transforms that make one gradient of g and g_ε: GSAM, WSAM, gradient-norm penalty, StableSAM."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees
from samop.ascents import TINY
from samop.transforms.core import (
    Active,
    PyTree,
    Rho,
    Rule,
    SamTransformation,
    check_number,
    two_gradients,
)

Schedule = Callable[[jax.Array], jax.typing.ArrayLike]


def gsam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    alpha: float = 0.4,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """Surrogate-gap SAM: base(g_ε − αg⊥), g⊥ the part of g that is orthogonal to g_ε.

    g⊥ = g − (g·g_ε/‖g_ε‖²) g_ε: going against it lowers the gap between the perturbed loss and
    the loss. The paper lets ρ follow the learning rate linearly: `samop.rho_from_rate`.
    Source: Zhuang et al. 2022, arXiv 2203.08065. Cost: 2 gradient evaluations a step.

    Args:
      base, rho, ascent, mask, groups, ascent_steps, active: as for `samop.sam`.
      alpha: α ≥ 0; with 0 it is SAM. The authors took .4 for ResNets, .6 for ViTs.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.gsam(optax.sgd(0.1), rho=0.05, alpha=0.4)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))
      [ 0.537 -0.45 ]
    """
    check_number("alpha", alpha, "a finite number ≥ 0")

    def combine(g, g_sam, memory):
        return trees.mix(1, g_sam, -alpha, orthogonal(g, g_sam)), memory

    return two_gradients(
        "gsam",
        base,
        rho,
        ascent,
        Rule(combine),
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def rho_from_rate(
    rate: Schedule,
    rho: float | jax.Array,
    rho_end: float | jax.Array,
    rate_max: float,
    rate_min: float = 0.0,
) -> Schedule:
    """GSAM's schedule of ρ: linear in the learning rate, `rho` at its maximum.

    Args:
      rate: schedule of the learning rate.
      rho, rho_end: radius where the rate is rate_max, and where it is rate_min.
      rate_max, rate_min: range of the rate; rate_max > rate_min.

    Source: arXiv 2203.08065, §4.2.

    Raises:
      ValueError: a range of rates that is empty.
    """
    if rate_max <= rate_min:
        raise ValueError(f"rho_from_rate: rate_max={rate_max} should exceed rate_min={rate_min}")
    return lambda count: (
        rho_end + (rho - rho_end) * (rate(count) - rate_min) / (rate_max - rate_min)
    )


def wsam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    gamma: float = 0.9,
    learning_rate: float | Schedule | None = None,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """Weighted SAM: sharpness g_ε − g weighs a = γ/(1−γ) beside the loss.

    Coupled: base((1−a)g + a g_ε). Decoupled, as the paper proposes: base(g), and the weights move
    by −learning_rate · a (g_ε − g) besides, outside of the base's momentum, and at every step:
    with `optax.MultiSteps` as base take the coupled form.
    Source: Yue et al. 2023, arXiv 2305.15817. Cost: 2 gradient evaluations a step.

    Args:
      base, rho, ascent, mask, groups, ascent_steps, active: as for `samop.sam`.
      gamma: γ in [0, 1); .5 coupled is SAM, 0 the base.
      learning_rate: rate (number or schedule) of the decoupled part, the base's as a rule; None:
        coupled.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.wsam(optax.sgd(0.1), rho=0.05, gamma=0.6, learning_rate=0.1)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))
      [ 0.506 -0.447]
    """
    check_number("gamma", gamma, "a number in [0, 1)", high=1 - 1e-9)
    if learning_rate is not None and not callable(learning_rate):
        check_number("learning_rate", learning_rate, "a finite number ≥ 0")
    weight = gamma / (1 - gamma)

    def coupled(g, g_sam, memory):
        return trees.mix(1 - weight, g, weight, g_sam), memory

    def apart(g, g_sam, count):
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return trees.scale(-weight * jnp.asarray(rate), trees.subtract(g_sam, g))

    rule = Rule(coupled)
    if learning_rate is not None:
        rule = Rule(lambda g, g_sam, memory: (g, memory), correction=apart)
    return two_gradients(
        "wsam",
        base,
        rho,
        ascent,
        rule,
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def gnp(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    alpha: float = 0.8,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """Gradient-norm penalty: base((1−α)g + αg_ε), the gradient of L + λ‖∇L‖ for λ = αρ.

    By finite differences, ∇‖∇L‖ ≈ (g_ε − g)/ρ.
    Source: Zhao et al. 2022, arXiv 2202.03599; the default of α is theirs as we recall it.
    Cost: 2 gradient evaluations a step.

    Args:
      base, rho, ascent, mask, groups, ascent_steps, active: as for `samop.sam`.
      alpha: α ≥ 0; 1 is SAM, 0 the base.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.gnp(optax.sgd(0.1), rho=0.05, alpha=0.8)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))
      [ 0.55  -0.448]
    """
    check_number("alpha", alpha, "a finite number ≥ 0")

    def combine(g, g_sam, memory):
        return trees.mix(1 - alpha, g, alpha, g_sam), memory

    return two_gradients(
        "gnp",
        base,
        rho,
        ascent,
        Rule(combine),
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def stablesam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    reverse: bool = False,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """StableSAM: SAM's direction with the clean gradient's length, base(g_ε ‖g‖/‖g_ε‖).

    Together with its reverse, base(g ‖g_ε‖/‖g‖), the control for step size: g_ε is mostly longer
    than g, so that part of what SAM does could be had from a larger rate.
    Source: Zhou et al. 2024, arXiv 2401.07250; the reverse is ours. Cost: 2 gradient evaluations
    a step.

    Args:
      base, rho, ascent, mask, groups, ascent_steps, active: as for `samop.sam`.
      reverse: the clean direction with SAM's length instead.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.stablesam(optax.sgd(0.1), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))
      [ 0.599 -0.455]
    """

    def combine(g, g_sam, memory):
        direction, length = (g, g_sam) if reverse else (g_sam, g)
        factor = trees.norm(length) / (trees.norm(direction) + TINY)
        return trees.scale(factor, direction), memory

    return two_gradients(
        "stablesam",
        base,
        rho,
        ascent,
        Rule(combine),
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def orthogonal(x: PyTree, y: PyTree) -> PyTree:
    """The part of x that is orthogonal to y, over all leaves together; x where y is zero."""
    size = trees.norm(y)
    # Neither y/‖y‖², the square of a small norm being no float32 any more, nor n(y), whose guard
    # leaves a part along y as ‖y‖ nears it.
    along = trees.scale(1 / jnp.where(size > 0, size, 1), y)
    return jax.tree.map(jnp.subtract, trees.wide(x), trees.scale(trees.dot(x, along), along))
