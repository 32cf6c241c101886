"""A Transformer encoder that gives every token its logits (arXiv 1706.03762, pre-norm)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from samop.models.dropout import Dropout

WAVELENGTH = 10_000.0  # the longest of the position signals, over 2π
MLP = 4  # hidden units of a feed-forward block, in sizes


def positions(length: int, size: int) -> np.ndarray:
    """Sines and cosines of a position, interleaved, [length, size] float64."""
    rates = WAVELENGTH ** (-np.arange(0, size, 2) / size)
    angles = np.arange(length)[:, None] * rates
    table = np.empty((length, size))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles[:, : size // 2])
    return table


def _three(key: jax.Array, shape: tuple[int, int], dtype: jax.typing.DTypeLike) -> jax.Array:
    """Queries, keys and values in one matrix, each initialised as a matrix of its own."""
    init, (fan_in, width) = nn.initializers.xavier_uniform(), shape
    parts = [init(k, (fan_in, width // 3), dtype) for k in jax.random.split(key, 3)]
    return jnp.concatenate(parts, axis=1)


class Layer(nn.Module):
    """Self-attention, then a feed-forward block; both on normalised inputs, both residual."""

    heads: int
    dropout: float
    activation: Callable[[jax.Array], jax.Array] = nn.elu
    rows_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x [rows, length, size], mask [rows, 1, length, length] → [rows, length, size]."""
        rows, length, size = x.shape
        drop = functools.partial(Dropout(self.dropout, self.rows_axis), train=train)
        xavier = nn.initializers.xavier_uniform()

        y = nn.LayerNorm()(x)
        y = nn.Dense(3 * size, use_bias=False, kernel_init=_three, name="qkv")(y)
        q, k, v = jnp.moveaxis(y.reshape(rows, length, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("rqhd,rkhd->rhqk", q * q.shape[-1] ** -0.5, k)
        # Not -inf: a row of padding alone attends to padding, and its gradient must stay finite.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        seen = jnp.einsum("rhqk,rkhd->rqhd", drop(nn.softmax(scores)), v)
        y = nn.Dense(size, use_bias=False, kernel_init=xavier, name="out")(
            seen.reshape(rows, length, size)
        )
        x = x + drop(y)

        y = nn.LayerNorm()(x)
        y = drop(self.activation(nn.Dense(MLP * size, kernel_init=xavier)(y)))
        return x + drop(nn.Dense(size, kernel_init=xavier)(y))


def layer(remat: bool) -> type[Layer]:
    """The class `Layer`; `remat`: one whose backward pass computes what is inside it again."""
    return nn.remat(Layer, static_argnums=(3,)) if remat else Layer  # train; self counts


class Transformer(nn.Module):
    """A tagger; the shape of Flax's nlp_seq example, which the paper's is evidently built on.

    Attributes:
      size: of embeddings, queries, keys and values; feed-forward blocks have four times as many.
      layers: number of layers.
      heads: of attention; must divide `size`.
      dropout: rate, of embeddings, attention, and both blocks' outputs and hidden units.
      vocabulary: number of tokens, padding and unknown included.
      outputs: number of tags.
      rows_axis: mapped axis over which the batch is divided, see `samop.models.dropout`.
      remat: whether a backward pass keeps the layers' inputs alone and computes what is inside
        them again: less memory, some third more work, the same numbers.
    """

    size: int
    layers: int
    heads: int
    dropout: float
    vocabulary: int
    outputs: int
    rows_axis: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: dict[str, jax.Array], train: bool = False) -> jax.Array:
        """Logits of every token, [rows, length, outputs].

        Args:
          x: "token", "segment" and "position", int [rows, length]: several sentences a row, each a
            segment of its own, none of which sees another.
          train: whether to drop out.
        """
        token, segment = x["token"], x["segment"]
        y = nn.Embed(self.vocabulary, self.size, name="embed")(token)
        y = Dropout(self.dropout, self.rows_axis)(y, train)
        table = jnp.asarray(positions(token.shape[1], self.size), y.dtype)
        y = y + table[x["position"]]
        mask = (segment[:, :, None] == segment[:, None, :])[:, None]
        for number in range(self.layers):
            made = layer(self.remat)(
                self.heads, self.dropout, rows_axis=self.rows_axis, name=f"layer_{number}"
            )
            y = made(y, mask, train)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.xavier_uniform(), name="tags")(
            nn.LayerNorm(name="last")(y)
        )
