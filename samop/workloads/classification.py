"""Image classification with cross-entropy: digits, MNIST, Fashion-MNIST, CIFAR-10."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop.data import Dataset, augment
from samop.errors import UserError
from samop.workloads import Metric, Workload, supervised


def examples(logits: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Cross-entropy (nats) and correctness (0 or 1) of each example, both [n].

    Args:
      logits: [n, classes].
      batch: "y" holds the labels, int [n].
    """
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return {"loss": loss, "accuracy": (jnp.argmax(logits, -1) == batch["y"]).astype(loss.dtype)}


def normalization(dataset: Dataset, how: str) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset), each [1, 1, 1, channels or 1]: raw · gain + offset enters the network.

    Args:
      dataset: its `scale`, `mean` and `std` describe the raw pixels.
      how: "unit" for [0, 1], "standardize" for mean 0 and deviation 1 a channel, "none".
    """
    if how == "standardize":
        std, mean = np.asarray(dataset.std, np.float32), np.asarray(dataset.mean, np.float32)
        gain, offset = 1 / (dataset.scale * std), -mean / std
    else:
        gain, offset = np.ones(1, np.float32), np.zeros(1, np.float32)
        if how == "unit":
            gain = gain / dataset.scale
    return gain.reshape(1, 1, 1, -1), offset.reshape(1, 1, 1, -1)


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    dataset, splits = supervised.load(config)
    if not dataset.num_classes:
        raise UserError(f"data.name={dataset.name!r} has no classes: use workload='regression'")
    fields = config["data"]
    gain, offset = normalization(dataset, fields["normalize"])
    example = jax.ShapeDtypeStruct((1, *splits.train.x.shape[1:]), jnp.float32)
    init, apply = supervised.network(config, example, dataset.num_classes)

    def batch(x, y, key, index):
        if key is not None and fields["augment"] == "crop_flip":
            x = augment.crop_flip(x, key, index)
        # The bytes travel as uint8; one multiply-add on the device makes numbers of them.
        return {"x": x.astype(jnp.result_type(float)) * gain + offset, "y": y}

    return Workload(
        metric=Metric("accuracy", True, 100.0, "points"),
        splits=splits,
        num_classes=dataset.num_classes,
        init=init,
        batch=batch,
        apply=apply,
        examples=examples,
        source=dataset.source,
    )
