"""Workloads whose network is changed around its `apply`: pruned, or linearised.

Both keep what they need in the model state, beside BatchNorm's statistics, so that training,
evaluation, curvature and checkpoints know of nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from samop import sparsity, trees
from samop.data import sampling
from samop.errors import UserError
from samop.workloads import Workload

PyTree = Any
MASKS, ORIGIN = "masks", "origin"  # collections of the model state


def changed(workload: Workload, config: Mapping[str, Any]) -> Workload:
    """The workload with the network that the sections `sparsity` and `linearized` describe.

    Args:
      workload: with the network as it is.
      config: "sparsity" and "linearized", missing where they are at their defaults; "train".
    """
    if fields := config.get("sparsity"):
        workload = pruned(workload, fields, config["train"]["batch_size"])
    if fields := config.get("linearized"):
        workload = linearized(workload, fields["mode"], fields["alpha"])
    return workload


def pruned(workload: Workload, fields: Mapping[str, Any], batch_size: int) -> Workload:
    """The network with masks from its initialisation on: a pruned weight is 0 at every step.

    The network is applied to the masked parameters, so that gradients vanish exactly where the
    masks do, and with them updates, decay, momentum and every perturbation.

    Args:
      workload: with the dense network.
      fields: "method" and "level", see `samop.sparsity.masks`.
      batch_size: of the training batch, drawn by the run's seed, that SNIP takes its gradient of.

    Raises:
      UserError: SNIP where there are no examples in memory. `init` raises it for a layer that
        loses all its weights.
    """
    method, level = fields["method"], fields["level"]
    if method == "snip" and workload.splits is None:
        raise UserError("sparsity.method='snip' needs training examples in memory: use 'random'")
    shapes, _ = jax.eval_shape(workload.init, jax.ShapeDtypeStruct((), "uint32"))
    sparsity.kept(shapes, method, level)  # refuses a level out of range

    @jax.jit
    def loss_gradient(params, state, batch, key):
        def loss(params):
            outputs, _ = workload.apply(params, state, batch, key, True)
            return workload.means(outputs, batch)["loss"]

        return jax.grad(loss)(params)

    def find(seed, params, state):
        key = sampling.stream(seed, sampling.PRUNE)
        if method != "snip":
            return sparsity.masks(params, method, level, key=key)
        assert workload.splits is not None
        train = workload.splits.train
        index = jax.random.permutation(key, len(train))[:batch_size]
        x, y = jax.tree.map(lambda a: jnp.asarray(a)[index], (train.x, train.y))
        grads = loss_gradient(params, state, workload.batch(x, y, None, index), key)
        return sparsity.masks(params, method, level, grads=grads)

    def init(seed):
        params, state = workload.init(seed)
        masks = find(seed, params, state)
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(masks)):
            what = f"sparsity.level={level:g} by {method!r}, seed {int(seed)},"
            sparsity.refuse_empty(masks, what)
        return sparsity.prune(params, masks), {**state, MASKS: masks}

    def apply(params, model_state, batch, key, train, **axes):
        state = {name: value for name, value in model_state.items() if name != MASKS}
        masks = model_state[MASKS]
        kept = sparsity.prune(params, masks)
        outputs, state = workload.apply(kept, state, batch, key, train, **axes)
        return outputs, {**state, MASKS: masks}

    return dataclasses.replace(
        workload, init=init, apply=apply, parameters=lambda p: sparsity.kept(p, method, level)
    )


def linearized(workload: Workload, mode: str, alpha: float) -> Workload:
    """The network's first-order expansion in its parameters, or its lazy version.

    - "jvp": f(w₀) + J(w₀)(w − w₀), by a Jacobian–vector product (arXiv 1902.06720).
    - "lazy": α(f(w) − f(w₀)), which nears its linearisation as α grows (arXiv 1812.07956). Such
      training wants the rate divided by α², and a radius ρ that moves the outputs as far as of the
      network itself is ρ/α.

    Args:
      workload: with the network itself.
      mode: "jvp" or "lazy".
      alpha: α, of "lazy".

    Raises:
      UserError: a network that keeps statistics, such as those of BatchNorm.
    """
    _, shapes = jax.eval_shape(workload.init, jax.ShapeDtypeStruct((), "uint32"))
    if others := set(shapes) - {MASKS}:
        raise UserError(
            f"linearized.mode={mode!r}: the network keeps {', '.join(sorted(others))}, so that "
            "its outputs are no function of its parameters alone: use one without BatchNorm"
        )

    def init(seed):
        params, state = workload.init(seed)
        return params, {**state, ORIGIN: params}

    def apply(params, model_state, batch, key, train, **axes):
        origin = model_state[ORIGIN]
        state = {name: value for name, value in model_state.items() if name != ORIGIN}
        outputs = lambda w: workload.apply(w, state, batch, key, train, **axes)[0]  # noqa: E731
        if mode == "jvp":
            here, moved = jax.jvp(outputs, (origin,), (_minus(params, origin),))
            return jax.tree.map(jnp.add, here, moved), model_state
        there = outputs(origin)
        moved = jax.tree.map(lambda a, b: alpha * (a - b), outputs(params), there)
        return moved, model_state

    return dataclasses.replace(workload, init=init, apply=apply)


def _minus(a: PyTree, b: PyTree) -> PyTree:
    return trees.like(trees.subtract(a, b), b)
