"""The stem of an ImageNet network, for XLA:CPU: a 7×7 convolution of stride two, then max-pooling.

On one core, 64 images of 64×64 and 4 filters, in a loop: the convolution with its gradient in the
kernel takes 13 ms as below and 52 ms by gathering all 147 inputs of each place; pooling 64 maps of
32×32×16 with its gradient 8 ms, where the gradient that XLA makes takes 45 ms.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from samop.models.conv import conv, conv_general_dilated

SIZE, STRIDE, PAD = 7, 2, 3


def stem_conv(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **how: Any) -> jax.Array:
    """What `flax.linen.Conv` calls for a stem; else as `conv.conv_general_dilated`.

    A 7×7 kernel that moves by two over [height, width] is, with a row and a column of zeros before
    it, a 4×4 kernel that moves by one over [height/2, width/2] with four times the channels.
    """
    fits = (
        jax.default_backend() == "cpu"
        and kernel.shape[:2] == (SIZE, SIZE)
        and tuple(strides) == (STRIDE, STRIDE)
        and [tuple(pair) for pair in padding] == [(PAD, PAD)] * 2
        and not any(size % STRIDE for size in x.shape[1:3])
    )
    if not fits:
        return conv_general_dilated(x, kernel, strides, padding, **how)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = _to_depth(kernel.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)
    # The place's own block, two before it and one after.
    return conv(_to_depth(x), kernel, (1, 1), ((2, 1), (2, 1)))


def _to_depth(x: jax.Array) -> jax.Array:
    """[n, 2h, 2w, c] → [n, h, w, 4c]: the four neighbours of a 2×2 block become channels."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // STRIDE, STRIDE, width // STRIDE, STRIDE, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // STRIDE, width // STRIDE, -1)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3×3 window, stride two, [n, h, w, c] → [n, ⌈h/2⌉, ⌈w/2⌉, c].

    Padded with −∞ as `padding="SAME"` says. Of equal inputs each gets a share of the gradient on a
    CPU, elsewhere the first all of it; after a ReLU such are zeros, whose gradient ends there.
    """
    if jax.default_backend() != "cpu":
        return nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
    rows, columns = (-(-size // 2) for size in x.shape[1:3])
    pads = [2 * out + 1 - size for out, size in zip((rows, columns), x.shape[1:3])]
    sides = [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)]
    x = jnp.pad(x, sides, constant_values=-jnp.inf)
    parts = [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    return functools.reduce(jnp.maximum, parts)
