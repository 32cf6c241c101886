"""Runs whose examples are streamed: an epoch in pieces, each a compiled call on a chunk of batches.

Updates are those of `samop.train`, the same step on the same batches; only where the batches come
from differs. While a chunk trains, the next one is read, put together and sent to the device.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import chunks, processes, transforms
from samop.config import epochs
from samop.data import sampling
from samop.data.stream import Host, Stream
from samop.division import BATCH, WHOLE, Division
from samop.running import shared
from samop.sharding import Program
from samop.step import TrainState, passes_of, train_step
from samop.train import Run, sums
from samop.workloads import Workload

PyTree = Any
SPLITS = ("validation", "test")


class Pieces(NamedTuple):
    """What an epoch is made of. All are called like `Run.epoch`, a chunk being the data.

    Attributes:
      chunk: the updates of the first "count" of the batches "x", "y", "index" [K, size, ...]:
        (state, sums of their metrics).
      tally: (sums of the metrics over the examples "x", "y" [K, size, ...] with a "weight", sum of
        the weights), on the state left as it is; padding has weight 0.
      close: metrics at the end of an epoch, whose last batch is "x", "y", "index" [size, ...].
    """

    chunk: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    tally: Callable[..., tuple[dict[str, jax.Array], jax.Array]]
    close: Callable[..., dict[str, jax.Array]]


def make_run(config: Mapping[str, Any], workload: Workload, division: Division = WHOLE) -> Run:
    """The functions of one run, see `samop.train.Run`; its epoch is in pieces.

    `labels` gives what noise adds to each label, modulo the number of classes: noise moves a label
    by a number that does not depend on it, so the labels themselves may come later.

    Args:
      config: a validated config, see `samop.train.make_run`.
      workload: one with a stream.
      division: of each batch over devices. Chunks come divided ("jit"), or whole to each device.
    """
    steps_per_epoch = workload.count // config["train"]["batch_size"]
    common = shared(config, workload, steps_per_epoch * epochs(config))
    passes = passes_of(config)
    # Neither is of the workloads there are: a score needs all outputs at once, and means of chunks
    # are not weighed.
    assert workload.score is None and workload.weight is None  # noqa: PT018

    def labels(seed, rate):
        noise_seed = common.own_seed("noise_seed", seed)
        zero, flips = jnp.zeros(workload.count, jnp.int32), round(rate * workload.count)
        return sampling.noisy_labels(zero, workload.num_classes, flips, noise_seed)

    def network_inputs(seed, labels, data, number):
        order_seed = common.own_seed("order_seed", seed)
        augment = jax.random.fold_in(sampling.stream(order_seed, sampling.AUGMENT), number)
        y = (data["y"] + labels[data["index"]]) % workload.num_classes
        return workload.batch(data["x"], y, augment, data["index"])

    def step_key(seed, state):
        return jax.random.fold_in(sampling.stream(seed, sampling.DROPOUT), state.step)

    def chunk(state, seed, traced, labels, data, number):
        opt = common.optimizer(traced, seed)
        batches = {name: data[name] for name in ("x", "y", "index")}

        def update(state, i):
            part = division.rows(jax.tree.map(lambda a: a[i], batches))
            batch = division.kept(network_inputs(seed, labels, part, number))
            return train_step(state, batch, step_key(seed, state), workload, opt, passes, division)

        def one(i, carry):
            state, seen = update(carry[0], i)
            return state, jax.tree.map(jnp.add, carry[1], seen)

        _, shapes = jax.eval_shape(update, state, 0)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, data["count"], one, (state, nothing))

    def tally(state, seed, traced, labels, data, number):
        params = transforms.eval_params(state.opt_state, state.params)
        values, counts, _ = sums(params, state.model_state, data, workload, division)
        return {name: jnp.sum(value) for name, value in values.items()}, jnp.sum(counts)

    def close(state, seed, traced, labels, data, number):
        batch = network_inputs(seed, labels, data, number)
        opt = common.optimizer(traced, seed)
        return common.closing(state, number, opt, batch, step_key(seed, state))

    def whole(*_):
        raise TypeError("the examples of a streamed run are never on the devices all at once")

    return Run(
        workload.init,
        labels,
        common.start,
        whole,
        whole,
        steps_per_epoch,
        common.due,
        Pieces(chunk, tally, close),
    )


def compiled(program: Program, arguments: tuple[PyTree, ...], data: tuple[PyTree, ...]) -> Pieces:
    """The three programs, compiled.

    Args:
      program: of a group with one run.
      arguments: of an epoch, `samop.loop.shapes`; its data are not looked at.
      data: shapes of what each of the three takes for data, `shapes`.
    """

    def put(shapes, where):
        place = program.sharding(where)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
        )

    found = []
    for piece, data_shapes, where in zip(program.pieces, data, ("batches", "batches", "batch")):
        parts = {name: put(x, _place(name, where)) for name, x in data_shapes.items()}
        found.append(piece.lower(*arguments[:4], parts, arguments[5]).compile())
    return Pieces(*found)


def _place(name: str, where: str) -> str:
    """Where a part of the data belongs, see `Program.specs`; numbers are everywhere."""
    return "every" if name == "count" else where


def shapes(stream: Stream, config: Mapping[str, Any], program: Program) -> tuple[PyTree, ...]:
    """Shapes of the data that the pieces take, in the order of `Pieces`."""
    size, held = config["train"]["batch_size"], evaluated(stream, config, program)
    many = chunks.length(size, stream.examples // size, stream.example)
    most = max(-(-stream.counts[split] // held) for split in SPLITS)

    def batch(last, kind, *axes):
        x, y = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((*axes, *a.shape[1:]), a.dtype), stream.example
        )
        return {"x": x, "y": y, last: jax.ShapeDtypeStruct(axes, kind)}

    count = {"count": jax.ShapeDtypeStruct((), np.int32)}
    return (
        batch("index", np.int32, many, size) | count,
        batch("weight", np.float32, chunks.length(held, most, stream.example), held),
        batch("index", np.int32, size),
    )


def reads(program: Program) -> Host:
    """Which part of every batch this process reads: its devices', where each batch is divided."""
    shared = program.mesh.shape.get(BATCH, 1)
    if program.specs["batch"] == program.specs["every"] or shared != program.mesh.size:
        return Host(0, 1)
    return Host(jax.process_index(), jax.process_count())


