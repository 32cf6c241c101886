"""What a run leaves on disk: checksummed JSON lines and atomically replaced JSON files. No jax.

A row of `metrics.jsonl` is one JSON object with an integer `step`, deterministic values only (no
clock, host or speed: those go to `timing.jsonl`) and, as its last key, `crc`: the first eight hex
digits of the sha256 of the row's text without it. Non-finite values are written as null.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CRC = "crc"


class CorruptRecord(ValueError):
    """A row that is not what was written: bad JSON, a wrong checksum or steps out of order."""


def _text(row: Mapping[str, Any]) -> str:
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(clean, allow_nan=False)


def _crc(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def encode(row: Mapping[str, Any]) -> str:
    """One line of a record, checksum included, without the newline."""
    text = _text(row)
    return f'{text[:-1]}, "crc": "{_crc(text)}"}}'


def decode(line: str) -> dict[str, Any]:
    """The row behind one line, null as NaN. Raises CorruptRecord where the checksum disagrees."""
    head, mark, tail = line.rstrip("\n").rpartition(', "crc": "')
    if not mark or tail != f'{_crc(head + "}")}"}}':
        raise CorruptRecord("checksum does not match")
    return {k: math.nan if v is None else v for k, v in json.loads(head + "}").items()}


def read_rows(path: Path, tolerate_tail: bool = False) -> list[dict[str, Any]]:
    """All rows of a record file.

    Args:
      path: the file; a missing one has no rows.
      tolerate_tail: stop in silence at the first bad row (a process killed while it wrote leaves
        one) instead of raising.

    Raises:
      CorruptRecord: names the file and the line.
    """
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            row = decode(line)
            if rows and row["step"] <= rows[-1]["step"]:
                raise CorruptRecord("steps out of order")
        except CorruptRecord as error:
            if tolerate_tail:
                break
            raise CorruptRecord(f"{path}, line {number}: {error}") from None
        rows.append(row)
    return rows


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
    """Appends rows; with `sync` they are on the disk before this returns."""
    with open(path, "a") as file:
        file.write("".join(encode(row) + "\n" for row in rows))
        if sync:
            file.flush()
            os.fsync(file.fileno())


def append_plain(path: Path, value: Mapping[str, Any]) -> None:
    """Appends one JSON line without a checksum: for values that may differ between equal runs."""
    with open(path, "a") as file:
        file.write(json.dumps(value) + "\n")


def write_atomic(path: Path, text: str, sync: bool = True) -> None:
    """Replaces a file as a whole: a reader, or a crash, sees the old text or the new one.

    Without `sync` a power failure may still lose it; a killed process does not.
    """
    # Processes of different machines, or containers, may have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    """Replaces a JSON file atomically, indented, keys in the given order."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", sync)


def write_sealed(path: Path, value: Mapping[str, Any], sync: bool = True) -> None:
    """`write_json` of an object with a checksum as its last field, which `read_json` verifies."""
    write_json(path, {**value, CRC: _crc(json.dumps(value, allow_nan=False))}, sync)


def read_json(path: Path, *keys: str) -> Any:
    """A JSON file; of a sealed one what is in it, without the checksum.

    Args:
      path: the file.
      keys: fields that it should have.

    Raises:
      CorruptRecord: it is no JSON, not what was written, or lacks a field. A missing file is an
        OSError.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptRecord(f"{path} is damaged: {error}") from None
    # Files of earlier versions have none.
    crc = value.pop(CRC, None) if isinstance(value, dict) else None
    if crc is not None and crc != _crc(json.dumps(value)):
        raise CorruptRecord(f"{path} is damaged: its checksum does not match")
    if lacking := [key for key in keys if not isinstance(value, dict) or key not in value]:
        raise CorruptRecord(f"{path} is damaged: it lacks {', '.join(lacking)}")
    return value


def rewrite_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a record file by `rows`, atomically."""
    write_atomic(path, "".join(encode(row) + "\n" for row in rows))
