"""The command line of `samop.main`: config file, its argument, overrides; errors as one line."""

import importlib.util
import os
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from samop import config as configs
from samop import overrides, processes, records, shipped, validation
from samop.errors import UserError

Axes = Mapping[str, Sequence[Any]]

HELP = """\
Trains a sweep of runs (widths × optimisers × ρ × seeds), prints its table, draws its figure.

  python -m samop.main --config=FILE.py[:ARG,KEY=VALUE] [--config.FIELD=VALUE ...] [options]

  --config=FILE.py        an experiment: a file of yours, or one that comes with samop (below), as
                          configs/digits_width.py or digits_width; what may follow the colon is in
                          the file's header: `smoke` cuts any of them to two minutes
  --config=RUN/config.json  one run again, from the record in its folder
  --config.FIELD=VALUE    overrides a field, e.g. --config.train.epochs=10; a swept field is
                          then fixed; --config.sweep.rho="(.1,.2)" changes an axis;
                          `python -m samop.fields` says what every field means
  --workdir=DIR           where runs, tables and figures go (default: runs/EXPERIMENT); running the
                          same command again skips what is done and resumes what is not; several
                          commands, on several machines, may share a folder
  --shard=I/N             trains the I-th of N parts of about equal cost, I from 0 to N-1; the parts
                          may share a folder, or be merged by copying (`cp -r`) afterwards
  --config.parallel=WAY   how devices share a run's batches, with equal results: jit (the default),
                          shard_map or pmap
  --config.profile=DIR    writes a profiler's trace of one epoch of each group there
  --coordinator=HOST:PORT --processes=N --process=I
                          this is process I (0 … N−1) of N that train together, one or more a
                          host; TPU pods and Slurm tell it themselves
  --dry_run               prints the plan and trains nothing
  --verbose               logs what is going on
  --help                  this text

Tables and figures again, without training:  python -m samop.report --workdir=DIR
Fetch data ahead of time:                    python -m samop.data prepare mnist cifar10
A config file is Python code and runs as such: look at a file before you use it.

Configs that come with samop, in {folder}:
{names}"""


