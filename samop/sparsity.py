"""Masks at initialisation: which weights of a network are pruned before it trains.

Kernels alone are pruned; biases, normalisation and embeddings stay. A mask holds 1 where a weight
stays and 0 where it is pruned, as floats, so that means over devices and groups leave it as it is.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samop.errors import UserError

PyTree = Any
METHODS = ("none", "random", "magnitude", "snip")


def prunable(params: PyTree) -> PyTree:
    """Whether each leaf is a kernel: named "kernel", of two dimensions or more."""

    def is_kernel(path, leaf):
        return str(getattr(path[-1], "key", path[-1])) == "kernel" and len(leaf.shape) > 1

    return jax.tree.map_with_path(is_kernel, params)


def kept(params: PyTree, method: str, level: float) -> int:
    """Number of parameters that are not pruned, kernels and others.

    Args:
      params: arrays or shapes.
      method: one of `METHODS`.
      level: share of the kernels' weights that is pruned, in [0, 1).

    Raises:
      UserError: a level out of range, or one that leaves a layer nothing, where the shapes alone
        say so (`refuse_empty` looks at masks).
    """
    _check(method, level)
    flags, leaves = jax.tree.leaves(prunable(params)), jax.tree.leaves(params)
    kernels = [math.prod(x.shape) for flag, x in zip(flags, leaves) if flag]
    if method == "random" and not all(_count(size, level) for size in kernels):
        raise UserError(
            f"sparsity.level={level:g} by 'random' empties a layer of {min(kernels)} weights: "
            "prune less, or a wider network"
        )
    others = sum(math.prod(x.shape) for flag, x in zip(flags, leaves) if not flag)
    if method == "none":
        return sum(kernels) + others
    if method == "random":
        return sum(_count(size, level) for size in kernels) + others
    return _count(sum(kernels), level) + others


def masks(
    params: PyTree,
    method: str,
    level: float,
    *,
    key: jax.Array | None = None,
    grads: PyTree | None = None,
) -> PyTree:
    """The mask of each leaf, like `params`: ones for what is no kernel.

    - "random": of each kernel alone, round((1 − level)·size) weights that a key draws;
    - "magnitude": of all kernels together, those with the largest |w|;
    - "snip": of all kernels together, those with the largest |w·∇w| (arXiv 1810.02340).

    Exactly as many stay as `kept` says; of equals the first.

    Args:
      params: the network at initialisation.
      method: one of `METHODS`.
      level: share that is pruned, in [0, 1).
      key: typed key, of "random".
      grads: gradient of a batch's mean loss, of "snip"; like `params`.

    Raises:
      UserError: a level out of range.
      ValueError: "random" without a key, or "snip" without gradients.
    """
    _check(method, level)
    flags = prunable(params)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), params)
    if method == "none":
        return ones
    if method == "random":
        if key is None:
            raise ValueError("masks: method='random' needs key=")
        keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))
        scores = jax.tree.map(lambda x: jax.random.uniform(next(keys), x.shape), params)
        return jax.tree.map(
            lambda flag, score, one: _largest(score, _count(score.size, level)) if flag else one,
            flags,
            scores,
            ones,
        )
    if method == "snip":
        if grads is None:
            raise ValueError("masks: method='snip' needs grads=, of one batch")
        scores = jax.tree.map(lambda w, g: jnp.abs(w * g), params, grads)
    else:
        scores = jax.tree.map(jnp.abs, params)
    together = [s for flag, s in zip(jax.tree.leaves(flags), jax.tree.leaves(scores)) if flag]
    flat = jnp.concatenate([s.reshape(-1) for s in together])
    chosen = _largest(flat, _count(flat.size, level))
    parts = iter(jnp.split(chosen, np.cumsum([s.size for s in together])[:-1]))
    return jax.tree.map(
        lambda flag, one: next(parts).reshape(one.shape) if flag else one, flags, ones
    )


def prune(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with exact zeros where the mask has them, dtypes kept."""
    return jax.tree.map(lambda w, m: jnp.where(m > 0, w, jnp.zeros((), w.dtype)), params, masks)


def density(masks: PyTree) -> dict[str, float]:
    """Of each kernel, by its path "Dense_0/kernel", the share of its weights that stays."""
    found: dict[str, float] = {}

    def add(path, flag, mask):
        if flag:
            name = "/".join(str(getattr(part, "key", part)) for part in path)
            found[name] = float(np.mean(np.asarray(mask)))

    jax.tree.map_with_path(add, prunable(masks), masks)
    return found


def refuse_empty(masks: PyTree, what: str) -> None:
    """Raises UserError where a kernel keeps no weight at all: nothing would pass that layer.

    Args:
      masks: concrete arrays.
      what: how the error calls their making, "sparsity.level=0.99 by 'snip', seed 3".
    """
    for name, share in density(masks).items():
        if share == 0:
            raise UserError(f"{what} empties the layer {name}: prune less, or a wider network")


def _check(method: str, level: float) -> None:
    if method not in METHODS:
        raise UserError(f"sparsity.method={method!r} is not allowed; allowed: {', '.join(METHODS)}")
    if not 0 <= level < 1:
        raise UserError(f"sparsity.level={level!r} is not allowed: it should be in [0, 1)")


def _count(size: int, level: float) -> int:
    """How many of so many weights stay."""
    return round((1 - level) * size)


def _largest(scores: jax.Array, count: int) -> jax.Array:
    """Ones at the `count` largest scores, of equals the first; zeros elsewhere."""
    order = jnp.argsort(-scores.reshape(-1), stable=True)
    flat = jnp.zeros(scores.size, jnp.float32).at[order[:count]].set(1.0)
    return flat.reshape(scores.shape)
