"""Many runs as one program, or one run a device at a time: whichever is faster here.

A vmap saves what every small step costs, but not always: where the weights of many runs fall out
of a core's cache, or where a product is large enough to fill the device, it is slower. So
`run.mode="auto"` times a few steps of both and keeps the answer, in the user's cache for the
machine, and in a group's `members.json` for good. Sweeps that end before that pays take a rule.
"""

import functools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from samop import config as configs
from samop import environment, flops, groups, loop, memory, remembered, variants
from samop.models import MODELS
from samop.workloads import build, flops_of_example, parameters

Point = Mapping[str, Any]
VMAP, LOOP = "vmap", "loop"
FILE = "modes.json"
# The rule: on a CPU, parameters up to which a vmap pays. Digits 128-128 (26k) trains 1.7 × faster
# vmapped than one by one, MNIST 75-25 (61k) 1.5 × slower.
CACHED = 40_000
# Model flops of all runs of a shape from which timing pays: some twenty seconds of two CPU cores,
# where compiling and timing both ways takes five.
WORTH_TIMING = 3e12
SAMPLE = 16  # runs a device, at most, that a vmap is timed with
SECONDS = 0.3  # that timed steps should take at least


class Choice(NamedTuple):
    """How runs of one shape train.

    Attributes:
      mode: "vmap" or "loop".
      why: "asked" (by the config), "timed" or "rule".
      seconds: what was timed, by mode: seconds a step and run.
    """

    mode: str
    why: str
    seconds: Mapping[str, float]


def choose(point: Point, run: Mapping[str, Any], used: Sequence[jax.Device]) -> Choice:
    """The mode of runs like `point`, without timing anything now."""
    if run["mode"] != "auto":
        return Choice(run["mode"], "asked", {})
    if found := remembered.read(FILE).get(_key(point, used)):
        return Choice(min(found, key=found.get), "timed", found)
    heavy = MODELS[point["model"]["name"]].convolutional or parameters(point) > CACHED
    return Choice(LOOP if used[0].platform == "cpu" and heavy else VMAP, "rule", {})


def most_runs(point: Point, run: Mapping[str, Any], used: Sequence[jax.Device]) -> int:
    """How many runs like `point` may train as one program."""
    return _most(choose(point, run, used).mode, run, len(used))


def _most(mode: str, run: Mapping[str, Any], devices: int) -> int:
    return min(run["replicates"] or sys.maxsize, devices if mode == LOOP else sys.maxsize)


def settle(
    points: Iterable[Point], run: Mapping[str, Any], used: Sequence[jax.Device]
) -> dict[str, Choice]:
    """Times the shapes that are unknown and worth it, before anything trains.

    Args:
      points: the runs to come.
      run: the config's `run` section; nothing is timed where its mode is not "auto".
      used: the devices.

    Returns:
      Of each shape that was timed now, a label and what was chosen.
    """
    if run["mode"] != "auto":
        return {}
    shapes: dict[str, list[Point]] = {}
    for point in points:
        shapes.setdefault(_key(point, used), []).append(point)
    settled = {}
    for key, same in shapes.items():
        if key in remembered.read(FILE) or sum(map(_work, same)) < WORTH_TIMING:
            continue
        # The dearest optimiser stands for all: that is where the time goes.
        dearest = max(same, key=lambda p: variants.cost(p["optimizer"]))
        static = configs.static(dearest)
        alike = [point for point in same if configs.static(point) == static]
        seconds = compare(alike, run, used)
        if len(seconds) == 2:
            remembered.add(FILE, key, seconds)
            label = f"{dearest['data']['name']} {configs.width_label(dearest)}"
            settled[label] = Choice(min(seconds, key=seconds.__getitem__), "timed", seconds)
    return settled


def compare(
    points: Sequence[Point], run: Mapping[str, Any], used: Sequence[jax.Device]
) -> dict[str, float]:
    """Seconds a step and run of each mode that can be had; fewer than two: there is no choice.

    Args:
      points: runs that may share a program.
      run: the config's `run` section.
      used: the devices.
    """

    def largest(most: int) -> groups.Group:
        formed = groups.form(points, len(used), lambda _: most)
        return max(formed, key=lambda group: len(group.names))

    alone = largest(_most(LOOP, run, len(used)))
    most = min(SAMPLE * len(used), _most(VMAP, run, len(used)))
    while most > len(alone.names) and (together := largest(most)).layout.runs_a_device > 1:
        timed = {VMAP: seconds_a_step(together, used), LOOP: seconds_a_step(alone, used)}
        if None not in timed.values():
            return {mode: seconds for mode, seconds in timed.items() if seconds is not None}
        most //= 2
    return {}


def seconds_a_step(group: groups.Group, used: Sequence[jax.Device]) -> float | None:
    """Compiles a group's steps and times some; seconds a step and run.

    Args:
      group: the runs; what they compute is thrown away.
      used: the devices.

    Returns:
      None where it seems too large for the memory.
    """
    ready = loop.uncompiled(group, used)
    arguments = (loop.start(ready), *loop.feed(ready))
    place = functools.partial(ready.program.place, "every")
    at = [place(np.int32(0)), place(np.int32(0)), place(np.int32(1))]
    compiled = ready.program.advance.lower(*arguments, *at).compile()
    needs = memory.footprint(compiled, arguments[-1], ready.program.mesh.size)
    if needs.total > memory.SHARE * environment.free_bytes(used):
        return None

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments, *at[:2], place(np.int32(count))))
        return time.perf_counter() - begin

    seconds(1)  # fills caches
    # A call also orders the batches and copies the state, once however many its steps are.
    spent = once = min(seconds(1), seconds(1))
    count, most = 1, ready.run.steps_per_epoch
    while spent - once < SECONDS and count < most:
        count = min(most, 2 * count)
        spent = seconds(count)
    spent = min(spent, seconds(count))
    found = (max(spent - once, 0.0) / (count - 1) if count > 1 else once) / len(group.names)
    logging.info("%d × %s: %.3g s a step and run", len(group.names), group.names[0], found)
    return found


def _work(point: Point) -> float:
    """Model flops of a run; 0 where they cannot be counted."""
    workload = build(point)
    try:
        of_example = flops_of_example(workload)
    except ValueError:
        return 0.0
    examples = len(workload.splits.train.x) * configs.epochs(point)
    return flops.OF_A_GRADIENT * of_example * examples * variants.cost(point["optimizer"])


def _key(point: Point, used: Sequence[jax.Device]) -> str:
    """What the answer depends on: shapes and machine, not the optimiser or the data's values."""
    plain = configs.canonical(point)
    shape = [plain["model"], plain["data"]["name"], plain["data"]["augment"], plain["precision"]]
    shape += [plain["train"]["batch_size"], plain["data"]["order_seed"] < 0]
    cpu = used[0].platform == "cpu"
    machine = environment.processor() if cpu else used[0].device_kind
    return configs.digest([shape, machine, len(used), jax.__version__], 16)
