"""Classification of sentences, see `samop.workloads.sentiment`."""

from collections.abc import Mapping
from typing import Any

from samop.errors import UserError

FIELDS = {
    "min_frequency": 3,  # in training; rarer words are one and the same unknown word
    "max_length": 60,  # words; longer sentences are cut
}


def check(config: Mapping[str, Any]) -> None:
    """See `samop.tasks.Task`."""
    data, task = config["data"], config["task"]
    for field in ("augment", "normalize"):
        if data[field] != "none":
            raise UserError(
                f"data.{field}={data[field]!r} is for images; with workload='sentiment' use 'none'"
            )
    for field in ("min_frequency", "max_length"):
        if task[field] < 1:
            raise UserError(f"task.{field}={task[field]} should be a whole number ≥ 1")
