"""Splits in equal batches, as evaluation wants them on the devices."""

from typing import Any

import jax
import numpy as np

from samop.data.splits import aligned


def padded(split: Any, most: int, multiple: int = 1) -> dict[str, np.ndarray]:
    """A split in equal batches of at most `most`, the last filled up with zeros of weight 0.

    Args:
      split: what is to be evaluated.
      most: largest size of a batch; rounded up to a multiple.
      multiple: what the size should be a multiple of.

    Returns:
      "x" and "y" [batches, size, ...], "weight" [batches, size].
    """
    n = len(split.y)
    batches = -(-n // most)
    size = -(-n // batches)
    size = -(-size // multiple) * multiple

    def fill(a: np.ndarray) -> np.ndarray:
        out = aligned((batches * size, *a.shape[1:]), a.dtype)
        out[:n], out[n:] = a, 0
        return out.reshape(batches, size, *a.shape[1:])

    weight = np.ones(n, np.float32)
    return {"x": jax.tree.map(fill, split.x), "y": fill(split.y), "weight": fill(weight)}
