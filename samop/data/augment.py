"""Augmentation on the device. Randomness belongs to the example's place in the data set."""

import jax
import jax.numpy as jnp

from samop.data import crops

PAD = 4


def crop_flip(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Zero-pads by 4, crops back to the original size at random, mirrors with probability ½.

    Args:
      images: [n, height, width, channels], any dtype.
      key: the epoch's key.
      index: [n] int32, each example's place in the data set: folded into the key, so that an
        example's crop is the same however a batch is split over devices.
    """
    height, width, channels = images.shape[1:]

    def one(image: jax.Array, i: jax.Array) -> jax.Array:
        bits = jax.random.randint(jax.random.fold_in(key, i), (3,), 0, 2 * (2 * PAD + 1))
        top, left = bits[0] // 2, bits[1] // 2
        padded = jnp.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
        crop = jax.lax.dynamic_slice(padded, (top, left, 0), (height, width, channels))
        return jnp.where(bits[2] % 2 == 1, crop[:, ::-1], crop)

    return jax.vmap(one)(images, index)


def resized_crop(
    images: jax.Array, key: jax.Array, index: jax.Array, size: int, least: float
) -> jax.Array:
    """A random part of each image, resized and mirrored with probability ½; see `crops`.

    Args:
      images: [n, height, width, channels], any dtype.
      key, index: as in `crop_flip`.
      size: side of the square that is made of it.
      least: least share of the image's area.

    Returns:
      [n, size, size, channels], floating.
    """
    height, width = images.shape[1:3]

    def one(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = jax.random.uniform(jax.random.fold_in(key, i), (crops.NUMBERS,))
        top, left, rows, columns = crops.random_box(u[:-1], height, width, least, jnp)
        down = crops.weights(top, rows, height, size, jnp)
        across = crops.weights(left, columns, width, size, jnp)
        return down, jnp.where(u[-1] < 0.5, across[::-1], across)

    return _resize(images, *jax.vmap(one)(index))


def resized(images: jax.Array, size: int) -> jax.Array:
    """Each image as a square; shapes as in `resized_crop`."""
    sides = (crops.weights(0.0, side, side, size, jnp) for side in images.shape[1:3])
    return _resize(images, *(jnp.tile(matrix, (len(images), 1, 1)) for matrix in sides))


def _resize(images: jax.Array, down: jax.Array, across: jax.Array) -> jax.Array:
    images = images.astype(down.dtype)
    return jnp.einsum("nih,nhwc,njw->nijc", down, images, across)
