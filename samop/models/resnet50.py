"""ResNet-50 v1.5 for photos: the stride of a block in its 3×3 convolution (1512.03385)."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from samop.models.resnet import Conv, batch_norm, stages
from samop.models.stem import max_pool, stem_conv

STAGES = (3, 4, 6, 3)  # blocks
EXPANSION = 4  # of a block's channels by its last convolution


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a skip; a projection where the shape changes.

    The scale of the last normalisation begins at zero, so that a new block is the identity: what
    the field does with this network (1706.02677, section 5.1).
    """

    filters: int
    stride: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(Conv(self.filters, (1, 1))(x)))
        y = nn.relu(self.norm()(Conv(self.filters, (3, 3), strides)(y)))
        y = Conv(EXPANSION * self.filters, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = self.norm()(Conv(EXPANSION * self.filters, (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50, scaled by the filters of its first stage.

    Parameters with 1000 classes and 3 input channels, filters 16/32/48/56/64:
    1,993,976 / 6,917,640 / 14,771,992 / 19,798,176 / 25,557,032.

    Attributes:
      filters: channels of the stem; the four stages end in 4, 8, 16 and 32 times as many.
      outputs: number of classes.
      axis_name: mapped axis over which BatchNorm averages its statistics; None: this replica's.
      remat: whether a backward pass computes each block again, see `ResNet18`.
    """

    filters: int
    outputs: int
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] → [batch, outputs]."""
        norm = batch_norm(train, self.axis_name)
        stem = functools.partial(Conv, conv_general_dilated=stem_conv)
        x = stem(self.filters, (7, 7), (2, 2), padding=3)(x)
        x = max_pool(nn.relu(norm()(x)))
        x = stages(Bottleneck, STAGES, self.filters, x, norm, self.remat)
        return nn.Dense(self.outputs)(jnp.mean(x, axis=(1, 2)))
