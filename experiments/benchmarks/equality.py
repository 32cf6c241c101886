"""Whether it matters how a run's batches are divided over devices: ten steps, compared with one.

python experiments/benchmarks/equality.py --devices=2,8
python experiments/benchmarks/equality.py --processes=2,4

Prints a Markdown table: a row a case, a column a way (`config.parallel`) and number of devices, and
in each cell the largest absolute difference of what the epoch recorded, of weights and of
statistics after ten steps in float64 from those of one device that has each batch whole. Eight
simulated devices on a CPU; all data are generated or come with scikit-learn. Some ten minutes on
two cores, nearly all of it compiling. With `--processes` the devices are those of real processes,
one each, which talk over loopback.
"""

import argparse
import contextlib
import dataclasses
import functools
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from samop import config as configs
from samop import groups, loop, processes, scores, validation, workloads
from samop.data import dataset, molecules, sentiment, sources, strings
from samop.meanings import PARALLEL
from samop.workloads import classification

PyTree = Any
SIZE, STEPS = 16, 10
COUNT = SIZE * STEPS  # training examples, but of rows that hold several
TINY_VIT = {"size": 8, "layers": 1, "heads": 2, "patch": 4, "dropout": 0.3}


class Case(NamedTuple):
    """Something that is trained.

    Attributes:
      config: its config.
      around: what has to hold while it is built and trained.
    """

    config: Callable[[], dict[str, Any]]
    around: Callable[[], Any] = contextlib.nullcontext


def point(
    model: str = "mlp", workload: str = "classification", data: str = "digits", **fields: Any
) -> dict[str, Any]:
    """A small SAM run; `section__field=value` sets a field."""
    config = configs.defaults(model, workload).to_dict()
    config["experiment"] = "equality"
    config["data"].update(name=data, validation=21, train_size=COUNT, test_size=30)
    if workload != "classification":
        config["data"].update(normalize="none", train_size=0, test_size=0)
    config["train"].update(epochs=1, batch_size=SIZE, eval_batch_size=20)
    config["optimizer"].update(name="sam", rho=0.1, schedule="constant")
    if model == "mlp":
        config["model"]["hidden"] = (8, 8)
    for name, value in fields.items():
        section, field = name.split("__")
        config[section][field] = value
    validation.validate(config)
    return config


def network(model: str, sizes: Mapping[str, Any], *args: Any, **fields: Any) -> Case:
    """A case of another network."""
    own = {f"model__{name}": value for name, value in sizes.items()}
    return Case(lambda: point(model, *args, **own, **fields))


def words() -> dataset.Collection:
    """Tagged sentences; a tag follows from the word and the one before."""
    rng = np.random.default_rng(0)
    start = np.concatenate([[0], np.cumsum(rng.integers(1, 16, 280))])
    word = rng.integers(0, 30, start[-1]).astype(np.int32)
    tag = ((word + (np.append(9, word[:-1]) < 3)) % 5).astype(np.int16)
    kinds = strings.pack([f"w{i}" for i in range(30)])
    arrays = {"words": kinds, "word": word, "tag": tag, "start": start}
    about = {"tags": [f"t{i}" for i in range(5)], "untagged_words": 0}
    return dataset.collection("planted_words", arrays, about, {"kind": "generated"})


def sentences() -> dataset.Collection:
    """Sentences whose label is which of two words they hold."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, COUNT + 51)
    said = [
        " ".join([*(f"w{k}" for k in rng.integers(0, 12, rng.integers(2, 9))), ("bad", "good")[y]])
        for y in label
    ]
    arrays = sentiment.sentences(said, label, "planted")
    about = {"num_classes": 2}
    return dataset.collection("planted_sentences", arrays, about, {"kind": "generated"})


def graphs() -> dataset.Collection:
    """Random connected graphs with three labels each, some of them missing."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(600):
        size = int(rng.integers(1, 9))
        atom = rng.integers(0, 2, (size, 9)).astype(np.float32)
        ends = [(int(rng.integers(i)), i) for i in range(1, size)]
        label = (atom[:, :3].mean(0) > 0.5).astype(np.float32)
        label[rng.random(3) < 0.3] = np.nan
        examples.append(
            {
                "node_feat": atom,
                "edge_feat": np.zeros((len(ends), 3), np.float32),
                "edge_index": np.array(ends, np.int64).reshape(-1, 2),
                "labels": label,
            }
        )
    splits = {"train": examples[:500], "validation": examples[500:550], "test": examples[550:]}
    arrays, about = molecules.ready_graphs(splits)
    return dataset.collection("planted_graphs", arrays, about, {"kind": "generated"})


