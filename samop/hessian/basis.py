"""Flat vectors and bases of them, as blocks of rows: orthogonalised, rotated, given up in parts."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Blocks = tuple[jax.Array, ...]  # a basis: rows [n, P] of each
BLOCK_BYTES = 2**28  # a basis larger than this is kept in blocks
BLOCK = 8  # rows of one


def unravel(like: PyTree, flat: jax.Array) -> PyTree:
    """[..., P] → a pytree like `like`, with the leading axes."""
    leaves, structure = jax.tree.flatten(like)
    shapes = tuple((tuple(x.shape), np.dtype(x.dtype)) for x in leaves)
    return jax.tree.unflatten(structure, _unravel(shapes, flat))


@functools.partial(jax.jit, static_argnums=0)
def _unravel(shapes, flat):
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape, _ in shapes)])
    return [
        flat[..., i:j].reshape(*flat.shape[:-1], *shape).astype(dtype)
        for i, j, (shape, dtype) in zip(ends, ends[1:], shapes)
    ]


def zeros(rows: int, size: int, dtype: Any) -> tuple[jax.Array, ...]:
    """An empty basis of `rows` vectors: one block, or several where it is large."""
    large = rows * size * np.dtype(dtype).itemsize > BLOCK_BYTES
    block = BLOCK if large else rows
    ends = [*range(0, rows, block), rows]
    return tuple(jnp.zeros((j - i, size), dtype) for i, j in itertools.pairwise(ends))


@functools.partial(jax.jit, donate_argnums=0)
def put(block: jax.Array, v: jax.Array, i: jax.Array | int) -> jax.Array:
    """The block with v as its row i."""
    return jax.lax.dynamic_update_index_in_dim(block, v, i, 0)


def sweep(blocks: Blocks, w: jax.Array, j: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """w minus its part in rows 0 … j of a basis, and that part [rows]."""
    parts, begin = [], 0
    for block in blocks:
        # One row at a time: no copies of the basis, and rows not yet there cost nothing.
        def body(i, carry, block=block):
            w, h = carry
            row = jax.lax.dynamic_index_in_dim(block, i, 0, False)
            part = jnp.dot(row, w, precision=jax.lax.Precision.HIGHEST)
            return w - part * row, h.at[i].set(part)

        there = jnp.clip(j + 1 - begin, 0, len(block))
        w, part = jax.lax.fori_loop(0, there, body, (w, jnp.zeros(len(block), w.dtype)))
        parts.append(part)
        begin += len(block)
    return w, jnp.concatenate(parts)


def orthogonal(blocks: Blocks, v: jax.Array, j: jax.Array | int) -> jax.Array:
    """The unit vector along v orthogonal to rows 0 … j; zeros where nothing is left."""
    start = jnp.linalg.norm(v)
    for _ in range(2):
        v, _ = sweep(blocks, v, j)
    left = jnp.linalg.norm(v)
    return jnp.where(left > 1e-3 * start / np.sqrt(v.size), inverse(left), 0) * v


@functools.partial(jax.jit, donate_argnums=0)
def rotate(blocks: Blocks, coefficients: jax.Array) -> Blocks:
    """Rows [m, P] ← coefficients.T @ rows, in place, some columns at a time."""
    size = blocks[0].shape[1]
    width = min(size, 4096)
    ends = np.cumsum([0, *map(len, blocks)])

    def body(i, blocks):
        # The last columns are moved back inside; the first of them are left as they are.
        begin = jnp.minimum(i * width, size - width)
        old = jnp.concatenate([jax.lax.dynamic_slice_in_dim(b, begin, width, 1) for b in blocks])
        new = jnp.matmul(coefficients.T, old, precision=jax.lax.Precision.HIGHEST)
        done = begin + jnp.arange(width) < i * width
        new = jnp.where(done[None], old, new.astype(old.dtype))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(block, new[a:b], begin, 1)
            for block, a, b in zip(blocks, ends, ends[1:])
        )

    return jax.lax.fori_loop(0, -(-size // width), body, blocks)


@functools.partial(jax.jit, static_argnums=1)
def first_rows(blocks: Blocks, k: int) -> jax.Array:
    """The first k vectors of a basis, [k, P]."""
    return jnp.concatenate(blocks)[:k]


def unit(v: jax.Array) -> jax.Array:
    """A flat vector divided by its length; zeros stay zeros."""
    return inverse(jnp.linalg.norm(v)) * v


def inverse(length: jax.Array) -> jax.Array:
    """1/length, and 0 for 0."""
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)


def dtype_of(tree: PyTree) -> Any:
    """The dtype that holds all leaves."""
    return jnp.result_type(*(x.dtype for x in jax.tree.leaves(tree)))
