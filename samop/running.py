"""What all runs share, whatever gives them their batches: optimiser, first state, last metrics."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import optim, precision, transforms, trees
from samop.config import TRACED
from samop.data import sampling
from samop.step import TrainState, measure, passes_of
from samop.workloads import Workload

PyTree = Any


class Shared(NamedTuple):
    """Functions of one run of a config.

    Attributes:
      optimizer: `optimizer(traced, seed) -> samop.optim.Optimizer`.
      own_seed: `own_seed(field, seed)`: the config's `data.<field>`, or the run's seed.
      due: `due(number)`: whether the metrics of that epoch hold a measured perturbation.
      start: `start(params, model_state) -> TrainState` before the first step.
      closing: `closing(state, number, opt, batch, key) -> metrics` of an epoch's end: what was
        spent, and the perturbation on a batch where it is due.
    """

    optimizer: Callable[..., optim.Optimizer]
    own_seed: Callable[[str, Any], Any]
    due: Callable[[Any], Any]
    start: Callable[..., TrainState]
    closing: Callable[..., dict[str, jax.Array]]


def shared(config: Mapping[str, Any], workload: Workload, total_steps: int) -> Shared:
    """What a run of so many updates has in common with all others.

    Args:
      config: a validated config, see `samop.train.make_run`.
      workload: what is learned.
      total_steps: number of updates of the whole run.
    """
    every = config["train"]["diagnostics_every"]
    passes = passes_of(config)

    def own_seed(field, seed):
        fixed = config["data"][field]
        return seed if fixed < 0 else np.uint32(fixed)

    def optimizer(traced, seed):
        key = sampling.stream(seed, sampling.PERTURB)
        return optim.optimizer(config, total_steps, traced, key)

    def due(number):
        # The first epoch too: what is wrong should be known early.
        return (number == 0) | ((number + 1) % every == 0) if every else False

    def if_due(number, measured):
        shapes = jax.eval_shape(measured)
        nothing = lambda: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)  # noqa: E731
        return jax.lax.cond(due(number), measured, nothing)

    def start(params, model_state):
        # No optimiser's initial state depends on rates, radii or the seed. Its moments are
        # float32 ones, whatever the parameters are.
        opt_state = optimizer(dict.fromkeys(TRACED, 0.0), 0).tx.init(trees.wide(params))
        params = precision.cast(params, precision.DTYPES[config["precision"]["params"]])
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state)

    def closing(state, number, opt, batch, key):
        metrics = {
            "grad_evals": transforms.grad_evals(state.opt_state, state.step),
            # A radius ρ is the larger the smaller the weights: ρ/‖w‖.
            "weight_norm": trees.norm(state.params),
        }
        if config["precision"]["loss_scale"]:
            metrics["loss_scale"] = state.opt_state.scale
            metrics["skipped_steps"] = state.opt_state.skipped
        if every and opt.sharp is not None:
            measured = functools.partial(measure, state, batch, key, workload, opt, passes)
            metrics.update(if_due(number, measured))
        return metrics

    return Shared(optimizer, own_seed, due, start, closing)
