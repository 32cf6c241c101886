"""Networks of agents: convolutions, a hidden layer, and two heads for policy and value.

Weights begin orthogonal, as is usual for PPO (arXiv 2006.05990, 2005.12729): gain √2 where a ReLU
follows, 1 for the value, and .01 for the policy, so that it begins almost uniform.
"""

import functools
import math

import jax
from flax import linen as nn

from samop.models.conv import conv_general_dilated

HIDDEN, POLICY, VALUE = (nn.initializers.orthogonal(gain) for gain in (math.sqrt(2), 0.01, 1.0))
Conv = functools.partial(
    nn.Conv, padding="VALID", kernel_init=HIDDEN, conv_general_dilated=conv_general_dilated
)


class Heads(nn.Module):
    """A hidden layer that policy and value share.

    Attributes:
      hidden: its units.
      actions: number of actions.
    """

    hidden: int
    actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """[n, ...] → "logits" [n, actions] and "value" [n]."""
        x = nn.relu(nn.Dense(self.hidden, kernel_init=HIDDEN)(x.reshape(len(x), -1)))
        logits = nn.Dense(self.actions, kernel_init=POLICY, name="policy")(x)
        return {"logits": logits, "value": nn.Dense(1, kernel_init=VALUE, name="value")(x)[:, 0]}


class NatureCNN(nn.Module):
    """The network of Mnih et al. (2015) for 84×84 frames, with two heads.

    Parameters with 4 frames and 6 actions, channels 16/32/48/64:
    425,047 / 1,687,719 / 3,788,023 / 6,725,959.

    Attributes:
      channels: filters of the first layer; the next two have twice as many, the hidden layer has
        sixteen times as many units (32: the published 32, 64, 64 and 512).
      actions: number of actions.
    """

    channels: int
    actions: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """[n, 84, 84, frames] → see `Heads`. `train` changes nothing here."""
        x = nn.relu(Conv(self.channels, (8, 8), (4, 4))(x))
        x = nn.relu(Conv(2 * self.channels, (4, 4), (2, 2))(x))
        x = nn.relu(Conv(2 * self.channels, (3, 3))(x))
        return Heads(16 * self.channels, self.actions)(x)


class MinAtarCNN(nn.Module):
    """The network of MinAtar's paper (arXiv 1903.03176) for 10×10 boards, with two heads.

    Attributes:
      channels: filters of its 3×3 convolution; the hidden layer has eight times as many units (16:
        the published 16 and 128).
      actions: number of actions.
    """

    channels: int
    actions: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """[n, 10, 10, channels of the board] → see `Heads`. `train` changes nothing here."""
        x = nn.relu(Conv(self.channels, (3, 3))(x))
        return Heads(8 * self.channels, self.actions)(x)
