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
    data, task, model = config["data"], config["task"], config["model"]
    if model["name"] != "lstm":
        raise UserError(f"model.name={model['name']!r} does not classify sentences: use 'lstm'")
    for field in ("augment", "normalize"):
        if data[field] != "none":
            raise UserError(
                f"data.{field}={data[field]!r} is for images; with workload='sentiment' use 'none'"
            )
    for field in ("min_frequency", "max_length"):
        if task[field] < 1:
            raise UserError(f"task.{field}={task[field]} should be a whole number ≥ 1")
    if data["label_noise"] >= 1:
        raise UserError(
            f"data.label_noise={data['label_noise']} is a share of the labels: it should be in "
            "[0, 1)"
        )
