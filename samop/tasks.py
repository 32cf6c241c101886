"""The workloads as a config knows them: their own fields, and what may be asked of them. No jax."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from samop.errors import UserError


class Task(NamedTuple):
    """One name that `config.workload` takes.

    Attributes:
      fields: the config's section `task`, with its defaults; only this workload's configs have it.
      check: `check(config)` raises UserError for what its fields may not be, alone or together
        with others; types are checked before.
      noise: whether `data.label_noise` is defined for its labels.
    """

    fields: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], None] = lambda config: None
    noise: bool = False


def _molecules(config: Mapping[str, Any]) -> None:
    row = config["task"]["row"]
    if not 0 <= row <= 32767:
        raise UserError(f"task.row={row!r} is not allowed: it should be a whole number 0 to 32767")
    for field, allowed in (("augment", ("none",)), ("normalize", ("none", "standardize"))):
        if config["data"][field] not in allowed:
            raise UserError(
                f"data.{field}={config['data'][field]!r} is for images; with "
                f"workload='molecules' use {' or '.join(map(repr, allowed))}"
            )


def _tagging(config: Mapping[str, Any]) -> None:
    task, model = config["task"], config["model"]
    if model["name"] != "transformer":
        raise UserError(f"model.name={model['name']!r} does not tag: use 'transformer'")
    if model["size"] % model["heads"]:
        raise UserError(
            f"model.heads={model['heads']} should divide model.size={model['size']}: each head "
            "attends with as many of its numbers"
        )
    for field in ("augment", "normalize"):
        if config["data"][field] != "none":
            raise UserError(
                f"data.{field}={config['data'][field]!r} is for images; with "
                "workload='tagging' use 'none'"
            )
    for field in ("min_frequency", "max_length"):
        if task[field] < 1:
            raise UserError(f"task.{field}={task[field]} should be a whole number ≥ 1")
    if not 0 <= task["word_dropout"] < 1:
        raise UserError(f"task.word_dropout={task['word_dropout']} should be a number in [0, 1)")
    if task["row"] < task["max_length"]:
        raise UserError(
            f"task.row={task['row']} should be at least task.max_length={task['max_length']}, "
            "since no sentence is divided between rows"
        )


TASKS: dict[str, Task] = {
    "classification": Task({}, noise=True),
    "regression": Task({}, noise=True),
    "molecules": Task({"row": 0}, _molecules),  # atoms a row; 0: as many as the largest has
    "tagging": Task(
        {
            "min_frequency": 1,  # in training; rarer words are one and the same unknown word
            "word_dropout": 0.05,  # share of training's words that are made unknown, anew each time
            "max_length": 128,  # tokens; longer sentences are cut
            "row": 128,  # tokens of one example, which holds several sentences
        },
        _tagging,
    ),
}
