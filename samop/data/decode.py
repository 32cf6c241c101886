"""Bytes of published files → arrays. Every error names the file, so that a truncated copy is found.

IDX is the format of MNIST's own files: a big-endian header (two zero bytes, a type code, the
number of dimensions, then one 32-bit length a dimension) followed by the values.
"""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from samop.data.dataset import Arrays
from samop.errors import UserError

_IDX_UINT8 = 0x08
_GUNZIP_LIMIT = 256 * 2**20  # bytes; MNIST's largest file has 47 MB


def gunzip(data: bytes, name: str) -> bytes:
    """Decompresses one .gz file held in memory, at most 256 MiB of it."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            out = file.read(_GUNZIP_LIMIT + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{name}: cannot be decompressed ({error}); is it truncated?") from error
    if len(out) > _GUNZIP_LIMIT:
        raise UserError(f"{name}: decompresses to more than the {_GUNZIP_LIMIT} bytes allowed")
    return out


def idx(data: bytes, name: str, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes as a read-only uint8 array with `ndim` dimensions."""
    head = 4 + 4 * ndim
    if len(data) < head or data[:4] != bytes([0, 0, _IDX_UINT8, ndim]):
        raise UserError(
            f"{name}: {len(data)} bytes beginning {data[:4].hex()!r} are no IDX file of {ndim}-D "
            f"unsigned bytes (which begins '000008{ndim:02x}')"
        )
    shape = struct.unpack(f">{ndim}I", data[4:head])
    expected = head + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise UserError(
            f"{name}: has {len(data)} bytes, but its header says {'×'.join(map(str, shape))}, "
            f"which takes {expected}"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _labels(values: np.ndarray, count: int, num_classes: int, name: str) -> np.ndarray:
    if values.shape != (count,):
        raise UserError(f"{name}: has {values.size} labels for {count} images")
    if count and not (values.min() >= 0 and values.max() < num_classes):
        raise UserError(
            f"{name}: labels span {values.min()}…{values.max()}, allowed: 0…{num_classes - 1}"
        )
    return values.astype(np.int32)


def mnist_files(files: Mapping[str, bytes]) -> Arrays:
    """MNIST's four IDX files, gzipped or not → images uint8 `[n, 28, 28, 1]`, classes `[n]`."""

    def pick(stem: str) -> tuple[bytes, str]:
        for path, data in files.items():
            base = path.rsplit("/", 1)[-1]
            if base == stem:
                return data, path
            if base == f"{stem}.gz":
                return gunzip(data, path), path
        raise UserError(f"{stem}: is not among the files {sorted(files)}")

    parts = []
    for prefix in ("train", "t10k"):
        data, path = pick(f"{prefix}-images-idx3-ubyte")
        images = idx(data, path, 3)[..., None]
        data, path = pick(f"{prefix}-labels-idx1-ubyte")
        parts += [images, _labels(idx(data, path, 1), len(images), 10, path)]
    return Arrays(*parts)


def png_rows(data: bytes, name: str, size: int = 32) -> np.ndarray:
    """A PNG in which each row is one RGB image → uint8 `[rows, size, size, 3]`.

    The row holds the image's pixels in reading order, so it is size² pixels wide.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "RGB" or image.width != size * size:
                raise UserError(
                    f"{name}: is {image.width} pixels wide in mode {image.mode!r}, expected "
                    f"{size * size} in 'RGB'"
                )
            pixels = np.asarray(image)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises each of them
        raise UserError(f"{name}: is no readable PNG ({error}); is it truncated?") from error
    return pixels.reshape(-1, size, size, 3)


def _json_labels(data: bytes, name: str) -> np.ndarray:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise UserError(f"{name}: is no JSON ({error}); is it truncated?") from error
    if not isinstance(values, list) or not all(type(v) is int for v in values):
        raise UserError(f"{name}: must be a JSON list of integers")
    return np.array(values, np.int64)


def cifar10_png_files(files: Mapping[str, bytes]) -> Arrays:
    """CIFAR-10 as PNG batches → images uint8 `[n, 32, 32, 3]`, classes `[n]`, original order.

    The label files are spelt "lables" in the package.
    """
    by_base = {path.rsplit("/", 1)[-1]: path for path in files}

    def part(batches: list[str], label_file: str) -> tuple[np.ndarray, np.ndarray]:
        for base in (*batches, label_file):
            if base not in by_base:
                raise UserError(f"{base}: is not among the files {sorted(files)}")
        images = np.concatenate([png_rows(files[by_base[b]], by_base[b]) for b in batches])
        path = by_base[label_file]
        return images, _labels(_json_labels(files[path], path), len(images), 10, path)

    train = part([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")
    test = part(["test_batch.png"], "test_lables.json")
    return Arrays(*train, *test)