sources.LOCAL.update(planted_words=words, planted_sentences=sentences, planted_graphs=graphs)


def served(workload: workloads.Workload) -> workloads.Workload:
    """The same workload with its arrays in memory served as a stream."""
    from samop.data import stream

    assert workload.splits is not None
    parts = {name: getattr(workload.splits, name) for name in ("train", "validation", "test")}

    def load(split, i, draw):
        return {"x": parts[split].x[i], "y": np.int32(parts[split].y[i])}

    counts = {name: len(part) for name, part in parts.items()}
    x, y = parts["train"].x, parts["train"].y
    example = tuple(np.zeros((1, *a.shape[1:]), a.dtype) for a in (x, y))
    return dataclasses.replace(workload, splits=None, stream=stream.make(counts, example, load))


@contextlib.contextmanager
def streamed() -> Iterator[None]:
    """Within it classification reads its data as a stream."""
    build = classification.build
    classification.build = lambda config: served(build(config))
    workloads._build.cache_clear()
    try:
        yield
    finally:
        classification.build = build
        workloads._build.cache_clear()


TAGGER = {"size": 8, "layers": 1, "heads": 2, "dropout": 0.2}
PACKED = {"task__min_frequency": 1, "task__max_length": 10, "task__row": 12}
# Groups of two, the most that eight devices take of 16, would make BatchNorm amplify rounding.
DOUBLE = {"train__batch_size": 2 * SIZE, "data__train_size": 2 * COUNT}
CASES = {
    "SAM": Case(point),
    "BatchNorm": Case(lambda: point(model__norm="batch")),
    "ResNet-18, crop and flip": network(
        "resnet18", {"filters": 2}, data__augment="crop_flip", optimizer__lr=0.01
    ),
    "LookSAM": Case(lambda: point(optimizer__name="looksam", optimizer__k=3)),
    "m-SAM by scan, BatchNorm": Case(lambda: point(optimizer__m=4, model__norm="batch", **DOUBLE)),
    "m-SAM by vmap, dropout": network(
        "vit", TINY_VIT, optimizer__m=2, optimizer__m_by="vmap", optimizer__name="fsam"
    ),
    "dropout (ViT)": network("vit", TINY_VIT),
    "dropout of words (LSTM)": network(
        "lstm", {"embed": 6, "hidden": 5}, "sentiment", "planted_sentences"
    ),
    "weights (tagging)": network(
        "transformer", TAGGER, "tagging", "planted_words", **PACKED, task__word_dropout=0.2
    ),
    "scores (GCN)": network(
        "gcn", {"latent": 8, "dropout": 0.2}, "molecules", "planted_graphs", task__row=16
    ),
    "masks": Case(lambda: point(sparsity__method="snip", sparsity__level=0.5)),
    "expansion": Case(lambda: point(linearized__mode="jvp")),
    "parts of the labels": Case(lambda: point(train__label_parts=True, data__label_noise=0.4)),
    "stream": Case(lambda: point(model__norm="batch"), streamed),
}


