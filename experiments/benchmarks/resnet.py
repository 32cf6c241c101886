"""A SAM step of ResNet-18 on CIFAR-10's images: samop's compiled epoch against PyTorch.

python experiments/benchmarks/resnet.py --filters=4+8+16+32 --turns=9 --json=resnet.json

samop's side is the program of a run from the command line, an epoch of a few steps, its evaluation
cut to one example. PyTorch's is `torch_train.tuned` on the same network, start weights and images,
twice: with images as PyTorch lays them out, and with channels last, which its kernels prefer from
16 filters on. Equal: 128 a batch, rate .1, momentum .9, decay 1e-4, rho .05, threads; the first
epoch's loss should agree (samop's batches there, on all sides). Sides take turns, and what counts
is the median of the ratios within a turn.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sides as ours
import torch
from timing import summary, take_turns
from torch_models import ResNet18, channels_first, copy_weights
from torch_train import tuned

from samop import config as configs
from samop import environment, loop, validation
from samop.data import sampling

BATCH = 128
OURS = "samop"
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def prepared(filters: int, steps: int) -> loop.Ready:
    """The compiled program that the command line makes of one run."""
    config = configs.defaults("resnet18").to_dict()
    config.update(experiment="benchmark")
    config["data"].update(name="cifar10", normalize="standardize")
    config["data"].update(validation=1, test_size=1, train_size=BATCH * steps + 1)
    config["model"]["filters"] = filters
    config["optimizer"].update(name="sam", rho=0.05, schedule="constant")
    config["train"].update(epochs=1, batch_size=BATCH, diagnostics_every=0)
    validation.validate(config)
    (ready,) = ours.prepared(ours.from_command_line([config]))
    return ready


def torch_side(ready: loop.Ready, layout: torch.memory_format) -> Callable[[], float]:
    """The same of PyTorch, with the images in a memory layout."""
    split, point = ready.workload.splits.train, ready.group.points[0]
    params, stats = ready.run.init(np.uint32(point["seed"]))
    model = ResNet18(point["model"]["filters"], 10)
    copy_weights(model, {"params": params, **stats})
    model = model.to(memory_format=layout).train()
    images = channels_first(np.asarray(ready.workload.batch(split.x, split.y, None, None)["x"]))
    labels = torch.tensor(np.asarray(split.y)).long()
    epoch = tuned(model, images.contiguous(memory_format=layout), labels, rho=0.05)
    first = np.array(sampling.epoch_order(len(labels), BATCH, point["seed"], 0))
    orders = itertools.chain([torch.tensor(first)], _orders(len(labels)))
    return lambda: epoch(next(orders))


def _orders(examples: int):
    while True:
        yield torch.randperm(examples)[: examples // BATCH * BATCH].view(-1, BATCH)


def compare(filters: int, options: argparse.Namespace) -> dict[str, Any]:
    """Times the sides at one width; prints and returns the table."""
    ready = prepared(filters, options.steps)
    sides = {OURS: ours.samop_side([ready])}
    for name, layout in LAYOUTS.items():
        sides[f"PyTorch, {name}"] = torch_side(ready, layout)
    losses = {name: epoch() for name, epoch in sides.items()}
    times = take_turns(sides, options.turns)
    found: dict[str, Any] = {"losses": losses, "compile": ready.compile_seconds, "sides": {}}
    for name, (wall, cpu) in times.items():
        ratio = summary(times[OURS][0] / wall)
        found["sides"][name] = {"seconds": summary(wall / options.steps), "samop / side": ratio}
        seconds, cores = np.median(wall) / options.steps, np.median(cpu / wall)
        line = f"| {filters} | {name} | {seconds:.4f} | {cores:.2f} | {losses[name]:.4f} "
        low, high = ratio["interval"]
        print(f"{line}| **{ratio['median']:.2f}** | [{low:.2f}, {high:.2f}] |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", default="4+8+16+32", help="of the first stage, joined by +")
    parser.add_argument("--turns", type=int, default=9, help="counted turns (default: 9)")
    parser.add_argument("--steps", type=int, default=4, help="a turn")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    ours.start_devices()
    torch.set_num_threads(environment.cores())
    machine = ours.machine(torch=torch.__version__, threads=torch.get_num_threads())
    print("\n| filters | side | seconds a step | cores busy | loss | samop / side | interval |")
    print("|---|---|---|---|---|---|---|")
    widths = map(int, options.filters.split("+"))
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    result["filters"] = {filters: compare(filters, options) for filters in widths}
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
