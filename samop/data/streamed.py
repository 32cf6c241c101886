"""The sets of photos that are streamed: where their records are, and which of them train."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samop.data import records, splits, tfds
from samop.data.client import Unavailable
from samop.data.dataset import Collection
from samop.data.records import Records
from samop.data.sources import allowed_sources, load
from samop.data.tfds import TfdsSource
from samop.errors import UserError

PHOTOS = "imagenet_photos"


class Photos(NamedTuple):
    """A set of photos in TFDS; its published validation part is the test part here.

    Attributes:
      num_classes: of its labels.
      tfds: where TFDS has it; without a `probe_url` TFDS cannot download it by itself.
      train, test: TFDS's names of the two parts.
    """

    num_classes: int
    tfds: TfdsSource
    train: str = "train"
    test: str = "validation"


TFDS: dict[str, Photos] = {
    "imagenet2012": Photos(1000, TfdsSource("imagenet2012", "")),
    "imagenette": Photos(
        10,
        TfdsSource(
            "imagenette/full-size-v2",
            "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
        ),
    ),
}
# What a config calls the sizes of the parts.
FIELDS = {
    "validation": "data.validation",
    "train": "data.train_size",
    "test": "data.test_size",
}
NAMES = (*TFDS, PHOTOS)


class Opened(NamedTuple):
    """Photos ready to be read.

    Attributes:
      records: all of them.
      parts: places of "train", "validation" and "test" among the records, int64.
      num_classes: of the labels.
      source: where they came from.
    """

    records: Records
    parts: Mapping[str, np.ndarray]
    num_classes: int
    source: Mapping[str, str]


def opened(name: str, data_dir: str | None, validation: int, train: int, test: int) -> Opened:
    """One of `NAMES`, read from where it lies; nothing is decoded.

    Validation photos are carved out of the training part, the same for all runs. Of the 20 of
    `imagenet_photos` all train, and the same ones are looked at in validation and test: they tell
    whether a network can memorise them, nothing else.

    Args:
      name: of the set.
      data_dir: as for `samop.data.load`; TFDS's sets lie where $TFDS_DATA_DIR says.
      validation, train, test: numbers of photos, 0 for all (of validation: none).

    Raises:
      UserError: it cannot be had here, or a number does not fit.
    """
    if name == PHOTOS:
        data = load(name, data_dir)
        assert isinstance(data, Collection)
        found = records.of_collection(data)
        places = np.arange(found.count)
        sizes = {"validation": validation, "train": train, "test": test}
        for field, size in sizes.items():
            if size > found.count:
                raise UserError(
                    f"{FIELDS[field]} is {size}, allowed: 0 to {found.count} (all of {name!r})"
                )
        parts = {field: places[: size or found.count] for field, size in sizes.items()}
        return Opened(found, parts, 1000, data.source)
    entry = TFDS[name]
    folder = _folder(name, entry)
    try:
        first, second = (tfds.records(folder, split) for split in (entry.train, entry.test))
    except Unavailable as reason:
        raise UserError(f"data set {name!r} cannot be streamed: {reason}") from reason
    own = np.repeat(np.array([0, 2], np.uint8), (first.count, second.count))
    cut = splits.parts(len(own), validation=validation, train=train, test=test, own=own)
    source = {
        "kind": "tfds",
        "origin": f"tfds {entry.tfds.name}:{folder.name}",
        "version": folder.name,
        "format": "array_record",
    }
    parts = dict(zip(("train", "validation", "test"), cut))
    return Opened(records.joined(first, second), parts, entry.num_classes, source)


def _folder(name: str, entry: Photos) -> Path:
    """The prepared version; TFDS is asked for one where it can download it by itself."""
    allowed = allowed_sources()
    tried = []
    if "tfds" in allowed:
        folder = tfds.prepared(entry.tfds)
        if folder is not None:
            return folder
        tried.append(f"{tfds.root() / entry.tfds.name} holds no prepared version")
    if "download" in allowed and entry.tfds.probe_url:
        try:
            return tfds.download(entry.tfds)
        except Unavailable as reason:
            tried.append(f"download: {reason}")
    elif not entry.tfds.probe_url:
        tried.append("its files have to be fetched by hand")
    raise UserError(
        f"data set {name!r} cannot be had here. Tried: {'; '.join(tried)}. What helps: `tfds build "
        f"{entry.tfds.name} --file_format=array_record` on a machine that can, TFDS_DATA_DIR to "
        "point at it; 'cifar10' stands in for it"
    )
