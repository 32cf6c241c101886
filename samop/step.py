"""One training step and the measurement of its perturbation: pure functions of one run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from samop import diagnostics, optim, precision, transforms, trees
from samop.division import WHOLE, Division
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
    division: Division = WHOLE,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Statistics and metrics come from the clean pass at `params`.

    Args:
      state: before the step.
      batch: network inputs, see `Workload.batch`; of this device, where the batch is divided.
      key: dropout key; both passes of SAM use it, so they see the same masks.
      workload: see `samop.workloads`.
      opt: the optimiser; its update receives `grad_fn`.
      passes: precision of the two passes.
      division: of the batch. Ascent groups are whole: inside of one nothing is averaged over
        devices, its BatchNorm and its dropout are its own.

    Returns:
      The state after the step and the batch's mean metrics (scalars).
    """
    scaled = isinstance(state.opt_state, precision.LossScaledState)
    scale = state.opt_state.scale if scaled else None
    axes = {} if opt.m else division.axes
    first = loss_function(workload, state.model_state, passes.first, scale, axes)
    second = loss_function(workload, state.model_state, passes.second, scale, axes)
    start = trees.wide(state.params)
    # Before it is divided into ascent groups.
    batch = workload.weighed(batch, division.mean)
    if opt.ascent is not None:
        gradient = transforms.sam_gradient(
            first,
            opt.ascent,
            opt.radius(state.opt_state.count),
            m=opt.m,
            has_aux=True,
            perturbed_loss_fn=second,
        )
        keys = group_keys(batch, key, opt.m, division)
        grads, clean = gradient(start, {"batch": batch, "key": keys})
        seen, grads = clean.value[1], division.mean(grads)
        updates, opt_state = opt.tx.update(grads, state.opt_state, state.params)
    else:
        data = {"batch": batch, "key": key}
        clean_grad, sam_grad = (jax.grad(loss, has_aux=True) for loss in (first, second))
        mean, own = division.mean, lambda params: params
        if opt.m:
            # The optimiser has a gradient of every group, and averages them itself.
            mean, own = division.whole, division.rows
            data = {"batch": batch, "key": group_keys(batch, key, opt.m, division)}
            data = jax.tree.map(lambda x: x.reshape(-1, opt.m, *x.shape[1:]), data)
            clean_grad = jax.vmap(clean_grad, in_axes=(None, 0))
            sam_grad = jax.vmap(sam_grad)
        grads, seen = clean_grad(start, data)
        if opt.m:
            seen = jax.tree.map(lambda x: x.mean(0), seen)
        grads = mean(grads)
        updates, opt_state = opt.tx.update(
            grads, state.opt_state, state.params, grad_fn=lambda p: mean(sam_grad(own(p), data)[0])
        )
    metrics, model_state = division.mean(seen[0]), seen[1]
    if division.axes:
        # By what has moved, so that what never does stays as it is to the last bit.
        moved = division.mean(trees.subtract(model_state, state.model_state))
        model_state = trees.like(trees.add(state.model_state, moved), state.model_state)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics


def loss_function(
    workload: Workload,
    model_state: PyTree,
    dtype: Any,
    scale: Any = None,
    axes: Mapping[str, str] = {},
) -> Callable[[PyTree, PyTree], tuple[jax.Array, PyTree]]:
    """`loss(params, {"batch", "key"}) -> (scale · mean loss, (mean metrics, model_state))`.

    Args:
      workload: see `samop.workloads`.
      model_state: BatchNorm statistics before the step.
      dtype: what the network computes in; None: as its parameters are.
      scale: factor on the loss; None: one. The metrics are without it.
      axes: mapped ones, see `samop.division`; losses and metrics are still those of the own rows.
    """

    def loss(params, data):
        # One key a call: of a group whose examples carry a key each, all the same.
        key = data["key"] if data["key"].ndim == 0 else data["key"][0]
        batch = {**data["batch"], "x": precision.cast(data["batch"]["x"], dtype)}
        outputs, new_state = workload.apply(
            precision.cast(params, dtype), model_state, batch, key, True, **axes
        )
        means = workload.means(trees.wide(outputs), data["batch"])
        scaled = means["loss"] if scale is None else scale * means["loss"]
        return scaled, (means, trees.like(new_state, model_state))

    return loss


def group_keys(batch: Batch, key: jax.Array, m: int, division: Division = WHOLE) -> jax.Array:
    """A key an example, [n]: that of its ascent group, so that groups drop out differently.

    Groups are counted through the whole batch, whatever of it this device has.
    """
    number = division.numbers(len(jax.tree.leaves(batch)[0])) // m
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

    Arguments as for `train_step`; the batch is whole. Names begin with `DIAGNOSIS`;
    "…cosine_float32" is the cosine of the second pass's gradient with the one computed in float32,
    where the two differ.
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
