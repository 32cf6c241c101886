"""What this machine taught us, as small JSON files in the user's cache: times, choices.

No run's numbers depend on them, and all of it can be measured again; so a file that cannot be read
or written is a warning.
"""

import json
from pathlib import Path
from typing import Any

from absl import logging

from samop import environment, records

_known: dict[Path, dict[str, Any]] = {}  # files as this process read them, and what it added


def read(name: str) -> dict[str, Any]:
    """The file of that name; empty where there is none or it cannot be read."""
    file = environment.cache_dir() / name
    if file not in _known:
        _known[file] = _load(file)
    return _known[file]


def _load(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return found
        reason: object = "no JSON object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error
    logging.warning("%s cannot be read (%s): what it says is not known", file, reason)
    return {}


def add(name: str, key: str, value: Any) -> None:
    """Puts one value into the file of that name."""
    file, known = environment.cache_dir() / name, read(name)
    known[key] = value
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Beside what another process may have written meanwhile.
        records.write_json(file, _load(file) | {key: value})
    except OSError as error:
        logging.warning("%s cannot be written (%s): measured again next time", file, error.strerror)
