"""ResNet-18 with the CIFAR stem: a 3×3 convolution of stride 1 and no pooling (1512.03385)."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from samop.models.conv import conv_general_dilated

Conv = functools.partial(nn.Conv, use_bias=False, conv_general_dilated=conv_general_dilated)


def batch_norm(train: bool, axis_name: str | None) -> functools.partial:
    """The residual networks' normalisation: running statistics decay by .9."""
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
    )


def stages(
    block: type[nn.Module],
    blocks: Sequence[int],
    filters: int,
    x: jax.Array,
    norm: functools.partial,
    remat: bool,
) -> jax.Array:
    """Applies so many blocks a stage; each stage after the first halves x and doubles the filters.

    Called within a compact method, whose module then owns the blocks.

    Args:
      block: the class of the blocks, made from `filters`, `stride` and `norm`.
      blocks: how many each stage has.
      filters: of the first stage's blocks.
      x: [batch, height, width, channels].
      norm: the blocks' normalisation.
      remat: whether a backward pass computes each block again, see `ResNet18`.
    """
    made, number = nn.remat(block) if remat else block, itertools.count()
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            name = f"{block.__name__}_{next(number)}"  # flax's own, which `nn.remat` would change
            x = made(filters * 2**stage, stride, norm, name=name)(x)
    return x


class Block(nn.Module):
    """Two 3×3 convolutions with a skip; a 1×1 projection where the shape changes."""

    filters: int
    stride: int
    norm: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = Conv(self.filters, (3, 3), strides, padding=1)(x)
        y = nn.relu(self.norm()(y))
        y = Conv(self.filters, (3, 3), padding=1)(y)
        y = self.norm()(y)
        if x.shape != y.shape:
            x = self.norm()(Conv(self.filters, (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 for small images, scaled by the filters of its first stage.

    Parameters with 10 classes and 3 input channels, filters 4/8/16/32/64:
    44,622 / 176,402 / 701,466 / 2,797,610 / 11,173,962.

    Attributes:
      filters: channels of the first of four stages; each next stage doubles them.
      outputs: number of classes.
      axis_name: mapped axis over which BatchNorm averages its statistics; None: this replica's.
      remat: whether a backward pass keeps the blocks' inputs alone and computes what is inside
        them again: less memory, some third more work, the same numbers.
    """

    filters: int
    outputs: int
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] → [batch, outputs]."""
        norm = batch_norm(train, self.axis_name)
        x = Conv(self.filters, (3, 3), padding=1)(x)
        x = nn.relu(norm()(x))
        x = stages(Block, (2, 2, 2, 2), self.filters, x, norm, self.remat)
        return nn.Dense(self.outputs)(jnp.mean(x, axis=(1, 2)))
