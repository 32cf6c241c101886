"""What a group is foretold to take of the memory, against what it takes. Linux, CPUs.

python experiments/benchmarks/memory.py --json=memory.json
python experiments/benchmarks/memory.py --only=resnet18

A process of its own for each case: it compiles the group, notes what it has in memory, trains some
epochs and takes the most that was resident meanwhile (VmHWM, reset before). The data set is in
memory before that, once, and not counted on either side. Foretold is `samop.memory.Footprint`,
which the sweep decides by and `--dry_run` prints: state and workspace of all runs. "again": blocks
computed again in the backward pass (`train.remat`). Needs MNIST and CIFAR-10.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sides as ours

from samop import config as configs
from samop import loop, validation

EPOCHS, MIB, AGAIN = 2, 2**20, "again"
# model, its size, replicates in one program, what else
CASES = (
    ("mlp", "300-100", 1, ""),
    ("mlp", "300-100", 16, ""),
    ("mlp", "1000-1000", 8, ""),
    ("mlp", "3000-1000", 2, ""),
    ("resnet18", "16", 1, ""),
    ("resnet18", "16", 2, ""),
    ("resnet18", "32", 1, ""),
    ("resnet18", "32", 1, AGAIN),
    ("resnet18", "64", 1, ""),
    ("resnet18", "64", 1, AGAIN),
)


def point(model: str, size: str, seed: int, how: str) -> dict[str, Any]:
    """A short SAM run on a part of MNIST or CIFAR-10."""
    config = configs.defaults(model).to_dict()
    config.update(experiment="benchmark", seed=seed)
    small = {"validation": 128, "test_size": 128, "train_size": 512}
    config["data"].update(name="mnist" if model == "mlp" else "cifar10", **small)
    hidden = configs.parse_widths(size)[0]
    config["model"].update({"hidden": hidden} if model == "mlp" else {"filters": hidden[0]})
    config["train"].update(epochs=EPOCHS, batch_size=128, eval_batch_size=128)
    config["train"]["remat"] = how == AGAIN
    validation.validate(config)
    return config


def status(field: str) -> float:
    """A field of this process's status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status")


def measure(model: str, size: str, replicates: int, how: str) -> dict[str, float]:
    """MiB foretold and taken by a group, in this process."""
    ours.start_devices()
    points = [point(model, size, seed, how) for seed in range(replicates)]
    (ready,) = ours.prepared(ours.from_command_line(points, "vmap"))
    inputs = loop.feed(ready)
    jax.block_until_ready((inputs, loop.start(ready)))  # compiles what makes the first state
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    state, numbers = loop.start(ready), itertools.count()
    for _ in range(EPOCHS):
        place = ready.program.place("every", np.int32(next(numbers)))
        state, _ = jax.block_until_ready(ready.epoch(state, *inputs, place))
    needs = ready.footprint
    return {
        "state": needs.state / MIB,
        "workspace": needs.workspace / MIB,
        "foretold": (needs.state + needs.workspace) / MIB,
        "taken": status("VmHWM") - before,
    }


def child(model: str, size: str, replicates: int, how: str) -> dict[str, float]:
    """The same in a process of its own."""
    line = [sys.executable, __file__, f"--case={model},{size},{replicates},{how}"]
    out = subprocess.run(line, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{out.stderr}")
    return json.loads(out.stdout.splitlines()[-1])


def compare(only: str) -> list[Mapping[str, Any]]:
    """All cases of networks whose name holds `only`; prints the table."""
    ours.head("network", "runs", "state, MiB", "workspace, MiB", "foretold", "taken", "ratio")
    found = []
    for model, size, replicates, how in CASES:
        if only not in model:
            continue
        case = child(model, size, replicates, how)
        cells = [f"{value:.1f}" for value in case.values()]
        ratio = case["foretold"] / case["taken"]
        ours.row(f"{model} {size} {how}".strip(), str(replicates), *cells, f"**{ratio:.2f}**")
        found.append({"model": model, "size": size, "how": how, "runs": replicates, **case})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="MODEL,SIZE,RUNS,HOW: this one alone, as JSON")
    parser.add_argument("--only", default="", help="a part of the networks' name")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    if options.case:
        model, size, replicates, how = options.case.split(",")
        print(json.dumps(measure(model, size, int(replicates), how)))
        return
    ours.save(options.json, {"machine": ours.machine(), "cases": compare(options.only)})


if __name__ == "__main__":
    main()
