"""Photos at a size of one's choice: ImageNet streamed from disk, or small images made larger.

A set of small images held in memory (CIFAR-10) is resized on the device. It stands in for ImageNet
where that cannot be had, under its own name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samop import data
from samop.data import augment, streamed
from samop.data import stream as streams
from samop.errors import UserError
from samop.workloads import Metric, Workload, supervised
from samop.workloads.classification import examples, normalization


class Pixels(NamedTuple):
    """How bytes become numbers: as of a `samop.data.Dataset`."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Of ImageNet's training photos, as the field has them.
PHOTOS = Pixels(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    if config["data"]["name"] in streamed.NAMES:
        return _from_disk(config)
    return _in_memory(config)


def _in_memory(config: Mapping[str, Any]) -> Workload:
    dataset, splits = supervised.load(config)
    if not dataset.num_classes or dataset.train_x.ndim != 4:
        raise UserError(
            f"data.name={dataset.name!r} is no set of images with classes, as "
            "workload='imagenet' needs"
        )
    size, least = config["task"]["image_size"], config["task"]["crop_area"]
    random = config["data"]["augment"] == "resized_crop"

    def square(x, key, index):
        if random and key is not None:
            return augment.resized_crop(x, key, index, size, least)
        return augment.resized(x, size)

    channels = dataset.train_x.shape[3]
    return _workload(
        config,
        dataset,
        channels,
        square,
        splits=splits,
        num_classes=dataset.num_classes,
        source=dataset.source,
    )


def _from_disk(config: Mapping[str, Any]) -> Workload:
    fields, task = config["data"], config["task"]
    opened = streamed.opened(
        fields["name"],
        fields["dir"] or None,
        fields["validation"],
        fields["train_size"],
        fields["test_size"],
    )
    least = task["crop_area"] if fields["augment"] == "resized_crop" else None
    return _workload(
        config,
        PHOTOS,
        3,
        lambda x, key, index: x,  # cropped while it was decoded
        splits=None,
        num_classes=opened.num_classes,
        source=opened.source,
        stream=streams.of_photos(opened.records, opened.parts, task["image_size"], least),
    )


def _workload(
    config: Mapping[str, Any],
    pixels: Pixels | data.Dataset,
    channels: int,
    square: Any,
    *,
    num_classes: int,
    **where: Any,
) -> Workload:
    """What both kinds share: network, metric, and numbers made of bytes.

    Args:
      config: a validated config.
      pixels: how bytes become numbers.
      channels: of an image.
      square: `square(x, key, index)`: raw images to squares of the wanted size.
      num_classes: of the labels.
      **where: what else a `Workload` has.
    """
    gain, offset = normalization(pixels, config["data"]["normalize"])
    side = config["task"]["image_size"]
    example = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    init, apply = supervised.network(config, example, num_classes)

    def batch(x, y, key, index):
        x = square(x, key, index)
        return {"x": x.astype(jnp.result_type(float)) * gain + offset, "y": y}

    return Workload(
        metric=Metric("accuracy", True, 100.0, "points"),
        num_classes=num_classes,
        init=init,
        batch=batch,
        apply=apply,
        examples=examples,
        **where,
    )