def help_text() -> str:
    """What `--help` prints."""
    names = ", ".join(shipped.names())
    folder = shipped.folder()
    listed = textwrap.fill(names, 96, initial_indent="  ", subsequent_indent="  ")
    return HELP.format(folder=folder, names=listed)


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
      config: the resolved config, locked.
      axes: swept fields and values of each product, overridden ones fixed.
      notes: lines to tell the user before anything starts.
      workdir: the work folder.
      launch: how this process finds others that train with it.
      dry_run, verbose: the options of these names.
      command: the command line as typed, without its shard, for the record.
      shard: (i, n): the part of the sweep to train, from 0.
    """

    config: ConfigDict
    axes: list[Axes]
    notes: list[str]
    workdir: Path
    launch: processes.Launch
    dry_run: bool
    verbose: bool
    command: str
    shard: tuple[int, int]


def parse(argv: Sequence[str]) -> Request:
    """Reads the arguments (without the program's name).

    Raises:
      UserError: anything wrong with them, in one line.
    """
    source, rest = _take_config(argv)
    name, _, argument = source.partition(":")
    file = shipped.find(name)
    config, sweep = _load(file, argument)
    overrides.check_names(rest, config)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, sys_argv=["samop.main", *rest]
    )
    flags.DEFINE_string("workdir", "", "work folder", flag_values=values)
    flags.DEFINE_string("coordinator", "", "address of the first process", flag_values=values)
    flags.DEFINE_integer("processes", 0, "number of processes", flag_values=values)
    flags.DEFINE_integer("process", -1, "which of them this is", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "part of the sweep", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print the plan only", flag_values=values)
    flags.DEFINE_bool("verbose", False, "log what is going on", flag_values=values)
    try:
        unused = values(["samop.main", *rest])[1:]
    except flags.Error as error:
        raise UserError(overrides.plain(str(error), config)) from None
    if unused:
        raise UserError(f"argument {unused[0]!r} is not understood: options start with --")
    resolved: Any = values["config"].value
    validation.validate(resolved)
    others: Any = [values[name].value for name in ("coordinator", "processes", "process")]
    overridden = config_flags.get_override_values(values["config"])
    swept = sweep(resolved)
    products: list[Axes] = (
        [dict(swept)] if isinstance(swept, Mapping) else [dict(axes) for axes in swept]
    )
    notes = [] if file == Path(name) else [f"--config={name} is {file}"]
    for field in dict.fromkeys(field for axes in products for field in axes):
        if field in overridden:
            value = configs.get(resolved, field)
            products = _fix(products, field, value)
            kept = any("base" in axes.get(field, ()) for axes in products) and value != "base"
            beside = " beside the base" if field == "optimizer.name" and kept else ""
            notes.append(f"--config.{field} fixes a swept field: only {value!r} is run{beside}")
    return Request(
        resolved,
        products,
        notes,
        Path(values["workdir"].value or Path("runs") / resolved.experiment),
        processes.launch(*others),
        bool(values["dry_run"].value),
        bool(values["verbose"].value),
        shlex.join(["python", "-m", "samop.main", *_whole(argv)]),
        _shard(str(values["shard"].value)),
    )


def _fix(products: list[Axes], field: str, value: Any) -> list[Axes]:
    """Products of axes with one swept field fixed, in each that sweeps it.

    Of optimisers' names the base stays beside the wanted one, which would have nothing to be
    compared with; products without either go, unless none has the wanted name: then all take it.
    """
    if field == "optimizer.name":
        known = any(value in axes.get(field, ()) for axes in products)
        fixed: list[Axes] = []
        for axes in products:
            names = axes.get(field, ())
            kept = tuple(dict.fromkeys(n for n in names if n in ("base", value)))
            if not known and set(names) != {"base"}:
                kept = (*kept, value)
            if kept:
                fixed.append({**axes, field: kept})
        return fixed
    return [{**axes, field: (value,)} if field in axes else axes for axes in products]


def _whole(argv: Sequence[str]) -> list[str]:
    """The arguments of the whole sweep, without what is of this process alone."""
    kept, skip = [], False
    for word in argv:
        name, equals, _ = word.lstrip("-").partition("=")
        own = word.startswith("-") and name in ("shard", "coordinator", "processes", "process")
        bare = own and not equals
        if not (skip or own):
            kept.append(word)
        skip = bare
    return kept


def _shard(text: str) -> tuple[int, int]:
    """(i, n) from "i/n", i from 0 to n − 1.

    Raises:
      UserError: it is no shard, or a Slurm array that does not count from 0.
    """
    given = f"--shard={text} is not allowed"
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal()):
        raise UserError(f"{given}: it should be i/n, the i-th of n shards, as in --shard=0/4")
    index, count = int(first), int(last)
    if not count:
        raise UserError(f"{given}: there should be one shard or more, as in --shard=0/1")
    # Of a Slurm array that begins at 1, shard 0 would be nobody's, whichever task this is.
    begin = os.environ.get("SLURM_ARRAY_TASK_MIN", "0")
    slurm = ("SLURM_ARRAY_TASK_ID", first), ("SLURM_ARRAY_TASK_COUNT", last)
    array = all(os.environ.get(name) == value for name, value in slurm)
    if array and (begin != "0" or index >= count):
        raise UserError(
            f"{given}: shards count from 0 to n − 1, so a Slurm array should, whole and without "
            f"steps: --array=0-{count - 1}, not one that begins at {begin}"
        )
    if index >= count:
        raise UserError(f"{given}: i counts from 0 to n − 1, here to {count - 1}")
    return index, count


def _take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --config and the arguments without it."""
    rest, source = list(argv), None
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            after = argv[i + 1] if i + 1 < len(argv) else ""
            source = value if equals else after
            rest = [*argv[:i], *argv[i + (1 if equals else 2) :]]
            break
        if name.lstrip("-").startswith(("config.", "noconfig.")):
            raise UserError(f"{word} comes before --config=FILE: put --config first")
    if not source:
        named = [word for word in argv if not word.startswith("-") and word.endswith(".py")]
        if named:
            raise UserError(f"--config is missing: did you mean --config={named[0]}?")
        raise UserError(
            "--config is missing: name an experiment, as in --config=configs/digits_width.py "
            "(--help explains)"
        )
    return source, rest


def _load(
    file: Path, argument: str
) -> tuple[ConfigDict, Callable[[ConfigDict], Axes | Sequence[Axes]]]:
    """Config and sweep function of a config file, given an argument, or of a run's config.json."""
    if file.suffix == ".json":
        return _replay(file), lambda config: {}
    spec = importlib.util.spec_from_file_location("samop_config_file", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={file}: a config is a .py file or a run's config.json")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    for name in ("get_config", "sweep"):
        if not hasattr(module, name):
            raise UserError(
                f"--config={file} defines no function {name}: see those in {shipped.folder()}"
            )
    config = module.get_config(argument)
    overrides.check_file(config, file)
    return config, module.sweep


def _replay(file: Path) -> ConfigDict:
    try:
        record = records.read_json(file)
        plain = record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--config={file} is no record of a run: {error!r}") from None
    config = configs.from_json(plain)
    config.experiment = f"{config.experiment}_again"
    return config
