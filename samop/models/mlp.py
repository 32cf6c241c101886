"""Fully connected ReLU networks."""

from collections.abc import Sequence

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Linear layers with ReLU between them; inputs are flattened.

    Widths [300, 100] on 28×28 images and 10 classes: 266,610 parameters.

    Attributes:
      hidden: width of each hidden layer.
      outputs: number of outputs (classes, or 1 for scalar regression).
    """

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, ...] → [batch, outputs]. `train` changes nothing here."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.outputs)(x)
