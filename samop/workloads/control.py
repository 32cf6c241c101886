"""Agents that learn to play: PPO on MinAtar and Atari. The metric is the return of whole games."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from samop import ppo, worlds
from samop.workloads import Metric, Workload, supervised

TARGETS = ("log_prob", "advantage", "target", "clip", "weight")


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`. Data are what the agents see; `samop.playing` makes them."""
    task = config["task"]
    world = worlds.build(config["data"]["name"], task)
    return of_world(world, config)


def of_world(world: worlds.World, config: Mapping[str, Any]) -> Workload:
    """The workload of playing a world.

    Args:
      world: any; only those that `samop.worlds` builds can be named by a config.
      config: its sections "task" and "model" are read.

    Returns:
      Its batches are {"x": frames [n, ...], "y": targets}, see `samop.ppo.losses`; a target
      "weight" of 0 marks what no agent did.
    """
    task = config["task"]
    real = jnp.result_type(float)
    frame = jax.ShapeDtypeStruct((1, *world.shape), world.dtype)
    numbers = {name: jax.ShapeDtypeStruct((1,), real) for name in TARGETS}
    targets = {"action": jax.ShapeDtypeStruct((1,), jnp.int32), **numbers}
    played = task["iterations"] * task["agents"] * task["horizon"]
    world = dataclasses.replace(
        world, examples=played * task["update_epochs"], example=(frame, targets)
    )
    seen = jax.ShapeDtypeStruct(frame.shape, real)
    init, apply = supervised.network(config, seen, world.num_actions)

    def batch(x, y, key, index):
        return {"x": x.astype(jnp.result_type(float)) / world.scale, "y": y}

    def examples(outputs, batch):
        return ppo.losses(outputs, batch["y"], task["value_coef"], task["entropy_coef"])

    return Workload(
        metric=Metric("return", True, 1.0, ""),
        splits=None,
        num_classes=0,
        init=init,
        batch=batch,
        apply=apply,
        examples=examples,
        source={"kind": "world", "origin": world.version},
        weight=lambda batch: batch["y"]["weight"],
        unit="frames",
        world=world,
    )
