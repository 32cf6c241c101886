"""What the runs of a sweep were made with, and the commands around them. No jax."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from samop.errors import UserError
from samop.records import CorruptRecord, read_json


class Fact(NamedTuple):
    """A name, its value, and how many runs it is true of where that is not all of them."""

    name: str
    value: str
    runs: int = 0


ENVIRONMENT = {
    "device": "device",
    "platform": "platform",
    "devices": "devices",
    "processes": "processes",
    "cores": "CPU cores",
    "python": "Python",
    "git": "git",
}
DATA = {
    "name": "data",
    "kind": "kind of source",
    "origin": "source",
    "version": "version",
    "sha256": "sha256",
}


class Surroundings(NamedTuple):
    """What a page says of how its runs came about.

    Attributes:
      machine: devices, git state.
      packages: names and versions.
      data: where the examples came from.
    """

    machine: list[Fact]
    packages: list[Fact]
    data: list[Fact]


def read(root: Path, names: Iterable[str]) -> Surroundings:
    """What the runs' config.json say; values in which they differ are listed one by one.

    Raises:
      UserError: a record is damaged.
    """
    found: list[Mapping[str, Any]] = []
    for name in names:
        path = root / "points" / name / "config.json"
        try:
            found.append(read_json(path))
        except FileNotFoundError:
            continue
        except CorruptRecord as error:
            raise UserError(f"{error}; the sweep's command writes it again") from None
    machines = [record.get("environment", {}) for record in found]
    data = [
        {"name": record["config"]["data"]["name"], **record.get("data", {})} for record in found
    ]
    packages = {key: key for each in machines for key in each if key not in ENVIRONMENT}
    return Surroundings(
        _facts(machines, ENVIRONMENT), _facts(machines, packages), _facts(data, _others(data))
    )


def _others(data: list[dict[str, Any]]) -> dict[str, str]:
    """The fields of the data's records, the usual ones first under their names."""
    return DATA | {key: key for each in data for key in each if key not in DATA}


def _facts(records: list[Any], names: Mapping[str, str]) -> list[Fact]:
    facts = []
    for key, name in names.items():
        counts: dict[str, int] = {}
        for record in records:
            if record.get(key) not in (None, ""):
                text = _text(record[key])
                counts[text] = counts.get(text, 0) + 1
        everywhere = len(counts) == 1 and sum(counts.values()) == len(records)
        facts += [Fact(name, text, 0 if everywhere else n) for text, n in counts.items()]
    return facts


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Command(NamedTuple):
    """A command and what it does."""

    what: str
    line: str


def commands(root: Path, command: str, whole: bool) -> list[Command]:
    """How to go on, to report again and to repeat one run.

    Args:
      root: the work folder, as it was given.
      command: that of the sweep, as its plan has it.
      whole: whether nothing is left to train.
    """
    folder = shlex.quote(str(root))
    found = []
    if command:
        what = (
            "Repeat the sweep (in this folder it finds everything done; give another --workdir)"
            if whole
            else "Resume: what is done is skipped, what is begun goes on where it stopped"
        )
        found.append(Command(what, command))
    found.append(
        Command("Report again, without training", f"python -m samop.report --workdir={folder}")
    )
    if not whole:
        line = f"python -m samop.report --workdir={folder} --follow"
        found.append(Command("Watch it while it runs", line))
    point = shlex.quote(f"{root}/points/")
    line = f"python -m samop.main --config={point}RUN/config.json"
    found.append(Command("Repeat one run, from its record", line))
    return found
