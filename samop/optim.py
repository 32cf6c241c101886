"""An optax optimiser from a config: schedule, decay, base, variant. Rates may be traced."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from samop import ascents, precision, transforms, variants

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
        elif fields["schedule"] == "linear":
            value = 1.0 - jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        elif fields["schedule"] == "rsqrt":
            value = jnp.sqrt(warmup / jnp.maximum(step + 1, warmup))
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

    def adam():
        return optax.scale_by_adam(b1=fields["b1"], b2=fields["b2"], eps=fields["eps"])

    chains = {
        "sgd": lambda: (decay, optax.trace(fields["momentum"]), descend),
        "adam": lambda: (decay, adam(), descend),
        "adamw": lambda: (adam(), decay, descend),
    }
    clip = (optax.clip_by_global_norm(fields["clip"]),) if fields["clip"] else ()
    return optax.chain(*clip, *chains[fields["base"]]())


class Optimizer(NamedTuple):
    """What a config's `optimizer` and `precision` sections make.

    Attributes:
      tx: the transformation to update with.
      sharp: the SAM transform inside it, to measure its perturbation; None for a plain base.
      m: examples per ascent group; 0: the whole batch is one.
      ascent: the rule with which groups are computed one after another (`sam_gradient`), whose
        gradients tx then takes as finished; None: tx asks for its second gradient itself.
      radius: ρ as a function of the step.
    """

    tx: optax.GradientTransformationExtraArgs
    sharp: transforms.SamTransformation | None = None
    m: int = 0
    ascent: ascents.Ascent | None = None
    radius: Callable[[jax.Array], jax.typing.ArrayLike] = lambda count: 0.0


def optimizer(
    config: Mapping[str, Any], steps: int, traced: Mapping[str, Scalar], key: jax.Array
) -> Optimizer:
    """The whole optimiser of a config.

    Args:
      config: a validated config; of fields that `traced` holds nothing is read here.
      steps: total number of steps.
      traced: values of "optimizer.rho", "optimizer.lr" and "optimizer.weight_decay".
      key: for perturbations that are random.
    """
    fields = config["optimizer"]
    weight_decay = traced["optimizer.weight_decay"]
    base = base_optimizer(fields, steps, traced["optimizer.lr"], weight_decay)
    said = variants.resolved(fields)
    radius = _radius(fields, said, steps, traced["optimizer.rho"])
    sharp: transforms.SamTransformation | None = None
    scanned: ascents.Ascent | None = None
    if fields["name"] != "base":
        ascent = _ascent(fields["name"], said, weight_decay, key)
        if said["m"] and said["m_by"] == "scan":
            scanned = ascent if said["mask"] == "all" else ascents.masked(ascent, _mask(said))
            sharp = transforms.finished(base, radius, scanned)
        else:
            groups = config["train"]["batch_size"] // said["m"] if said["m"] else None
            sharp = _transform(fields, said, steps, traced, base, radius, ascent, groups)
    tx = optax.with_extra_args_support(base if sharp is None else sharp)
    if config["precision"]["loss_scale"]:
        tx = precision.loss_scaled(tx, config["precision"]["loss_scale"])
    return Optimizer(tx, sharp, said["m"], scanned, radius)


def _radius(fields, said, steps: int, rho: Scalar) -> Callable:
    if said["rho_schedule"] == "constant":
        return lambda count: rho
    return transforms.rho_from_rate(unit_schedule(fields, steps), rho, said["rho_end"], 1.0)


def _mask(said: Mapping[str, Any]) -> ascents.Mask | None:
    masks = {"all": None, "norm_layers": ascents.norm_layers, "no_biases": ascents.no_biases}
    return masks[said["mask"]]


def _ascent(name: str, said, weight_decay: Scalar, key: jax.Array) -> ascents.Ascent:
    """The perturbation rule of a variant; `optimizer.ascent` where the variant takes any."""
    eta = said["eta"]
    rules = {
        "normalized": ascents.normalized,
        "unnormalized": ascents.unnormalized,
        "adaptive": lambda: ascents.adaptive(eta),
        "sign": ascents.sign,
        "layerwise": ascents.layerwise,
        "random": lambda: ascents.random(key),
        "asam": lambda: ascents.adaptive(eta),
        "fsam": lambda: ascents.friendly(said["sigma"], said["lam"]),
        "vasso": lambda: ascents.smoothed(said["theta"]),
        "esam": lambda: ascents.bernoulli(said["beta"], key),
    }
    ascent = rules[name if name in rules else said["ascent"]]()
    return ascents.with_decay(ascent, weight_decay) if said["decay_in_ascent"] else ascent


def _transform(fields, said, steps, traced, base, radius, ascent, groups):
    """The variant's transform. Variants that fix the rule alone are `sam` with that rule."""
    if fields["name"] == "msam":
        return transforms.msam(base, radius, mask=_mask(said))
    shared = {
        "ascent": ascent,
        "mask": _mask(said),
        "groups": groups,
        "ascent_steps": said["ascent_steps"],
        "active": _active(said, steps),
    }
    if fields["name"] == "gsam":
        return transforms.gsam(base, radius, alpha=said["alpha"], **shared)
    if fields["name"] == "looksam":
        return transforms.looksam(base, radius, k=said["k"], alpha=said["alpha"], **shared)
    if fields["name"] == "gnp":
        return transforms.gnp(base, radius, alpha=said["alpha"], **shared)
    if fields["name"] == "stablesam":
        return transforms.stablesam(base, radius, reverse=said["reverse"], **shared)
    if fields["name"] == "wsam":
        unit, lr = unit_schedule(fields, steps), traced["optimizer.lr"]
        rate = (lambda count: lr * unit(count)) if said["decoupled"] else None
        return transforms.wsam(base, radius, gamma=said["gamma"], learning_rate=rate, **shared)
    return transforms.sam(base, radius, **shared)


def _active(said: Mapping[str, Any], steps: int):
    if (said["start"], said["end"]) == (0, 1):
        return None
    first, last = (round(said[end] * steps) for end in ("start", "end"))
    return transforms.window(first, max(last, first + 1))
