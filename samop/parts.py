"""How well a network fits the training examples with true labels, and those with flipped ones."""

import jax
import jax.numpy as jnp

from samop.workloads import PyTree, Workload

NAMES = ("train_clean_accuracy", "train_noisy_accuracy", "train_noisy_true_accuracy")


def label_parts(
    params: PyTree,
    model_state: PyTree,
    x: PyTree,
    given: jax.Array,
    true: jax.Array,
    workload: Workload,
    size: int,
) -> dict[str, jax.Array]:
    """Accuracies on the two parts of a training set, in evaluation mode.

    Args:
      params, model_state: the network.
      x: raw training examples, [n, …].
      given, true: their labels, int [n]: those that training sees, and those without noise.
      workload: of classes; its outputs are logits [batch, classes].
      size: examples at a time.

    Returns:
      Scalars by `NAMES`: the share of examples with true labels that are told right; of flipped
      ones the share that is told as the given, wrong label (memorised), and the share that is told
      as the true one. NaN where there are no such examples.
    """
    n = len(given)
    batches = -(-n // size)
    places = jnp.arange(batches * size).reshape(batches, size)

    def of_batch(index):
        real, index = index < n, jnp.minimum(index, n - 1)
        batch = workload.batch(jax.tree.map(lambda a: a[index], x), given[index], None, None)
        logits, _ = workload.apply(params, model_state, batch, None, False)
        told = jnp.argmax(logits, -1)
        flipped = given[index] != true[index]
        clean, noisy = real & ~flipped, real & flipped
        hits = (
            clean & (told == given[index]),
            noisy & (told == given[index]),
            noisy & (told == true[index]),
        )
        return tuple(jnp.sum(hit) for hit in hits), (jnp.sum(clean), jnp.sum(noisy))

    hits, sizes = jax.tree.map(jnp.sum, jax.lax.map(of_batch, places))
    real = jnp.result_type(float)
    of = (sizes[0], sizes[1], sizes[1])
    return {
        name: jnp.where(count > 0, hit.astype(real) / count, jnp.nan)
        for name, hit, count in zip(NAMES, hits, of)
    }
