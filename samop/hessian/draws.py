"""Random vectors like a pytree: one draw for all leaves, as a draw takes long to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def signs(key: jax.Array, like: PyTree) -> PyTree:
    """Independent ±1."""
    return _draw(jax.random.rademacher, key, like)


def normal(key: jax.Array, like: PyTree) -> PyTree:
    """Independent standard normal numbers."""
    return _draw(jax.random.normal, key, like)


def _draw(sampler: Callable, key: jax.Array, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    shapes = tuple((tuple(x.shape), np.dtype(x.dtype)) for x in leaves)
    return jax.tree.unflatten(structure, _split(sampler, shapes, key))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _split(sampler, shapes, key):
    sizes = [int(np.prod(shape)) for shape, _ in shapes]
    whole = sampler(key, (sum(sizes),), jnp.result_type(*(dtype for _, dtype in shapes)))
    pieces = jnp.split(whole, np.cumsum(sizes)[:-1])
    return [x.reshape(shape).astype(dtype) for x, (shape, dtype) in zip(pieces, shapes)]
