"""A bidirectional LSTM over words, with attention, for classifying sentences."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

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
    """

    vocabulary: int
    embed: int
    hidden: int
    outputs: int
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Words int [batch, steps], zeros at the end → [batch, outputs].

        `train` needs the random stream "dropout".
        """
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if train:
            gone = jax.random.bernoulli(self.make_rng("dropout"), WORD_DROPOUT, x.shape)
            word = jnp.where(gone & (x > 0), UNKNOWN, x)
        else:
            word = x
        table = self.param("embedding", nn.initializers.normal(0.1), (self.vocabulary, self.embed))
        inputs = drop(table[word.T])  # time first: a step's inputs lie together
        mask = x.T > 0
        states = drop(BiLSTM(self.hidden)(inputs, mask))
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
        weights = [self._weights(name, x.shape[-1]) for name in ("forward", "backward")]
        return both_directions(weights, x, mask)

    def _weights(self, name: str, inputs: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        def four(key, shape, dtype=jnp.float32):
            each = nn.initializers.orthogonal()
            square = (shape[0], shape[0])
            return jnp.concatenate([each(k, square, dtype) for k in jax.random.split(key, 4)], 1)

        size = 4 * self.hidden
        return (
            self.param(f"{name}_inputs", nn.initializers.lecun_normal(), (inputs, size)),
            self.param(f"{name}_states", four, (self.hidden, size)),
            self.param(f"{name}_bias", nn.initializers.zeros, (size,)),
        )


def both_directions(weights, x: jax.Array, mask: jax.Array) -> jax.Array:
    """What `BiLSTM` computes: one loop over time for both directions.

    Args:
      weights: of each direction: inputs [inputs, 4·hidden], states [hidden, 4·hidden], bias.
      x, mask: as for `BiLSTM`.
    """
    here = mask[..., None].astype(x.dtype)
    # All steps' inputs in one product; the backward direction goes through padding first, which
    # leaves its state at zero.
    ahead, back = (x @ w + b for w, _, b in weights)
    steps = ((ahead, here), (back[::-1], here[::-1]))

    def step(states, given):
        new = [
            cell(c, gates + h @ w, now)
            for (h, c), (gates, now), (_, w, _) in zip(states, given, weights)
        ]
        return new, [h for h, _ in new]

    nothing = jnp.zeros((x.shape[1], weights[0][1].shape[0]), x.dtype)
    ahead, back = lax.scan(step, [(nothing, nothing)] * 2, steps)[1]
    return jnp.concatenate([ahead, back[::-1]], -1)


def cell(c: jax.Array, gates: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step of an LSTM (doi:10.1162/neco.1997.9.8.1735): (h, c) from c and the gates' inputs.

    Args:
      c: [rows, hidden].
      gates: [rows, 4·hidden].
      here: [rows, 1]; 0 makes the new state zero.
    """
    i, f, g, o = jnp.split(gates, 4, -1)
    c = (sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)) * here
    return sigmoid(o) * jnp.tanh(c), c


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(−x)), by tanh, which XLA has as a polynomial."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5
