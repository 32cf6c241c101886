"""What all transforms share: state, checks, and the step with two gradients."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees

PyTree = Any
Rho = jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike]
Active = Callable[[jax.Array], jax.typing.ArrayLike]


class SamState(NamedTuple):
    """State of a transform with two gradients.

    Attributes:
      count: updates so far, int32 scalar.
      grad_evals: gradient evaluations so far, int32 scalar.
      ascent: state of the perturbation rule.
      memory: what the variant keeps between steps; () for most.
      base: state of the base optimiser.
    """

    count: jax.Array  # type: ignore[assignment]  # the name that optax's states have
    grad_evals: jax.Array
    ascent: PyTree
    memory: PyTree
    base: PyTree


class SamTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that also tells its perturbation.

    Attributes:
      perturbation: `perturbation(grads, state, params) -> (w, epsilon)`: the weights that are
        looked for and the displacement at which an update takes its gradient, also where this
        step is outside its window; of m-SAM that of one group, with gradients of one group, and
        of several ascent steps the first. For all but `msam`, w is params.
    """

    perturbation: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class Rule(NamedTuple):
    """How a variant makes one gradient for the base of the two it has. All in at least float32.

    Attributes:
      combine: `combine(g, g_sam, memory) -> (gradient, memory)`.
      init: `init(params) -> memory`.
      ascends: `ascends(count)`: whether this step takes the second gradient; None: each does.
      between: `between(g, memory) -> gradient` on steps without it.
      correction: `correction(g, g_sam, count)`: added to the base's updates.
    """

    combine: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    init: Callable[[PyTree], PyTree] = lambda params: ()
    ascends: Active | None = None
    between: Callable[[PyTree, PyTree], PyTree] = lambda g, memory: g
    correction: Callable[[PyTree, PyTree, jax.Array], PyTree] | None = None


PLAIN = Rule(lambda g, g_sam, memory: (g_sam, memory))


def two_gradients(
    name: str,
    base: optax.GradientTransformation,
    rho: Rho,
    ascent: ascents.Ascent | None,
    rule: Rule = PLAIN,
    *,
    mask: ascents.Mask | None = None,
    groups: int | None = None,
    ascent_steps: int = 1,
    active: Active | None = None,
) -> SamTransformation:
    """The transformation of a variant; `samop.sam` documents the arguments."""
    check_rho(rho)
    check_count("ascent_steps", ascent_steps)
    if groups is not None:
        check_count("groups", groups)
    base = optax.with_extra_args_support(base)
    ascent = ascents.normalized() if ascent is None else ascent
    if mask is not None:
        ascent = ascents.masked(ascent, mask)
    perturb, add, mean = ascent.perturb, trees.add, lambda tree: tree
    if groups:
        # One ascent a group, all from the state before the step; the states are averaged.
        perturb = jax.vmap(ascent.perturb, in_axes=(0, None, None, None))
        add, mean = jax.vmap(trees.add, in_axes=(None, 0)), _mean

    def init(params):
        return SamState(*counters(), ascent.init(params), rule.init(params), base.init(params))

    def perturbation(grads, state, params):
        size = radius(rho, state.count) / ascent_steps
        return params, ascent.perturb(grads, state.ascent, params, size)[0]

    def update(grads, state, params=None, *, grad_fn=None, **extra):
        check_update(name, grads, params, grad_fn, groups)
        size = radius(rho, state.count)
        # Concrete, the case distinction is made here and costs nothing.
        off = size == 0

        def second(perturbed):
            made = grad_fn(perturbed)
            check_gradients(name, "what grad_fn returns", made, params, groups)
            return made

        def sharp(grads):
            epsilon, inner = perturb(grads, state.ascent, params, size / ascent_steps)
            inner = mean(inner)
            g_sam = second(add(params, epsilon))
            for _ in range(ascent_steps - 1):
                more, inner = perturb(g_sam, inner, params, size / ascent_steps)
                epsilon, inner = trees.add(epsilon, more), mean(inner)
                g_sam = second(add(params, epsilon))
            g, g_sam = mean(trees.wide(grads)), mean(trees.wide(g_sam))
            gradient, memory = rule.combine(g, g_sam, state.memory)
            # The combinations of equal gradients are equal up to rounding only.
            gradient = _unless(off, gradient, g_sam)
            correction: PyTree = ()
            if rule.correction is not None:
                correction = rule.correction(g, g_sam, state.count)
                correction = _unless(off, correction, jax.tree.map(jnp.zeros_like, correction))
            spent = jnp.asarray(1 + ascent_steps, jnp.int32)
            return trees.like(gradient, grads), correction, inner, memory, spent

        def without(gradient):
            zeros = jax.tree.map(jnp.zeros_like, trees.wide(params))
            correction = () if rule.correction is None else zeros
            spent = jnp.ones((), jnp.int32)
            return trees.like(gradient, grads), correction, state.ascent, state.memory, spent

        def between(grads):
            g = mean(trees.wide(grads))
            return without(_unless(off, rule.between(g, state.memory), g))

        step = sharp
        if rule.ascends is not None:
            due = rule.ascends(state.count)
            step = lambda grads: jax.lax.cond(due, sharp, between, grads)  # noqa: E731
        if active is not None:
            inside, within = step, active(state.count)
            outside = lambda grads: without(mean(trees.wide(grads)))  # noqa: E731
            step = lambda grads: jax.lax.cond(within, inside, outside, grads)  # noqa: E731
        gradient, correction, inner, memory, spent = step(grads)
        updates, base_state = base.update(gradient, state.base, params, **extra)
        if rule.correction is not None:
            updates = jax.tree.map(lambda u, c: u + c.astype(u.dtype), updates, correction)
        count = optax.safe_increment(state.count)
        return updates, SamState(count, state.grad_evals + spent, inner, memory, base_state)

    return with_perturbation(init, update, perturbation)


