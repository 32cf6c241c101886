"""A grid of runs, {SGD, SAM × five ρ} × three seeds of an MNIST MLP: points per minute.

python experiments/benchmarks/grid.py --turns=5 --repeats=3 --json=grid.json

Training: the grid as the groups that the command line forms ("one program" a family, with
run.mode=vmap and, where it forms others, run.mode=auto) against each point as a group of its own,
one after another, each with all cores. Both with a batch order per seed, and with one order for all
(data.order_seed=0). One process, compiled epochs on data that lie on the devices, evaluation
included; programs are compiled beforehand, and an untimed epoch goes before. Sides take turns; a
turn is some epochs of the whole grid. Points per minute are those of runs of 20 epochs.

Commands: `python -m samop.main` for the whole grid, start, compilation, records and figure
included, against a PyTorch script per point (torch_point.py), with one thread and with one a core:
the quicker of the two counts.
A script is timed for one SGD and one SAM point and counted three and fifteen times, one after
another; --at_once=2 starts as many at a time, all of them timed together. samop runs with an empty
cache folder (cold), then with what that left (warm). Equal: data from samop's decoded cache, 55,000
examples, 128 a batch, epochs, validation and test accuracy after each; PyTorch has a constant rate.

Needs the extra samop[bench] (PyTorch) and MNIST (python -m samop.data prepare mnist).
Hardware: CPUs; ten minutes on two cores. Nothing here fails because of a time.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sides as ours
from sides import head, ratio_row, row
from timing import summary, take_turns

from samop import cli, environment, groups, sweep

HERE = Path(__file__).resolve().parent
RHOS, SEEDS, EPOCHS = (0.01, 0.02, 0.05, 0.1, 0.2), 3, 20
PEER = "a PyTorch script per point"
ORDERS = {"an order per seed": (), "one order": ("--config.data.order_seed=0",)}


def arguments(width: str, epochs: int, order: str) -> list[str]:
    """The grid as arguments of samop.main."""
    config = HERE.parents[1] / "configs" / "mnist_width.py"
    rhos = f"--config.sweep.rho={RHOS}".replace(" ", "")
    source = f"--config={config}:width={width},seeds={SEEDS},epochs={epochs}"
    return [source, rhos, *ORDERS[order]]


def training_sides(width: str) -> tuple[dict[str, ours.Epoch], int]:
    """Functions that train one epoch of the whole grid, and the number of points."""
    sides: dict[str, ours.Epoch] = {}
    points: Sequence[Mapping[str, Any]] = []
    for order in ORDERS:
        request = cli.parse(arguments(width, EPOCHS, order))
        points = list(sweep.plan(request.config, request.axes).points.values())
        vmap = ours.from_command_line(points, "vmap")
        auto = ours.from_command_line(points, "auto")
        formed = {f"one program, {order}": vmap}
        if [group.layout for group in auto] != [group.layout for group in vmap]:
            formed[f"run.mode=auto, {order}"] = auto
        formed[f"one by one, {order}"] = [groups.make([[p]], len(jax.devices())) for p in points]
        for name, todo in formed.items():
            layouts = sorted({str(tuple(group.layout)) for group in todo})
            print(f"{name}: {len(todo)} groups; seeds, cells, device grid {', '.join(layouts)}")
            sides[name] = ours.samop_side(ours.prepared(todo))
    return sides, len(points)


def training(options: argparse.Namespace) -> dict[str, Any]:
    """Times the training of the grid; prints and returns the tables."""
    sides, points = training_sides(options.width)
    # The loss of the first SGD run, which should be the same on all sides.
    losses = {name: epoch() for name, epoch in sides.items()}

    def repeated(epoch: ours.Epoch) -> Callable[[], None]:
        def turn() -> None:
            for _ in range(options.epochs):
                epoch()

        return turn

    times = take_turns({name: repeated(epoch) for name, epoch in sides.items()}, options.turns)
    seconds = {name: wall / options.epochs for name, (wall, _) in times.items()}
    print(f"\n{points} points of {options.width}, {options.turns} turns of {options.epochs} epochs")
    head("side", "seconds an epoch of the grid", "points a minute", "cores busy", "loss")
    found: dict[str, Any] = {"losses": losses, "seconds": {}, "ratios": {}}
    for name, wall in seconds.items():
        found["seconds"][name] = {**summary(wall), "raw": wall.tolist()}
        middle = float(np.median(wall))
        busy = float(np.median(times[name][1] / times[name][0]))
        rate = 60 * points / (middle * EPOCHS)
        row(name, f"{middle:.3f}", f"{rate:.1f}", f"{busy:.2f}", f"{losses[name]:.4f}")
    head("points a minute, ratio within a turn", "median", "min", "max", "interval", "coverage")
    for name in seconds:
        order = name.partition(", ")[2]
        base = f"one by one, {order}"
        if name != base:
            found["ratios"][name] = summary(seconds[base] / seconds[name])
            ratio_row(f"{name} / one by one", found["ratios"][name])
    return found


def timed(lines: Sequence[Sequence[str]], **more: str) -> float:
    """Wall seconds of commands started together, from the first start to the last end."""
    begin = time.perf_counter()
    running = [
        subprocess.Popen(
            list(line), env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in lines
    ]
    printed = [process.communicate()[0].decode() for process in running]
    for process, text, line in zip(running, printed, lines):
        if process.returncode:
            raise SystemExit(f"{' '.join(line)} failed:\n{text}")
    return time.perf_counter() - begin


def scripts(rho: float, threads: int, options: argparse.Namespace, folder: str) -> float:
    """Seconds a point of PyTorch scripts, `--at_once` of them at a time."""
    own = [f"--rho={rho}", f"--epochs={options.command_epochs}", f"--width={options.width}"]
    own.append(f"--threads={threads}")
    line = [sys.executable, str(HERE / "torch_point.py"), *own]
    lines = [
        [*line, f"--seed={seed}", f"--out={folder}/{seed}.json"] for seed in range(options.at_once)
    ]
    return timed(lines) / options.at_once


def one_repeat(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the whole grid by each kind of command."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        quickest = {}
        for name, rho in (("SGD", 0.0), ("SAM", RHOS[2])):
            for threads in options.threads:
                seconds = scripts(rho, threads, options, folder)
                found[f"a script, {name}, threads {threads}"] = seconds
                quickest[name] = min(seconds, quickest.get(name, seconds))
        found[PEER] = SEEDS * (quickest["SGD"] + len(RHOS) * quickest["SAM"])
        for order in ORDERS:
            for state in ("cold", "warm"):
                fields = arguments(options.width, options.command_epochs, order)
                fields.append(f"--workdir={folder}/{order[:3]}-{state}")
                line = [sys.executable, "-m", "samop.main", *fields]
                cache = f"{folder}/cache-{order[:3]}"
                found[f"samop.main, {order}, {state}"] = timed([line], SAMOP_CACHE=cache)
    return found


def commands(options: argparse.Namespace) -> dict[str, Any]:
    """Times whole commands; prints and returns the tables."""
    repeats = [one_repeat(options) for _ in range(options.repeats)]
    seconds = {name: np.array([one[name] for one in repeats]) for name in repeats[0]}
    points = SEEDS * (1 + len(RHOS))
    print(f"\ncommands of {options.command_epochs} epochs, {options.repeats} repeats", end="")
    print(f", PyTorch scripts {options.at_once} at a time")
    head("side", "seconds", "min", "max", "points a minute")
    found: dict[str, Any] = {"seconds": {}, "ratios": {}}
    for name, wall in seconds.items():
        found["seconds"][name] = {**summary(wall), "raw": wall.tolist()}
        rate = 60 * (1 if name.startswith("a script") else points) / float(np.median(wall))
        row(name, f"{np.median(wall):.2f}", f"{wall.min():.2f}", f"{wall.max():.2f}", f"{rate:.1f}")
    head("points a minute, ratio within a repeat", "median", "min", "max", "interval", "coverage")
    for name in (name for name in seconds if name.startswith("samop")):
        found["ratios"][name] = summary(seconds[PEER] / seconds[name])
        ratio_row(f"{name} / {PEER}", found["ratios"][name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="training+commands", help="parts, joined by +")
    parser.add_argument("--width", default="10-10", help="hidden sizes")
    parser.add_argument("--turns", type=int, default=5, help="of training (default: 5)")
    parser.add_argument("--epochs", type=int, default=2, help="of training a turn (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of the commands (default: 3)")
    parser.add_argument("--command_epochs", type=int, default=5, help="of a run (default: 5)")
    parser.add_argument("--at_once", type=int, default=1, help="PyTorch scripts at a time")
    counts = sorted({1, environment.cores()})
    parser.add_argument("--threads", type=int, nargs="+", default=counts, help="of a script")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    parts = options.only.split("+")
    if unknown := {*parts} - {"training", "commands"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    ours.start_devices()
    torch = importlib.metadata.version("torch")
    result: dict[str, Any] = {"machine": ours.machine(torch=torch), "options": vars(options)}
    if "commands" in parts:
        result["commands"] = commands(options)
    if "training" in parts:
        result["training"] = training(options)
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
