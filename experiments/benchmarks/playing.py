"""Where an agent's time goes: frames a second of the games alone, with a policy, and of all PPO.

python experiments/benchmarks/playing.py --world=minatar_breakout --channels=16 --runs=1
python experiments/benchmarks/playing.py --world=atari_pong --channels=32

All on one device, of `runs` seeds as one program; a frame is one step of one game. "games" takes
random actions, "games and policy" is what an iteration of PPO plays, "PPO" is the epoch that a run
from the command line trains, without its evaluation games but one step. Rates are the best of
`turns`.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from samop import config as configs
from samop import groups, loop, playing, validation
from samop.workloads import build

FIELDS = {
    "atari": {"agents": 8, "horizon": 128, "iterations": 2, "noops": 30, "clip_rewards": True},
    "minatar": {"agents": 64, "horizon": 64, "iterations": 4},
}


def point(world: str, channels: int, seed: int, **optimizer) -> dict:
    """A run of one epoch."""
    kind = world.split("_")[0]
    atari = kind == "atari"
    config = configs.defaults("nature_cnn" if atari else "minatar_cnn", "control").to_dict()
    config.update(experiment="benchmark", seed=seed)
    config["data"]["name"] = world
    config["model"]["channels"] = channels
    config["task"].update(FIELDS[kind], eval_episodes=16, eval_steps=1)
    config["optimizer"].update(base="adam", lr=2.5e-4, weight_decay=0.0, schedule="linear")
    config["optimizer"].update(optimizer)
    config["train"].update(epochs=1, batch_size=256 if atari else 1024, diagnostics_every=0)
    validation.validate(config)
    return config


def best(fn, turns: int) -> float:
    """Least seconds of a call, compiled before."""
    jax.block_until_ready(fn())
    seconds = []
    for _ in range(turns):
        begin = time.perf_counter()
        jax.block_until_ready(fn())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def of_play(config: dict, runs: int, turns: int) -> tuple[float, float]:
    """Seconds of an iteration's games: at random, and with the network."""
    workload = build(config)
    arena, task = workload.world.training, config["task"]
    params, model_state = workload.init(np.uint32(0))
    network = playing.actor(workload, model_state, None)
    uniform = {"logits": jnp.zeros((arena.size, workload.world.num_actions))}
    uniform["value"] = jnp.zeros(arena.size)

    def played(act):
        def one(handle, key):
            play = playing.begin(arena, handle, key)
            return playing.rollout(arena, play, act, task["horizon"], False, key)[0].score

        keys = jax.random.split(jax.random.key(0), runs)
        mapped = jax.jit(jax.vmap(one, (None, 0)) if runs > 1 else lambda h, k: one(h, k[0]))
        return best(lambda: mapped(arena.handle, keys), turns)

    return played(lambda frame: uniform), played(lambda frame: network(params, frame))


def of_epoch(points: list[dict], turns: int) -> float:
    """Seconds of an iteration of PPO."""
    ready = loop.prepare(groups.make([[p] for p in points], 1), jax.devices()[:1])
    feed, zero = loop.feed(ready), ready.program.place("every", np.int32(0))
    seconds = best(lambda: ready.epoch(loop.start(ready), *feed, zero)[1], turns)
    return seconds / points[0]["task"]["iterations"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", default="minatar_breakout")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1, help="as one program; of Atari one")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    plain = [point(args.world, args.channels, s, name="base", rho=0.0) for s in range(args.runs)]
    sam = [point(args.world, args.channels, s, name="sam", rho=0.01) for s in range(args.runs)]
    task = plain[0]["task"]
    frames = args.runs * task["agents"] * task["horizon"]
    games, policy = of_play(plain[0], args.runs, args.turns)
    seconds = {
        "games": games,
        "games and policy": policy,
        "PPO, Adam": of_epoch(plain, args.turns),
        "PPO, SAM": of_epoch(sam, args.turns),
    }
    for what, taken in seconds.items():
        share = f"{games / taken:.0%} of it in the games"
        print(
            f"{args.world} {args.channels} × {args.runs}: {what}: {frames / taken:,.0f}/s, {share}"
        )


if __name__ == "__main__":
    main()
