"""Seconds per epoch of SAM and SGD on an MNIST MLP: samop against a plain PyTorch loop.

python experiments/benchmarks/epoch.py --width=300-100+50-50+10-10 --pairs=9 --json=epoch.json

Both sides run in this process and take turns, one epoch each, so that a machine that slows down
slows both; what counts is the median of the ratios within a turn. Equal on both sides: examples,
start weights, 128 a batch, rate .1, momentum .9, decay 1e-4, rho .05, threads. One untimed epoch
goes before; both take samop's batch order there, and their mean losses should agree to about one
per cent: SAM is that sensitive to rounding (ρ changed by 2e-6 of itself moves them as much).
samop's epoch is the compiled program of a run from the command line, evaluation included, but one
example is held out for validation and one for testing, so that the training part is what is timed.
samop also computes the training accuracy; PyTorch only the loss.

Then, of samop alone: a run a device at a time on all devices; whether time and memory stay flat
over epochs of the whole host loop; how often a step is traced.
Needs the extra samop[bench] (PyTorch) and MNIST (python -m samop.data prepare mnist).
Hardware: CPUs; about four minutes a width on two cores. Nothing here fails because of a time.
"""

import argparse
import itertools
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
from timing import summary, take_turns

from samop import config as configs
from samop import environment, groups, loop, modes, validation
from samop.data import dataset, sampling, sources

BATCH, RHO = 128, 0.05
ALONE, TOGETHER = "SAM samop, one device", "SAM samop, a run a device"
LINE = "{:46} {median:6.3f}  {min:6.3f}  {max:6.3f} "
Epoch = Callable[[], float]  # trains one epoch, waits for it, returns its mean training loss


def point(hidden: Sequence[int], name: str, options: argparse.Namespace, seed=0, epochs=1):
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


def random_images() -> dataset.Dataset:
    """A data set of MNIST's shapes and types, for machines without MNIST."""
    rng = np.random.default_rng(0)
    arrays = []
    for count in (60_000, 10_000):
        arrays.append(rng.integers(0, 256, (count, 28, 28, 1), np.uint8))
        arrays.append(rng.integers(0, 10, count, np.int32))
    source = {"kind": "generated", "origin": "uniform bytes"}
    return dataset.image_dataset("random", dataset.Arrays(*arrays), 10, 255.0, source)


def from_command_line(config: Mapping[str, Any]) -> groups.Group:
    """The group that `python -m samop.main` makes of a single run."""
    devices = jax.devices()
    most = modes.most_runs(config, config["run"], devices)
    return groups.form([config], len(devices), lambda _: most)[0]


def samop_side(ready: loop.Ready) -> Epoch:
    """The group's compiled epoch on its data; waits for each one."""
    state, inputs = loop.start(ready), loop.feed(ready)
    numbers = itertools.count()

    def epoch() -> float:
        nonlocal state
        number = ready.program.place("every", np.int32(next(numbers)))
        state, values = jax.block_until_ready(ready.epoch(state, *inputs, number))
        return float(np.asarray(values["train_loss"])[0, 0])

    return epoch


def torch_side(ready: loop.Ready) -> Epoch:
    """The PyTorch loop with the weights, examples, optimiser and first order of a samop group."""
    fields, split = ready.group.points[0], ready.workload.splits.train
    x = torch.tensor(split.x.reshape(len(split.x), -1), dtype=torch.float32) / 255
    y = torch.tensor(split.y, dtype=torch.long)
    sizes = [x.shape[1], *fields["model"]["hidden"], 10]
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    weights = jax.device_get(ready.run.init(np.uint32(fields["seed"]))[0])
    with torch.no_grad():
        for i, linear in enumerate(layers[::2]):
            linear.weight.copy_(torch.tensor(weights[f"Dense_{i}"]["kernel"]).T)
            linear.bias.copy_(torch.tensor(weights[f"Dense_{i}"]["bias"]))
    rho = fields["optimizer"]["rho"] if fields["optimizer"]["name"] == "sam" else 0.0
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    order = torch.tensor(np.asarray(sampling.epoch_order(len(x), BATCH, fields["seed"], 0)))

    def epoch() -> float:
        nonlocal order
        current = torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH)
        order, current = current, order
        return torch_epoch(model, sgd, x, y, current, rho)

    return epoch


def torch_epoch(model, sgd, x, y, order, rho: float) -> float:
    """One epoch as many people write it; rho 0 is SGD."""
    params, total = list(model.parameters()), torch.zeros(())
    for index in order:
        inputs, labels = x[index], y[index]
        sgd.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        total += loss.detach()
        if rho:
            with torch.no_grad():
                norms = [torch.linalg.vector_norm(p.grad) for p in params]
                scale = rho / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-12)
                moves = [p.grad * scale for p in params]
                for p, move in zip(params, moves):
                    p.add_(move)
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            with torch.no_grad():
                for p, move in zip(params, moves):
                    p.sub_(move)
        sgd.step()
    return float(total) / len(order)


