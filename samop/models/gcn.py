"""A graph convolutional network (arXiv 1609.02907) on molecules packed into rows."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from samop.models.dropout import drawn

# How often an atom is its own neighbour: twice, since the example that the paper's workload is
# built on adds self-loops to its graphs and again in its convolution.
SELF_LOOPS = 2


def summed(h: jax.Array, neighbour: jax.Array) -> jax.Array:
    """Sum of each atom's neighbours; linear in h, and its own transpose.

    The gradient of a gather is a scatter-add, whose order of summation varies on a GPU. But
    neighbours are mutual, so the operator is a symmetric matrix and its transpose the same gather.
    JAX lets a linear solve say how it is transposed: this is the solution of 1·x = (sum).

    Args:
      h: float [rows, atoms, features].
      neighbour: int [rows, atoms, most], places in the row, negative where there is none; where
        i names j as often as it is named by j, as in every undirected graph.

    Returns:
      [rows, atoms, features].
    """

    def gathered(_, h):
        total = jnp.zeros_like(h)
        for k in range(neighbour.shape[-1]):
            index = neighbour[:, :, k : k + 1].astype(jnp.int32)
            there = jnp.take_along_axis(h, jnp.maximum(index, 0), axis=1)
            total += jnp.where(index >= 0, there, 0)
        return total

    return lax.custom_linear_solve(lambda x: x, h, gathered, symmetric=True)


def convolved(h: jax.Array, neighbour: jax.Array) -> jax.Array:
    """D^(−1/2) (A + 2·1) D^(−1/2) h, with D the row sums of A + 2·1; shapes as for `summed`."""
    degree = jnp.sum(neighbour >= 0, axis=-1, keepdims=True) + SELF_LOOPS
    scale = lax.rsqrt(degree.astype(h.dtype))
    h = scale * h
    return scale * (summed(h, neighbour) + SELF_LOOPS * h)


def pooled(h: jax.Array, atoms: jax.Array) -> jax.Array:
    """Mean over the atoms of each molecule.

    Args:
      h: [rows, atoms, features].
      atoms: int [rows, molecules], how many atoms each has, one molecule after another.

    Returns:
      [rows, molecules, features]; 0 for a molecule without atoms.
    """
    atoms = atoms.astype(jnp.int32)
    end = jnp.cumsum(atoms, axis=1)[:, :, None]
    count = atoms[:, :, None]
    place = jnp.arange(h.shape[1])[None, None]
    member = (place >= end - count) & (place < end)
    return member.astype(h.dtype) @ h / jnp.maximum(count, 1).astype(h.dtype)


class Dropout(nn.Module):
    """Flax's, which draws a float for each value; its numbers are those of the runs so far.

    Attributes:
      rate: in [0, 1).
      rows_axis: mapped axis over which rows are divided, see `samop.models.dropout`.
    """

    rate: float
    rows_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x [rows, ...]; draws from the stream "dropout" where `train`."""
        if not train or not self.rate:
            return x
        key, keep = self.make_rng("dropout"), 1.0 - self.rate
        kept = drawn(lambda shape: jax.random.bernoulli(key, keep, shape), x.shape, self.rows_axis)
        return lax.select(kept, x / keep, jnp.zeros_like(x))


class GraphConvNet(nn.Module):
    """Graph convolutions with skips and LayerNorm, the mean over atoms, a linear read-out.

    Each of the message-passing steps puts the atoms through an MLP (ReLU and dropout after every
    layer), convolves, adds what it came from and normalises. Bonds have no features here.

    Parameters with 9 atom features and 128 tasks, latent sizes 128/256/512: 184,192 / 695,936 /
    2,702,464.

    Attributes:
      latent: features of an atom within the network.
      outputs: number of tasks.
      dropout: rate.
      steps: of message passing.
      layers: of each MLP.
      rows_axis: mapped axis over which rows are divided, see `samop.models.dropout`.
    """

    latent: int
    outputs: int
    dropout: float = 0.1
    steps: int = 5
    layers: int = 2
    rows_axis: str | None = None

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        """Logits [rows, molecules, outputs].

        Args:
          x: "atom" float [rows, atoms, 9]; "neighbour" and "atoms" as for `summed` and `pooled`.
          train: whether to drop out.
        """
        h = nn.Dense(self.latent)(x["atom"])
        for _ in range(self.steps):
            z = h
            for _ in range(self.layers):
                z = nn.relu(nn.Dense(self.latent)(z))
                z = Dropout(self.dropout, self.rows_axis)(z, train)
            h = nn.LayerNorm()(h + convolved(z, x["neighbour"]))
        return nn.Dense(self.outputs)(pooled(h, x["atoms"]))
