"""Scalar regression with squared loss: the synthetic teacher–student problem."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from samop.errors import UserError
from samop.workloads import Metric, Workload, supervised


def examples(outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """½(f − y)² of each example, [n], so that a per-example Hessian at interpolation is g gᵀ.

    Args:
      outputs: [n, 1].
      batch: "y" holds the targets, float [n].
    """
    return {"loss": 0.5 * jnp.square(outputs[:, 0] - batch["y"])}


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    dataset, splits = supervised.load(config)
    if dataset.num_classes:
        raise UserError(f"data.name={dataset.name!r} has classes: use workload='classification'")
    for field, allowed in (("augment", "none"), ("normalize", "none")):
        if config["data"][field] != allowed:
            raise UserError(
                f"data.{field}={config['data'][field]!r} is for images; with "
                f"workload='regression' use {allowed!r}"
            )
    init, apply = supervised.network(config, splits.train.x[:1], 1)
    return Workload(
        metric=Metric("loss", False, 1.0, ""),
        splits=splits,
        num_classes=0,
        init=init,
        batch=lambda x, y, key, index: {"x": x, "y": y},
        apply=apply,
        examples=examples,
        source=dataset.source,
    )
