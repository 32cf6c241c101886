"""Trace and Frobenius norm from products with random vectors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from samop import trees
from samop.errors import UserError
from samop.hessian import basis, draws
from samop.hessian.basis import dtype_of, unravel
from samop.hessian.estimate import Estimate, at_least, finite, jackknife, mean
from samop.hessian.operators import Operator, operator_of

PyTree = Any
METHODS = ("hutchinson", "hutch++", "xtrace")


def trace(
    loss_fn: Any,
    params: PyTree = None,
    batches: Any = None,
    *,
    key: jax.Array,
    num_samples: int = 32,
    method: str = "hutchinson",
    **options: Any,
) -> Estimate:
    """The trace of a Hessian.

    Args:
      loss_fn, params, batches: a loss, see `samop.hessian`; or an operator alone.
      key: of the random vectors.
      num_samples: products to take (rounded down to what the method divides them into).
      method: "hutchinson": mean of zᵀHz over random signs z; unbiased, its standard error honest.
        "hutch++" (arXiv 2010.09649): exact on a sketched range, a third of the products each for
        sketch, range and rest; its standard error is that of the rest, given the range.
        "xtrace" (arXiv 2301.07825, by matfree): every product serves both; its standard error is
        the spread of estimates that are not independent, the authors' rule of thumb.
        The last two keep num_samples/3 and 2·num_samples vectors in memory, and pay where the
        spectrum decays. Where xtrace would take as many products as there are dimensions, it
        takes those that give the trace itself ("exact").
      **options: see `samop.hessian.Options`.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    op = operator_of(loss_fn, params, batches, options)
    if method not in METHODS:
        raise UserError(f"method={method!r} is not allowed; allowed: {', '.join(METHODS)}")
    at_least("num_samples", num_samples, {"hutchinson": 1, "hutch++": 6, "xtrace": 4}[method])
    if method == "xtrace":
        return _xtrace(op, key, num_samples // 2)
    if method == "hutch++":
        return _hutchpp(op, key, num_samples // 3)
    samples = [_form(op, _signs(key, i, op.like)) for i in range(num_samples)]
    return mean(finite(samples, "a product"), num_samples, method)


def frobenius_norm(
    loss_fn: Any,
    params: PyTree = None,
    batches: Any = None,
    *,
    key: jax.Array,
    num_samples: int = 32,
    **options: Any,
) -> Estimate:
    """‖H‖_F, the root of E‖Hz‖² over random signs z; bias and error by the jackknife.

    Args:
      loss_fn, params, batches, options: as for `trace`.
      key: of the random vectors.
      num_samples: products, ≥ 1; one gives no standard error.

    Returns:
      See `Estimate`; in units of the eigenvalues.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    op = operator_of(loss_fn, params, batches, options)
    at_least("num_samples", num_samples, 1)
    squares = [_square(op(_signs(key, i, op.like))) for i in range(num_samples)]
    values = finite(squares, "a product")
    return jackknife(np.sqrt, values, num_samples, "hutchinson")


def _signs(key: jax.Array, number: int, like: PyTree) -> PyTree:
    return draws.signs(jax.random.fold_in(key, number), like)


def _form(op: Operator, z: PyTree) -> jax.Array:
    return _dot(z, op(z))


def _hutchpp(op: Operator, key: jax.Array, third: int) -> Estimate:
    rank = min(third, op.size)
    sketch, rest = (jax.random.fold_in(key, i) for i in range(2))
    blocks = op.place(basis.zeros(rank, op.size, dtype_of(op.like)))
    for i in range(rank):
        v = _rest(blocks, op(_signs(sketch, i, op.like)), i)
        which, row = divmod(i, len(blocks[0]))
        blocks = (*blocks[:which], basis.put(blocks[which], v, row), *blocks[which + 1 :])
    rows = (unravel(op.like, row) for block in blocks for row in block)
    inside = finite([_form(op, row) for row in rows], "a product").sum()
    outside = (_outside(blocks, _signs(rest, i, op.like)) for i in range(third))
    samples = finite([_form(op, unravel(op.like, v)) for v in outside], "a product")
    return mean(samples, 2 * rank + third, "hutch++", float(inside))


@jax.jit
def _rest(blocks, v, j):
    # Where v is in the span already, zeros: they take no part in the trace.
    v = ravel_pytree(v)[0].astype(blocks[0].dtype)
    return basis.orthogonal(blocks, v, j - 1)


@jax.jit
def _outside(blocks, v):
    v = ravel_pytree(v)[0].astype(blocks[0].dtype)
    return basis.sweep(blocks, v, sum(map(len, blocks)) - 1)[0]


def _xtrace(op: Operator, key: jax.Array, num: int) -> Estimate:
    if op.fn is None:
        raise UserError(
            "method='xtrace' needs a product that can be traced, with all batches in memory; "
            "'hutch++' takes any operator"
        )
    if 2 * num >= op.size:  # as many products give the trace itself
        rows = (unravel(op.like, row) for row in jnp.eye(op.size, dtype=dtype_of(op.like)))
        exact = finite([_form(op, row) for row in rows], "a product").sum()
        return Estimate(float(exact), 0.0, op.size, op.size, "exact")
    leaves, structure = jax.tree.flatten(op.like)
    shapes = tuple((tuple(x.shape), np.dtype(x.dtype)) for x in leaves)
    with jax.numpy_rank_promotion("allow"):
        found = _xtrace_of(op.fn, num, structure, shapes)(op.arguments, key)
    value, error = finite(found, "a product")
    return Estimate(float(value), float(error), num, 2 * num, "xtrace")


@functools.lru_cache(maxsize=64)
def _xtrace_of(product, num, structure, shapes):
    from matfree import stochtrace

    @jax.jit
    def estimate(arguments, key):
        # One product after another: all at once would hold the activations of each.
        @jax.custom_batching.sequential_vmap
        def matvec(v):
            return product(arguments, v)

        zeros = jax.tree.unflatten(structure, [jnp.zeros(*shape) for shape in shapes])
        sampler = stochtrace.sampler_sphere(zeros, num=num)
        integrand = stochtrace.leave_one_out_xtrace()
        return stochtrace.estimator_leave_one_out_mean_and_sem(integrand, sampler)(matvec, key)

    return estimate


_dot = jax.jit(trees.dot)
_square = jax.jit(lambda x: trees.dot(x, x))
