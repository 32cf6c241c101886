"""MinAtar's games (arXiv 1903.03176) in JAX, from gymnax: 10×10 boards that live on the device.

What is gymnax's and not MinAtar's: every game is cut after some number of steps (`cut`, not
`ended`), where MinAtar has such an end in Freeway alone; and actions are never sticky, which is
made up for here.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop.errors import UserError
from samop.worlds import Arena, Step, World

# Name → gymnax's module and class.
GAMES = {
    "minatar_asterix": ("asterix", "MinAsterix"),
    "minatar_breakout": ("breakout", "MinBreakout"),
    "minatar_freeway": ("freeway", "MinFreeway"),
    "minatar_space_invaders": ("space_invaders", "MinSpaceInvaders"),
}


class State(NamedTuple):
    """Of `count` games.

    Attributes:
      game: gymnax's state, leaves [count, ...].
      last: the last action, int32 [count].
      over: whether the game has ended and restarts with the next step, [count].
    """

    game: Any
    last: jax.Array
    over: jax.Array


def build(name: str, task: Mapping[str, Any]) -> World:
    """The world of one game; see `samop.worlds.build`.

    Args:
      name: one of `GAMES`.
      task: "agents", "eval_episodes" and "sticky", the probability that a game repeats its last
        action instead of the one that is chosen (MinAtar's own is .1).
    """
    module, kind = GAMES[name]
    try:
        found = importlib.import_module(f"gymnax.environments.minatar.{module}")
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} needs gymnax ({error}): pip install 'samop[minatar]'"
        ) from None
    with jax.enable_x64(False):  # its table of actions, too
        env = getattr(found, kind)()
    shape = tuple(env.obs_shape)
    return World(
        name=name,
        version=f"gymnax {importlib.metadata.version('gymnax')}",
        num_actions=env.num_actions,
        shape=shape,
        dtype=np.dtype(bool),
        scale=1.0,
        training=arena(env, task["agents"], task["sticky"]),
        evaluation=arena(env, 2 * task["eval_episodes"], task["sticky"]),
    )


def arena(env: Any, count: int, sticky: float) -> Arena:
    """So many games of one of gymnax's environments.

    Args:
      env: follows gymnax 1.0's `reset_env`, `step_env` and `is_truncated`.
      count: number of games.
      sticky: probability of a repeated action.
    """
    params = env.default_params

    def begin(key):
        _, game = env.reset_env(key, params)
        return game

    def play(key, game, action):
        _, game, reward, ended, _ = env.step_env(key, game, action, params)
        return game, reward, ended

    def typed(game):
        # A reset leaves Python numbers where a step leaves arrays: the types of a step for both.
        key = jax.eval_shape(jax.random.key, 0)
        action = jax.ShapeDtypeStruct((), jnp.int32)
        kinds, *_ = jax.eval_shape(lambda key, a: play(key, begin(key), a), key, action)
        return jax.tree.map(lambda x, kind: jnp.asarray(x, kind.dtype), game, kinds)

    def fresh(key):
        return typed(begin(key))

    def one(play_key, reset_key, game, action, over):
        """One game's step; restarts where it was over."""
        moved, reward, ended = play(play_key, game, action)
        moved = typed(moved)
        ended = ended.astype(bool)
        cut = env.is_truncated(moved, params) & ~ended
        started = fresh(reset_key)
        game = jax.tree.map(lambda a, b: jnp.where(over, a, b), started, moved)
        frame = env.get_obs(game).astype(bool)
        reward = jnp.where(over, 0.0, reward).astype(jnp.float32)
        return game, Step(frame, reward, ended & ~over, cut & ~over, ~over)

    @_as_gymnax_wants
    def reset(handle, key):
        game = jax.vmap(fresh)(jax.random.split(key, count))
        frame = jax.vmap(env.get_obs)(game).astype(bool)
        state = State(game, jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
        return state, frame

    @_as_gymnax_wants
    def step(state, actions, key):
        keys = jax.random.split(key, 2 * count + 1)
        actions = actions.astype(jnp.int32)
        if sticky:
            stuck = jax.random.uniform(keys[-1], (count,), jnp.float32) < sticky
            actions = jnp.where(stuck & ~state.over, state.last, actions)
        game, seen = jax.vmap(one)(keys[:count], keys[count:-1], state.game, actions, state.over)
        last = jnp.where(state.over, 0, actions)
        return State(game, last, seen.ended | seen.cut), seen

    return Arena(count, (), reset, step)


def _as_gymnax_wants(fn):
    """gymnax lets ranks be promoted, and its integers have 32 bits, whatever holds elsewhere."""

    @functools.wraps(fn)
    def wrapped(*args):
        with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
            return fn(*args)

    return wrapped
