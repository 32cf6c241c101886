"""Transforms that give g_ε to the base and differ in ε: SAM, ASAM, F-SAM, VASSO, ESAM."""

import jax
import optax

from samop import ascents
from samop.transforms.core import (
    Active,
    Rho,
    SamTransformation,
    check_number,
    two_gradients,
)


def sam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    ascent: ascents.Ascent | None = None,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """Sharpness-aware minimisation: `base` applied to ∇L(w + ε), ε = ρ ∇L(w)/‖∇L(w)‖₂.

    Source: Foret et al. 2021, arXiv 2010.01412. Cost: 2 gradient evaluations a step.

    Args:
      base: the optimiser that receives the SAM gradient, e.g. `optax.sgd(0.1, 0.9)`.
      rho: radius of the perturbation, ≥ 0: a number, a traced array, or a schedule of the
        number of updates done so far. With 0 the updates are those of `base`.
      ascent: another perturbation rule from `samop.ascents`; the default normalises globally.
      mask: booleans of the parameters' structure (or a prefix), or a function that makes them
        from the parameters, as `samop.ascents.norm_layers`: perturb only what it selects and
        take the norm over that alone.
      groups: number G of ascent groups (m-SAM, m = batch/G): `grads` and what `grad_fn` takes
        and returns then carry a leading axis of G, and each group has an ascent of its own; the
        gradients are averaged after it. With ρ = 0 this is the base to float tolerance.
      ascent_steps: number K of ascent steps, each of radius ρ/K; cost K + 1.
      active: `active(step) -> bool`, as `samop.window(start, end)`: on other steps the base
        takes the clean gradient and grad_fn is not called.

    Returns:
      A transformation whose `update(grads, state, params, *, grad_fn, **extra)` needs `params`
      and `grad_fn(params) -> grads`, the gradient on the same batch and with the same dropout
      key as `grads`; further keyword arguments are passed on to `base`. Low-precision
      parameters are perturbed in float32: `grad_fn` then receives float32 parameters. What the
      base receives has the dtypes of `grads`.

    Raises:
      ValueError: ρ is a concrete number that is negative or not finite; at an update without
        `params` or `grad_fn`, or where gradients and parameters differ in structure or shape.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.sam(optax.sgd(0.1), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, grad_fn=jax.grad(loss))
      >>> w = optax.apply_updates(w, updates)
      >>> print(np.asarray(w).round(3), state.grad_evals)
      [ 0.537 -0.448] 2
    """
    return two_gradients(
        "sam",
        base,
        rho,
        ascent,
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def asam(
    base: optax.GradientTransformation,
    rho: Rho = 0.5,
    *,
    eta: float = 0.01,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """Adaptive SAM: ε = ρ T²g/‖Tg‖₂, T = |w| + η on weights and 1 on biases.

    Invariant to rescalings of weights that leave the network's function alone (up to η). Its ρ
    is larger than SAM's: the authors took .5 on CIFAR-10 and 1 on CIFAR-100.

    Source: Kwon et al. 2021, arXiv 2102.11600, and the authors' code for which leaves are
    weights: all but those named "bias"; `sam(ascent=ascents.adaptive(eta, weights))` decides
    otherwise. Cost: 2 gradient evaluations a step.

    Args:
      base, rho, mask, groups, ascent_steps, active: as for `samop.sam`.
      eta: η, keeps T away from zero.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.asam(optax.sgd(0.1), rho=0.5)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))
      [-0.361 -0.445]
    """
    check_number("eta", eta, "a finite number ≥ 0")
    return two_gradients(
        "asam",
        base,
        rho,
        ascents.adaptive(eta),
        mask=mask,
        groups=groups,
        ascent_steps=ascent_steps,
        active=active,
    )


def fsam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    sigma: float = 1.0,
    lam: float = 0.9,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    active: Active | None = None,
) -> SamTransformation:
    """Friendly SAM: perturbs along the batch's part of g, ε = ρ n(g − σm), m a mean of past g.

    m ← λm + (1−λ)g after the perturbation; at the first step d = m = g.
    Source: Li et al. 2024, arXiv 2403.12350, and the authors' code. Cost: 2 gradient
    evaluations a step, and one more copy of the parameters.

    Args:
      base, rho, mask, groups, active: as for `samop.sam`; groups share m.
      sigma: σ, share of the mean that is taken out.
      lam: λ in [0, 1], how slowly the mean moves.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.fsam(optax.sgd(0.1), rho=0.05)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, state = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))  # the first step is SAM's
      [ 0.537 -0.448]
    """
    check_number("sigma", sigma, "a finite number ≥ 0")
    check_number("lam", lam, "a number in [0, 1]", high=1)
    rule = ascents.friendly(sigma, lam)
    return two_gradients("fsam", base, rho, rule, mask=mask, groups=groups, active=active)


def vasso(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    theta: float = 0.4,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    active: Active | None = None,
) -> SamTransformation:
    """Variance-suppressed SAM: perturbs along a moving mean, d ← (1−θ)d + θg, ε = ρ n(d).

    Source: Li, Zhang and Giannakis 2025, arXiv 2509.02433; d starts at 0, the default of θ is
    ours. Cost: 2 gradient evaluations a step, and one more copy of the parameters.

    Args:
      base, rho, mask, groups, active: as for `samop.sam`; groups share d.
      theta: θ in (0, 1]; with 1 it is SAM.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.vasso(optax.sgd(0.1), rho=0.05, theta=0.2)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, state = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))  # the first step is SAM's
      [ 0.537 -0.448]
    """
    check_number("theta", theta, "a number in (0, 1]", low=1e-12, high=1)
    rule = ascents.smoothed(theta)
    return two_gradients("vasso", base, rho, rule, mask=mask, groups=groups, active=active)


def esam(
    base: optax.GradientTransformation,
    rho: Rho = 0.05,
    *,
    beta: float = 0.6,
    key: jax.Array | int = 0,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    active: Active | None = None,
) -> SamTransformation:
    """ESAM's stochastic weight perturbation: ε = (ρ/β) b ⊙ n(g), b Bernoulli(β) a coordinate.

    The other half of ESAM, choosing examples by their loss, needs more than gradients and is not
    here. Under `jit` the weight part saves no time: both gradients are taken in full.
    Source: Du et al. 2022, arXiv 2110.03141 (β about .6 there as we recall it; 1, which is
    SAM, in the authors' code). Cost: 2 gradient evaluations a step.

    Args:
      base, rho, mask, groups, active: as for `samop.sam`.
      beta: β in (0, 1].
      key: typed key or seed of the masks.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, samop
      >>> loss = lambda w: jnp.sum(w**4)
      >>> tx = samop.esam(optax.sgd(0.1), rho=0.05, beta=1.0)
      >>> w = jnp.array([1.0, -0.5])
      >>> updates, state = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
      >>> print(np.asarray(w + updates).round(3))  # with β = 1 it is SAM
      [ 0.537 -0.448]
    """
    check_number("beta", beta, "a number in (0, 1]", low=1e-12, high=1)
    rule = ascents.bernoulli(beta, key)
    return two_gradients("esam", base, rho, rule, mask=mask, groups=groups, active=active)
