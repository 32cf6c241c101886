"""Worlds that agents act in: games as functions that run inside a compiled epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from samop.errors import UserError, nearest

PyTree = Any
ATARI = "atari_"  # what begins the name of an Atari game


class Step(NamedTuple):
    """What one step of so many games showed; all [games].

    A game that is over restarts with the step after its end, whose action is ignored. So the frame
    after a step is always the one that the step led to, also where the game ended with it.

    Attributes:
      frame: what is seen after the step, [games, ...].
      reward: float32, of this step.
      ended: whether the game ended by its own rules: nothing comes after it.
      cut: whether only its time was up: what would have come still has a value (arXiv 1712.00378).
      real: false where the step was a restart.
    """

    frame: jax.Array
    reward: jax.Array
    ended: jax.Array
    cut: jax.Array
    real: jax.Array


class Arena(NamedTuple):
    """Games that are played side by side.

    Attributes:
      size: how many.
      handle: host arrays that a program takes as an argument, so that nothing which is good for
        one process alone is compiled into it; () for games that are nothing but arrays.
      reset: `reset(handle, key) -> (state, frame)`: all games anew. What follows depends on the
        key and on the actions, not on what was played before.
      step: `step(state, actions, key) -> (state, Step)`.
    """

    size: int
    handle: PyTree
    reset: Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]
    step: Callable[[PyTree, jax.Array, jax.Array], tuple[PyTree, Step]]


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A game.

    Attributes:
      name: as in `data.name`.
      version: the package that it comes from, and its version.
      num_actions: actions are 0 … num_actions − 1.
      shape: of a frame, [height, width, channels].
      dtype: of a frame.
      scale: what a frame is divided by before a network sees it.
      training: the arena of the agents that learn.
      evaluation: that of evaluation: whole games, the game's own score. The first half of them are
        validation games, the others test games.
      single: whether there is but one such world in a process, so that a program plays one run.
      examples: how many an epoch trains on, see `samop.workloads.Workload.count`.
      example: shapes of one (frame, targets), see `samop.workloads.Workload.example`.
    """

    name: str
    version: str
    num_actions: int
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    training: Arena
    evaluation: Arena
    single: bool = False
    examples: int = 0
    example: PyTree = None

    @property
    def handles(self) -> dict[str, PyTree]:
        """The arenas' handles, as an epoch's argument `data` has them."""
        return {"training": self.training.handle, "evaluation": self.evaluation.handle}


def check(name: str) -> None:
    """Raises UserError where no world has this name. Of Atari the game is not looked at yet."""
    from samop.worlds import minatar

    if name not in minatar.GAMES and not name.startswith(ATARI):
        allowed = (*minatar.GAMES, f"{ATARI}pong")
        raise UserError(
            f"data.name={name!r} is no world{nearest(name, allowed)}; allowed: "
            f"{', '.join(minatar.GAMES)}, or {ATARI}GAME as in {ATARI}pong"
        )


def build(name: str, task: Mapping[str, Any]) -> World:
    """The world of a config.

    Args:
      name: `data.name`.
      task: the config's section `task`, see `samop.tasks`.

    Raises:
      UserError: an unknown name, or a package that is missing.
    """
    check(name)
    if name.startswith(ATARI):
        from samop.worlds import atari

        return atari.build(name, task)
    from samop.worlds import minatar

    return minatar.build(name, task)
