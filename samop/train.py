"""Training as pure functions of one run: init, step, epoch, evaluation. No I/O, no devices."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop import optim, transforms
from samop.config import TRACED
from samop.data import sampling
from samop.workloads import Batch, Workload

PyTree = Any
_noisy_labels = jax.jit(sampling.noisy_labels, static_argnums=1)
_noisy_targets = jax.jit(sampling.noisy_targets)
Traced = Mapping[str, jax.Array | float]
Data = Mapping[str, Any]


class TrainState(NamedTuple):
    """Everything that a run carries from step to step.

    Attributes:
      step: int32 scalar, number of updates done; also folded into the dropout key.
      params: the network's parameters.
      model_state: BatchNorm statistics, from the clean pass.
      opt_state: the optimiser's state.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree


class Run(NamedTuple):
    """One run of a config as functions of its seed and traced fields.

    Attributes:
      init: `init(seed) -> (params, model_state)`, jitted.
      labels: `labels(seed, rate) -> [n]`, the training labels with their noise; rate a number.
      start: `start(params, model_state) -> TrainState` before the first step.
      epoch: `epoch(state, seed, traced, labels, data, number) -> (state, metrics)`: one pass
        over the training data as one scan, then evaluation.
      steps_per_epoch: number of updates in an epoch.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    labels: Callable[..., jax.Array]
    start: Callable[..., TrainState]
    epoch: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    steps_per_epoch: int


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    workload: Workload,
    tx: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Statistics and metrics come from the clean pass at `params`.

    Args:
      state: before the step.
      batch: network inputs, see `Workload.batch`.
      key: dropout key; both passes of SAM use it, so they see the same masks.
      workload: see `samop.workloads`.
      tx: the optimiser; its update receives `grad_fn`.

    Returns:
      The state after the step and the batch's mean metrics (scalars).
    """

    def loss_fn(params):
        outputs, model_state = workload.apply(params, state.model_state, batch, key, True)
        values = workload.examples(outputs, batch)
        means = {name: jnp.mean(value) for name, value in values.items()}
        return means["loss"], (means, model_state)

    grads, (metrics, model_state) = jax.grad(loss_fn, has_aux=True)(state.params)

    def grad_fn(params):
        return jax.grad(loss_fn, has_aux=True)(params)[0]

    updates, opt_state = tx.update(grads, state.opt_state, state.params, grad_fn=grad_fn)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics


def evaluate(
    params: PyTree, model_state: PyTree, split: Data, workload: Workload
) -> dict[str, jax.Array]:
    """Mean metrics over a split; every example counts exactly once.

    Args:
      params, model_state: the network.
      split: "x" [batches, size, ...], "y" and "weight" [batches, size]; padding has weight 0.
      workload: see `samop.workloads`.
    """

    def sums(part):
        batch = workload.batch(part["x"], part["y"], None, None)
        outputs, _ = workload.apply(params, model_state, batch, None, False)
        values = workload.examples(outputs, batch)
        # where, not a product: a NaN of a padded row must not reach the sum.
        return {k: jnp.sum(jnp.where(part["weight"] > 0, v, 0)) for k, v in values.items()}

    count = jnp.sum(split["weight"])
    return {name: jnp.sum(s) / count for name, s in jax.lax.map(sums, split).items()}


def make_run(config: Mapping[str, Any], workload: Workload) -> Run:
    """The functions of one run; see `Run`.

    Args:
      config: a validated config. Seed and traced fields are not read from it, so that all runs
        of a group share these functions.
      workload: what `samop.workloads.build(config)` returned.
    """
    fields, batch_size = config["data"], config["train"]["batch_size"]
    examples = len(workload.splits.train.x)
    steps_per_epoch = examples // batch_size
    total_steps = steps_per_epoch * config["train"]["epochs"]

    def own_seed(field, seed):
        return seed if fields[field] < 0 else np.uint32(fields[field])

    def optimizer(traced):
        return optim.optimizer(config["optimizer"], total_steps, traced)

    def labels(seed, rate):
        y = jnp.asarray(workload.splits.train.y)
        noise_seed = own_seed("noise_seed", seed)
        if not workload.num_classes:
            return _noisy_targets(y, rate, noise_seed)
        # Rounded here, in double precision: in float32 some products land beside their tie.
        flips = round(rate * len(y))
        return _noisy_labels(y, workload.num_classes, flips, noise_seed)

    def start(params, model_state):
        # No optimiser's initial state depends on rates or radii.
        opt_state = optimizer(dict.fromkeys(TRACED, 0.0)).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state)

    def epoch(state, seed, traced, labels, data, number):
        tx = optimizer(traced)
        order_seed = own_seed("order_seed", seed)
        dropout = sampling.stream(seed, sampling.DROPOUT)
        augment = jax.random.fold_in(sampling.stream(order_seed, sampling.AUGMENT), number)

        def body(state, index):
            batch = workload.batch(data["train"]["x"][index], labels[index], augment, index)
            key = jax.random.fold_in(dropout, state.step)
            return train_step(state, batch, key, workload, tx)

        order = sampling.epoch_order(examples, batch_size, order_seed, number)
        state, seen = jax.lax.scan(body, state, order)
        metrics = {f"train_{name}": jnp.mean(value) for name, value in seen.items()}
        for split in ("validation", "test"):
            means = evaluate(state.params, state.model_state, data[split], workload)
            metrics.update({f"{split}_{name}": value for name, value in means.items()})
        metrics["grad_evals"] = transforms.grad_evals(state.opt_state, state.step)
        return state, metrics

    return Run(workload.init, labels, start, epoch, steps_per_epoch)
