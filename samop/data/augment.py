"""Augmentation on the device. Randomness belongs to the example's place in the data set."""

import jax
import jax.numpy as jnp

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