def trained(config: Mapping[str, Any], parallel: str = "", devices: int = 1) -> dict[str, PyTree]:
    """What an epoch of ten steps leaves.

    Args:
      config: of the run.
      parallel: how `devices` share its batches; empty: one device has them whole.
      devices: how many.

    Returns:
      "metrics", "weights" and "statistics"; NumPy arrays.
    """
    own = {**config, "parallel": parallel or "jit"}
    size = config["train"]["batch_size"] if parallel else 1
    ready = loop.prepare(groups.make([[own]], devices, size), jax.devices())
    assert ready.group.layout.batch == ready.program.mesh.size == devices
    number = ready.program.place("every", np.int32(0))
    state, values = ready.epoch(loop.start(ready), *loop.feed(ready), number)
    real = functools.partial(loop.real, ready.group)
    found = processes.fetch((state.params, state.model_state, values))
    found = jax.tree.map(lambda x: real(np.asarray(x)), found)
    metrics = scores.scored(ready.workload, found[2])
    return {"metrics": metrics, "weights": found[0], "statistics": found[1]}


@functools.cache
def whole(case: str) -> dict[str, PyTree]:
    """A case on one device."""
    with CASES[case].around():
        return trained(CASES[case].config())


def difference(case: str, parallel: str, devices: int) -> float:
    """The largest absolute difference from one device; infinite where one has a NaN alone."""
    with CASES[case].around():
        several = trained(CASES[case].config(), parallel, devices)
    assert jax.tree.structure(whole(case)) == jax.tree.structure(several)
    return apart(case, jax.tree.leaves(several))


def apart(case: str, leaves: Sequence[np.ndarray]) -> float:
    """The largest absolute difference of what `trained` gave from that of one device."""
    pairs = zip(jax.tree.leaves(whole(case)), leaves, strict=True)
    return max(_apart(np.asarray(a, float), np.asarray(b, float)) for a, b in pairs)


def joined(cases: Sequence[str], count: int, folder: Path) -> None:
    """Trains cases in so many processes; the first one leaves their leaves in the folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [sys.executable, __file__, f"--out={folder}", f"--cases={'|'.join(cases)}"]
    joins = (f"--join=localhost:{port},{count},{i}" for i in range(count))
    running = [subprocess.Popen([*line, join]) for join in joins]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise RuntimeError(f"{count} processes failed")


def join(how: str, cases: Sequence[str], folder: Path) -> None:
    """One of the processes of `joined`."""
    address, count, index = how.split(",")
    jax.config.update("jax_num_cpu_devices", 1)
    processes.initialize(processes.Launch(address, int(count), int(index)))
    for case in cases:
        with CASES[case].around():
            leaves = jax.tree.leaves(trained(CASES[case].config(), "jit", int(count)))
        if processes.first():
            np.savez(folder / f"{cases.index(case)}.npz", *leaves)
    processes.wait("done")


def of_processes(cases: Sequence[str], counts: Sequence[int]) -> dict[str, list[float]]:
    """For each case the largest difference of so many processes from one device."""
    found: dict[str, list[float]] = {case: [] for case in cases}
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            joined(cases, count, Path(name))
            for number, case in enumerate(cases):
                with np.load(Path(name) / f"{number}.npz") as leaves:
                    found[case].append(apart(case, [leaves[key] for key in leaves.files]))
    return found


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    return float(np.max(np.abs(np.nan_to_num(a - b)), initial=0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="2,8", help="numbers of devices (default: 2,8)")
    parser.add_argument("--processes", default="", help="numbers of processes, instead")
    parser.add_argument("--cases", default="", help="only those that begin so, joined by |")
    parser.add_argument("--join", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cases = [case for case in CASES if case.startswith(tuple(options.cases.split("|")))]
    if options.join:
        return join(options.join, cases, Path(options.out))
    jax.config.update("jax_num_cpu_devices", 8)
    if options.processes:
        counts = [int(n) for n in options.processes.split(",")]
        head = [f"{n} processes" for n in counts]
        rows = of_processes(cases, counts).items()
    else:
        ways = [(way, int(n)) for way in PARALLEL for n in options.devices.split(",")]
        head = [f"{way}, {n} devices" for way, n in ways]
        rows = ((case, [difference(case, way, n) for way, n in ways]) for case in cases)
    print(f"| case | {' | '.join(head)} |")
    print("|---|" + "---|" * len(head))
    for case, cells in rows:
        print(f"| {case} | {' | '.join(f'{cell:.1e}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
