"""The host loop around the compiled epochs of an MNIST MLP: what it costs, and whether it is flat.

python experiments/benchmarks/host.py --width=300-100+10-10 --turns=5 --json=host.json

Gap: the share of wall time that the host loop of `samop.loop.train` adds between the epochs on the
devices. One side is that loop with its metrics rows and no checkpoints, another the same with a
checkpoint after every epoch, and the third the same compiled epochs called in a row, waiting only
at the end. Equal: program, state, epoch numbers; the sides take turns in this process, and the
ratio is taken within a turn. Counted are the epochs from the end of the first one on: what a group
does once (start, data, final parameters) is not the loop's. Then: whether time and memory stay flat
over many epochs of that loop; and how often a step is traced.
Hardware: CPUs; two minutes a width on two cores. Nothing here fails because of a time.
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import sides as ours
from sides import head, point, ratio_row
from timing import summary

from samop import config as configs
from samop import loop

ALONE, LOOP, SAVING = "epochs in a row", "host loop", "host loop, a checkpoint an epoch"


def in_folder(ready: loop.Ready, checkpoint_seconds: float, report: Callable[[int], None]) -> None:
    """Trains a group to its end in a work folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ready.group.names:
            (Path(folder) / "points" / name).mkdir(parents=True)
        loop.train(ready, Path(folder), checkpoint_seconds=checkpoint_seconds, report=report)


def looped(ready: loop.Ready, checkpoint_seconds: float) -> float:
    """Seconds from the end of the first epoch to that of the last in the host loop."""
    ends: list[float] = []

    def epoch(*arguments):
        found = ready.epoch(*arguments)
        if not ends:
            # The clock starts with idle devices, as on the other side.
            jax.block_until_ready(found)
            ends.append(time.perf_counter())
        return found

    note = lambda _: ends.append(time.perf_counter()) if ends else None  # noqa: E731
    in_folder(ready._replace(epoch=epoch), checkpoint_seconds, note)
    return ends[-1] - ends[0]


def in_a_row(ready: loop.Ready) -> float:
    """Seconds of the same epochs without the loop."""
    state, inputs, begin = loop.start(ready), loop.feed(ready), 0.0
    for number in range(ready.epochs):
        place = ready.program.place("every", np.int32(number))
        state, values = ready.epoch(state, *inputs, place)
        if not number:
            jax.block_until_ready((state, values))
            begin = time.perf_counter()
    jax.block_until_ready((state, values))
    return time.perf_counter() - begin


def gap(hidden: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Times the host loop against its epochs alone; prints and returns the tables."""
    config = point(hidden, "sam", options, epochs=options.counted + 1)
    (ready,) = ours.prepared(ours.from_command_line([config]))
    sides: dict[str, Callable[[], float]] = {
        ALONE: lambda: in_a_row(ready),
        LOOP: lambda: looped(ready, math.inf),
        SAVING: lambda: looped(ready, 0.0),
    }
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            times[name].append(sides[name]() / options.counted)
    found = {name: summary(np.array(times[name])) for name in sides}
    ratios = {
        f"{name} / {ALONE}": summary(np.divide(times[name], times[ALONE]))
        for name in (LOOP, SAVING)
    }
    print(f"\n784-{'-'.join(map(str, hidden))}-10, {options.counted} epochs, {options.turns} turns")
    head("seconds per epoch", "median", "min", "max")
    for name, values in found.items():
        ours.row(name, *(f"{values[key]:.4f}" for key in ("median", "min", "max")))
    head("ratio within a turn", "median", "min", "max", "interval of the median", "coverage")
    for name, values in ratios.items():
        ratio_row(name, values)
    share = 1 - 1 / ratios[f"{LOOP} / {ALONE}"]["median"]
    print(f"\ngap: {share:.2%} of the host loop's wall time")
    return {"gap": share, "seconds": found, "ratios": ratios, "raw": times}


def resident() -> float:
    """MiB of this process in memory now; off Linux the most there were (macOS counts in bytes)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def flatness(hidden: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory over the epochs of the host loop, metrics rows but no checkpoints."""
    # Two more go before those counted: the first places the data, the second still grows buffers.
    config = point(hidden, "sam", options, epochs=options.epochs + 2)
    (ready,) = ours.prepared(ours.from_command_line([config]))
    seen: list[tuple[float, float]] = []
    in_folder(ready, math.inf, lambda _: seen.append((time.perf_counter(), resident())))
    clock, memory = np.array(seen).T
    found = {"seconds": np.diff(clock)[2:], "MiB": memory[3:]}
    third = max(1, options.epochs // 3)
    print(f"\nhost loop, 784-{'-'.join(map(str, hidden))}-10, {options.epochs} epochs: is it flat?")
    result: dict[str, Any] = {}
    head("unit", "first third", "last third", "change", "slope an epoch")
    for unit, values in found.items():
        slope = float(np.polyfit(np.arange(len(values)), values, 1)[0])
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        result[unit] = {"values": values.tolist(), "slope": slope, "first": first, "last": last}
        change = f"{last / first - 1:+.1%}", f"{slope:+.4f} ({slope / first:+.2%})"
        ours.row(unit, f"{first:.3f}", f"{last:.3f}", *change)
    return result


def traces(hidden: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Counts the network's calls in training mode, two a SAM step: only tracing makes any."""
    calls = 0

    def count(call, args, kwargs, context):
        nonlocal calls
        calls += context.method_name == "__call__" and bool(kwargs.get("train"))
        return call(*args, **kwargs)

    found: dict[str, list[float]] = {"compiling": [], "training": []}
    with nn.intercept_methods(count):
        for seed in (0, 1):
            config = point(hidden, "sam", options, seed)
            config["train"]["diagnostics_every"] = 0  # its gradients are calls too
            ready = ours.prepared(ours.from_command_line([config]))
            found["compiling"].append(calls / 2)
            epoch, calls = ours.samop_side(ready), 0
            for _ in range(3):
                epoch()
            found["training"].append(calls / 2)
            calls = 0
    print(f"\ntraces of a step, two groups of one shape, three epochs each: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ours.add_data_options(parser)
    parser.add_argument("--turns", type=int, default=5, help="of the gap; 0: none (default: 5)")
    parser.add_argument("--counted", type=int, default=10, help="epochs of a turn (default: 10)")
    parser.add_argument("--epochs", type=int, default=20, help="of the flatness check; 0: none")
    options = parser.parse_args()
    ours.start_devices()
    result: dict[str, Any] = {"machine": ours.machine(), "options": vars(options)}
    widths = configs.parse_widths(options.width)
    if options.turns:
        result["gap"] = {"-".join(map(str, hidden)): gap(hidden, options) for hidden in widths}
    if options.epochs:
        result["flatness"] = flatness(widths[0], options)
    result["traces"] = traces(widths[0], options)
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