def counters() -> tuple[jax.Array, jax.Array]:
    """Zeros for `count` and `grad_evals`; two arrays, since a buffer cannot be donated twice."""
    return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)


def radius(rho: Rho, count: jax.Array) -> jax.typing.ArrayLike:
    """ρ at a step."""
    return rho(count) if callable(rho) else rho


def with_perturbation(
    init: Callable, update: Callable, perturbation: Callable
) -> SamTransformation:
    """A SamTransformation from its three functions."""
    tx = SamTransformation(init, update)
    tx.perturbation = perturbation
    return tx


def _unless(off: Any, value: PyTree, otherwise: PyTree) -> PyTree:
    if isinstance(off, bool):
        return otherwise if off else value
    return trees.select(off, otherwise, value)


def _mean(tree: PyTree) -> PyTree:
    """Mean over the leading axis; of what is no number of the groups' (counts), the first."""
    return jax.tree.map(
        lambda x: jnp.mean(x, 0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0], tree
    )


def check_rho(rho: Rho) -> None:
    """Refuses a concrete ρ that is negative or not finite; traced values and schedules pass."""
    if not callable(rho):
        check_number("rho", rho, "the radius is a finite number ≥ 0")


def check_number(
    name: str, value: Any, what: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Refuses a concrete value outside [low, high]; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if callable(value):
        raise ValueError(f"{name} is not allowed to be a schedule: {what}")
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}={value} is not allowed: {what}")


def check_count(name: str, value: Any) -> None:
    """Refuses what is no whole number ≥ 1: shapes and loops depend on it, so it is never traced."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = ""
        if isinstance(value, jax.Array):
            hint = "; in optax.inject_hyperparams list it among static_args"
        raise ValueError(f"{name}={value!r} is not allowed: it is a whole number ≥ 1{hint}")


def check_update(
    name: str, grads: PyTree, params: PyTree, grad_fn: Callable | None, groups: int | None = None
) -> None:
    """Raises at trace time where an update lacks what it needs: never a silent base step."""
    if params is None:
        raise ValueError(f"{name}: update(grads, state, params, grad_fn=...) needs params")
    if grad_fn is None:
        raise ValueError(
            f"{name}: update needs grad_fn=, a function params -> grads on the same batch; "
            "inside optax.chain pass it to the chain's update"
        )
    check_gradients(name, "gradients", grads, params, groups)


def check_gradients(
    name: str, what: str, grads: PyTree, params: PyTree, groups: int | None = None
) -> None:
    """Refuses gradients of another structure or other shapes than the parameters."""
    of_grads: Any = jax.tree.structure(grads)
    of_params: Any = jax.tree.structure(params)
    if of_grads != of_params:
        raise ValueError(
            f"{name}: {what} and parameters differ in structure: {of_grads} against {of_params}"
        )
    for g, w in zip(jax.tree.leaves(grads), jax.tree.leaves(params)):
        wanted = (groups, *jnp.shape(w)) if groups else jnp.shape(w)
        if jnp.shape(g) != wanted:
            axis = f" with a leading axis of groups={groups}" if groups else ""
            raise ValueError(
                f"{name}: {what} of shape {jnp.shape(g)} for parameters of shape "
                f"{jnp.shape(w)}: it should have theirs{axis}"
            )
