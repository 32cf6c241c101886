"""Processes on the cores of a machine: how much faster two are than one, how soon one resumes.

python experiments/benchmarks/scaling.py --turns=3

Scaling: whole commands on MNIST, each process pinned to a core of its own with one device: one
process, two that train a run each, and two that share the batches of one run and average its
gradients over loopback. Speeds are the examples a second of each command's `timing.jsonl`, so that
imports and compilation do not count; efficiency is the speed of two over twice that of one. Sides
take turns. Resuming: a command is killed after its first checkpoint and given again, with compiled
programs cached; seconds until the next checkpoint is there, which imports, data, restoring and an
epoch at least come before. Hardware: two CPU cores, Linux; some ten minutes.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sides import head, row
from timing import summary

CONFIG = "configs/mnist_width.py:width=300-100,epochs={epochs},seeds={seeds}"
FIELDS = ("--config.optimizer.name=base", "--config.run.mode=vmap")


def start(workdir: Path, processes: int, cores: list[int], *flags: str) -> list[subprocess.Popen]:
    """The processes of one command, each on its core."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "samop.main", *flags, *FIELDS, f"--workdir={workdir}"]
    started = []
    for i in range(processes):
        join = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={i}"]
        started.append(
            subprocess.Popen(
                ["taskset", "-c", str(cores[i]), *line, *(join if processes > 1 else [])],
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    return started


def speed(processes: int, runs: int, epochs: int, cores: list[int]) -> float:
    """Examples a second of all runs together."""
    with tempfile.TemporaryDirectory() as folder:
        config = CONFIG.format(epochs=epochs, seeds=runs)
        started = start(Path(folder), processes, cores, f"--config={config}")
        if any([process.wait() for process in started]):  # noqa: C419 - all of them
            raise RuntimeError(f"{config} failed in {processes} processes")
        file = next(Path(folder, "points").glob("*/timing.jsonl"))
        return json.loads(file.read_text())["examples_per_second"]


def resumed(cores: list[int]) -> float:
    """Seconds from a command to the first checkpoint that it adds to an earlier one's."""

    def saved(folder: Path) -> set[str]:
        return {p.name for p in folder.glob("groups/*/checkpoints/[0-9]*")}

    def until_saved(folder: Path) -> float:
        before, begin = saved(folder), time.monotonic()
        flags = [f"--config={CONFIG.format(epochs=200, seeds=1)}"]
        (process,) = start(folder, 1, cores, *flags, "--config.run.checkpoint_seconds=0")
        while saved(folder) <= before:
            if process.poll() is not None:
                raise RuntimeError("the command ended before it had saved")
            time.sleep(0.01)
        seconds = time.monotonic() - begin
        process.kill()
        process.wait()
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        until_saved(Path(folder))
        return until_saved(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    sides = {
        "one process, one run": (1, 1),
        "two processes, a run each": (2, 2),
        "two processes share one run": (2, 1),
    }
    for processes, runs in sides.values():
        speed(processes, runs, 1, cores)  # fills the cache of compiled programs
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            found[name].append(speed(*sides[name], options.epochs, cores))
    alone = np.array(found["one process, one run"])
    head("MNIST, MLP 300-100, SGD", "examples/s", "× one process", "efficiency")
    for name, rates in found.items():
        ratio = summary(np.array(rates) / alone)
        share = ratio["median"] / sides[name][0]
        low, high = ratio["min"], ratio["max"]
        cells = (f"{np.median(rates):,.0f}", f"{ratio['median']:.2f} [{low:.2f}, {high:.2f}]")
        row(name, *cells, f"{100 * share:.0f} %")
    seconds = [resumed(cores) for _ in range(options.turns)]
    print(f"\nfrom a command to the next checkpoint of a killed one: {max(seconds):.1f} s at most")


if __name__ == "__main__":
    main()
