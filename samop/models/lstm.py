"""A bidirectional LSTM over words, with attention, for classifying sentences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from samop.models.dropout import Dropout, drawn

UNKNOWN = 1  # the word that word dropout puts in; 0 is padding
WORD_DROPOUT = 0.1


class LSTMClassifier(nn.Module):
    """Embedding, bidirectional LSTM, attention over its states, a hidden layer, logits.

    The network of flax's sst2 example but for its single logit: attention by keys alone (a hidden
    tanh layer and one weight vector, no biases), dropout of embeddings, states, summary and hidden
    layer, and in training a tenth of the words replaced by the unknown one. Parameters: V·E +
    8H(E + H + 1) + 2H² + H + 2H² + H + H·outputs, with V words, E = embed and H = hidden.

    Attributes:
      vocabulary: number of words, padding (0) and the unknown word (1) included.
      embed: size of an embedding.
      hidden: size of either direction's state.
      outputs: number of classes.
      dropout: rate.
      rows_axis: mapped axis over which the batch is divided, see `samop.models.dropout`.
    """

    vocabulary: int
    embed: int
    hidden: int
    outputs: int
    dropout: float = 0.5
    rows_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Words int [batch, steps], zeros at the end → [batch, outputs].

        `train` needs the random stream "dropout".
        """
        drop = functools.partial(Dropout(self.dropout, self.rows_axis), train=train)
        if train:
            words = functools.partial(jax.random.bernoulli, self.make_rng("dropout"), WORD_DROPOUT)
            gone = drawn(words, x.shape, self.rows_axis)
            word = jnp.where(gone & (x > 0), UNKNOWN, x)
        else:
            word = x
        table = self.param("embedding", nn.initializers.normal(0.1), (self.vocabulary, self.embed))
        inputs = drop(table[word.T], place=1)  # time first: a step's inputs lie together
        mask = x.T > 0
        states = drop(BiLSTM(self.hidden)(inputs, mask), place=1)
        key = jnp.tanh(nn.Dense(self.hidden, use_bias=False, name="keys")(states))
        energy = nn.Dense(1, use_bias=False, name="energy")(key)[..., 0]
        # A finite number, so that a sentence of nothing but padding gives no NaN.
        share = jax.nn.softmax(jnp.where(mask, energy, jnp.finfo(energy.dtype).min), axis=0)
        summary = drop(jnp.einsum("tb,tbh->bh", share, states))
        hidden = drop(jnp.tanh(nn.Dense(self.hidden, name="hidden")(summary)))
        return nn.Dense(self.outputs, use_bias=False, name="logits")(hidden)


class BiLSTM(nn.Module):
    """Two LSTMs (gates i, f, g, o), one of them from the last word to the first.

    Attributes:
      hidden: size of either state.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Inputs [steps, batch, inputs] and mask [steps, batch] → states [steps, batch, 2·hidden].

        The mask is true on a sentence's words, which come first. States of padding are zero.
        """
        here = mask[..., None].astype(x.dtype)
        ahead = direction(*self._weights("forward", x.shape[-1]), x, here)
        # From the end: padding leaves the state at zero until a sentence's last word comes.
        back = direction(*self._weights("backward", x.shape[-1]), x, here, reverse=True)
        return jnp.concatenate([ahead, back], -1)

    def _weights(self, name: str, inputs: int) -> tuple[jax.Array, jax.Array]:
        """Kernel [inputs + hidden, 4·hidden] and bias [4·hidden] of one direction."""

        def start(key, shape, dtype=jnp.float32):
            first, *others = jax.random.split(key, 5)
            # The scale of the inputs' part alone, and an orthogonal matrix for each gate.
            lecun = nn.initializers.lecun_normal()(first, (inputs, shape[1]), dtype)
            square = (self.hidden, self.hidden)
            gates = [nn.initializers.orthogonal()(other, square, dtype) for other in others]
            return jnp.concatenate([lecun, jnp.concatenate(gates, 1)])

        size = 4 * self.hidden
        kernel = self.param(f"{name}_kernel", start, (inputs + self.hidden, size))
        return kernel, self.param(f"{name}_bias", nn.initializers.zeros, (size,))


def direction(
    kernel: jax.Array, bias: jax.Array, x: jax.Array, here: jax.Array, reverse: bool = False
) -> jax.Array:
    """The states [steps, batch, hidden] of an LSTM that begins with zeros.

    Args:
      kernel, bias: of the gates, applied to a step's inputs and the state before it, joined.
      x: [steps, batch, inputs].
      here: [steps, batch, 1]; where it is 0 the state becomes zero.
      reverse: from the last step to the first.
    """
    nothing = jnp.zeros((x.shape[1], bias.shape[0] // 4), x.dtype)

    def step(state, given):
        (h, c), (inputs, now) = state, given
        state = cell(c, jnp.concatenate([inputs, h], 1) @ kernel + bias[None], now)
        return state, state[0]

    # Only the products are kept for the backward pass: making the rest again is cheaper than
    # writing it to memory.
    kept = jax.checkpoint_policies.dots_saveable
    step = jax.checkpoint(step, policy=kept, prevent_cse=False)
    return lax.scan(step, (nothing, nothing), (x, here), reverse=reverse)[1]


def cell(c: jax.Array, gates: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step of an LSTM (doi:10.1162/neco.1997.9.8.1735): (h, c) from c and the gates' inputs.

    Args:
      c: [rows, hidden].
      gates: [rows, 4·hidden].
      here: [rows, 1]; 0 makes the new state zero.
    """
    # One tanh over all gates is several times faster on a CPU than a function for each.
    size = c.shape[-1]
    half = np.repeat([0.5, 0.5, 1.0, 0.5], size)[None].astype(gates.dtype)
    gates = half * jnp.tanh(half * gates) + (1 - half)  # σ(x) = ½ tanh(½x) + ½
    i, f, g, o = jnp.split(gates, 4, -1)
    c = (f * c + i * g) * here
    return o * jnp.tanh(c), c
