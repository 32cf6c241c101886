"""Part-of-speech tagging, see `samop.workloads.tagging`."""

from collections.abc import Mapping
from typing import Any

from samop.errors import UserError

FIELDS = {
    "min_frequency": 1,  # in training; rarer words are one and the same unknown word
    "word_dropout": 0.05,  # share of training's words that are made unknown, anew each time
    "max_length": 128,  # tokens; longer sentences are cut
    "row": 128,  # tokens of one example, which holds several sentences
}


def check(config: Mapping[str, Any]) -> None:
    """See `samop.tasks.Task`."""
    task, model = config["task"], config["model"]
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
