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


TASKS: dict[str, Task] = {
    "classification": Task({}, noise=True),
    "regression": Task({}, noise=True),
    "molecules": Task({"row": 0}, _molecules),  # atoms a row; 0: as many as the largest has
}
