"""Training as pure functions of one run: init, epoch, evaluation. No I/O, no devices."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samop import transforms
from samop.config import epochs
from samop.data import sampling
from samop.division import WHOLE, Division
from samop.parts import label_parts
from samop.running import shared
from samop.step import TrainState, passes_of, train_step
from samop.tasks import TASKS
from samop.workloads import Workload

PyTree = Any
OUTPUTS = "outputs"  # of a split, for metrics of the whole; no row of a record has them
_noisy_labels = jax.jit(sampling.noisy_labels, static_argnums=1)
_noisy_targets = jax.jit(sampling.noisy_targets)
Traced = Mapping[str, jax.Array | float]
Data = Mapping[str, Any]


class Run(NamedTuple):
    """One run of a config as functions of its seed and traced fields.

    Attributes:
      init: `init(seed) -> (params, model_state)`, jitted.
      labels: `labels(seed, rate) -> [n]`, the training labels with their noise; rate a number.
      start: `start(params, model_state) -> TrainState` before the first step.
      epoch: `epoch(state, seed, traced, labels, data, number) -> (state, metrics)`: one pass
        over the training data as one scan, then evaluation.
      advance: `advance(state, seed, traced, labels, data, number, begin, count) -> state`: the
        updates begin … begin + count − 1 of that epoch alone.
      steps_per_epoch: number of updates in an epoch.
      due: `due(number)`: whether the metrics of that epoch hold a measured perturbation.
      pieces: what an epoch is made of where examples are streamed, see `samop.streaming`.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    labels: Callable[..., jax.Array]
    start: Callable[..., TrainState]
    epoch: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    advance: Callable[..., TrainState]
    steps_per_epoch: int
    due: Callable[[Any], Any]
    pieces: Any = None


def evaluate(
    params: PyTree,
    model_state: PyTree,
    split: Data,
    workload: Workload,
    division: Division = WHOLE,
) -> tuple[dict[str, jax.Array], PyTree]:
    """Mean metrics over a split, every example counted exactly once, and the outputs.

    Args:
      params, model_state: the network.
      split: "x" and "y" [batches, size, ...], "weight" [batches, size]; padding has weight 0.
      workload: see `samop.workloads`.
      division: of each batch over devices.

    Returns:
      Means by the workload's weights; outputs [batches, size, ...] where its `score` wants them,
      otherwise ().
    """

    values, counts, outputs = sums(params, model_state, split, workload, division)
    count = jnp.sum(counts)
    return {name: jnp.sum(value) / count for name, value in values.items()}, outputs


def sums(
    params: PyTree,
    model_state: PyTree,
    split: Data,
    workload: Workload,
    division: Division = WHOLE,
) -> tuple[dict[str, jax.Array], jax.Array, PyTree]:
    """Of each batch of a split the weighted sums of its metrics, that of weights, and the outputs.

    Arguments as for `evaluate`; all with an axis [batches].
    """

    def of_batch(part):
        part = division.rows(part)
        batch = workload.batch(part["x"], part["y"], None, None)
        outputs, _ = workload.apply(params, model_state, batch, None, False)
        real = part["weight"] > 0
        weight = jnp.where(real, 1.0 if workload.weight is None else workload.weight(batch), 0)
        # where, not a product: a NaN of a padded row must not reach the sum.
        values = {
            name: jnp.sum(weight * jnp.where(real, value, 0))
            for name, value in workload.examples(outputs, batch).items()
        }
        return values, jnp.sum(weight), () if workload.score is None else outputs

    values, counts, outputs = jax.lax.map(of_batch, split)
    if jax.tree.leaves(outputs):
        # [batches, own rows, ...]: whole again along the second axis.
        swap = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1), tree)  # noqa: E731
        outputs = swap(division.whole(swap(outputs)))
    return division.total(values), division.total(counts), outputs


def make_run(config: Mapping[str, Any], workload: Workload, division: Division = WHOLE) -> Run:
    """The functions of one run; see `Run`.

    Args:
      config: a validated config. Seed and traced fields are not read from it, so that all runs
        of a group share these functions.
      workload: what `samop.workloads.build(config)` returned.
      division: of each batch over devices; agents take theirs whole.
    """
    if workload.world is not None:
        from samop import playing

        return playing.make_run(config, workload)
    if workload.stream is not None:
        from samop import streaming

        return streaming.make_run(config, workload, division)
    assert workload.splits is not None
    batch_size = config["train"]["batch_size"]
    examples = workload.count
    steps_per_epoch = examples // batch_size
    total_steps = steps_per_epoch * epochs(config)
    passes = passes_of(config)
    common = shared(config, workload, total_steps)

    def labels(seed, rate):
        assert workload.splits is not None
        y = jnp.asarray(workload.splits.train.y)
        if not TASKS[config["workload"]].noise:
            return y
        noise_seed = common.own_seed("noise_seed", seed)
        if not workload.num_classes:
            return _noisy_targets(y, rate, noise_seed)
        # Rounded here, in double precision: in float32 some products land beside their tie.
        flips = round(rate * len(y))
        return _noisy_labels(y, workload.num_classes, flips, noise_seed)

    def stepper(seed, traced, labels, data, number):
        opt = common.optimizer(traced, seed)
        order_seed = common.own_seed("order_seed", seed)
        dropout = sampling.stream(seed, sampling.DROPOUT)
        augment = jax.random.fold_in(sampling.stream(order_seed, sampling.AUGMENT), number)

        def inputs(state, index):
            index = division.rows(index)
            x = jax.tree.map(lambda a: a[index], data["train"]["x"])
            batch = workload.batch(x, labels[index], augment, index)
            return division.kept(batch), jax.random.fold_in(dropout, state.step)

        def body(state, index):
            batch, key = inputs(state, index)
            state, seen = train_step(state, batch, key, workload, opt, passes, division)
            weight = division.total(workload.weight(batch).sum()) if workload.weight else ()
            return division.held(state), (seen, weight)

        order = sampling.epoch_order(examples, batch_size, order_seed, number)
        return opt, inputs, body, order

    def advance(state, seed, traced, labels, data, number, begin, count):
        *_, body, order = stepper(seed, traced, labels, data, number)
        one = lambda i, state: body(state, order[i])[0]  # noqa: E731
        return jax.lax.fori_loop(begin, begin + count, one, state)

    def epoch(state, seed, traced, labels, data, number):
        assert workload.splits is not None
        opt, inputs, body, order = stepper(seed, traced, labels, data, number)
        state, (seen, weight) = jax.lax.scan(body, state, order)
        share = weight / jnp.mean(weight) if workload.weight else 1.0
        metrics = {f"train_{name}": jnp.mean(share * value) for name, value in seen.items()}
        params = transforms.eval_params(state.opt_state, state.params)
        for split in ("validation", "test"):
            means, outputs = evaluate(params, state.model_state, data[split], workload, division)
            metrics.update({f"{split}_{name}": value for name, value in means.items()})
            if workload.score is not None:
                metrics[f"{split}_{OUTPUTS}"] = outputs
        if config["train"]["label_parts"]:
            metrics |= label_parts(
                params,
                state.model_state,
                data["train"]["x"],
                labels,
                jnp.asarray(workload.splits.train.y),
                workload,
                config["train"]["eval_batch_size"],
            )
        batch, key = inputs(state, order[-1])
        return state, metrics | common.closing(state, number, opt, division.whole(batch), key)

    return Run(workload.init, labels, common.start, epoch, advance, steps_per_epoch, common.due)
