"""Many runs as one program, or one run a device at a time: whichever is faster here.

A vmap saves what every small step costs, but not always: where the weights of many runs fall out
of a core's cache, or where a product is large enough to fill the device, it is slower. So
`run.mode="auto"` times a few steps of both and keeps the answer, in the user's cache for the
machine, and in a group's `members.json` for good. Sweeps that end before that pays take a rule.
"""

import functools
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from samop import config as configs
from samop import environment, flops, groups, loop, memory, processes, remembered, variants
from samop.errors import UserError
from samop.models import MODELS
from samop.workloads import Workload, build, flops_of_example, parameters

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
    if one_at_a_time(build(point)):
        if run["mode"] == VMAP:
            raise UserError(
                f"run.mode='vmap': runs on data.name={point['data']['name']!r} train one at a "
                "time, since each has a stream or an emulator of its own: use 'loop' or 'auto'"
            )
        return Choice(LOOP, "one at a time", {})
    if run["mode"] != "auto":
        return Choice(run["mode"], "asked", {})
    if seconds := _known(_key(point, run, used))[1]:
        return Choice(min(seconds, key=seconds.__getitem__), "timed", seconds)
    heavy = MODELS[point["model"]["name"]].convolutional or parameters(point) > CACHED
    return Choice(LOOP if used[0].platform == "cpu" and heavy else VMAP, "rule", {})


def describe(choice: Choice) -> str:
    """A choice's times in words."""
    return ", ".join(f"{mode} {1e3 * s:.3g} ms" for mode, s in choice.seconds.items()) + (
        " a step and run" if choice.seconds else ""
    )


def _known(key: str) -> tuple[int, dict[str, float]]:
    """With how many runs a shape was timed here, and seconds by mode; (0, {}): it was not.

    Without times after all: there was no choice, with so many runs.
    """
    value = remembered.read(FILE).get(key)
    if value is None:
        return 0, {}
    try:
        runs, seconds = int(value["runs"]), {k: float(v) for k, v in value["seconds"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        runs, seconds = 0, {"": 0.0}
    if seconds and (set(seconds) != {VMAP, LOOP} or not 0 < min(seconds.values()) < math.inf):
        logging.warning("%s holds %r, which is no timing: timed again", FILE, value)
        return 0, {}
    return runs, seconds


def most_runs(point: Point, run: Mapping[str, Any], used: Sequence[jax.Device]) -> int:
    """How many runs like `point` may train as one program."""
    if one_at_a_time(build(point)):
        return 1
    # Of pmap all devices share the batches of a group, so that one a device is one a group.
    devices = 1 if point["parallel"] == "pmap" else len(used)
    return _most(choose(point, run, used).mode, run, devices)


def shared_batch(point: Point, run: Mapping[str, Any], used: Sequence[jax.Device]) -> int:
    """Size of the batches of runs like `point` that left-over devices share; 1: they stay idle.

    On a CPU the cores share a run's products by threads already, which is as fast: a ResNet-18 of
    16 filters took 7.6 s for 40 steps, and 8.0 s with its batches on two simulated devices. There
    they are shared only if somebody asks for it, by `parallel` as well, or where the cores are
    those of several processes.
    """
    if run["share_batches"] == "never" or build(point).world is not None:
        return 1
    asked = run["share_batches"] == "always" or point["parallel"] != "jit" or processes.several()
    if used[0].platform == "cpu" and not asked:
        return 1
    return point["train"]["batch_size"]


def one_at_a_time(workload: Workload) -> bool:
    """Whether its runs share no program: each has a stream, or an emulator, of its own."""
    return workload.stream is not None or getattr(workload.world, "single", False)


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
    settled = {}
    for key, alike in untimed(points, run, used).items():
        seconds = compare(alike, run, used)
        most = min(len(alike), SAMPLE * len(used))
        remembered.add(FILE, key, {"runs": most, "seconds": seconds})
        if seconds:
            label = f"{alike[0]['data']['name']} {configs.width_label(alike[0])}"
            settled[label] = choose(alike[0], run, used)
    return settled


def untimed(
    points: Iterable[Point], run: Mapping[str, Any], used: Sequence[jax.Device]
) -> dict[str, list[Point]]:
    """Of each shape that `settle` would time, the runs of one program, by what it is known by."""
    # Of several processes each would find times of its own; they take the rule.
    if run["mode"] != "auto" or processes.several():
        return {}
    shapes: dict[str, list[Point]] = {}
    for point in points:
        shapes.setdefault(_key(point, run, used), []).append(point)
    found = {}
    for key, same in shapes.items():
        if one_at_a_time(build(same[0])):
            continue
        # The dearest optimiser stands for all: that is where the time goes.
        static = configs.static(max(same, key=lambda p: variants.cost(p["optimizer"])))
        alike = [point for point in same if configs.static(point) == static]
        # What was timed with a few runs says little of many.
        known = 2 * _known(key)[0] >= min(len(alike), SAMPLE * len(used))
        if not known and sum(map(_work, same)) >= WORTH_TIMING:
            found[key] = alike
    return found


def compare(
    points: Sequence[Point], run: Mapping[str, Any], used: Sequence[jax.Device]
) -> dict[str, float]:
    """Seconds a step and run of both modes; empty where there is no choice.

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
    place = functools.partial(ready.program.place, "every")
    *inputs, _ = loop.shapes(ready)
    zero, one = place(np.int32(0)), place(np.int32(1))
    compiled = ready.program.advance.lower(*inputs, zero, zero, one).compile()
    needs = memory.footprint(compiled, inputs[-1], ready.program.mesh.size)
    if needs.more > memory.SHARE * environment.free_bytes(used):
        return None
    arguments = (loop.start(ready), *loop.feed(ready), zero, zero)

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments, place(np.int32(count))))
        return time.perf_counter() - begin

    seconds(1)  # fills caches
    # A call also orders the batches and copies the state, once however many its steps are. Steps
    # beyond the epoch's end repeat its last batch.
    spent = once = min(seconds(1), seconds(1))
    count = 1
    while spent - once < SECONDS:
        count *= 2
        spent = seconds(count)
    found = (min(spent, seconds(count)) - once) / (count - 1) / len(group.names)
    logging.info("%d × %s: %.3g s a step and run", len(group.names), group.names[0], found)
    return max(found, sys.float_info.min)


def _work(point: Point) -> float:
    """Model flops of a run; 0 where they cannot be counted."""
    workload = build(point)
    try:
        of_example = flops_of_example(workload)
    except ValueError:
        return 0.0
    examples = workload.count * configs.epochs(point)
    return flops.OF_A_GRADIENT * of_example * examples * variants.cost(point["optimizer"])


def _key(point: Point, run: Mapping[str, Any], used: Sequence[jax.Device]) -> str:
    """What the answer depends on: shapes and machine, not the optimiser or the data's values."""
    plain = configs.canonical(point)
    shape = [plain["model"], plain["data"]["name"], plain["data"]["augment"], plain["precision"]]
    shape += [plain["train"]["batch_size"], plain["data"]["order_seed"] < 0, run["replicates"]]
    shape += [plain[name] for name in ("task", "sparsity", "linearized") if name in plain]
    shape += ["remat"] if plain["train"].get("remat") else []
    cpu = used[0].platform == "cpu"
    machine = environment.processor() if cpu else used[0].device_kind
    return configs.digest([shape, machine, len(used), jax.__version__], 16)
