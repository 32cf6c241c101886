"""How long groups took on this machine, kept in the user's cache: what `--dry_run` foretells.

Nothing that a run computes depends on these numbers.
"""

from collections.abc import Mapping
from typing import Any

import jax

from samop import config as configs
from samop import environment, remembered, variants
from samop.groups import Group
from samop.workloads import parameters

# A step costs about as much as this many parameters' arithmetic even for the smallest network.
STEP_OVERHEAD = 3000
FILE = "timings.json"


def work(group: Group) -> float:
    """A group's rough cost in arbitrary units, to weigh progress by."""
    return group.layout.padded[0] * group.layout.padded[1] * cost(group.points[0])


def cost(point: Mapping[str, Any]) -> float:
    """A run's rough cost in arbitrary units, by its config alone."""
    passes = variants.cost(point["optimizer"])
    return configs.epochs(point) * passes * (parameters(point) + STEP_OVERHEAD)


def remember(group: Group, epochs: int, seconds: float) -> None:
    """Keeps the time of `epochs` epochs of a group."""
    remembered.add(FILE, _key(group), seconds / epochs)


def expected(groups: list[Group]) -> tuple[float, int]:
    """Expected seconds of the groups that were measured here before, and how many those are."""
    known = remembered.read(FILE)
    seconds = [
        known[_key(group)] * configs.epochs(group.points[0])
        for group in groups
        if _key(group) in known
    ]
    return sum(seconds), len(seconds)


def _key(group: Group) -> str:
    static = configs.static(group.points[0])
    static["train"].pop("epochs")
    device = (
        environment.processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    )
    return configs.digest([static, list(group.layout), device], 16)
