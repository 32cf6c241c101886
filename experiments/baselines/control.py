"""What random actions score: what an agent has to beat.

python experiments/baselines/control.py minatar_breakout [minatar_asterix …]

Mean return of the validation and test games of configs/atari_width.py, each of at most 1,000 steps;
a line a game on standard output.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from samop import playing, worlds
from samop.tasks import TASKS

STEPS = 1000


def main() -> None:
    """Plays and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--episodes", type=int, default=16, help="of each of the two parts")
    args = parser.parse_args()
    task = {**TASKS["control"].fields, "eval_episodes": args.episodes}
    for name in args.names:
        world = worlds.build(name, task)
        arena = world.evaluation

        def played(handle, arena=arena, actions=world.num_actions):
            uniform = lambda frame: {"logits": jnp.zeros((len(frame), actions))}  # noqa: E731
            return playing.evaluate(arena, handle, uniform, STEPS, greedy=False)

        returns = np.asarray(jax.jit(played)(arena.handle)).reshape(2, -1)
        validation, test = returns.mean(axis=1)
        print(f"{name}: validation {validation:.2f}, test {test:.2f} ({args.episodes} games each)")


if __name__ == "__main__":
    main()
