"""Atari games from the Arcade Learning Environment, stepped from inside a compiled epoch.

Frames are 84×84 grey, the last four stacked, each the larger of two frames of the screen; an action
holds for four frames; a game begins with up to `task.noops` actions of nothing (arXiv 1709.06009).
The emulators live on the host, in ale-py, and a program reaches them through a handle that holds
an address: an argument of the program, never a constant in it, so that a program from the
compilation cache plays the emulators of the process that runs it.
"""

import functools
import importlib.metadata
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop.errors import UserError, nearest
from samop.worlds import ATARI, Arena, Step, World

SIDE, STACK = 84, 4
MOST_FRAMES = 108_000  # half an hour of play, where a game is cut


class State(NamedTuple):
    """Of `count` games: the handle of their emulators, and whether each is over, [count]."""

    handle: jax.Array
    over: jax.Array


def build(name: str, task: Mapping[str, Any]) -> World:
    """The world of one game; see `samop.worlds.build`.

    Args:
      name: "atari_" and the game in ale-py's spelling, as in "atari_space_invaders".
      task: "agents", "eval_episodes", "sticky" (the probability that a frame repeats the action
        before; .25 in arXiv 1709.06009), "noops", and "life_loss", whether for the games that are
        learned from a lost life is an end.

    Raises:
      UserError: a package is missing, or there is no such game.
    """
    try:
        import chex  # noqa: F401  (ale-py asks for it when it is too late)
        from ale_py import roms
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} needs ale-py ({error}): pip install 'samop[atari]'"
        ) from None
    game = name.removeprefix(ATARI)
    games = roms.get_all_rom_ids()
    if game not in games:
        raise UserError(f"data.name={name!r}: there is no game {game!r}{nearest(game, games)}")

    def emulators(count: int, life_loss: bool) -> Any:
        return AtariVectorEnv(
            game,
            num_envs=count,
            max_num_frames_per_episode=MOST_FRAMES,
            repeat_action_probability=task["sticky"],
            img_height=SIDE,
            img_width=SIDE,
            stack_num=STACK,
            noop_max=task["noops"],
            episodic_life=life_loss,
            reward_clipping=False,  # what is learned from is clipped later, scores are not
            use_fire_reset=True,
        )

    training = emulators(task["agents"], task["life_loss"])
    return World(
        name=name,
        version=f"ale-py {importlib.metadata.version('ale-py')}",
        num_actions=int(training.single_action_space.n),
        shape=(SIDE, SIDE, STACK),
        dtype=np.dtype(np.uint8),
        scale=255.0,
        training=arena(training),
        evaluation=arena(emulators(2 * task["eval_episodes"], False)),
        single=True,
    )


def arena(env: Any) -> Arena:
    """The games of one `AtariVectorEnv` that restarts in the step after an end."""
    with jax.enable_x64(False):
        handle, xla_reset, xla_step = env.xla()
    handle, count = np.asarray(handle), env.num_envs

    def frames(obs):
        return jnp.moveaxis(obs, 1, -1)  # the last four frames as channels

    @_as_ale_wants
    def reset(handle, key):
        seeds = jax.random.randint(key, (count,), 0, np.iinfo(np.int32).max, jnp.int32)
        handle, (obs, _) = xla_reset(handle, seeds)
        return State(handle, jnp.zeros(count, bool)), frames(obs)

    @_as_ale_wants
    def step(state, actions, key):
        handle, (obs, reward, ended, cut, _) = xla_step(state.handle, actions.astype(jnp.int32))
        cut = cut & ~ended
        reward = jnp.where(state.over, 0, reward).astype(jnp.float32)
        seen = Step(frames(obs), reward, ended & ~state.over, cut & ~state.over, ~state.over)
        return State(handle, seen.ended | seen.cut), seen

    return Arena(count, handle, reset, step)


def _as_ale_wants(fn):
    """ale-py's numbers have 32 bits, whatever holds elsewhere."""

    @functools.wraps(fn)
    def wrapped(*args):
        with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
            return fn(*args)

    return wrapped
