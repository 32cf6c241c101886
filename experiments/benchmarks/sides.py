"""Shared by the training benchmarks: configs of runs, samop's side of an epoch, printed tables."""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samop import config as configs
from samop import environment, groups, loop, modes, validation
from samop.data import dataset, sources

BATCH, RHO = 128, 0.05
Epoch = Callable[[], float]  # trains one epoch, waits for it, returns its mean training loss


def point(
    hidden: Sequence[int], name: str, options: argparse.Namespace, seed=0, epochs=1
) -> dict[str, Any]:
    """A run's config; the optimiser's name is "sam" or "base"."""
    config = configs.defaults("mlp").to_dict()
    config.update(experiment="benchmark", seed=seed)
    # The smallest parts allowed, so that the program's evaluation costs nothing.
    small = {"validation": 1, "test_size": 1, "train_size": options.examples}
    config["data"].update(name=options.data, **small)
    config["model"]["hidden"] = tuple(hidden)
    config["optimizer"].update(name=name, rho=RHO, schedule="constant")
    config["train"].update(epochs=epochs, batch_size=BATCH)
    validation.validate(config)
    return config


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that `point` reads."""
    parser.add_argument("--width", default="300-100", help="hidden sizes, several joined by +")
    parser.add_argument("--examples", type=int, default=0, help="0: all but one of 60,000")
    parser.add_argument("--data", choices=("mnist", "random"), default="mnist")
    parser.add_argument("--json", default="", help="file to write everything to")
    sources.LOCAL["random"] = random_images


def random_images() -> dataset.Dataset:
    """A data set of MNIST's shapes and types, for machines without MNIST."""
    rng = np.random.default_rng(0)
    arrays = []
    for count in (60_000, 10_000):
        arrays.append(rng.integers(0, 256, (count, 28, 28, 1), np.uint8))
        arrays.append(rng.integers(0, 10, count, np.int32))
    source = {"kind": "generated", "origin": "uniform bytes"}
    return dataset.image_dataset("random", dataset.Arrays(*arrays), 10, 255.0, source)


def from_command_line(
    points: Sequence[Mapping[str, Any]], mode: str = "auto"
) -> list[groups.Group]:
    """The groups that `python -m samop.main` makes of runs with --config.run.mode.

    Where it would time both modes before a long sweep, they are timed here, whatever was timed on
    this machine before.
    """
    devices = jax.devices()
    run = {**points[0]["run"], "mode": mode}
    if mode == "auto":
        alike = [p for p in points if p["optimizer"]["name"] == points[-1]["optimizer"]["name"]]
        seconds = modes.compare(alike, run, devices)
        rule = modes.choose(points[0], run, devices).mode
        run["mode"] = min(seconds, key=seconds.__getitem__, default=rule)
        if seconds:
            print(f"run.mode=auto: {run['mode']} of {seconds} s a step and run")
    return groups.form(points, len(devices), lambda p: modes.most_runs(p, run, devices))


def prepared(todo: Sequence[groups.Group]) -> list[loop.Ready]:
    """Groups ready to train; those of one shape share a compiled program."""
    made: dict[str, loop.Ready] = {}
    found = []
    for group in todo:
        shape = configs.digest([configs.static(group.points[0]), list(group.layout)])
        if shape not in made:
            made[shape] = loop.prepare(group, jax.devices())
        found.append(made[shape]._replace(group=group))
    return found


def samop_side(todo: Sequence[loop.Ready]) -> Epoch:
    """The groups' compiled epochs on their data, one group after another; waits for each."""
    states, inputs = [loop.start(ready) for ready in todo], [loop.feed(ready) for ready in todo]
    numbers = itertools.count()

    def epoch() -> float:
        number, losses = np.int32(next(numbers)), []
        for i, ready in enumerate(todo):
            place = ready.program.place("every", number)
            found = jax.block_until_ready(ready.epoch(states[i], *inputs[i], place))
            states[i], values = found
            losses.append(float(np.asarray(values["train_loss"])[0, 0]))
        return losses[0]

    return epoch


def start_devices() -> None:
    """As samop.main does it: one simulated device a core. Before jax computes anything."""
    jax.config.update("jax_num_cpu_devices", environment.cores())


def machine(**more: Any) -> dict[str, Any]:
    """Prints and returns versions, device and load."""
    found = environment.describe() | {"load before": os.getloadavg()[0]} | more
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def save(file: str, result: Mapping[str, Any]) -> None:
    """Writes a result with the load at its end; "": nowhere."""
    if file:
        whole = {**result, "load after": os.getloadavg()[0]}
        Path(file).write_text(json.dumps(whole, indent=1) + "\n")


def row(name: str, *cells: str) -> None:
    """Prints a row of a markdown table."""
    print(f"| {' | '.join((name, *cells))} |", flush=True)


def head(*names: str) -> None:
    """Prints the head of a markdown table."""
    print()
    row(*names)
    print("|" + "---|" * len(names), flush=True)


def ratio_row(name: str, found: Mapping[str, Any]) -> None:
    """A row of a table of ratios: median, extremes, interval of the median, its coverage."""
    low, high = found["interval"]
    cells = f"**{found['median']:.3f}**", f"{found['min']:.3f}", f"{found['max']:.3f}"
    row(name, *cells, f"[{low:.3f}, {high:.3f}]", f"{found['coverage']:.1%}")
