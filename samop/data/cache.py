"""Decoded data sets on disk: one folder a data set, .npy files and a `dataset.json` beside them.

A folder appears whole or not at all: it is written under a temporary name and renamed. Of two
processes that prepare the same data set at once, the second finds the first's folder and uses it.
Every load compares sizes and sha256s (0.1 s for CIFAR-10 where the processor has SHA
instructions, below 1 s elsewhere), so a damaged file is never trained on.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from samop.data.dataset import Collection, Dataset, array_hash, content_hash
from samop.errors import UserError

FORMAT = 1
META = "dataset.json"


def root(data_dir: str | None = None) -> Path:
    """The cache's folder: `data_dir`, else $SAMOP_DATA, else ~/.cache/samop/data."""
    chosen = data_dir or os.environ.get("SAMOP_DATA") or "~/.cache/samop/data"
    return Path(chosen).expanduser()


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder on the cache's own file system, removed afterwards.

    Raises:
      UserError: the cache cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".tmp-", dir=folder)
    except OSError as error:
        raise UserError(
            f"data_dir {str(folder)!r} cannot be written ({error}); allowed: a folder you may "
            "write to, by data_dir or the environment variable SAMOP_DATA"
        ) from error
    try:
        yield Path(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(
        f"{path}: {problem}; delete the folder {str(path.parent)!r} and prepare it again"
    )


def _meta_hash(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise _damaged(path, f"is no description of format {FORMAT}")
    if meta.pop("sha256", None) != (got := _meta_hash(meta)):
        raise _damaged(path, f"its own sha256 is not the {got} of its content")
    return meta


def _read_array(path: Path, entry: dict[str, Any]) -> np.ndarray:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if size != entry["bytes"]:
        raise _damaged(path, f"has {size} bytes, expected {entry['bytes']}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"is no .npy file ({error})") from error
    if [array.dtype.str, list(array.shape)] != [entry["dtype"], entry["shape"]]:
        raise _damaged(
            path,
            f"holds {array.dtype.str} {list(array.shape)}, "
            f"expected {entry['dtype']} {entry['shape']}",
        )
    if (got := array_hash(array)) != entry["sha256"]:
        raise _damaged(path, f"sha256 of its values: expected {entry['sha256']}, got {got}")
    return array


def read(folder: Path, name: str) -> Dataset | Collection | None:
    """The data set `name` under the cache's `folder`, memory-mapped; None where it has none.

    Raises:
      UserError: a file is missing, damaged or not what was written; it names the file.
    """
    place = folder / name
    if not place.exists():
        return None
    if not (place / META).is_file():
        raise _damaged(place / META, "is missing")
    meta = _read_meta(place / META)
    arrays = {f: _read_array(place / f"{f}.npy", entry) for f, entry in meta["arrays"].items()}
    digest = content_hash(arrays, {f: entry["sha256"] for f, entry in meta["arrays"].items()})
    source = meta["source"]
    if source["sha256"] != digest:
        raise _damaged(place / META, f"source.sha256: expected {digest}, got {source['sha256']}")
    source = {**source, "kind": "cache", "via_cache_of": source["kind"]}
    if "about" in meta:
        return Collection(meta["name"], arrays, source, meta["about"])
    return Dataset(
        name=meta["name"],
        **arrays,
        num_classes=meta["num_classes"],
        source=source,
        scale=meta["scale"],
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
    )


def _write_folder(place: Path, dataset: Dataset | Collection) -> None:
    place.mkdir()
    entries = {}
    for field, stored in dataset.arrays.items():
        array = np.ascontiguousarray(stored)
        path = place / f"{field}.npy"
        np.save(path, array, allow_pickle=False)
        entries[field] = {
            "bytes": path.stat().st_size,
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "sha256": array_hash(array),
        }
    meta: dict[str, Any] = {
        "format": FORMAT,
        "name": dataset.name,
        **_meaning(dataset),
        "source": dataset.source,
        "arrays": entries,
    }
    meta["sha256"] = _meta_hash(meta)
    (place / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _meaning(dataset: Dataset | Collection) -> dict[str, Any]:
    if isinstance(dataset, Collection):
        return {"about": dict(dataset.about)}
    return {
        "num_classes": dataset.num_classes,
        "scale": dataset.scale,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


def write(folder: Path, dataset: Dataset | Collection) -> Dataset | Collection:
    """Adds a data set and returns it memory-mapped, with the `source` it came with.

    Where another process has added it meanwhile, that folder stays and is read; the two must then
    hold the same content.

    Raises:
      UserError: the folder cannot be written, or holds something else under that name.
    """
    with workspace(folder) as temporary:
        try:
            _write_folder(temporary / dataset.name, dataset)
        except OSError as error:
            raise UserError(f"data_dir {str(folder)!r} cannot be written ({error})") from error
        try:
            (temporary / dataset.name).rename(folder / dataset.name)
        except OSError:
            # A folder that is not empty cannot be replaced; anything else is a real failure.
            if not (folder / dataset.name).is_dir():
                raise
    stored = read(folder, dataset.name)
    if stored is None:
        raise UserError(f"{folder / dataset.name}: vanished while it was being prepared")
    if stored.source["sha256"] != dataset.source["sha256"]:
        raise _damaged(
            folder / dataset.name / META,
            f"source.sha256: expected {dataset.source['sha256']}, got {stored.source['sha256']}",
        )
    return dataclasses.replace(stored, source=dataset.source)
