"""Seconds per epoch of SAM and SGD on an MNIST MLP: samop against a tuned PyTorch loop.

python experiments/benchmarks/epoch.py --width=300-100+50-50+10-10 --pairs=9 --json=epoch.json

All sides run in this process and take turns, one epoch each, so that a machine that slows down
slows all; what counts is the median of the ratios within a turn. Equal: examples, start weights,
128 a batch, rate .1, momentum .9, decay 1e-4, rho .05, all cores allowed. One untimed epoch goes
before; all sides take samop's batch order there, and their mean losses should agree to about one
per cent: SAM is that sensitive to rounding (ρ changed by 2e-6 of itself moves them as much).
PyTorch's side is `torch_train.tuned`. It runs with one thread and with one a core in a few
uncounted turns, and the number with the quickest turn there is the peer of the counted ones. (Not
the one with the best median: where other work takes a core, threads that wait for each other take
many times their time, and the peer would then be the slower one of a quiet machine.)
samop's epoch is the compiled program of a run from the command line, evaluation included, but one
example is held out for validation and one for testing, so that the training part is what is timed.
samop also computes the training accuracy; PyTorch only the loss.
"Of eight seeds" are the programs that the command line forms for eight seeds of one SAM run, each
seed with a batch order of its own, one program after another where there are several; its time is
divided by eight.

Needs the extra samop[bench] (PyTorch) and MNIST (python -m samop.data prepare mnist).
Hardware: CPUs; about four minutes a width on two cores. Nothing here fails because of a time.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sides as ours
import torch
from sides import BATCH, Epoch, head, point, ratio_row, row
from timing import summary, take_turns
from torch_models import MLP, copy_weights
from torch_train import tuned

from samop import config as configs
from samop import environment, loop
from samop.data import sampling

SEEDS = 8
SAM, SGD, EIGHT = "SAM samop", "SGD samop", "SAM samop, of eight seeds"
SAM_PEER, SGD_PEER = "SAM PyTorch", "SGD PyTorch"
COMPARED = (
    (SAM, SAM_PEER),
    (EIGHT, SAM_PEER),
    (SGD, SGD_PEER),
    (SAM, SGD),
    (SAM_PEER, SGD_PEER),
    (EIGHT, SAM),
)


def torch_side(ready: loop.Ready, threads: int) -> Epoch:
    """The PyTorch loop with the weights, examples, optimiser and first order of a samop group."""
    fields, split = ready.group.points[0], ready.workload.splits.train
    x = torch.tensor(split.x.reshape(len(split.x), -1), dtype=torch.float32) / 255
    y = torch.tensor(split.y, dtype=torch.long)
    model = MLP([x.shape[1], *fields["model"]["hidden"], 10])
    copy_weights(model, {"params": ready.run.init(np.uint32(fields["seed"]))[0]})
    rho = fields["optimizer"]["rho"] if fields["optimizer"]["name"] == "sam" else 0.0
    train = tuned(model, x, y, rho, flat=True)
    first = np.array(sampling.epoch_order(len(x), BATCH, fields["seed"], 0))
    orders = itertools.chain([torch.tensor(first)], random_orders(len(x)))

    def epoch() -> float:
        torch.set_num_threads(threads)
        return train(next(orders))

    return epoch


def random_orders(examples: int):
    while True:
        yield torch.randperm(examples)[: examples // BATCH * BATCH].view(-1, BATCH)


def fastest(sides: Mapping[int, Epoch], turns: int) -> tuple[int, dict[int, list[float]]]:
    """The number of threads with the quickest of some turns, and the seconds of them all."""
    times = take_turns({str(threads): epoch for threads, epoch in sides.items()}, turns)
    seconds = {threads: times[str(threads)][0].tolist() for threads in sides}
    return min(seconds, key=lambda threads: min(seconds[threads])), seconds


def speed(hidden: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Times all sides at one width; prints and returns the tables."""
    sides, losses, tried = {}, {}, {}
    counts = options.threads or sorted({1, environment.cores()})
    steps = 0
    for name, peer, optimizer in ((SAM, SAM_PEER, "sam"), (SGD, SGD_PEER, "base")):
        (ready,) = ours.prepared(ours.from_command_line([point(hidden, optimizer, options)]))
        steps = ready.run.steps_per_epoch
        sides[name] = ours.samop_side([ready])
        theirs = {threads: torch_side(ready, threads) for threads in counts}
        losses[name] = sides[name]()
        for threads, epoch in theirs.items():
            losses[f"{peer}, threads {threads}"] = loss = epoch()
            if abs(losses[name] - loss) > 0.02 * loss:
                raise SystemExit(f"losses {losses} differ: the sides do not train the same")
        best, tried[peer] = fastest(theirs, options.trials)
        sides[peer] = theirs[best]
        quickest = ", ".join(f"{n}: {min(seconds):.3f} s" for n, seconds in tried[peer].items())
        print(f"\n{peer} takes {best} of threads {quickest} (quickest of {options.trials} trials)")
    seeds = [point(hidden, "sam", options, seed) for seed in range(SEEDS)]
    eight = ours.prepared(ours.from_command_line(seeds))
    sides[EIGHT] = ours.samop_side(eight)
    losses[EIGHT] = sides[EIGHT]()
    times = take_turns(sides, options.pairs)
    times[EIGHT] = times[EIGHT] / SEEDS
    print(
        f"\n784-{'-'.join(map(str, hidden))}-10, {steps} steps of {BATCH}, {options.pairs} turns; "
        f"eight seeds are {len(eight)} program(s) on {eight[0].program.mesh.size} device(s)"
    )
    ratios = {f"{a} / {b}": summary(times[a][0] / times[b][0]) for a, b in COMPARED}
    rows = {name: summary(wall) for name, (wall, _) in times.items()}
    head("seconds per epoch and run", "median", "min", "max", "cores busy")
    for name, found in rows.items():
        # CPU per wall second does not change when both are divided by the number of seeds.
        found["cores"] = float(np.median(times[name][1] / times[name][0]))
        cells = (f"{found[key]:.3f}" for key in ("median", "min", "max"))
        row(name, *cells, f"{found['cores']:.2f}")
    head("ratio within a turn", "median", "min", "max", "interval of the median", "coverage")
    for name, found in ratios.items():
        ratio_row(name, found)
    print(
        "\nmean loss of epoch 1:", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    )
    raw = {name: values.tolist() for name, values in times.items()}
    result = {"steps": steps, "programs": len(eight), "threads tried": tried}
    return {**result, "seconds": rows, "ratios": ratios, "losses": losses, "raw": raw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ours.add_data_options(parser)
    parser.add_argument("--pairs", type=int, default=9, help="counted turns (default: 9)")
    parser.add_argument("--trials", type=int, default=5, help="uncounted turns of the threads")
    parser.add_argument("--threads", type=int, nargs="*", help="of PyTorch; default: 1 and cores")
    options = parser.parse_args()
    ours.start_devices()
    machine = ours.machine(torch=torch.__version__)
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    widths = configs.parse_widths(options.width)
    result["widths"] = {"-".join(map(str, hidden)): speed(hidden, options) for hidden in widths}
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
