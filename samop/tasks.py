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


def _no_images(config: Mapping[str, Any]) -> None:
    for field in ("augment", "normalize"):
        if config["data"][field] != "none":
            raise UserError(
                f"data.{field}={config['data'][field]!r} is for images; with "
                f"workload={config['workload']!r} use 'none'"
            )


def _sentiment(config: Mapping[str, Any]) -> None:
    _no_images(config)
    for field in ("min_frequency", "max_length"):
        if config["task"][field] < 1:
            raise UserError(f"task.{field}={config['task'][field]} should be a whole number ≥ 1")
    if not config["data"]["label_noise"] < 1:
        raise UserError(
            f"data.label_noise={config['data']['label_noise']} is a share of the labels: it should "
            "be in [0, 1)"
        )
    if config["model"]["name"] != "lstm":
        raise UserError(
            f"model.name={config['model']['name']!r} does not read sentences: use 'lstm'"
        )


TASKS: dict[str, Task] = {
    "classification": Task({}, noise=True),
    "regression": Task({}, noise=True),
    "sentiment": Task(
        {
            "min_frequency": 3,  # in the training part; words less frequent are one unknown word
            "max_length": 60,  # words; the rest of a longer sentence is left out
        },
        _sentiment,
        noise=True,
    ),
}