def speed(hidden: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Times both sides at one width; prints and returns the tables."""
    devices, sides, steps = jax.devices(), {}, 0
    for label, optimizer in (("SAM", "sam"), ("SGD", "base")):
        config = point(hidden, optimizer, options)
        ready = loop.prepare(from_command_line(config), devices)
        steps = ready.run.steps_per_epoch
        sides[f"{label} samop"], sides[f"{label} PyTorch"] = samop_side(ready), torch_side(ready)
    pairs = list(sides)
    if len(devices) > 1:
        runs = [[point(hidden, "sam", options, seed)] for seed in range(len(devices))]
        sides[ALONE] = samop_side(loop.prepare(groups.make(runs[:1], 1), devices))
        sides[TOGETHER] = samop_side(loop.prepare(groups.make(runs, len(devices)), devices))
    losses = {name: epoch() for name, epoch in sides.items()}
    for ours, theirs in (pairs[:2], pairs[2:]):
        if abs(losses[ours] - losses[theirs]) > 0.02 * losses[theirs]:
            raise SystemExit(f"losses {losses} differ: the sides do not train the same")
    times = take_turns(sides, options.pairs)
    if TOGETHER in times:
        times[TOGETHER] /= len(devices)
    compared = (pairs[:2], pairs[2:], pairs[::2], pairs[1::2])
    ratios = {
        f"{above} / {below}": summary(times[above][0] / times[below][0])
        for above, below in [*compared, (ALONE, pairs[1]), (TOGETHER, ALONE)]
        if above in times
    }
    rows = {name: summary(wall) for name, (wall, _) in times.items()}
    print(f"\n784-{'-'.join(map(str, hidden))}-10, {steps} steps of {BATCH}, {options.pairs} turns")
    print(f"{'seconds per epoch and run':46} median     min     max  cores busy")
    for name, row in rows.items():
        row["cores"] = float(np.median(times[name][1] / times[name][0]))
        print(LINE.format(name, **row), f"{row['cores']:.2f}")
    print(f"{'ratios within a turn':46} median     min     max  interval of the median")
    for name, row in ratios.items():
        print(LINE.format(name, **row), "[{:.3f}, {:.3f}]".format(*row["interval"]), end=" ")
        print(f"{row['coverage']:.1%}")
    print("mean loss of epoch 1:", ", ".join(f"{name} {losses[name]:.4f}" for name in pairs))
    raw = {name: values.tolist() for name, values in times.items()}
    return {"steps": steps, "seconds": rows, "ratios": ratios, "losses": losses, "raw": raw}


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
    ready = loop.prepare(from_command_line(config), jax.devices())
    seen: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ready.group.names:
            (Path(folder) / "points" / name).mkdir(parents=True)
        note = lambda _: seen.append((time.perf_counter(), resident()))  # noqa: E731
        loop.train(ready, Path(folder), checkpoint_seconds=math.inf, report=note)
    clock, memory = np.array(seen).T
    found = {"seconds": np.diff(clock)[2:], "MiB": memory[3:]}
    third = max(1, options.epochs // 3)
    print(f"\nhost loop, 784-{'-'.join(map(str, hidden))}-10, {options.epochs} epochs: is it flat?")
    result: dict[str, Any] = {}
    for unit, values in found.items():
        slope = float(np.polyfit(np.arange(len(values)), values, 1)[0])
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        result[unit] = {"values": values.tolist(), "slope": slope, "first": first, "last": last}
        change, each = f"{last / first - 1:+.1%}", f"{slope:+.4f} ({slope / first:+.2%}) an epoch"
        print(f"{unit:8} first third {first:.3f}, last third {last:.3f} ({change}), slope {each}")
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
            ready = loop.prepare(from_command_line(config), jax.devices())
            found["compiling"].append(calls / 2)
            epoch, calls = samop_side(ready), 0
            for _ in range(3):
                epoch()
            found["training"].append(calls / 2)
            calls = 0
    print(f"\ntraces of a step, two groups of one shape, three epochs each: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", default="300-100", help="hidden sizes, several joined by +")
    parser.add_argument("--pairs", type=int, default=9, help="counted turns (default: 9)")
    parser.add_argument("--epochs", type=int, default=20, help="of the flatness check; 0: none")
    parser.add_argument("--examples", type=int, default=0, help="0: all but one of 60,000")
    parser.add_argument("--data", choices=("mnist", "random"), default="mnist")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one a core")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    # As samop.main does it: one simulated device a core.
    jax.config.update("jax_num_cpu_devices", environment.cores())
    torch.set_num_threads(options.threads or environment.cores())
    sources.LOCAL["random"] = random_images
    machine = environment.describe() | {"load before": os.getloadavg()[0]}
    machine |= {"torch": torch.__version__, "torch threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    widths = configs.parse_widths(options.width)
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    result["widths"] = {"-".join(map(str, hidden)): speed(hidden, options) for hidden in widths}
    if options.epochs:
        result["flatness"] = flatness(widths[0], options)
    result["traces"] = traces(widths[0], options)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
