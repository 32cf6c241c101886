"""How to perturb: rules that turn a gradient into the displacement ε at which SAM looks again.

A rule is a pair of pure functions, because several of the family keep a state between steps:
`init(params) -> state` and `perturb(grads, state, params, rho) -> (epsilon, state)`.
g is the gradient, w the parameters, ‖·‖ the Euclidean norm over all leaves that are perturbed.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import trees

PyTree = Any
Mask = PyTree | Callable[[PyTree], PyTree]

# As in the released SAM codes; it also makes the ascent of a zero gradient zero instead of NaN.
TINY = 1e-12


class Ascent(NamedTuple):
    """A perturbation rule. `epsilon` has the structure of `params`, in at least float32."""

    init: Callable[[PyTree], PyTree]
    perturb: Callable[[PyTree, PyTree, PyTree, jax.typing.ArrayLike], tuple[PyTree, PyTree]]


def stateless(rule: Callable[[PyTree, PyTree, jax.typing.ArrayLike], PyTree]) -> Ascent:
    """An Ascent without memory.

    Args:
      rule: `rule(grads, params, rho) -> epsilon`, pytrees of one structure and a scalar; zero
        gradients should give a zero ε.
    """
    return Ascent(
        init=lambda params: (),
        perturb=lambda grads, state, params, rho: (rule(grads, params, rho), state),
    )


def unit(tree: PyTree) -> PyTree:
    """x/(‖x‖₂ + 1e-12), the norm over all leaves together; zeros stay zeros."""
    return trees.scale(1 / (trees.norm(tree) + TINY), tree)


def normalized() -> Ascent:
    """ε = ρ g/‖g‖: SAM (arXiv 2010.01412, eq. 2 with p = 2)."""
    return stateless(lambda grads, _, rho: _to_length(rho, grads))


def unnormalized() -> Ascent:
    """ε = ρ g: the rule of the theory (arXiv 2206.06232 studies it against SAM's own)."""
    return stateless(lambda grads, _, rho: trees.scale(rho, grads))


def is_weight(path: tuple[str, ...], leaf: jax.Array) -> bool:
    """Whether an adaptive rule scales a leaf: everything but what is named "bias"."""
    return "bias" not in path


def adaptive(
    eta: jax.typing.ArrayLike = 0.01,
    weights: Callable[[tuple[str, ...], jax.Array], bool] = is_weight,
) -> Ascent:
    """ε = ρ T²g/‖Tg‖, T = |w| + η on weights and 1 elsewhere: ASAM (arXiv 2102.11600, eq. 5).

    Args:
      eta: η, keeps T away from zero.
      weights: `weights(path, leaf)`, path like ("Dense_0", "kernel"): which leaves T scales. The
        default leaves out biases but not the scales of norm layers, as the authors' code does.
    """

    def rule(grads, params, rho):
        size = _sizes(params, eta, weights)
        scaled = jax.tree.map(jnp.multiply, size, trees.wide(grads))
        return jax.tree.map(jnp.multiply, size, _to_length(rho, scaled))

    return stateless(rule)


def sign(eta: jax.typing.ArrayLike | None = None) -> Ascent:
    """ε = ρ T sign(g), the steepest step in the ℓ∞ ball; T as in `adaptive` where η is given.

    Args:
      eta: η ≥ 0 of T; None: without T.

    Source: arXiv 2306.04226 and the code of its authors.
    """

    def rule(grads, params, rho):
        signs = trees.scale(rho, jax.tree.map(jnp.sign, grads))
        if eta is None:
            return signs
        return jax.tree.map(jnp.multiply, _sizes(params, eta, is_weight), signs)

    return stateless(rule)


def layerwise() -> Ascent:
    """ε = ρ g/‖g‖ for each leaf on its own: ‖ε‖ = ρ √(number of leaves)."""
    return stateless(
        lambda grads, _, rho: jax.tree.map(lambda g: _to_length(rho, g), grads),
    )


def random(key: jax.Array | int) -> Ascent:
    """A random direction of SAM's length, the control that asks whether the gradient matters.

    ε = ρ z/‖z‖, z Gaussian, another at each step. As SAM, it leaves alone the coordinates whose
    gradient is exactly zero: masks hold, and what does not act on the loss takes no length. The
    groups of m-SAM share z.

    Args:
      key: typed key or seed.
    """

    def perturb(grads, count, params, rho):
        keys = _keys(key, count, grads)
        noise = jax.tree.map(
            lambda k, g: jnp.where(g != 0, jax.random.normal(k, g.shape, _wide_dtype(g)), 0),
            keys,
            grads,
        )
        return _to_length(rho, noise), count + 1

    return Ascent(_no_steps, perturb)


def bernoulli(beta: jax.typing.ArrayLike, key: jax.Array | int) -> Ascent:
    """ε = (ρ/β) b ⊙ g/‖g‖, each bᵢ 1 with probability β: ESAM's weight part (arXiv 2110.03141).

    Args:
      beta: β in (0, 1]; with 1 it is SAM's rule.
      key: typed key or seed of the masks b; the groups of m-SAM share b.
    """

    def perturb(grads, count, params, rho):
        keys = _keys(key, count, grads)
        full = _to_length(rho / beta, grads)
        kept = jax.tree.map(
            lambda k, e: jnp.where(jax.random.bernoulli(k, beta, e.shape), e, 0), keys, full
        )
        return kept, count + 1

    return Ascent(_no_steps, perturb)


def friendly(sigma: jax.typing.ArrayLike = 1.0, lam: jax.typing.ArrayLike = 0.9) -> Ascent:
    """ε = ρ d/‖d‖, d = g − σm, then m ← λm + (1−λ)g: F-SAM (arXiv 2403.12350).

    At the first step d = m = g, as in the authors' code. State: 1 after that (a float, so that a
    step which loss scaling undoes stays undone), and m, float32 [params].

    Args:
      sigma: σ, share of the mean gradient m that is taken out.
      lam: λ in [0, 1], how slowly m moves.
    """

    def perturb(grads, state, params, rho):
        begun, mean = state
        first = begun == 0
        direction = trees.select(
            first, trees.wide(grads), trees.mix(1, grads, -jnp.asarray(sigma), mean)
        )
        mean = trees.select(first, trees.wide(grads), trees.mix(lam, mean, 1 - lam, grads))
        return _to_length(rho, direction), (jnp.ones_like(begun), mean)

    return Ascent(lambda params: (jnp.zeros((), jnp.float32), _zeros(params)), perturb)


def smoothed(theta: jax.typing.ArrayLike = 0.4) -> Ascent:
    """d ← (1−θ)d + θg from d = 0, ε = ρ d/‖d‖: VASSO (arXiv 2509.02433). State: d [params].

    Args:
      theta: θ in (0, 1], weight of the newest gradient; 1 is SAM.
    """

    def perturb(grads, direction, params, rho):
        direction = trees.mix(1 - theta, direction, theta, grads)
        return _to_length(rho, direction), direction

    return Ascent(_zeros, perturb)


def masked(ascent: Ascent, mask: Mask) -> Ascent:
    """Perturbs, and takes the norm over, only what `mask` selects.

    Args:
      ascent: the rule to restrict.
      mask: booleans of the parameters' structure (or a prefix of it), boolean arrays of their
        shapes, or a function of the parameters that returns such, as `norm_layers`.

    Raises:
      ValueError: when a state is made and no leaf is selected: SAM would silently be off.
    """

    def of(params):
        return mask(params) if callable(mask) else mask

    def init(params):
        flags = jax.tree.leaves(of(params))
        traced = any(isinstance(flag, jax.core.Tracer) for flag in flags)
        if flags and not traced and not any(np.any(flag) for flag in flags):
            raise ValueError("mask selects no parameter: nothing would be perturbed")
        return ascent.init(params)

    def perturb(grads, state, params, rho):
        keep = of(params)
        # The parameters too: a rule that adds to the gradient, as decay does, adds nothing outside.
        inside = trees.masked(params, keep)
        epsilon, state = ascent.perturb(trees.masked(grads, keep), state, inside, rho)
        return trees.masked(epsilon, keep), state

    return Ascent(init, perturb)


def where(predicate: Callable[[tuple[str, ...], jax.Array], bool]) -> Callable[[PyTree], PyTree]:
    """A mask for transforms' argument `mask`.

    Args:
      predicate: `predicate(path, leaf) -> bool`, path like ("Dense_0", "kernel"); True: perturbed.
    """
    return lambda params: trees.where(predicate, params)


def norm_layers(params: PyTree) -> PyTree:
    """Mask of SAM-ON (arXiv 2306.04226): the scales and biases of normalisation layers alone.

    They are found by structure, not by the layers' names: whatever lies beside a leaf "scale", as
    in Flax's BatchNorm, LayerNorm, GroupNorm and RMSNorm.
    """
    paths = [trees.names(path) for path, _ in jax.tree.leaves_with_path(params)]
    layers = {(path[: path.index("scale")], len(path)) for path in paths if "scale" in path}

    def belongs(path, leaf):
        return any(path[: len(layer)] == layer and len(path) == depth for layer, depth in layers)

    return trees.where(belongs, params)


def no_biases(params: PyTree) -> PyTree:
    """Mask that leaves out what is named "bias"."""
    return trees.where(lambda path, _: "bias" not in path, params)


def with_decay(ascent: Ascent, weight_decay: jax.typing.ArrayLike) -> Ascent:
    """Lets L2 decay take part in the ascent direction: the rule sees g + λw instead of g.

    The paper (arXiv 2311.17539) does not: there decay is added to the SAM gradient alone.

    Args:
      ascent: the rule.
      weight_decay: λ.
    """

    def perturb(grads, state, params, rho):
        full = trees.add(grads, trees.scale(weight_decay, params))
        return ascent.perturb(full, state, params, rho)

    return Ascent(ascent.init, perturb)


def _to_length(length: jax.typing.ArrayLike, tree: PyTree) -> PyTree:
    """The tree scaled to a Euclidean length; zeros stay zeros. One multiplication a coordinate."""
    return trees.scale(length / (trees.norm(tree) + TINY), tree)


def _sizes(params: PyTree, eta: jax.typing.ArrayLike, weights: Callable) -> PyTree:
    return jax.tree.map(
        lambda scaled, w: jnp.abs(w) + jnp.asarray(eta, w.dtype) if scaled else jnp.ones_like(w),
        trees.where(weights, params),
        trees.wide(params),
    )


def _zeros(params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=_wide_dtype(x)), params)


def _no_steps(params: PyTree) -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _wide_dtype(x: jax.Array):
    return jnp.promote_types(x.dtype, jnp.float32)


def _keys(key: jax.Array | int, count: jax.Array, tree: PyTree) -> PyTree:
    """One key a leaf for this step."""
    typed = jax.random.key(key) if isinstance(key, numbers.Integral) else key
    step = jax.random.fold_in(typed, count)
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [jax.random.fold_in(step, i) for i in range(len(leaves))])
