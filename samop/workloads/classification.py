"""Image classification with cross-entropy: digits, MNIST, Fashion-MNIST, CIFAR-10."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop.data import augment
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


def normalization(pixels: Any, how: str) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset), each [1, 1, 1, channels or 1]: raw · gain + offset enters the network.

    Args:
      pixels: a data set, or else what has its `scale`, `mean` and `std` of the raw pixels.
      how: "unit" for [0, 1], "standardize" for mean 0 and deviation 1 a channel, "none".
    """
    if how == "standardize":
        std, mean = np.asarray(pixels.std, np.float32), np.asarray(pixels.mean, np.float32)
        gain, offset = 1 / (pixels.scale * std), -mean / std
    else:
        gain, offset = np.ones(1, np.float32), np.zeros(1, np.float32)
        if how == "unit":
            gain = gain / pixels.scale
    return gain.reshape(1, 1, 1, -1), offset.reshape(1, 1, 1, -1)


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    dataset, splits = supervised.load(config)
    if not dataset.num_classes:
        raise UserError(f"data.name={dataset.name!r} has no classes: use workload='regression'")
    fields = config["data"]
    if fields["augment"] == "resized_crop":
        raise UserError(
            "data.augment='resized_crop' is for photos; with workload='classification' use "
            "'crop_flip' or 'none'"
        )
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
