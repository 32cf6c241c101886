"""Agents that play, see `samop.playing`."""

import math
from collections.abc import Mapping
from typing import Any

from samop.errors import UserError

FIELDS: dict[str, Any] = {
    "agents": 8,  # games that are played side by side
    "horizon": 128,  # steps of each between updates
    "iterations": 32,  # an epoch is so many times playing and updating
    "update_epochs": 3,  # passes over what was seen
    "gamma": 0.99,  # discount
    "lam": 0.95,  # of generalised advantage estimation
    "clip": 0.1,  # half-width of the ratio's interval, decayed linearly to 0
    "value_coef": 0.5,
    "entropy_coef": 0.01,
    "clip_rewards": False,  # learn from the rewards' signs; scores are never clipped
    "sticky": 0.0,  # probability that a game repeats the last action instead
    "noops": 0,  # Atari: most random actions of nothing before a game; the published 30
    "life_loss": False,  # Atari: for learning, a lost life is an end
    "eval_episodes": 16,  # whole games of each of validation and test
    "eval_steps": 27000,  # most steps of such a game; of Atari half an hour
    "eval_greedy": False,  # take the likeliest action; otherwise sample
}


def check(config: Mapping[str, Any]) -> None:
    """See `samop.tasks.Task`."""
    from samop import worlds

    task, size, name = config["task"], config["train"]["batch_size"], config["data"]["name"]
    worlds.check(name)
    for field, default in FIELDS.items():
        least, most = (1, math.inf) if isinstance(default, int) else (0, math.inf)
        if field in ("gamma", "lam", "clip", "sticky"):
            most = 1
        if field == "noops":
            least, most = 0, 30
        inside = math.isfinite(task[field]) and least <= task[field] <= most
        if not isinstance(default, bool) and not inside:
            end = f"from {least} to {most}" if most < math.inf else f"≥ {least}"
            raise UserError(f"task.{field}={task[field]} is not allowed: it should be {end}")
    if task["agents"] * task["horizon"] % size:
        raise UserError(
            f"train.batch_size={size} does not divide task.agents · task.horizon = "
            f"{task['agents'] * task['horizon']}"
        )
    atari = name.startswith(worlds.ATARI)
    network = "nature_cnn" if atari else "minatar_cnn"
    fixed = {
        "model.name": (config["model"]["name"], network),
        "data.augment": (config["data"]["augment"], "none"),
        "data.normalize": (config["data"]["normalize"], "unit"),
        "data.train_size": (config["data"]["train_size"], 0),
        "data.test_size": (config["data"]["test_size"], 0),
        "curvature.every": (config["curvature"]["every"], ""),
    }
    if not atari:
        fixed |= {"task.noops": (task["noops"], 0), "task.life_loss": (task["life_loss"], False)}
    for field, (value, allowed) in fixed.items():
        if value != allowed:
            raise UserError(
                f"{field}={value!r} is not allowed with data.name={name!r}: use {allowed!r}"
            )
