"""python -m samop.fields [WORD …]: every field of a config, its default, values and meaning."""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from samop import config as configs
from samop import meanings, variants
from samop.errors import UserError, nearest
from samop.limits import SWITCH, Elsewhere, Limit, Whole, Words
from samop.meanings import COMMON, SHARE, TASKS

HELP = """\
Prints every field of a config: its default, what it may be, how it takes part in a sweep.

  python -m samop.fields [WORD ...] [--markdown]

  WORD         only fields whose name holds it: optimizer, train.epochs, rho
  --markdown   as a page; configs/FIELDS.md is what it prints
  --help       this text

On the command line of samop.main a field is set by --config.FIELD=VALUE, for all runs; a config
file's function `sweep` names those that take several values.
"""
TRACED, STATIC, FILE, HOW = "traced", "static", "file", "how"
KINDS = {
    TRACED: "runs with different values train together, in one compiled program",
    STATIC: "each value is a program of its own",
    FILE: "decides which other fields there are: the config file sets it, a sweep cannot",
    HOW: "says how and where to run, is no part of a run, and cannot be swept",
}
INTRODUCTION = f"""\
# Fields of a config

Set one with `--config.FIELD=VALUE`; `python -m samop.fields WORD` finds one by its name. Defaults
are those of `samop.config.defaults`, which the config files start from and change. Made by
`python -m samop.fields --markdown`.

Every field of kind `traced` or `static` may be an axis of a sweep.

| kind | |
|---|---|
{chr(10).join(f"| {name} | {text} |" for name, text in KINDS.items())}

Fields `sweep.NAME` are a config file's own: the values of its axes, as in
`--config.sweep.rho="(.1,.2)"`. Setting a swept field itself, as in `--config.optimizer.rho=.1`,
fixes its axis.
"""


class Row(NamedTuple):
    """A field.

    Attributes:
      of: which configs have it: "" all of them, else those of one network or workload.
      name: dotted.
      default: as a command line would have it.
      type: of the default.
      allowed: what it may be.
      kind: one of `KINDS`.
      meaning: in a line.
    """

    of: str
    name: str
    default: str
    type: str
    allowed: str
    kind: str
    meaning: str


def rows() -> list[Row]:
    """All fields: common ones, those of each network, those of each workload."""
    from samop.models import MODELS
    from samop.tasks import TASKS as WORKLOADS

    defaults = configs.flatten(configs.defaults())
    found = [
        _row("", name, defaults[name], limit, meaning + _of_variants(name))
        for name, (meaning, limit) in COMMON.items()
    ]
    for network, model in MODELS.items():
        for field, value in model.fields.items():
            limit = model_limit(value, model.words.get(field, ()))
            text = meanings.MODELS[network][field]
            found.append(_row(f"model.name={network}", f"model.{field}", value, limit, text))
    for workload, task in WORKLOADS.items():
        for field, value in task.fields.items():
            meaning, limit = TASKS[workload][field]
            found.append(_row(f"workload={workload}", f"task.{field}", value, limit, meaning))
    return found


def model_limit(default: Any, words: Sequence[str]) -> Limit:
    """What a field of a network may be: `samop.validation` goes by the type of its default."""
    if isinstance(default, str):
        return Words(words)
    if isinstance(default, tuple):
        return Elsewhere("whole numbers ≥ 1")
    return SHARE if isinstance(default, float) else Whole(1)


def kind(name: str) -> str:
    """Which of `KINDS` a field is."""
    if name in ("workload", "model.name"):
        return FILE
    if name.partition(".")[0] in configs.NOT_IDENTITY or name in ("experiment", "data.dir"):
        return HOW
    return TRACED if name == "seed" or name in configs.TRACED else STATIC


def text(found: Sequence[Row]) -> str:
    """Fields as paragraphs for a terminal."""
    lines, of = [], ""
    for row in found:
        if row.of != of:
            of = row.of
            lines.append(f"\nwith {of}:")
        lines.append(f"{row.name} = {row.default}    [{row.type}, {row.kind}]")
        lines += _wrapped(row.meaning)
        if row.allowed != str(SWITCH):
            lines += _wrapped(f"allowed: {row.allowed}")
    return "\n".join(lines) + "\n"


def markdown(found: Sequence[Row]) -> str:
    """Fields as a page."""
    lines, section = [INTRODUCTION.rstrip("\n")], None
    for row in found:
        title = f"`{row.of or row.name.rpartition('.')[0]}`".replace("``", "General")
        if title != section:
            section = title
            lines += ["", f"## {title}", ""]
            lines += ["| field | default | type | allowed | kind | meaning |", "|---" * 6 + "|"]
        cells = (f"`{row.name}`", f"`{row.default}`", row.type, row.allowed, row.kind, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _row(of: str, name: str, value: Any, limit: Limit, meaning: str) -> Row:
    default = json.dumps(value) if isinstance(value, bool) else str(value) or "''"
    return Row(of, name, default, type(value).__name__, str(limit), kind(name), meaning)


def _of_variants(name: str) -> str:
    """What the -1 of a field of single variants stands for, for each of them."""
    field = name.removeprefix("optimizer.")
    if name == field or variants.FIELDS.get(field) != variants.UNSET:
        return ""
    own = [f"{key} {v.own[field]}" for key, v in variants.VARIANTS.items() if field in v.own]
    return f"; {variants.UNSET}: {', '.join(own)}"


def _wrapped(words: str) -> Iterator[str]:
    yield from textwrap.wrap(words, 96, initial_indent="    ", subsequent_indent="    ")


SWEPT = """
Setting a field that a config sweeps fixes it; the values of an axis are --config.sweep.NAME, such
as --config.sweep.rho="(.1,.2)".
"""


def main(argv: Sequence[str]) -> int:
    """Runs a command line (without the program's name); returns the exit status."""
    if {"--help", "-help", "-h"} & set(argv):
        print(HELP, end="")
        return 0
    try:
        words = [word for word in argv if word != "--markdown"]
        for word in words:
            if word.startswith("-"):
                raise UserError(f"option {word!r} is unknown; allowed: --markdown, --help")
        found = rows()
        for word in words:
            if not any(word in row.name for row in found):
                names = {part for row in found for part in (row.name, row.name.split(".")[-1])}
                raise UserError(f"no field's name holds {word!r}{nearest(word, sorted(names))}")
        if words:
            found = [row for row in found if any(word in row.name for word in words)]
        print(markdown(found) if "--markdown" in argv else text(found) + SWEPT, end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
