"""The single terms of a mean loss, per example or per batch: polynomials of their Hessians.

Nothing of the size parameters² is formed; a chunk of terms is worked on at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from samop import precision
from samop.errors import UserError
from samop.hessian import batches as data
from samop.hessian.operators import Kind, Options, join, linear_of, weighted_mean

PyTree = Any
CHUNK_BYTES = 2**26  # that the vectors of a chunk of terms may take together
VECTORS = 6  # of the size of the parameters that a term's product keeps alive


class Items(NamedTuple):
    """Some terms of equal shape, in chunks.

    Attributes:
      batches: leaves [chunks, chunk, size, ...]; a term is the mean loss over `size` examples.
      weights: [chunks, chunk], shares of the whole mean; over all items they sum to one.
    """

    batches: PyTree
    weights: jax.Array


def gather(batches: Any, how: Options, per: str) -> tuple[data.Part, ...]:
    """The batches in memory that `cut` divides into terms.

    Raises:
      UserError: a stream, or options that are not supported.
    """
    if per not in ("example", "batch"):
        raise UserError(f"per={per!r} is not allowed; allowed: example, batch")
    if how.devices is not None:
        raise UserError("devices is not supported for moments of single terms")
    parts = data.gather(batches, how.batch_weight, None)
    if isinstance(parts, data.Stream):
        raise UserError("moments need all batches in memory: give a list, a Stack or one batch")
    return parts


def cut(
    parts: tuple[data.Part, ...], how: Options, per: str, size: int, chunk: int | str
) -> tuple[Items, ...]:
    """The terms of a mean over batches.

    Args:
      parts: of `gather`.
      how: options of the operators; of these `batch_weight`.
      per: "example" or "batch".
      size: number of parameters, which decides an automatic chunk.
      chunk: terms at a time, or "auto".

    Raises:
      UserError: arguments that are not allowed.
    """
    if chunk == "auto":
        chunk = max(1, CHUNK_BYTES // (4 * VECTORS * size))
    elif isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise UserError(f"chunk={chunk!r} should be a whole number of at least 1, or 'auto'")
    terms = [_terms(part, per, how.batch_weight) for part in parts]
    total = sum(weights.sum() for _, weights in terms)
    return tuple(
        piece for tree, weights in terms for piece in _chunks(tree, weights / total, chunk)
    )


def number(items: tuple[Items, ...]) -> int:
    """How many terms there are."""
    return sum(x.weights.size for x in items)


@functools.lru_cache(maxsize=256)
def polynomial(kind: Kind, dtype: Any, degree: int) -> Callable[[Any, PyTree], PyTree]:
    """`fn((sub, rest, items, coefficients), v)`: Σ_k c_k E[H_i^k] v, coefficients [degree + 1].

    H_i^k by k products with H_i, for the Hessian; see `outer` for a Gauss–Newton matrix.
    """

    def fn(arguments, v):
        sub, rest, items, coefficients = arguments

        def term(batch, v):
            product = linear_of(kind, dtype, sub, rest, batch)
            u = _scaled(coefficients[degree], v)
            for k in reversed(range(degree)):  # Horner
                u = jax.tree.map(jnp.add, product(u), _scaled(coefficients[k], v))
            return u

        def chunk(item, v):
            batch, weights = item
            each = jax.vmap(term, in_axes=(0, None))(batch, v)
            return jax.tree.map(lambda x: jnp.tensordot(weights.astype(x.dtype), x, 1), each)

        ones = [((x.batches, x.weights), jnp.ones(len(x.weights))) for x in items]
        return weighted_mean(chunk, ones, v)

    return fn


@functools.lru_cache(maxsize=256)
def outer(model_fn: Callable, dtype: Any) -> Callable[[Any, PyTree], PyTree]:
    """`fn((sub, rest, items, cores, constant), v)`: c v + E[J_iᵀ W_i J_i] v.

    With W_i = Σ_{k ≥ 1} c_k (C_i K_i)^{k−1} C_i, K_i = J_i J_iᵀ, this is the polynomial of the
    Gauss–Newton matrices G_i = J_iᵀ C_i J_i, at the price of one product with one of them.
    `cores` holds W_i, [chunks, chunk, outputs, outputs], for each of the items.
    """

    def fn(arguments, v):
        sub, rest, items, cores, constant = arguments

        def chunk(item, v):
            batch, weights, core = item
            outputs = functools.partial(_outputs, model_fn, dtype, rest, batch)
            forward = jax.linearize(outputs, sub)[1]
            pulled = jnp.einsum("t,tij,tj->ti", weights.astype(core.dtype), core, forward(v))
            return jax.linear_transpose(forward, v)(pulled)[0]

        ones = [
            ((x.batches, x.weights, core), jnp.ones(len(x.weights)))
            for x, core in zip(items, cores)
        ]
        return jax.tree.map(lambda x, u: x + _times(constant, u), weighted_mean(chunk, ones, v), v)

    return fn


@functools.partial(jax.jit, static_argnums=(0, 1))
def kernels(
    kind: Kind, dtype: Any, sub: PyTree, rest: PyTree, items: tuple[Items, ...]
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """For each of the items (K_i, C_i), both [chunks, chunk, outputs, outputs]."""

    model_fn = kind.model_fn
    assert model_fn is not None

    def term(batch):
        one = jax.tree.map(lambda x: x[None], batch)
        unravel = ravel_pytree(model_fn(precision.cast(join(sub, rest), dtype), batch))[1]

        def outputs(s):
            return _outputs(model_fn, dtype, rest, one, s)[0]

        def loss(flat):
            return kind.loss_fn(unravel(flat), precision.cast(batch, dtype))

        jacobian = jax.tree.leaves(jax.jacrev(outputs)(sub))
        rows = [j.reshape(len(j), -1) for j in jacobian]
        return sum(j @ j.T for j in rows), jax.hessian(loss)(outputs(sub))

    # One term after another: a term's Jacobian has as many vectors as there are outputs.
    return tuple(jax.lax.map(lambda chunk: jax.lax.map(term, chunk), x.batches) for x in items)


def _outputs(model_fn, dtype, rest, batch, sub):
    """Outputs of each term, [chunk, outputs]."""
    params = precision.cast(join(sub, rest), dtype)

    def one(term):
        return ravel_pytree(model_fn(params, precision.cast(term, dtype)))[0]

    return jax.vmap(one)(batch).astype(jnp.result_type(*jax.tree.leaves(sub)))


def _terms(part: data.Part, per: str, batch_weight) -> tuple[PyTree, np.ndarray]:
    """(leaves [terms, size, ...], weights [terms])."""
    if per == "batch":
        return part.batches, np.asarray(part.weights, float)
    size = data.examples(data.first((part,)))
    if size is None or any(x.ndim < 2 for x in jax.tree.leaves(part.batches)):
        raise UserError(
            "not all arrays of a batch have the examples as their first axis, so these cannot be "
            "told apart: use per='batch'"
        )
    tree = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), part.batches)
    if batch_weight is not None:
        singles = (jax.tree.map(lambda x, i=i: x[i], tree) for i in range(len(part.weights) * size))
        # The part's share of the mean, divided among its terms as `batch_weight` says.
        own = np.array([data.weight_of(single, batch_weight) for single in singles])
        return tree, own * (float(np.sum(part.weights)) / max(own.sum(), 1e-300))
    return tree, np.repeat(np.asarray(part.weights, float) / size, size)


def _chunks(tree: PyTree, weights: np.ndarray, chunk: int) -> list[Items]:
    n = len(weights)
    whole = n // chunk * chunk

    def cut(begin, end, extent):
        batches = jax.tree.map(lambda x: x[begin:end].reshape(-1, extent, *x.shape[1:]), tree)
        own = jnp.asarray(weights[begin:end].reshape(-1, extent), jnp.result_type(float))
        return Items(batches, own)

    pieces = [(0, whole, chunk), (whole, n, n - whole)]
    return [cut(*piece) for piece in pieces if piece[1] > piece[0]]


def _scaled(factor, tree):
    return jax.tree.map(lambda x: _times(factor, x), tree)


def _times(factor, x):
    return factor.astype(x.dtype) * x
