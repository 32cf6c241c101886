"""Whether a loss is what curvature needs: a scalar, deterministic mean over separate examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samop import trees
from samop.errors import UserError
from samop.hessian.batches import BatchWeight, examples, weight_of

PyTree = Any
EXAMPLES = 256  # looked at; a loss that mixes examples shows it on few
OVERRIDE = "; check=False skips this test"


def check_separable(
    loss_fn: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batch: PyTree,
    batch_weight: BatchWeight | None = None,
) -> None:
    """Finds losses whose value on many batches is not the mean of their values on each.

    Compares loss and gradient of a batch (its first 256 examples) with the weighted mean of those
    of its two halves, with those of the same examples in another order, and with themselves.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar`.
      params: any pytree.
      batch: leaves [n, ...]; where leading axes differ, or n = 1, only value and shape count.
      batch_weight: as for the operators.

    Raises:
      UserError: says which of these it is: not scalar, not finite, not deterministic, dependent
        on the order of the examples, a sum, or no mean over examples (BatchNorm in training mode,
        a mask whose mean needs `batch_weight`).
    """
    shape = jax.eval_shape(loss_fn, params, batch)
    leaves = jax.tree.leaves(shape)
    if len(leaves) != 1 or getattr(shape, "shape", None) != ():
        found = getattr(shape, "shape", None)
        what = f"shape {found}" if found is not None else f"a {type(shape).__name__}"
        raise UserError(
            f"loss_fn returned {what}: it should return a scalar, the mean over the batch"
        )
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise UserError(f"loss_fn returned {shape.dtype}: it should return a floating-point scalar")
    count = examples(batch)
    if count is None or count < 2:
        _finite(loss_fn(params, batch))
        return
    n = min(count, EXAMPLES)
    first = _take(batch, np.arange(n), count)
    half = n // 2
    halves = [_take(batch, np.arange(half), count), _take(batch, np.arange(half, n), count)]
    order = np.random.default_rng(0).permutation(n)
    (whole, again, moved, left, right), norms = jax.device_get(
        _compare(
            loss_fn,
            params,
            first,
            _take(batch, order, count),
            *halves,
            *_shares(halves, batch_weight),
        )
    )
    _finite(whole)
    tolerance = Tolerance(jnp.finfo(leaves[0].dtype), float(whole))
    if tolerance.differ(whole, again, norms["again"]):
        raise UserError(
            f"loss_fn is not deterministic: {whole} and {again} for the same arguments; fix its "
            f"random key{OVERRIDE}"
        )
    now = float(loss_fn(params, first))
    if tolerance.differ(whole, now, 0.0):
        raise UserError(
            f"loss_fn gives {now} where the program compiled for it gives {whole}: what it closes "
            "over has changed since; define it anew, or pass that through params or the batch"
            + OVERRIDE
        )
    a, b = _shares(halves, batch_weight)
    mean = a * left + b * right
    mixes = tolerance.differ(whole, mean, norms["halves"])
    if mixes and not tolerance.differ(whole, left + right, 0.0):
        raise UserError(
            f"loss_fn is a sum over examples: {whole} for {n} of them, {left} and {right} for "
            f"its halves; it should be a mean{OVERRIDE}"
        )
    if tolerance.differ(whole, moved, norms["moved"]):
        raise UserError(
            f"loss_fn depends on the order of the examples ({whole}, reordered {moved}): is there "
            f"a dropout mask or other noise in it? Evaluate without{OVERRIDE}"
        )
    if mixes:
        raise UserError(
            f"loss_fn is no mean over examples: {whole} for {n} of them, but {mean} as the mean of "
            "its halves by weight. BatchNorm in training mode mixes examples: evaluate it with "
            "running averages. A masked or token mean needs batch_weight, the number of its terms"
            + OVERRIDE
        )


class Tolerance:
    """What two evaluations may differ by in rounding."""

    def __init__(self, precision: Any, value: float):
        self._relative = max(float(precision.eps) ** 0.5, 1e-6)
        # Of a tiny loss the digits are rounding errors of the logits, and so is its gradient.
        self._absolute = 100 * float(precision.eps)
        self._gradients = abs(value) > 10 * self._absolute
        self._gradient = max(float(precision.eps) ** 0.25, 1e-3)

    def differ(self, a: float, b: float, gradients: float) -> bool:
        """Whether two losses, or their gradients (relative distance), differ."""
        # Not "farther than", so that a NaN differs.
        near = abs(a - b) <= self._absolute + self._relative * max(abs(a), abs(b))
        return bool(not near or (self._gradients and not gradients <= self._gradient))


@functools.partial(jax.jit, static_argnums=0)
def _compare(loss_fn, params, first, moved, left, right, a, b):
    # Traced twice, so that randomness of Python's shows too.
    evaluate = lambda batch: jax.value_and_grad(lambda p: loss_fn(p, batch))(params)  # noqa: E731
    values, grads = zip(*(evaluate(x) for x in (first, first, moved, left, right)))
    scale = jnp.maximum(trees.norm(grads[3]), trees.norm(grads[4]))
    scale = jnp.where(jnp.isfinite(scale), scale, trees.norm(grads[0]))

    def distance(other):
        return trees.norm(trees.subtract(grads[0], other)) / jnp.maximum(scale, 1e-30)

    halves = trees.mix(a, grads[3], b, grads[4])
    return values, {
        "again": distance(grads[1]),
        "moved": distance(grads[2]),
        "halves": distance(halves),
    }


def _shares(halves, batch_weight):
    a, b = (weight_of(half, batch_weight) for half in halves)
    if not a + b > 0:
        raise UserError("batch_weight is zero on the first batch")
    return a / (a + b), b / (a + b)


def _take(batch, index, count):
    def take(x):
        return x[index] if getattr(x, "ndim", 0) and x.shape[0] == count else x

    return jax.tree.map(take, batch)


def _finite(loss) -> None:
    if not np.isfinite(float(loss)):
        raise UserError(f"loss_fn returned {float(loss)} on the first batch: it should be finite")
