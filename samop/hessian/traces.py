"""Trace and Frobenius norm from products with random vectors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samop import trees
from samop.errors import UserError
from samop.hessian import draws, krylov
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
        spectrum decays.
      **options: see `samop.hessian.Options`.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    op = operator_of(loss_fn, params, batches, options)
    if method not in METHODS:
        raise UserError(f"method={method!r} is not allowed; allowed: {', '.join(METHODS)}")
    at_least("num_samples", num_samples, {"hutchinson": 1, "hutch++": 3, "xtrace": 4}[method])
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

    Arguments as for `trace`.
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
    third = min(third, op.size)
    sketch, rest = (jax.random.fold_in(key, i) for i in range(2))
    basis = krylov.empty(op, third)
    for i in range(third):
        basis = _join(basis, op(_signs(sketch, i, op.like)), i)
    rows = (jax.tree.map(lambda q, i=i: q[i], basis) for i in range(third))
    inside = finite([_form(op, row) for row in rows], "a product").sum()
    samples = [_form(op, _outside(basis, _signs(rest, i, op.like))) for i in range(third)]
    return mean(finite(samples, "a product"), 3 * third, "hutch++", float(inside))


@functools.partial(jax.jit, donate_argnums=0)
def _join(basis, v, j):
    # Where v is in the span already, a row of zeros: it takes no part in the trace.
    v = krylov.orthogonal(basis, v, j - 1)
    return jax.tree.map(lambda q, x: jax.lax.dynamic_update_index_in_dim(q, x, j, 0), basis, v)


@jax.jit
def _outside(basis, v):
    return krylov.sweep(basis, v, len(jax.tree.leaves(basis)[0]) - 1)[0]


def _xtrace(op: Operator, key: jax.Array, num: int) -> Estimate:
    from matfree import stochtrace

    if op.fn is None:
        raise UserError("method='xtrace' needs all batches in memory; a stream takes 'hutch++'")
    num, product = min(num, op.size), op.fn
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), op.like)

    def estimate(arguments, key):
        # One product after another: all at once would hold the activations of each.
        @jax.custom_batching.sequential_vmap
        def matvec(v):
            return product(arguments, v)

        sampler = stochtrace.sampler_sphere(zeros, num=num)
        integrand = stochtrace.leave_one_out_xtrace()
        return stochtrace.estimator_leave_one_out_mean_and_sem(integrand, sampler)(matvec, key)

    with jax.numpy_rank_promotion("allow"):
        value, error = finite(jax.jit(estimate)(op.arguments, key), "a product")
    return Estimate(float(value), float(error), num, 2 * num, "xtrace")


_dot = jax.jit(trees.dot)
_square = jax.jit(lambda x: trees.dot(x, x))
