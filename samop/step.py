"""One training step and the measurement of its perturbation: pure functions of one run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import diagnostics, optim, precision, transforms, trees
from samop.workloads import Batch, Workload

PyTree = Any
DIAGNOSIS = "sam_"  # what begins the names of a measured perturbation in a record


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


class Passes(NamedTuple):
    """What the network computes in at `params` and at the perturbed point; None: no cast."""

    first: Any
    second: Any


FULL = Passes(None, None)


def passes_of(config: Mapping[str, Any]) -> Passes:
    """The dtypes of a config's two passes."""
    first = precision.DTYPES[config["precision"]["compute"]]
    only = config["optimizer"]["name"] == "msam"  # its one gradient is that of perturbed weights
    low = only or config["precision"]["second_pass"] == "compute"
    return Passes(first, first if low else None)


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    workload: Workload,
    opt: optim.Optimizer,
    passes: Passes = FULL,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Statistics and metrics come from the clean pass at `params`.

    Args:
      state: before the step.
      batch: network inputs, see `Workload.batch`.
      key: dropout key; both passes of SAM use it, so they see the same masks.
      workload: see `samop.workloads`.
      opt: the optimiser; its update receives `grad_fn`.
      passes: precision of the two passes.

    Returns:
      The state after the step and the batch's mean metrics (scalars).
    """
    scaled = isinstance(state.opt_state, precision.LossScaledState)
    scale = state.opt_state.scale if scaled else None
    first = loss_function(workload, state.model_state, passes.first, scale)
    second = loss_function(workload, state.model_state, passes.second, scale)
    start = trees.wide(state.params)
    batch = workload.weighed(batch)  # before it is divided into ascent groups
    if opt.ascent is not None:
        gradient = transforms.sam_gradient(
            first,
            opt.ascent,
            opt.radius(state.opt_state.count),
            m=opt.m,
            has_aux=True,
            perturbed_loss_fn=second,
        )
        grads, clean = gradient(start, {"batch": batch, "key": group_keys(batch, key, opt.m)})
        metrics, model_state = clean.value[1]
        updates, opt_state = opt.tx.update(grads, state.opt_state, state.params)
    else:
        data = {"batch": batch, "key": key}
        clean_grad, sam_grad = (jax.grad(loss, has_aux=True) for loss in (first, second))
        if opt.m:
            data = {"batch": batch, "key": group_keys(batch, key, opt.m)}
            data = jax.tree.map(lambda x: x.reshape(-1, opt.m, *x.shape[1:]), data)
            clean_grad = jax.vmap(clean_grad, in_axes=(None, 0))
            sam_grad = jax.vmap(sam_grad)
        grads, (metrics, model_state) = clean_grad(start, data)
        if opt.m:
            metrics, model_state = jax.tree.map(lambda x: x.mean(0), (metrics, model_state))
        updates, opt_state = opt.tx.update(
            grads, state.opt_state, state.params, grad_fn=lambda p: sam_grad(p, data)[0]
        )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics


def loss_function(workload: Workload, model_state: PyTree, dtype: Any, scale: Any = None):
    """`loss(params, {"batch", "key"}) -> (scale · mean loss, (mean metrics, model_state))`.

    Args:
      workload: see `samop.workloads`.
      model_state: BatchNorm statistics before the step.
      dtype: what the network computes in; None: as its parameters are.
      scale: factor on the loss; None: one. The metrics are without it.
    """

    def loss(params, data):
        # One key a call: of a group whose examples carry a key each, all the same.
        key = data["key"] if data["key"].ndim == 0 else data["key"][0]
        batch = {**data["batch"], "x": precision.cast(data["batch"]["x"], dtype)}
        outputs, new_state = workload.apply(
            precision.cast(params, dtype), model_state, batch, key, True
        )
        means = workload.means(trees.wide(outputs), data["batch"])
        scaled = means["loss"] if scale is None else scale * means["loss"]
        return scaled, (means, trees.like(new_state, model_state))

    return loss


def group_keys(batch: Batch, key: jax.Array, m: int) -> jax.Array:
    """A key an example, [n]: that of its ascent group, so that groups drop out differently."""
    number = jnp.arange(len(jax.tree.leaves(batch)[0])) // m
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number)


def measure(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    workload: Workload,
    opt: optim.Optimizer,
    passes: Passes,
) -> dict[str, jax.Array]:
    """The perturbation of the next step on a batch (m-SAM: on its first group), as scalars.

    Arguments as for `train_step`. Names begin with `DIAGNOSIS`; "…cosine_float32" is the cosine
    of the second pass's gradient with the one computed in float32, where the two differ.
    """
    scaled = isinstance(state.opt_state, precision.LossScaledState)
    inner = state.opt_state.inner if scaled else state.opt_state
    data = {"batch": jax.tree.map(lambda x: x[: opt.m or None], batch), "key": key}
    scale = state.opt_state.scale if scaled else 1.0
    low = loss_function(workload, state.model_state, passes.second, scale)
    full = loss_function(workload, state.model_state, None)
    assert opt.sharp is not None
    args = (opt.sharp, inner, state.params)
    found = diagnostics.diagnose(
        *args, lambda p: low(p, data)[0], dtype=passes.second, loss_scale=scale
    )._asdict()
    if passes.second is not None:
        start = trees.wide(opt.sharp.perturbation(state.params, inner, state.params)[0])
        g = jax.grad(lambda p: full(p, data)[0])(start)
        there = trees.add(start, opt.sharp.perturbation(g, inner, state.params)[1])
        both = [jax.grad(lambda p, loss=loss: loss(p, data)[0])(there) for loss in (low, full)]
        found["cosine_float32"] = diagnostics.cosine(*both)
    return {DIAGNOSIS + name: value for name, value in found.items()}
