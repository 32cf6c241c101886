"""Photos, or small images made larger, see `samop.workloads.imagenet`."""

from collections.abc import Mapping
from typing import Any

from samop.errors import UserError

FIELDS = {
    "image_size": 224,  # side of what the network sees, in pixels
    "crop_area": 0.08,  # least share of a photo that a random crop shows
}


def check(config: Mapping[str, Any]) -> None:
    """See `samop.tasks.Task`."""
    from samop.data import streamed

    task, data = config["task"], config["data"]
    if data["name"] in streamed.NAMES and config["curvature"]["every"]:
        raise UserError(
            f"curvature.every={config['curvature']['every']!r}: data.name={data['name']!r} is "
            "streamed, so that there are no examples in memory to measure on: use ''"
        )
    if task["image_size"] < 1:
        raise UserError(f"task.image_size={task['image_size']} should be a number of pixels ≥ 1")
    if not 0 < task["crop_area"] <= 1:
        raise UserError(f"task.crop_area={task['crop_area']} should be a share in (0, 1]")
    if data["augment"] not in ("none", "resized_crop"):
        raise UserError(
            f"data.augment={data['augment']!r} is for small images; with workload='imagenet' use "
            "'resized_crop' or 'none'"
        )
