"""What all workloads on arrays of examples share: data, network, its initial and running state."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from samop import data
from samop.data import human, sampling
from samop.errors import UserError
from samop.models import MODELS


@functools.lru_cache(maxsize=4)
def _load(name: str, directory: str, validation: int, train: int, test: int):
    dataset = data.load(name, directory or None)
    if not isinstance(dataset, data.Dataset):
        raise UserError(f"data.name={name!r} is not made of arrays of one shape, as images are")
    return dataset, data.split(dataset, validation=validation, train=train, test=test)


def load(config: Mapping[str, Any]) -> tuple[data.Dataset, data.Splits]:
    """Data set of images and splits of a config, with people's labels where `data.noise` has some.

    The images are kept, since the groups of a sweep share them.
    """
    fields = config["data"]
    sizes = (fields["validation"], fields["train_size"], fields["test_size"])
    dataset, splits = _load(fields["name"], fields["dir"], *sizes)
    noise = fields.get("noise", human.SYMMETRIC)  # unsaid at its default
    if noise == human.SYMMETRIC:
        return dataset, splits
    people = data.load(human.NAME, fields["dir"] or None)
    named = dict(zip(("validation", "train", "test"), sizes, strict=True))
    return human.relabelled(dataset, splits, noise, people, named)


def network(
    config: Mapping[str, Any], example: Any, outputs: int, **sizes: int
) -> tuple[Callable, Callable]:
    """`init` and `apply` of a Workload for the config's network.

    The names of mapped axes that `apply` is given go to the module's attributes that are called so;
    one that has none of them computes the same for a part of a batch as for all of it.

    Args:
      config: a validated config.
      example: shapes and types of a batch of network inputs, arrays or `jax.ShapeDtypeStruct`s
        [1, ...].
      outputs: number of outputs.
      **sizes: what else the network has to know of the data, such as `vocabulary`.
    """
    fields = config["model"]
    module = MODELS[fields["name"]].build(fields, outputs, **sizes)
    if config["train"].get("remat", False):
        module = module.clone(remat=True)

    @jax.jit
    def init(seed: jax.Array):
        key = sampling.stream(seed, sampling.INIT)
        variables = module.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example))
        # flax initialises in float32 whatever jax's default precision is.
        real = jnp.result_type(float)
        variables = dict(jax.tree.map(lambda x: x.astype(real), variables))
        return variables.pop("params"), variables

    def apply(params, model_state, batch, key, train, **axes):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, batch["x"], train=False), model_state
        own = module.clone(**{name: axis for name, axis in axes.items() if hasattr(module, name)})
        return own.apply(
            variables, batch["x"], train=True, mutable=list(model_state), rngs={"dropout": key}
        )

    return init, apply
