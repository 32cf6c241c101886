"""Speed of every workload's training step, base and SAM; of those that read text, PyTorch's too.

python experiments/benchmarks/workloads.py --turns=9 --json=workloads.json
python experiments/benchmarks/workloads.py --only=sst2+pos --arg=width=300-298
taskset -c 0 python experiments/benchmarks/workloads.py --only=sst2

A row is one run, as a program by itself on one device, at the largest width of a config's sweep for
two cores (`:cpu`). What is timed is its compiled steps on real data without evaluation; those of
an agent include its playing. Sides take turns of so many steps; an untimed turn goes before. Rates
count what the workload counts: sentences, images, frames, or what weighs in its loss, as words do.

PyTorch's LSTM and Transformer (`torch_text.py`, extra samop[bench]) take the same batches, sizes,
dropout, optimisers and a SAM step with `foreach` kernels, with as many threads as there are cores;
its ratio to samop's seconds within a turn is printed with the interval of the median.
Needs the data of the configs. Hardware: CPUs; nothing here fails because of a time.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import sides as ours
from sides import head, row
from timing import summary, take_turns

from samop import cli, environment, groups, loop, sweep

CONFIGS = Path(__file__).parents[2] / "configs"
SAMOP, PEER = "samop", "PyTorch"
Side = Callable[[], Any]  # trains some steps and waits for them


class Timed(NamedTuple):
    """A row of the table.

    Attributes:
      file: of `configs`.
      arg: after the colon.
      steps: a turn.
      fields: overrides.
    """

    file: str
    arg: str = "cpu"
    steps: int = 10
    fields: tuple[str, ...] = ()


TABLE = {
    "synthetic": Timed("synthetic_width.py", steps=200),
    "mnist": Timed("mnist_width.py", steps=100),
    "cifar": Timed("cifar_width.py", steps=3),
    "imagenet": Timed("imagenet_width.py", steps=3),
    "pos": Timed("pos_width.py", steps=10),
    "sst2": Timed("sst2_width.py", steps=10),
    "molpcba": Timed("molpcba_width.py", steps=20),
    "atari": Timed("atari_width.py", steps=0),
}


def points(timed: Timed, arg: str) -> dict[str, Mapping[str, Any]]:
    """The runs of seed 0 and the largest width: "base" and the first of "sam"."""
    config = f"--config={CONFIGS / timed.file}:{','.join(filter(None, (timed.arg, arg)))}"
    request = cli.parse([config, *timed.fields])
    runs = [p for p in sweep.expand(request.config, request.axes) if p["seed"] == 0]
    width = runs[-1]["model"]
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        if run["model"] == width:
            found.setdefault(run["optimizer"]["name"], run)
    return found


def samop_side(ready: loop.Ready, steps: int) -> Side:
    """Steps from the beginning of the first epoch; what they give is thrown away."""
    place = functools.partial(ready.program.place, "every")
    arguments = (loop.start(ready), *loop.feed(ready), *(place(np.int32(n)) for n in (0, 0, steps)))
    compiled = ready.program.advance.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def counted(ready: loop.Ready) -> float:
    """What a step counts: examples, or their weight, on average over the training part."""
    point, workload = ready.group.points[0], ready.workload
    size = point["train"]["batch_size"]
    if workload.splits is None:  # an agent: each frame is learned from several times
        return size / point["task"]["update_epochs"]
    if workload.weight is None:
        return size
    train = workload.splits.train
    return size * float(workload.weight(workload.batch(train.x, train.y, None, None)).mean())


def torch_side(ready: loop.Ready, steps: int) -> Side:
    """The same network, batch and optimiser in PyTorch."""
    import torch
    import torch_text

    point, train = ready.group.points[0], ready.workload.splits.train
    model, optimizer = point["model"], point["optimizer"]
    size = point["train"]["batch_size"]
    parts = [np.arange(i * size, (i + 1) * size) % len(train) for i in range(steps)]
    params, _ = jax.eval_shape(ready.run.init, np.uint32(0))
    text = lambda a: torch.tensor(np.asarray(a)).long()  # noqa: E731
    if model["name"] == "lstm":
        net = torch_text.LSTM(
            params["embedding"].shape[0],
            model["embed"],
            model["hidden"],
            ready.workload.num_classes,
            model["dropout"],
        )
        batches = [(text(train.x[at]), text(train.y[at])) for at in parts]
    else:
        words, outputs = params["embed"]["embedding"].shape[0], params["tags"]["bias"].shape[0]
        steps_of_row = train.x["token"].shape[1]
        sizes = model["size"], model["layers"], model["heads"]
        net = torch_text.Transformer(words, *sizes, steps_of_row, outputs, model["dropout"])
        batches = [
            (
                (text(train.x["token"][at]), text(train.x["segment"][at])),
                text(np.where(train.x["segment"][at] > 0, train.y[at], -100)),
            )
            for at in parts
        ]
    rate = {"lr": optimizer["lr"], "weight_decay": optimizer["weight_decay"], "fused": True}
    if optimizer["base"] == "sgd":
        base = torch.optim.SGD(net.parameters(), momentum=optimizer["momentum"], **rate)
    else:
        base = torch.optim.AdamW(net.parameters(), **rate)
    one = torch_text.step(net, optimizer["rho"] if optimizer["name"] == "sam" else 0.0, base)

    def turn():
        return [one(x, y) for x, y in batches]

    return turn


def speed(name: str, timed: Timed, options: argparse.Namespace) -> dict[str, Any]:
    """Times a workload; prints its rows and returns what they say."""
    sides: dict[str, Side] = {}
    counts, steps = 0.0, timed.steps
    for optimizer, point in points(timed, options.arg).items():
        ready = loop.uncompiled(groups.make([[point]], 1), jax.devices()[:1])
        if ready.workload.stream is not None:
            row(name, "a stream, whose batches the host makes: not timed here")
            return {}
        # An agent plays first: whole iterations.
        steps = timed.steps or ready.run.steps_per_epoch // point["task"]["iterations"]
        counts = counted(ready)
        sides[f"{SAMOP} {optimizer}"] = samop_side(ready, steps)
        if point["model"]["name"] in ("lstm", "transformer") and not options.alone:
            sides[f"{PEER} {optimizer}"] = torch_side(ready, steps)
    for side in sides.values():
        side()
    times = take_turns(sides, options.turns)
    found = {}
    for side, (wall, cpu) in times.items():
        mine = f"{SAMOP} {side.rpartition(' ')[2]}"
        ratio = summary(times[mine][0] / wall)
        low, high = ratio["interval"]
        seconds = np.median(wall) / steps
        cells = f"{1e3 * seconds:.1f}", f"{np.median(cpu / wall):.2f}", f"{counts / seconds:.0f}"
        against = f"**{ratio['median']:.2f}** [{low:.2f}, {high:.2f}]" if mine != side else ""
        row(name, ready.workload.unit, side, *cells, against)
        found[side] = {"seconds": summary(wall / steps), "samop / side": ratio, "a step": counts}
    return found


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="+".join(TABLE), help="workloads joined by +")
    parser.add_argument("--arg", default="", help="more after the colon of the config")
    parser.add_argument("--turns", type=int, default=9, help="counted turns (default: 9)")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    ours.start_devices()
    versions = {}
    if not options.alone:
        import torch

        torch.set_num_threads(environment.cores())
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    machine = ours.machine(**versions)
    head("workload", "counts", "side", "ms a step", "cores busy", "a second", "samop / side")
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    for name in options.only.split("+"):
        result[name] = speed(name, TABLE[name], options)
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
