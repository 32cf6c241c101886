"""The random crop of ImageNet training ("Inception crop"), for NumPy on a host and jax on a device.

A crop covers a share of the photo drawn evenly from [least, 1], with a ratio of width to height
whose logarithm is drawn evenly between those of 3/4 and 4/3 (1409.4842, section 6).
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

TRIES = 10
NUMBERS = 4 * TRIES + 1  # uniform ones that a crop and a flip take
LOG_RATIO = math.log(4 / 3)
CENTRE = 224 / 256  # share of the shorter side that evaluation sees
Array = Any


def random_box(
    u: Array, height: Array, width: Array, least: float, xp: ModuleType = np
) -> tuple[Array, Array, Array, Array]:
    """A random part of a photo: the first of ten drawn that lies inside of it.

    Where none does, the largest centred part with a ratio within [3/4, 4/3].

    Args:
      u: [40] numbers drawn evenly from [0, 1).
      height, width: of the photo, in pixels.
      least: least share of its area.
      xp: numpy or jax.numpy.

    Returns:
      (top, left, rows, columns): a part in pixels, not rounded.
    """
    share, ratio, down, across = u.reshape(TRIES, 4).T
    area = (least + (1 - least) * share) * height * width
    ratio = xp.exp((2 * ratio - 1) * LOG_RATIO)  # columns : rows
    rows, columns = xp.sqrt(area / ratio), xp.sqrt(area * ratio)
    fits = (rows <= height) & (columns <= width)
    first = xp.argmax(fits)
    bound = math.exp(LOG_RATIO)
    widest = (xp.minimum(height, bound * width), xp.minimum(width, bound * height))
    rows, columns = (
        xp.where(fits[first], drawn[first], whole) for drawn, whole in zip((rows, columns), widest)
    )
    down, across = (xp.where(fits[first], place[first], 0.5) for place in (down, across))
    return down * (height - rows), across * (width - columns), rows, columns


def central_box(height: int, width: int) -> tuple[float, float, float, float]:
    """The centred square, 224/256 of the shorter side: resize to 256 and cut 224 out, in one."""
    side = CENTRE * min(height, width)
    return (height - side) / 2, (width - side) / 2, side, side


def weights(begin: Array, length: Array, pixels: int, size: int, xp: ModuleType = np) -> Array:
    """A matrix [size, pixels] that resizes one side of a part of an image: bilinear, antialiased.

    Args:
      begin, length: the part, in pixels.
      pixels: of the image.
      size: to make of the part.
      xp: numpy or jax.numpy.
    """
    scale = length / size
    centre = begin + (xp.arange(size) + 0.5) * scale - 0.5
    distance = xp.abs(xp.arange(pixels)[None, :] - centre[:, None]) / xp.maximum(scale, 1.0)
    near = xp.maximum(0.0, 1.0 - distance)
    return near / xp.sum(near, axis=1, keepdims=True)
