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


def _imagenet(config: Mapping[str, Any]) -> None:
    task, data = config["task"], config["data"]
    if task["image_size"] < 1:
        raise UserError(f"task.image_size={task['image_size']} should be a number of pixels ≥ 1")
    if not 0 < task["crop_area"] <= 1:
        raise UserError(f"task.crop_area={task['crop_area']} should be a share in (0, 1]")
    if data["augment"] not in ("none", "resized_crop"):
        raise UserError(
            f"data.augment={data['augment']!r} is for small images; with workload='imagenet' use "
            "'resized_crop' or 'none'"
        )


TASKS: dict[str, Task] = {
    "classification": Task({}, noise=True),
    "regression": Task({}, noise=True),
    "imagenet": Task(
        {
            "image_size": 224,  # side of what the network sees, in pixels
            "crop_area": 0.08,  # least share of a photo that a random crop shows
        },
        check=_imagenet,
        noise=True,
    ),
}
