"""A workload is what is trained on what: data, network, loss and metric, as functions."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samop import flops, trees
from samop.config import canonical
from samop.data import Splits
from samop.errors import UserError
from samop.models import MODELS

PyTree = Any
Batch = dict[str, Any]
# In a batch: each example's weight over the mean weight of all that it belongs to. Losses that
# carry it stay a mean however the examples are divided, so that parts of them add up.
SHARE = "share"
# Data fields that concern how a run uses the examples, not which examples there are.
OF_THE_RUN = ("label_noise", "noise_seed", "order_seed")


def _same(x: jax.Array) -> jax.Array:
    return x


class Metric(NamedTuple):
    """What a sweep compares: `scale` turns it into what tables show (accuracy into points)."""

    name: str
    higher_is_better: bool
    scale: float
    unit: str


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """Pure functions and arrays; nothing here knows optimisers, devices or sweeps.

    Attributes:
      metric: the metric of tables and figures; `examples` returns it beside "loss".
      splits: NumPy arrays of the three splits; labels are clean, but for people's in the training
        part (`data.noise`).
        None where a stream or a world gives the examples.
      num_classes: of labels that noise can flip; 0: none such.
      init: `init(seed) -> (params, model_state)`, jitted; model_state holds BatchNorm statistics.
      batch: `batch(x, y, key, index) -> batch`: raw examples [n, ...] to network inputs.
        `key` None: no augmentation. `index` [n] int32: place in the data set; whatever is
        random about an example derives from it, so that it does not depend on how a batch is
        split over devices.
      apply: `apply(params, model_state, batch, key, train, **axes) -> (outputs, model_state)`; axes
        are there where the batch is a device's part of a larger one, see `samop.division`.
      examples: `examples(outputs, batch) -> {"loss": [n], metric.name: [n], ...}`, per example.
      source: where the data came from.
      weight: `weight(batch) -> [n]`: how much each example counts in every mean, such as its number
        of tokens; zero is allowed. None: all the same.
      score: `score(outputs, y) -> {name: value}`: metrics of a whole split that are no mean over
        examples, on the host; outputs in evaluation mode, [n, ...], and the split's labels.
      unit: what a weight of 1 counts, for speeds: "tokens".
      stream: where examples come from if they are too many for the devices, see
        `samop.data.stream`.
      world: what an agent acts in, see `samop.worlds`.
      parameters: `parameters(params) -> int`: how many of the arrays' numbers train; of a pruned
        network fewer than there are.
    """

    metric: Metric
    splits: Splits | None
    num_classes: int
    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    batch: Callable[..., Batch]
    apply: Callable[..., tuple[jax.Array, PyTree]]
    examples: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    source: Mapping[str, str]
    weight: Callable[[Batch], jax.Array] | None = None
    score: Callable[[Any, Any], dict[str, float]] | None = None
    unit: str = "examples"
    stream: Any = None
    world: Any = None
    parameters: Callable[[PyTree], int] = trees.size

    @property
    def count(self) -> int:
        """Number of training examples that an epoch goes through."""
        if self.splits is not None:
            return len(self.splits.train)
        return (self.stream or self.world).examples

    @property
    def example(self) -> tuple[PyTree, PyTree]:
        """Shapes of one raw example (x, y), each with a leading axis of 1."""
        if self.splits is None:
            return (self.stream or self.world).example
        train = self.splits.train
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), (train.x, train.y)
        )

    def means(self, outputs: PyTree, batch: Batch) -> dict[str, jax.Array]:
        """Mean of each value of `examples` over a batch, by weight; 0 where nothing weighs.

        Of a part of a batch that was `weighed` as a whole: its contribution, times the number of
        such parts.
        """
        values = self.examples(outputs, batch)
        share = self.weighed(batch).get(SHARE, 1.0)
        return {name: jnp.mean(share * value) for name, value in values.items()}

    def weighed(self, batch: Batch, over: Callable[[jax.Array], jax.Array] = _same) -> Batch:
        """The batch with each example's `SHARE`, which is there already or not needed.

        `over`: the mean over the devices that have parts of the batch, see `samop.division`.
        """
        if self.weight is None or SHARE in batch:
            return batch
        weight = self.weight(batch)
        mean = over(jnp.mean(weight))
        return {**batch, SHARE: weight / jnp.where(mean > 0, mean, 1)}


def build(config: Mapping[str, Any]) -> Workload:
    """The workload that a validated config names. Loads its data.

    Workloads are kept: groups that differ only in their optimiser share the data and the
    compiled initialisation.

    Raises:
      UserError: data that cannot be had, or that do not fit the config.
    """
    plain = canonical(config)
    data = {k: v for k, v in plain["data"].items() if k not in OF_THE_RUN}
    fields: dict[str, Any] = {
        "workload": plain["workload"],
        "data": data,
        "model": plain["model"],
        "task": plain.get("task", {}),
        "remat": plain["train"].get("remat", False),
        **{name: plain[name] for name in ("sparsity", "linearized") if name in plain},
    }
    real = jnp.result_type(float).name
    return _build(json.dumps(fields), config["data"]["dir"], plain["train"]["batch_size"], real)


@functools.lru_cache(maxsize=64)
def _build(fields: str, directory: str, batch_size: int, real: str) -> Workload:
    del real  # tells apart what is kept: an example's shapes name the precision they were made in
    config = json.loads(fields)
    config["data"]["dir"] = directory
    config["train"] = {"batch_size": batch_size, "remat": config.pop("remat")}
    # Of the network what is at its default may be unsaid.
    config["model"] = {**MODELS[config["model"]["name"]].fields, **config["model"]}
    # Each in a module of its own name, imported where it is used.
    module = importlib.import_module(f"samop.workloads.{config['workload']}")
    workload = module.build(config)
    if batch_size > workload.count:
        raise UserError(
            f"train.batch_size={batch_size} is larger than the data: {config['data']['name']} "
            f"has {workload.count} training examples here; allowed: 1 to {workload.count}"
        )
    from samop.workloads.changed import changed

    return changed(workload, config)


def parameters(config: Mapping[str, Any]) -> int:
    """Number of parameters of the config's network on its data."""
    return _parameters(build(config))


@functools.lru_cache(maxsize=64)
def _parameters(workload: Workload) -> int:
    params, _ = jax.eval_shape(workload.init, jax.ShapeDtypeStruct((), "uint32"))
    return workload.parameters(params)


@functools.lru_cache(maxsize=64)
def flops_of_example(workload: Workload) -> int:
    """Floating-point operations of a forward pass in training mode on one example.

    See `samop.flops.count` for what is counted and what is refused (ValueError). Augmentation is
    not part of the network and left out.
    """
    variables = jax.eval_shape(workload.init, jax.ShapeDtypeStruct((), "uint32"))

    def forward(variables, x, y, key):
        return workload.apply(*variables, workload.batch(x, y, None, None), key, True)

    return flops.count(forward, variables, *workload.example, jax.eval_shape(jax.random.key, 0))
