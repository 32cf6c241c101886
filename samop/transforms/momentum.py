"""Momentum-SAM: the perturbation along the base's momentum, which costs no second gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, trees
from samop.transforms.core import (
    PyTree,
    Rho,
    SamTransformation,
    check_gradients,
    check_rho,
    counters,
    radius,
    with_perturbation,
)

BUFFERS = ("trace", "mu")  # what optax calls a momentum: of SGD, of Adam, Lion, Muon, …


class MsamState(NamedTuple):
    """State of `msam`.

    Attributes:
      count, grad_evals: updates and gradient evaluations so far, int32 scalars.
      scale: the perturbation that is in the parameters is scale · momentum; a pytree of the
        parameters' structure, of float scalars (of arrays where a mask selects single weights).
      base: state of the base optimiser, which holds the momentum.
    """

    count: jax.Array  # type: ignore[assignment]
    grad_evals: jax.Array
    scale: PyTree
    base: PyTree


def msam(
    base: optax.GradientTransformation,
    rho: Rho = 0.3,
    *,
    mask: ascents.Mask | None = None,
) -> SamTransformation:
    """Momentum-SAM: ε = −ρ n(v), v the base's momentum; one gradient a step.

    The parameters that training moves are the perturbed ones, w̃ = w − ρ n(v): gradients are
    taken there, v ← μv + ∇L(w̃), w ← w − ηv. Evaluate, measure and keep
    `samop.eval_params(state, params)`, which is w; training metrics are of w̃. Weight decay in
    the base acts on w̃. With Adam v is the first moment, as in the authors' code.
    Source: Becker et al. 2024, arXiv 2401.12033, and the authors' code. Cost: 1 gradient
    evaluation a step, and no further copy of the parameters.

    Args:
      base: optimiser that keeps a momentum of gradients, as `optax.sgd(0.1, 0.9)`, Adam or Lion.
      rho: as for `samop.sam`; of the authors' order for classification by default.
      mask: as for `samop.sam`.

    Returns:
      A transformation whose update needs `params`; `grad_fn` may be given and is not used.

    Raises:
      ValueError: as `samop.sam`; when a state is made, for a base without momentum or with
        several, and for low-precision parameters, in which a perturbation that stays in the
        parameters would round away.

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

    def scales(v, params, size):
        """−ρ/‖v‖ where the mask holds, the norm over that alone; zero elsewhere."""
        keep = True if mask is None else mask(params) if callable(mask) else mask
        keep = jax.tree.map(lambda k, sub: jax.tree.map(lambda _: k, sub), keep, params)
        size = -size / (trees.norm(trees.masked(v, keep) if mask is not None else v) + ascents.TINY)
        return jax.tree.map(lambda k: size if k is True else jnp.where(k, size, 0), keep)

    def init(params):
        for x in jax.tree.leaves(params):
            if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.finfo(x.dtype).bits < 32:
                raise ValueError(
                    f"msam: parameters of {x.dtype} cannot hold their perturbation: use float32"
                )
        if mask is not None:
            ascents.masked(ascents.normalized(), mask).init(params)
        base_state = base.init(params)
        none = scales(momentum(base_state, params), params, 0.0)
        # A copy each: a buffer that all leaves share could not be donated.
        return MsamState(*counters(), jax.tree.map(jnp.copy, none), base_state)

    def update(grads, state, params=None, *, grad_fn=None, **extra):
        del grad_fn
        if params is None:
            raise ValueError("msam: update(grads, state, params) needs params")
        check_gradients("msam", "gradients", grads, params)
        updates, base_state = base.update(grads, state.base, params, **extra)
        old, new = momentum(state.base, params), momentum(base_state, params)
        scale = trees.like(scales(new, params, radius(rho, state.count)), state.scale)
        moved = jax.tree.map(
            lambda u, s, v, s_old, v_old: (u + (s * v - s_old * v_old)).astype(u.dtype),
            updates,
            scale,
            new,
            state.scale,
            old,
        )
        count, spent = optax.safe_increment(state.count), state.grad_evals + 1
        return moved, MsamState(count, spent, scale, base_state)

    def perturbation(grads, state, params):
        return unperturbed(state, params), _epsilon(state, params)

    return with_perturbation(init, update, perturbation)


def unperturbed(state: MsamState, params: PyTree) -> PyTree:
    """w, of the perturbed parameters w̃; also for states of many runs, stacked."""
    return trees.like(trees.subtract(params, _epsilon(state, params)), params)


def _epsilon(state: MsamState, params: PyTree) -> PyTree:
    def one(scale, v):
        # Of stacked runs the scale has their axes alone.
        return scale.reshape(scale.shape + (1,) * (v.ndim - scale.ndim)) * v

    return jax.tree.map(one, state.scale, momentum(state.base, params))


def momentum(base_state: PyTree, params: PyTree) -> PyTree:
    """The momentum of gradients in an optax state, of the parameters' structure.

    Parts of it may lie in several transformations, each for some of the leaves, as in Muon.

    Raises:
      ValueError: there is none, or more than one.
    """
    structure: Any = jax.tree.structure(params)
    found: list[PyTree] = []
    for name in BUFFERS:
        for _, tree in optax.tree_utils.tree_get_all_with_path(base_state, name):
            leaves, own = jax.tree.flatten(tree, is_leaf=_is_masked)
            if own == structure:
                found.append(leaves)
    if not found:
        raise ValueError(
            "msam: the base keeps no momentum of the parameters' structure: use e.g. "
            "optax.sgd(rate, momentum=0.9), and name masks and labels in it leaf by leaf"
        )
    merged = []
    for candidates in zip(*found):
        real = [leaf for leaf in candidates if not _is_masked(leaf)]
        if len(real) != 1:
            raise ValueError(
                f"msam: the base keeps {len(real)} momenta for some of the parameters, where one "
                "is needed"
            )
        merged += real
    return jax.tree.unflatten(structure, merged)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
