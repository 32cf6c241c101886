"""Compressed photos that are read one at a time, from memory or from files with random access."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from samop.data.dataset import Collection
from samop.errors import UserError

PHOTO = "imagenet_"


@dataclasses.dataclass(frozen=True)
class Records:
    """Photos with labels.

    Attributes:
      count: how many.
      read: `read(i) -> (JPEG bytes, label)`; several threads may call it at once.
      name: `name(i)`: what errors call the photo.
    """

    count: int
    read: Callable[[int], tuple[bytes, int]]
    name: Callable[[int], str]


def joined(first: Records, second: Records) -> Records:
    """The photos of both, one after the other."""

    def pick(i: int) -> tuple[Records, int]:
        return (first, i) if i < first.count else (second, i - first.count)

    def read(i: int) -> tuple[bytes, int]:
        own, place = pick(i)
        return own.read(place)

    def name(i: int) -> str:
        own, place = pick(i)
        return own.name(place)

    return Records(first.count + second.count, read, name)


def of_collection(data: Collection) -> Records:
    """The photos of a collection that `photo_files` made."""
    content, start, label = (data.arrays[key] for key in ("bytes", "start", "label"))

    def read(i: int) -> tuple[bytes, int]:
        return content[start[i] : start[i + 1]].tobytes(), int(label[i])

    return Records(len(label), read, lambda i: f"{data.name}: {data.about['files'][i]}")


def photo_files(files: Mapping[str, bytes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Files `imagenet_NN_LABEL.jpg` → their bytes one after another, offsets and labels.

    Returns:
      Arrays "bytes" uint8, "start" int64 [n + 1], "label" int32 [n]; about "files", their names.
      Nothing is decoded.

    Raises:
      UserError: a name of another form, or no file at all.
    """
    names = sorted(files)
    labels = []
    for name in names:
        stem, _, kind = name.rsplit("/", 1)[-1].rpartition(".")
        label = stem.rpartition("_")[2]
        if not stem.startswith(PHOTO) or kind != "jpg" or not label.isdigit():
            raise UserError(f"{name}: should be named {PHOTO}NN_LABEL.jpg")
        labels.append(int(label))
    if not names:
        raise UserError(f"no file {PHOTO}NN_LABEL.jpg is among those of the package")
    arrays: dict[str, np.ndarray] = {
        "bytes": np.frombuffer(b"".join(files[name] for name in names), np.uint8),
        "start": np.cumsum([0, *(len(files[name]) for name in names)], dtype=np.int64),
        "label": np.array(labels, np.int32),
    }
    return arrays, {"files": [name.rsplit("/", 1)[-1] for name in names]}
