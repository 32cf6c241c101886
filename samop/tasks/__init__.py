"""The workloads as a config knows them: their own fields, and what may be asked of them. No jax."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from samop.tasks import control, imagenet, molecules, sentiment, tagging


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


TASKS: dict[str, Task] = {
    "regression": Task({}, noise=True),
    "classification": Task({}, noise=True),
    "imagenet": Task(imagenet.FIELDS, imagenet.check, noise=True),
    "tagging": Task(tagging.FIELDS, tagging.check),
    "sentiment": Task(sentiment.FIELDS, sentiment.check, noise=True),
    "molecules": Task(molecules.FIELDS, molecules.check),
    "control": Task(control.FIELDS, control.check),
}
