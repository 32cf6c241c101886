"""An optax optimiser from a config: schedule, decay, base, SAM. Rates may be traced."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from samop import ascents, transforms

Scalar = float | jax.Array


def unit_schedule(fields: Mapping[str, Any], steps: int) -> Callable[[Scalar], jax.Array]:
    """The shape of the rate over training: step → factor in [0, 1].

    The traced peak multiplies it afterwards, because optax's schedules need a concrete one.

    Args:
      fields: the config's `optimizer` section.
      steps: total number of steps.
    """
    warmup = round(fields["warmup"] * steps)

    def factor(step: Scalar) -> jax.Array:
        step = jnp.asarray(step)
        value = jnp.ones((), jnp.float32)
        if fields["schedule"] == "step":
            for share in fields["milestones"]:
                value = value * jnp.where(step >= round(share * steps), fields["factor"], 1.0)
        elif fields["schedule"] == "cosine":
            done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
            value = 0.5 * (1 + jnp.cos(jnp.pi * done))
        if warmup:
            value = value * jnp.minimum((step + 1) / warmup, 1.0)
        return value

    return factor


def base_optimizer(
    fields: Mapping[str, Any], steps: int, lr: Scalar, weight_decay: Scalar
) -> optax.GradientTransformation:
    """The optimiser that acts on the (SAM) gradient.

    Args:
      fields: the config's `optimizer` section (static fields).
      steps: total number of steps, for the schedule.
      lr: peak rate; may be traced.
      weight_decay: λ; may be traced. sgd and adam add λw to the gradient, adamw decouples it.
    """
    decay = optax.add_decayed_weights(weight_decay)
    rate = unit_schedule(fields, steps)
    descend = optax.scale_by_schedule(lambda count: -(lr * rate(count)))
    chains = {
        "sgd": lambda: (decay, optax.trace(fields["momentum"]), descend),
        "adam": lambda: (decay, optax.scale_by_adam(), descend),
        "adamw": lambda: (optax.scale_by_adam(), decay, descend),
    }
    return optax.chain(*chains[fields["base"]]())


def optimizer(
    fields: Mapping[str, Any], steps: int, traced: Mapping[str, Scalar]
) -> optax.GradientTransformationExtraArgs:
    """The whole optimiser of a config.

    Args:
      fields: the config's `optimizer` section; only static fields are read.
      steps: total number of steps.
      traced: values of "optimizer.rho", "optimizer.lr" and "optimizer.weight_decay".
    """
    weight_decay = traced["optimizer.weight_decay"]
    base = base_optimizer(fields, steps, traced["optimizer.lr"], weight_decay)
    if fields["name"] == "base":
        return optax.with_extra_args_support(base)
    ascent = ascents.normalized()
    if fields["decay_in_ascent"]:
        ascent = ascents.with_decay(ascent, weight_decay)
    return transforms.sam(base, traced["optimizer.rho"], ascent=ascent)
