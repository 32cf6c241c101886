"""Fetch and prepare data sets ahead of time: on login nodes, for container images.

python -m samop.data list
python -m samop.data prepare mnist cifar10 [--data_dir=DIR]
"""

import argparse
import sys

import numpy as np

from samop.data import cache, tfds
from samop.data.dataset import Collection, Dataset
from samop.data.registry import ENTRIES
from samop.data.sources import LOCAL, allowed_sources, check_name, load, names
from samop.errors import UserError


def _list(data_dir: str | None) -> None:
    folder, allowed = cache.root(data_dir), allowed_sources()
    print(f"cache: {folder}; sources: {', '.join(allowed)}")
    for name in names():
        if name in LOCAL:
            where = "always there"
        elif (folder / name / cache.META).is_file():
            where = "cached"
        else:
            entry, ways = ENTRIES[name], {}
            if entry.tfds is not None:
                ready = tfds.prepared(entry.tfds)
                ways["tfds"] = f"TFDS at {ready}" if ready else ""
                ways["download"] = f"TFDS {entry.tfds.name} (needs TensorFlow)"
            if entry.package is not None:
                ways["package"] = f"{entry.package.origin} ({entry.package.megabytes:g} MB)"
            found = [way for source, way in ways.items() if way and source in allowed]
            where = f"not cached; from {', else '.join(found) or 'nowhere'}"
        print(f"{name:22} {where}")


def _prepare(wanted: list[str], data_dir: str | None) -> None:
    for name in wanted:
        check_name(name)  # all of them, before a long download of the first
    if "cache" not in allowed_sources():
        raise UserError("SAMOP_DATA_SOURCES leaves out 'cache', so there is nothing to prepare")
    for name in wanted:
        data = load(name, data_dir)
        print(
            f"{name}: {_content(data)}, from {data.source['origin']}, "
            f"sha256 {data.source['sha256'][:16]}"
        )


def _content(data: Dataset | Collection) -> str:
    """What a data set holds, in words."""
    if isinstance(data, Collection):
        return ", ".join(f"{key} {_shape(array)}" for key, array in data.arrays.items())
    images = f"{_shape(data.train_x[0])} {data.train_x.dtype}"
    return f"{len(data.train_y)} train, {len(data.test_y)} test, {images}"


def _shape(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m samop.data", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data_dir", default=None, help="the cache (else $SAMOP_DATA, ~/.cache/samop/data)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[shared], help="names, and where each would come from")
    prepare = commands.add_parser("prepare", parents=[shared], help="fetch, decode and cache")
    prepare.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args(argv)
    try:
        if options.command == "list":
            _list(options.data_dir)
        else:
            _prepare(options.names, options.data_dir)
    except UserError as error:
        print(f"samop.data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
