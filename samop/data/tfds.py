"""Data sets of tensorflow-datasets (TFDS): found prepared, or prepared by it now.

TFDS stores examples sorted by the md5 of split name and key, and the sets of images here use an
example's original index as its key. So the original order is known and is restored; then the
arrays are the same bytes, and a validation split the same images, whatever the source.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samop.data.client import Unavailable
from samop.data.dataset import Arrays
from samop.data.records import Records
from samop.errors import UserError

PROBE_S = 2.0


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A TFDS data set.

    Attributes:
      name: TFDS's name.
      probe_url: the first file TFDS downloads; asked for before TFDS is, since without a network
        TFDS retries in silence for minutes.
    """

    name: str
    probe_url: str


def root() -> Path:
    """TFDS's folder: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(source: TfdsSource) -> Path | None:
    """The folder of the newest prepared version, or None; looks at names alone."""
    found = []
    for info in (root() / source.name).glob("*/dataset_info.json"):
        parts = info.parent.name.split(".")
        if all(p.isdigit() for p in parts):  # one being prepared: "incomplete.XYZ_3.0.1"
            found.append((tuple(map(int, parts)), info.parent))
    return max(found)[1] if found else None


def original_order(split: str, count: int) -> np.ndarray:
    """Positions: `stored[original_order(split, n)]` is in the original order; int `[count]`.

    Undoes `tensorflow_datasets.core.hashing`: stored order is ascending md5(split + index).

    >>> original_order("train", 4)
    array([0, 2, 3, 1])
    """
    keys = (f"{split}{i}".encode() for i in range(count))
    digests = [hashlib.md5(key, usedforsecurity=False).digest() for key in keys]
    rank = np.empty(count, np.int64)
    rank[sorted(range(count), key=digests.__getitem__)] = np.arange(count)
    return rank


def _reason(error: Exception) -> str:
    """One line; TFDS and its file formats raise many kinds of error, so callers catch them all."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _stack(examples: Any, count: int, split: str, where: Path) -> tuple[np.ndarray, np.ndarray]:
    images: np.ndarray | None = None
    labels = np.empty(count, np.int32)
    seen = 0
    for example in examples:
        image = np.asarray(example["image"])
        if images is None:
            images = np.empty((count, *image.shape), np.uint8)
        if seen < count:
            images[seen], labels[seen] = image, example["label"]
        seen += 1
    if images is None or seen != count:
        raise Unavailable(f"{where}: split {split!r} holds {seen} examples, expected {count}")
    order = original_order(split, count)
    return images[order], labels[order]


def read(
    folder: Path,
    decode: Callable[[Mapping[str, Iterable[Mapping[str, Any]]]], Any] | None = None,
    splits: tuple[str, ...] = ("train", "test"),
) -> tuple[Any, dict[str, str]]:
    """A prepared data set, and what is known of it.

    ArrayRecord files are read without TensorFlow (15 s for MNIST), others with it.

    Args:
      folder: that of a prepared version.
      decode: of examples by split, as TFDS stores and orders them; None: images and labels, which
        are given as `Arrays` in their original order.
      splits: which to read.

    Raises:
      Unavailable: it cannot be read here; says why.
    """
    file_format = _about(folder).get("fileFormat", "tfrecord")
    random_access = file_format == "array_record"
    if not random_access and importlib.util.find_spec("tensorflow") is None:
        raise Unavailable(
            f"{folder} is prepared as {file_format}, which only TensorFlow reads, and it is not "
            "installed (the extra samop[tfds])"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        examples = {split: _examples(tfds, builder, split, random_access) for split in splits}
        if decode is None:
            parts: list[np.ndarray] = []
            for split in splits:
                count = builder.info.splits[split].num_examples
                parts += _stack(examples[split], count, split, folder)
            found: Any = Arrays(*parts)
        else:
            found = decode(examples)
    except (Unavailable, UserError):
        raise
    except Exception as error:
        raise Unavailable(f"{folder} cannot be read: {_reason(error)}") from error
    return found, {
        "kind": "tfds",
        "origin": f"tfds {builder.info.name}:{folder.name}",
        "version": folder.name,
        "format": file_format,
        "reader": f"tensorflow-datasets {tfds.__version__}",
    }


def _about(folder: Path) -> Mapping[str, Any]:
    file = folder / "dataset_info.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unavailable(f"{file} cannot be read: {error}") from error
    if not isinstance(info, dict):
        raise Unavailable(f"{file} cannot be read: it is no JSON object")
    return info


def _examples(tfds: Any, builder: Any, split: str, random_access: bool) -> Iterable[Any]:
    if random_access:
        return builder.as_data_source(split=split)
    # One file after the other: reading several at once would mix their examples.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config))


def records(folder: Path, split: str) -> Records:
    """The photos of a split, in TFDS's order, undecoded and read when asked for.

    Args:
      folder: that of a version prepared as ArrayRecord; its examples have "image" and "label".
      split: TFDS's name.

    Raises:
      Unavailable: it cannot be read here; says why.
    """
    file_format = _about(folder).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise Unavailable(
            f"{folder} is prepared as {file_format}, which has no random access: prepare it with "
            "--file_format=array_record, or use `tfds convert_format`"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        skip = {"image": tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split=split, decoders=skip)
        count = builder.info.splits[split].num_examples
    except Exception as error:
        raise Unavailable(f"{folder} cannot be read: {_reason(error)}") from error

    def example(i: int) -> Mapping[str, Any]:
        try:
            return source[i]
        except Exception as error:
            raise UserError(
                f"{folder}, split {split!r}, record {i}: cannot be read: {_reason(error)}"
            ) from error

    def read(i: int) -> tuple[bytes, int]:
        found = example(i)
        return bytes(found["image"]), int(found["label"])

    def name(i: int) -> str:
        own = example(i).get("file_name", b"")
        own = own.decode(errors="replace") if isinstance(own, bytes) else str(own)
        return f"{folder}, split {split!r}, record {i}" + (f" ({own})" if own else "")

    return Records(count, read, name)


def answers(url: str, seconds: float = PROBE_S) -> str:
    """Empty where the URL can be had, else why not; takes `seconds` at most, proxies included."""
    outcome = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                outcome[0] = ""
        except urllib.error.URLError as error:
            outcome[0] = str(error.reason)
        except OSError as error:
            outcome[0] = str(error)

    # Name resolution has no time limit of its own, hence a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def download(source: TfdsSource) -> Path:
    """Lets TFDS download and prepare the data set under its folder; returns the prepared folder.

    Raises:
      Unavailable: TensorFlow is missing, the host does not answer, or TFDS failed; says why.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise Unavailable("TensorFlow is not installed (the extra samop[tfds])")
    if why := answers(source.probe_url):
        raise Unavailable(f"{source.probe_url} cannot be reached: {why}")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(source.name, data_dir=str(root()), file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:
        raise Unavailable(f"TFDS failed: {_reason(error)}") from error
    folder = prepared(source)
    if folder is None:
        raise Unavailable(f"TFDS prepared {source.name}, but {root() / source.name} has nothing")
    return folder
