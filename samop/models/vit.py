"""A small vision Transformer (arXiv 2010.11929) with mean pooling (arXiv 2205.01580)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from samop.errors import UserError
from samop.models.dropout import Dropout
from samop.models.transformer import layer


class ViT(nn.Module):
    """Patches as tokens, learned positions, pre-norm layers, the mean over tokens, a linear head.

    Attributes:
      size: of tokens; feed-forward blocks have four times as many units.
      layers: number of layers.
      heads: of attention; must divide `size`.
      patch: side of a patch in pixels; must divide the image's sides.
      dropout: rate, as in `Transformer`.
      outputs: number of classes.
      rows_axis: mapped axis over which the batch is divided, see `samop.models.dropout`.
      remat: whether a backward pass computes each layer again, as in `Transformer`.
    """

    size: int
    layers: int
    heads: int
    patch: int
    dropout: float
    outputs: int
    rows_axis: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] → [batch, outputs]."""
        sides, side = x.shape[1:3], (self.patch, self.patch)
        if any(length % self.patch for length in sides):
            raise UserError(
                f"model.patch={self.patch} should divide the sides of the images, "
                f"{sides[0]} and {sides[1]}"
            )
        if self.size % self.heads:
            raise UserError(f"model.heads={self.heads} should divide model.size={self.size}")
        y = nn.Conv(self.size, side, side, padding="VALID", name="patches")(x)
        y = y.reshape(len(x), -1, self.size)
        place = nn.initializers.normal(0.02)
        y = y + self.param("position", place, (1, *y.shape[1:]))
        y = Dropout(self.dropout, self.rows_axis)(y, train)
        everything = jnp.ones((1, 1, 1, 1), bool)
        for number in range(self.layers):
            made = layer(self.remat)(
                self.heads, self.dropout, nn.gelu, self.rows_axis, name=f"layer_{number}"
            )
            y = made(y, everything, train)
        return nn.Dense(self.outputs, name="head")(nn.LayerNorm(name="last")(y).mean(axis=1))
