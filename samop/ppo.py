"""Proximal policy optimisation as arithmetic: advantages and a loss an example. No games, no loops.

Clipped objective: arXiv 1707.06347, equation 7 and 9. Advantages: generalised advantage estimation,
arXiv 1506.02438, equation 16.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Targets = Mapping[str, jax.Array]


def advantages(
    reward: jax.Array,
    value: jax.Array,
    last_value: jax.Array,
    ended: jax.Array,
    cut: jax.Array,
    gamma: float,
    lam: float,
) -> jax.Array:
    """Generalised advantage estimates of a stretch of play.

    What comes after a game that ended is worth nothing; where a game was only cut, what was seen
    last keeps its value (arXiv 1712.00378). Nothing is handed back over either.

    Args:
      reward: of each step, [steps, games].
      value: of what was seen before each step, [steps, games]. So where a game ended or was cut
        with step t, value[t + 1] is that of its last frame.
      last_value: of what is seen after the last step, [games].
      ended, cut: whether a game ended, or only its time, with a step, bool [steps, games].
      gamma: discount γ.
      lam: λ.

    Returns:
      [steps, games]. With λ=1 the discounted rewards to come, minus the value.
    """
    following = jnp.concatenate([value[1:], last_value[None]])
    delta = reward + gamma * jnp.where(ended, 0, following) - value
    keep = jnp.where(ended | cut, 0, jnp.asarray(gamma * lam, value.dtype))

    def back(later, step):
        delta, keep = step
        estimate = delta + keep * later
        return estimate, estimate

    return jax.lax.scan(back, jnp.zeros_like(last_value), (delta, keep), reverse=True)[1]


def normalized(advantage: jax.Array, weight: jax.Array) -> jax.Array:
    """Advantages of a minibatch with mean 0 and deviation 1, both [n].

    Done before the loss, so that an example's loss depends on no other example: SAM's second pass
    and every ascent group see the same numbers.

    Args:
      advantage: [n].
      weight: which count, 0 or 1, [n].
    """
    count = jnp.maximum(jnp.sum(weight), 1)
    centred = advantage - jnp.sum(weight * advantage) / count
    variance = jnp.sum(weight * jnp.square(centred)) / count
    return centred / (jnp.sqrt(variance) + 1e-8)


def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Log-probability of the chosen actions: logits [n, actions], action int [n] → [n]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]


def losses(
    outputs: Mapping[str, jax.Array], targets: Targets, value_coef: float, entropy_coef: float
) -> dict[str, jax.Array]:
    """Loss of each example and what it is made of, all [n].

    Args:
      outputs: "logits" [n, actions] and "value" [n] of the network.
      targets: "action" int, "log_prob" under the policy that played, "advantage", "target" of the
        value, and "clip", the half-width of the interval around 1 in which the ratio of
        probabilities counts; [n] each.
      value_coef: factor of the squared error of the value.
      entropy_coef: factor of the entropy, which is to be large.

    Returns:
      "loss", "policy_loss", "value_loss", "entropy" (nats); "clipped", whether the ratio is outside
      its interval; and "kl", an estimate of the divergence from the policy that played.
    """
    change = log_prob(outputs["logits"], targets["action"]) - targets["log_prob"]
    ratio = jnp.exp(change)
    inside = jnp.clip(ratio, 1 - targets["clip"], 1 + targets["clip"])
    policy = -jnp.minimum(ratio * targets["advantage"], inside * targets["advantage"])
    value = jnp.square(outputs["value"] - targets["target"])
    logs = jax.nn.log_softmax(outputs["logits"])
    entropy = -jnp.sum(jnp.exp(logs) * logs, -1)
    return {
        "loss": policy + value_coef * value - entropy_coef * entropy,
        "policy_loss": policy,
        "value_loss": value,
        "entropy": entropy,
        "clipped": (ratio != inside).astype(ratio.dtype),
        "kl": ratio - 1 - change,
    }
