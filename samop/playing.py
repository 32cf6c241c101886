"""Training by playing: PPO as a `samop.train.Run`, so that all else is as for every other run.

An epoch begins with games that are new, by a key of seed and epoch. So a checkpoint between epochs
holds all that a run is, of an emulator's inside nothing, and a resumed run plays what an unbroken
one would have played. Then `task.iterations` times: `task.agents` games go on for `task.horizon`
steps each, and what was seen makes up the batches of `task.update_epochs` passes. At the end whole
games are played for evaluation, from the same beginnings in every epoch of every run.

Of an epoch's metrics, `train_return` is the mean return of the training games that ended in it
(where none did, of the games so far), `validation_return` and `test_return` that of whole games,
the validation ones and others. The `validation_loss` and `test_loss` are minus the return;
`train_loss` is PPO's, the mean over updates, which is no measure of how well it plays. Actions of
evaluation are sampled by the same keys in all runs. A budget in gradient evaluations is one in
games played, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from samop import ppo, precision, transforms, trees
from samop.config import epochs
from samop.data import sampling
from samop.running import shared
from samop.step import passes_of, train_step
from samop.train import Run
from samop.workloads import Workload
from samop.worlds import Arena

PyTree = Any
Act = Callable[[jax.Array], PyTree]  # frames → outputs of the policy
EVALUATION_SEED = 20213  # a constant: how evaluation games begin never varies


class Play(NamedTuple):
    """Training games between two steps.

    Attributes:
      games: the arena's state.
      frame: what is seen, [agents, ...].
      score: return of each game so far, [agents].
      finished: sum of the returns of the games that ended in this epoch, scalar.
      ended: their number, scalar.
    """

    games: PyTree
    frame: jax.Array
    score: jax.Array
    finished: jax.Array
    ended: jax.Array


def actor(
    workload: Workload, model_state: PyTree, dtype: Any
) -> Callable[[PyTree, jax.Array], PyTree]:
    """`act(params, frames) -> outputs`, computed as a training step computes them."""

    def act(params, frames):
        batch = workload.batch(frames, None, None, None)
        batch = {**batch, "x": precision.cast(batch["x"], dtype)}
        cast = precision.cast(trees.wide(params), dtype)
        return trees.wide(workload.apply(cast, model_state, batch, None, False)[0])

    return act


def begin(arena: Arena, handle: PyTree, key: jax.Array) -> Play:
    """New training games."""
    games, frame = arena.reset(handle, key)
    zero = jnp.zeros(())
    return Play(games, frame, jnp.zeros(arena.size), zero, zero)


def rollout(
    arena: Arena, play: Play, act: Act, horizon: int, clip_rewards: bool, key: jax.Array
) -> tuple[Play, dict[str, jax.Array], jax.Array]:
    """Goes on with the games for some steps.

    Args:
      arena: the games.
      play: where they stand.
      act: `act(frames) -> outputs` of the policy, which is sampled from.
      horizon: number of steps.
      clip_rewards: whether to learn from the rewards' signs alone.
      key: decides actions, and what is random in the games.

    Returns:
      The games after it; what was seen, [horizon, agents, ...] each; and the value of what is seen
      last, [agents].
    """

    def one(play, key):
        choose, move = jax.random.split(key)
        outputs = act(play.frame)
        action = jax.random.categorical(choose, outputs["logits"]).astype(jnp.int32)
        games, step = arena.step(play.games, action, move)
        reward = step.reward.astype(play.score.dtype)
        score = play.score + reward
        over = step.ended | step.cut
        seen = {
            "frame": play.frame,
            "action": action,
            "log_prob": ppo.log_prob(outputs["logits"], action),
            "value": outputs["value"],
            "reward": jnp.sign(reward) if clip_rewards else reward,
            "ended": step.ended,
            "cut": step.cut,
            "weight": step.real.astype(score.dtype),
        }
        finished = play.finished + jnp.sum(jnp.where(over, score, 0))
        ended = play.ended + jnp.sum(over)
        return Play(games, step.frame, jnp.where(over, 0, score), finished, ended), seen

    play, seen = lax.scan(one, play, jax.random.split(key, horizon))
    return play, seen, act(play.frame)["value"]


def evaluate(arena: Arena, handle: PyTree, act: Act, limit: int, greedy: bool) -> jax.Array:
    """Returns of whole games, [games]; a game that is not over after `limit` steps counts as it is.

    Args:
      arena: the games.
      handle: its handle on the device.
      act: `act(frames) -> outputs` of the policy.
      limit: most steps of a game.
      greedy: whether the likeliest action is taken; otherwise the policy is sampled from.
    """
    key = jax.random.key(EVALUATION_SEED)
    games, frame = arena.reset(handle, key)

    def going(carry):
        number, *_, alive = carry
        return (number < limit) & jnp.any(alive)

    def one(carry):
        number, games, frame, score, alive = carry
        choose, move = jax.random.split(jax.random.fold_in(key, number + 1))
        logits = act(frame)["logits"]
        action = jnp.argmax(logits, -1) if greedy else jax.random.categorical(choose, logits)
        games, step = arena.step(games, action.astype(jnp.int32), move)
        score = score + jnp.where(alive, step.reward, 0).astype(score.dtype)
        return number + 1, games, step.frame, score, alive & ~(step.ended | step.cut)

    alive = jnp.ones(arena.size, bool)
    first = (jnp.zeros((), jnp.int32), games, frame, jnp.zeros(arena.size), alive)
    return lax.while_loop(going, one, first)[3]


def make_run(config: Mapping[str, Any], workload: Workload) -> Run:
    """The functions of one run, see `samop.train.Run`; arguments as for `samop.train.make_run`.

    `advance` goes on from the beginning of an epoch alone (begin=0): where its games stand later is
    in no state.
    """
    task, size = config["task"], config["train"]["batch_size"]
    world = workload.world
    examples = task["agents"] * task["horizon"]
    batches = examples // size
    per_iteration = task["update_epochs"] * batches
    per_epoch = task["iterations"] * per_iteration
    total = task["iterations"] * epochs(config)
    passes = passes_of(config)
    common = shared(config, workload, per_epoch * epochs(config))

    def collected(seen, last_value, clip):
        """What was seen as examples, [agents · horizon, ...] each."""
        advantage = ppo.advantages(
            seen["reward"],
            seen["value"],
            last_value,
            seen["ended"],
            seen["cut"],
            task["gamma"],
            task["lam"],
        )
        kept = {name: seen[name] for name in ("action", "log_prob", "weight")}
        y = {
            **kept,
            "advantage": advantage,
            "target": advantage + seen["value"],
            "clip": jnp.full_like(advantage, clip),
        }
        return jax.tree.map(lambda x: x.reshape(examples, *x.shape[2:]), (seen["frame"], y))

    def player(seed, traced, data, number):
        """What an epoch is made of: its beginning, an iteration, and the key of an update."""
        opt = common.optimizer(traced, seed)
        own = common.own_seed("order_seed", seed)
        key = jax.random.fold_in(sampling.stream(own, sampling.PLAY), number)
        dropout = sampling.stream(seed, sampling.DROPOUT)
        new = lambda: begin(world.training, data["training"], jax.random.fold_in(key, 0))  # noqa: E731

        def taken(x, y, index):
            x, y = jax.tree.map(lambda a: a[index], (x, y))
            y["advantage"] = ppo.normalized(y["advantage"], y["weight"])
            return workload.batch(x, y, None, None)

        def update(state, batch):
            step_key = jax.random.fold_in(dropout, state.step)
            return train_step(state, batch, step_key, workload, opt, passes)

        def gather(state, play, i):
            """Plays, and says of which examples the updates of iteration i are made."""
            of_play, of_order = jax.random.split(jax.random.fold_in(key, i + 1))
            act = lambda x: actor(workload, state.model_state, passes.first)(state.params, x)  # noqa: E731
            play, seen, last = rollout(
                world.training, play, act, task["horizon"], task["clip_rewards"], of_play
            )
            clip = task["clip"] * (1 - (number * task["iterations"] + i) / total)
            x, y = collected(seen, last, clip)
            keys = jax.random.split(of_order, task["update_epochs"])
            order = jax.vmap(lambda key: sampling.permutation(key, examples))(keys)
            return play, x, y, order.reshape(per_iteration, size)

        return opt, new, taken, update, gather, lambda step: jax.random.fold_in(dropout, step)

    def advance(state, seed, traced, labels, data, number, begin, count):
        _, new, taken, update, gather, _ = player(seed, traced, data, number)

        def iteration(i, carry):
            state, play = carry
            play, x, y, order = gather(state, play, i)

            def one(j, state):
                at = i * per_iteration + j
                asked = (at >= begin) & (at < begin + count)
                go = lambda state: update(state, taken(x, y, order[j]))[0]  # noqa: E731
                return lax.cond(asked, go, lambda state: state, state)

            return lax.fori_loop(0, per_iteration, one, state), play

        iterations = (begin + count + per_iteration - 1) // per_iteration
        return lax.fori_loop(0, iterations, iteration, (state, new()))[0]

    def epoch(state, seed, traced, labels, data, number):
        opt, new, taken, update, gather, step_key = player(seed, traced, data, number)

        def iteration(carry, i):
            state, play, _ = carry
            play, x, y, order = gather(state, play, i)
            state, seen = lax.scan(lambda s, index: update(s, taken(x, y, index)), state, order)
            last = jax.tree.map(lambda a: a[order[-1]], (x, y))  # to measure a perturbation on
            return (state, play, last), seen

        play = new()
        shapes = jax.eval_shape(lambda s, p: gather(s, p, 0)[1:3], state, play)
        last = jax.tree.map(lambda a: jnp.zeros((size, *a.shape[1:]), a.dtype), shapes)
        numbers = jnp.arange(task["iterations"], dtype=jnp.int32)
        (state, play, last), seen = lax.scan(iteration, (state, play, last), numbers)
        metrics = {f"train_{name}": jnp.mean(value) for name, value in seen.items()}
        whole = play.finished / jnp.maximum(play.ended, 1)
        metrics["train_return"] = jnp.where(play.ended > 0, whole, jnp.mean(play.score))
        params = transforms.eval_params(state.opt_state, state.params)
        act = lambda x: actor(workload, state.model_state, passes.first)(params, x)  # noqa: E731
        returns = evaluate(
            world.evaluation, data["evaluation"], act, task["eval_steps"], task["eval_greedy"]
        )
        halves = returns.reshape(2, -1).mean(1)
        for split, value in zip(("validation", "test"), halves):
            metrics |= {f"{split}_return": value, f"{split}_loss": -value}
        batch = taken(*last, jnp.arange(size))
        return state, metrics | common.closing(state, number, opt, batch, step_key(state.step))

    # Nothing is labelled; a program wants an array all the same.
    labels = lambda seed, rate: jnp.zeros(1, jnp.int32)  # noqa: E731
    return Run(workload.init, labels, common.start, epoch, advance, per_epoch, common.due)
