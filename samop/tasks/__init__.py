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
      models: names of the networks that take its examples.
    """

    models: tuple[str, ...]
    fields: Mapping[str, Any] = {}
    check: Callable[[Mapping[str, Any]], None] = lambda config: None
    noise: bool = False


TASKS: dict[str, Task] = {
    "regression": Task(("mlp",), noise=True),
    "classification": Task(("mlp", "resnet18", "vit"), noise=True),
    "imagenet": Task(
        ("resnet50", "resnet18", "mlp", "vit"), imagenet.FIELDS, imagenet.check, noise=True
    ),
    "tagging": Task(("transformer",), tagging.FIELDS, tagging.check),
    "sentiment": Task(("lstm",), sentiment.FIELDS, sentiment.check, noise=True),
    "molecules": Task(("gcn",), molecules.FIELDS, molecules.check),
    "control": Task(("nature_cnn", "minatar_cnn"), control.FIELDS, control.check),
}
