"""One clear line for a field or an option of `samop.main` that is misspelt or cannot be read."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from samop import config as configs
from samop.errors import UserError, nearest

SWEEP = "sweep."  # these fields are a config file's own
OPTIONS = (
    "--config", "--workdir", "--shard", "--coordinator", "--processes", "--process", "--dry_run",
    "--verbose", "--help",
)  # fmt: skip


def check_file(config: ConfigDict, file: Path) -> None:
    """Refuses a config whose file set a field that no run reads.

    Raises:
      UserError: names the file, the field and the nearest that there is.
    """
    allowed = configs.flatten(configs.defaults(config.model.name, config.workload))
    for field in configs.flatten(config):
        if field not in allowed and not field.startswith(SWEEP):
            raise UserError(
                f"{file} sets config field {field!r}, which is unknown{_close(field, allowed)}; "
                "`python -m samop.fields` lists all"
            )


def check_names(rest: Sequence[str], config: ConfigDict) -> None:
    """Refuses `--config.FIELD` where there is no such field.

    Raises:
      UserError: names the field and the nearest that there is, or those of its section.
    """
    allowed = configs.flatten(config)
    for word in rest:
        name = word.partition("=")[0].lstrip("-")
        if not name.startswith(("config.", "noconfig.")):
            continue
        field = name.partition(".")[2]
        if field in allowed:
            continue
        within = [other for other in allowed if other.startswith(f"{field}.")]
        if within:
            raise UserError(f"config field {field!r} is a section; its fields: {', '.join(within)}")
        close = _close(field, allowed)
        section = field.rpartition(".")[0]
        beside = [other for other in allowed if other.rpartition(".")[0] == section]
        if close:
            more = "`python -m samop.fields` lists all"
        elif section and beside:
            more = f"fields of this section: {', '.join(beside)}"
        else:
            sections = sorted({other.partition(".")[0] for other in allowed})
            more = f"sections: {', '.join(sections)}; `python -m samop.fields` lists all"
        raise UserError(f"config field {field!r} is unknown{close}; {more}")


def _close(field: str, allowed: Iterable[str]) -> str:
    """A hint: the nearest of the same section, that name in another one, or the nearest of all."""
    section, _, leaf = field.rpartition(".")
    own = {n.rpartition(".")[2]: n for n in allowed if n.rpartition(".")[0] == section}
    there = difflib.get_close_matches(leaf, own, n=1) if own else []
    elsewhere = [name for name in allowed if name.rpartition(".")[2] == leaf]
    found = [own[leaf] for leaf in there] or elsewhere
    if not found and not own:
        return nearest(field, allowed)
    return f" (did you mean {found[0]!r}?)" if found else ""


def plain(message: str, config: Mapping[str, Any]) -> str:
    """An error of the flag library in this project's words.

    Args:
      message: what it says.
      config: the config whose fields are options.
    """
    text = " ".join(message.split())
    if unknown := re.match(r"Unknown command line flag '([^']*)'", text):
        given = f"--{unknown[1]}"
        return (
            f"option {given} is unknown{nearest(given, OPTIONS)}; allowed: {', '.join(OPTIONS)} "
            "and --config.FIELD"
        )
    if missing := re.match(r"Missing value for flag (\S+)", text):
        return f"{missing[1]} needs a value, as in {missing[1]}=VALUE"
    if illegal := re.match(r"flag --([\w.]+)=(.*?): ", text):
        name, value = illegal.groups()
        field = name.removeprefix("config.")
        types = {"dry_run": bool, "verbose": bool, "processes": int, "process": int}
        fields = configs.flatten(config)
        kind = type(fields[field]) if name != field and field in fields else types.get(name, str)
        example = {
            bool: "true or false",
            tuple: f'a tuple, as in --{name}="(1,2)"',
            int: "a whole number",
            float: "a number",
        }
        return f"--{name}={value} cannot be read: it should be {example.get(kind, kind.__name__)}"
    return text
