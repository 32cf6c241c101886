"""Label noise and batch order: pure functions of seeds, computed on the device."""

import jax
import jax.numpy as jnp

# Folded into a run's seed, so that no two uses of it share random numbers.
INIT, DROPOUT, ORDER, NOISE, AUGMENT, PERTURB, CURVATURE = range(7)


def stream(seed: jax.typing.ArrayLike, purpose: int) -> jax.Array:
    """The typed key of one purpose of a run's seed."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def noisy_labels(
    labels: jax.Array, num_classes: int, flips: jax.typing.ArrayLike, seed: jax.typing.ArrayLike
) -> jax.Array:
    """Symmetric label noise: exactly `flips` labels, each moved to another class.

    A flipped label is uniform over the other classes. For one seed the flipped examples of fewer
    flips are among those of more.

    Args:
      labels: [n] int, in [0, num_classes).
      num_classes: number of classes, ≥ 2.
      flips: number of labels to flip, 0 to n; may be traced.
      seed: the noise seed; may be traced.
    """
    n = labels.shape[0]
    where, how = jax.random.split(stream(seed, NOISE))
    rank = jax.random.permutation(where, n)
    shift = jax.random.randint(how, (n,), 1, num_classes, labels.dtype)
    flipped = (labels + shift) % num_classes
    return jnp.where(rank < flips, flipped, labels)


def noisy_targets(
    targets: jax.Array, deviation: jax.typing.ArrayLike, seed: jax.typing.ArrayLike
) -> jax.Array:
    """Regression targets [n] plus Gaussian noise of a standard deviation, which may be traced."""
    noise = jax.random.normal(stream(seed, NOISE), targets.shape, targets.dtype)
    return targets + jnp.asarray(deviation, targets.dtype) * noise


def epoch_order(
    n: int, batch_size: int, seed: jax.typing.ArrayLike, epoch: jax.typing.ArrayLike
) -> jax.Array:
    """Which examples make up each batch of an epoch: a pure function of (seed, epoch).

    Returns:
      [n // batch_size, batch_size] int32: a random permutation, the remainder left out (other
      examples each epoch).
    """
    steps = n // batch_size
    key = jax.random.fold_in(stream(seed, ORDER), epoch)
    return jax.random.permutation(key, n)[: steps * batch_size].reshape(steps, batch_size)