def own(shape: PyTree, host: Host) -> PyTree:
    """Shapes of one host's part of a chunk, whose batches lie along the second axis."""

    def part(x: Any) -> jax.ShapeDtypeStruct:
        if x.ndim < 2:
            return x
        return jax.ShapeDtypeStruct((x.shape[0], x.shape[1] // host.hosts, *x.shape[2:]), x.dtype)

    return jax.tree.map(part, shape)


def evaluated(stream: Stream, config: Mapping[str, Any], program: Program) -> int:
    """Size of a batch in evaluation: no larger than a split, but that devices divide it."""
    devices = program.mesh.shape.get(BATCH, 1)
    most = max(stream.counts[split] for split in SPLITS)
    return -(-min(config["train"]["eval_batch_size"], most) // devices) * devices


def epoch(
    stream: Stream, program: Program, pieces: Pieces, config: Mapping[str, Any]
) -> Callable[..., tuple[PyTree, dict[str, np.ndarray]]]:
    """An epoch as `samop.loop` calls it: (state, seeds, traced, labels, data, number).

    It returns when the epoch is done, not before, its metrics [1, 1] on the host. A run that is
    resumed begins the epoch anew that it was in: checkpoints lie between epochs. Of several
    processes each reads its own part of every batch, or all of it where parts are not wanted.

    Args:
      stream: of the examples.
      program: of a group with one run.
      pieces: of the program, compiled or not.
      config: of the run; seeds are not read from it.
    """
    train, own_order = config["train"], config["data"]["order_seed"]
    host = reads(program)
    of_chunk, of_tally, _ = (own(shape, host) for shape in shapes(stream, config, program))
    held = evaluated(stream, config, program)

    def place(parts: PyTree, where: str) -> PyTree:
        return {k: program.place_own(_place(k, where), x, host.hosts) for k, x in parts.items()}

    def sent(batches: Callable[[], Any], shape: PyTree) -> Iterator[Any]:
        """(chunk on the device, its last batch on the host)."""

        def items():
            for chunk, filled in chunks.put_together(batches(), shape):
                last = jax.tree.map(lambda a: a[filled - 1], chunk)  # noqa: B023
                parts = chunk | ({"count": np.int32(filled)} if "count" in shape else {})
                yield place(parts, "batches"), last

        return chunks.ahead(items)

    def run(state, seeds, traced, labels, _, number):
        seed = own_order if own_order >= 0 else int(processes.fetch(seeds)[0])
        inputs, epoch = (seeds, traced, labels), int(number)
        seen: list[PyTree] = []
        final: PyTree = None
        batches = lambda: stream.train(seed, epoch, train["batch_size"], host)  # noqa: E731
        for chunk, last in sent(batches, of_chunk):
            final = last
            state, sums = pieces.chunk(state, *inputs, chunk, number)
            seen.append(sums)
            if len(seen) > 1:
                jax.block_until_ready(seen[-2])  # two chunks on the device are enough
        steps = stream.examples // train["batch_size"]
        metrics = {f"train_{name}": x / steps for name, x in _added(seen).items()}
        for split in SPLITS:
            batches = lambda: stream.evaluation(split, held, host)  # noqa: B023, E731
            seen = [
                pieces.tally(state, *inputs, chunk, number) for chunk, _ in sent(batches, of_tally)
            ]
            values, count = _added(seen)
            metrics.update({f"{split}_{name}": x / count for name, x in values.items()})
        closing = pieces.close(state, *inputs, place(final, "batch"), number)
        return state, metrics | processes.fetch(closing)

    return run


def _added(parts: list[PyTree]) -> PyTree:
    """The sum of trees of arrays, in double precision on the host."""
    return jax.tree.map(
        lambda *xs: np.sum([np.asarray(x, np.float64) for x in xs], 0), *processes.fetch(parts)
    )
