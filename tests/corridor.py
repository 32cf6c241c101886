"""A corridor to walk along: the smallest world in which an agent has something to learn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop.worlds import Arena, Step, World

LENGTH, LIMIT = 5, 6


class State(NamedTuple):
    place: jax.Array
    time: jax.Array
    over: jax.Array


def arena(count):
    """Walk right from somewhere; a reward of 1 at the end; cut after `LIMIT` steps."""

    def frame(place):
        lane = jax.nn.one_hot(place, LENGTH, dtype=jnp.float32) > 0
        return jnp.broadcast_to(lane[:, None, :, None], (count, 3, LENGTH, 1))

    def new(key):
        return jax.random.randint(key, (count,), 0, LENGTH - 1, jnp.int32)

    def reset(handle, key):
        place = new(key)
        zero = jnp.zeros(count, jnp.int32)
        return State(place, zero, zero > 0), frame(place)

    def step(state, actions, key):
        moved = jnp.clip(state.place + 2 * actions - 1, 0, LENGTH - 1)
        place = jnp.where(state.over, new(key), moved).astype(jnp.int32)
        time = jnp.where(state.over, 0, state.time + 1).astype(jnp.int32)
        ended = (place == LENGTH - 1) & ~state.over
        cut = (time == LIMIT) & ~ended
        seen = Step(frame(place), ended.astype(jnp.float32), ended, cut, ~state.over)
        return State(place, time, ended | cut), seen

    return Arena(count, (), reset, step)


def world(task):
    """The corridor as a world of a config."""
    return World(
        name="corridor",
        version="tests",
        num_actions=2,
        shape=(3, LENGTH, 1),
        dtype=np.dtype(bool),
        scale=1.0,
        training=arena(task["agents"]),
        evaluation=arena(2 * task["eval_episodes"]),
    )
