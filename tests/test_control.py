"""Agents that play: PPO's arithmetic, its runs, and what a config may ask."""

import copy
import dataclasses
import importlib

import corridor
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import first_epochs, grid, prepared

from samop import (
    checkpoint,
    loop,
    modes,
    plans,
    playing,
    ppo,
    records,
    sweep,
    validation,
    worlds,
)
from samop import config as configs
from samop.errors import UserError
from samop.train import make_run
from samop.workloads import build, flops_of_example

TASK = {"agents": 16, "horizon": 8, "iterations": 4, "eval_episodes": 8, "eval_steps": 20}


@pytest.fixture(autouse=True, scope="module")
def named_corridor():
    """Configs may name the corridor here."""
    check, make = worlds.check, worlds.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "check", lambda name: name == "corridor" or check(name))
        patch.setattr(
            worlds,
            "build",
            lambda name, task: corridor.world(task) if name == "corridor" else make(name, task),
        )
        yield


def point(**fields):
    """A small run in the corridor; `section__key=value` sets a field."""
    config = configs.defaults("minatar_cnn", "control").to_dict()
    config["experiment"] = "test"
    config["data"]["name"] = "corridor"
    config["model"]["channels"] = 2
    config["task"].update(TASK)
    config["optimizer"].update(
        base="adam", lr=0.02, clip=0.5, schedule="linear", weight_decay=0.0, rho=0.05
    )
    config["train"].update(epochs=4, batch_size=32, diagnostics_every=0)
    config["run"].update(compilation_cache=False, tensorboard=False, mode="vmap", devices=1)
    for name, value in fields.items():
        section, _, key = name.partition("__")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    validation.validate(config)
    return config


AXES = {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.05,), "seed": (0, 1)}


def plan(**fields):
    return sweep.plan(point(**fields), AXES, "command")


def rows_of(workdir):
    files = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: records.read_rows(file) for file in files}


def test_a_workload_is_of_the_precision_it_was_asked_for_in():
    with jax.enable_x64(True):
        double = build(point())
        assert double.world.example[1]["weight"].dtype == np.float64
    single = build(point())
    assert single.world.example[1]["weight"].dtype == np.float32
    assert single is build(point()) is not double


@pytest.fixture(scope="module")
def finished(named_corridor, tmp_path_factory):
    """A finished sweep of the corridor."""
    workdir = tmp_path_factory.mktemp("finished")
    sweep.run(plan(), workdir)
    return workdir


# PPO's arithmetic.


def test_advantages_against_plain_python(x64):
    rng = np.random.default_rng(0)
    steps, games, gamma, lam = 30, 4, 0.9, 0.8
    reward, value = rng.normal(size=(2, steps, games))
    last = rng.normal(size=games)
    ended = rng.random((steps, games)) < 0.15
    cut = (rng.random((steps, games)) < 0.15) & ~ended
    assert ended.any()
    assert cut.any()
    found = ppo.advantages(*map(jnp.asarray, (reward, value, last, ended, cut)), gamma, lam)
    for g in range(games):
        for t in range(steps):
            # The definition: discounted errors up to the end of the game or of the stretch.
            total = 0.0
            for k in range(t, steps):
                after = value[k + 1, g] if k + 1 < steps else last[g]
                worth = 0.0 if ended[k, g] else after
                error = reward[k, g] + gamma * worth - value[k, g]
                total += (gamma * lam) ** (k - t) * error
                if ended[k, g] or cut[k, g]:
                    break
            np.testing.assert_allclose(found[t, g], total, atol=1e-12)


def test_losses_against_numpy(x64):
    rng = np.random.default_rng(1)
    n, actions = 50, 3
    logits, value = rng.normal(size=(n, actions)), rng.normal(size=n)
    action = rng.integers(actions, size=n)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    chosen = logs[np.arange(n), action]
    old, advantage, target = chosen + 0.3 * rng.normal(size=n), *rng.normal(size=(2, n))
    targets = {"action": action, "log_prob": old, "advantage": advantage, "target": target}
    targets = {k: jnp.asarray(v) for k, v in targets.items()} | {"clip": jnp.full(n, 0.2)}
    outputs = {"logits": jnp.asarray(logits), "value": jnp.asarray(value)}
    found = ppo.losses(outputs, targets, 0.5, 0.01)
    ratio = np.exp(chosen - old)
    low = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    entropy = -(np.exp(logs) * logs).sum(1)
    loss = -low + 0.5 * (value - target) ** 2 - 0.01 * entropy
    np.testing.assert_allclose(found["loss"], loss, atol=1e-12)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-12)
    np.testing.assert_array_equal(found["clipped"], (ratio < 0.8) | (ratio > 1.2))
    # Beyond the interval nothing pushes further.
    gradient = jax.grad(
        lambda x: jnp.sum(ppo.losses({**outputs, "logits": x}, targets, 0.0, 0.0)["loss"])
    )(outputs["logits"])
    beyond = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    assert beyond.any()
    np.testing.assert_array_equal(np.abs(gradient).sum(1) == 0, beyond)


def test_normalized_advantages_leave_out_what_no_agent_did(x64):
    advantage = np.array([1.0, 2.0, 100.0, 6.0])
    weight = np.array([1.0, 1.0, 0.0, 1.0])
    found = np.asarray(ppo.normalized(jnp.asarray(advantage), jnp.asarray(weight)))
    some = advantage[weight > 0]
    np.testing.assert_allclose(found[weight > 0], (some - some.mean()) / some.std(), atol=1e-7)


# Runs.


def test_the_corridor_is_learned_by_both(finished):
    found = rows_of(finished)
    assert len(found) == 4
    for name, rows in found.items():
        assert rows[-1]["validation_return"] == rows[-1]["test_return"] == 1, name
        assert rows[-1]["train_return"] > 0.9
        assert rows[-1]["validation_loss"] == -rows[-1]["validation_return"]
        assert rows[0]["train_value_loss"] > rows[-1]["train_value_loss"]
        assert rows[-1]["step"] == 4 * 4 * 3 * 4


def test_at_random_the_corridor_is_not_walked():
    task = point(task__eval_episodes=64)["task"]
    arena = corridor.world(task).evaluation
    act = lambda frame: {"logits": jnp.zeros((len(frame), 2))}  # noqa: E731
    returns = jax.jit(lambda: playing.evaluate(arena, (), act, 20, False))()
    assert 0.3 < returns.mean() < 0.7


def test_the_first_update_is_made_by_the_policy_that_played():
    workload = build(point())
    params, state = workload.init(np.uint32(0))
    act = playing.actor(workload, state, None)

    @jax.jit
    def first(params):
        play = playing.begin(workload.world.training, (), jax.random.key(0))
        args = (play, lambda x: act(params, x), 8, False, jax.random.key(1))
        seen = playing.rollout(workload.world.training, *args)[1]
        seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)
        zero = jnp.zeros_like(seen["value"])
        y = seen | {"advantage": zero + 1, "target": zero, "clip": zero + 1e-4}
        batch = workload.batch(seen["frame"], y, None, None)
        return workload.examples(workload.apply(params, state, batch, None, False)[0], batch)

    values = first(params)
    assert not values["clipped"].any()
    np.testing.assert_allclose(values["policy_loss"], -1, atol=1e-5)


SEEDS = (0, 1)  # of programs that are the sweep's


def test_radius_zero_is_the_base_optimiser():
    base = grid(point(), [{"optimizer__name": "base", "optimizer__rho": 0.0}], SEEDS)
    zero = grid(point(), [{"optimizer__name": "sam", "optimizer__rho": 0.0}], SEEDS)
    (a, seen_a), (b, seen_b) = (first_epochs(prepared(rows), 2) for rows in (base, zero))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)
    for name in ("train_loss", "train_return", "validation_return"):
        np.testing.assert_array_equal(seen_a[name], seen_b[name])


def test_vmapped_is_one_by_one(x64):
    rows = grid(point(), [{"optimizer__rho": 0.01}, {"optimizer__rho": 0.2}], SEEDS)
    together, metrics = first_epochs(prepared(rows), 2)
    for i, config in ((0, rows[0][0]), (3, rows[1][1])):
        alone, own = first_epochs(prepared([[config]]), 2)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
            np.testing.assert_allclose(a[i], b[0], atol=1e-9)
        for name, value in own.items():
            np.testing.assert_allclose(metrics[name][i], value[0], atol=1e-9, err_msg=name)


class Killed(BaseException):
    pass


def test_killed_and_resumed_is_never_killed_bit_for_bit(finished, tmp_path, monkeypatch):
    original = records.append_rows

    def append(path, rows, sync=False):
        rows = list(rows)
        original(path, rows, sync)
        if rows and rows[-1]["epoch"] >= 2:
            raise Killed

    again = plan(run__checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(records, "append_rows", append)
        with pytest.raises(Killed):
            sweep.run(again, tmp_path)
    sweep.run(again, tmp_path)
    assert rows_of(tmp_path) == rows_of(finished)
    for folder in sorted((finished / "points").iterdir()):
        ours, theirs = checkpoint.load(tmp_path / "points" / folder.name), checkpoint.load(folder)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            np.testing.assert_array_equal(a, b)


def test_evaluation_games_are_the_same_for_every_epoch():
    ready = prepared(grid(point(optimizer__lr=0.0), [{}], SEEDS))
    _, first = first_epochs(ready, 1)
    _, later = first_epochs(ready, 3)
    np.testing.assert_array_equal(first["validation_return"], later["validation_return"])
    np.testing.assert_array_equal(first["test_return"], later["test_return"])
    assert not np.array_equal(first["train_return"], later["train_return"])


def test_advancing_through_an_epoch_is_that_epoch():
    ready = prepared(grid(point(), [{}], SEEDS))
    args = (*loop.feed(ready), ready.program.place("every", np.int32(0)))
    parts = jax.jit(ready.program.advance)
    there = parts(loop.start(ready), *args, 0, ready.run.steps_per_epoch)
    assert parts(loop.start(ready), *args, 0, 5).step == 5
    whole, _ = ready.epoch(loop.start(ready), *args)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(there.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert 0 < modes.seconds_a_step(ready.group, jax.devices()) < 10  # by the same program


def test_ascent_groups_and_diagnostics_take_its_batches():
    config = point(optimizer__m=16, train__diagnostics_every=1)
    workload = build(config)
    run = make_run(config, workload)
    state = run.start(*run.init(np.uint32(0)))
    traced = {field: configs.get(config, field) for field in configs.TRACED}
    args = (np.uint32(0), traced, run.labels(0, 0.0), workload.world.handles, np.int32(0))
    after, metrics = jax.eval_shape(run.epoch, state, *args)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert {"sam_cosine", "train_return", "test_loss"} <= metrics.keys()


def test_work_is_counted():
    workload = build(point())
    assert workload.count == 16 * 8 * 4 * 3
    # 3×3 convolution to 1×3 places, hidden layer, two heads; two operations a product.
    products = 3 * 9 * 2 + 6 * 16 + 16 * 2 + 16
    assert flops_of_example(workload) == 2 * products


def test_a_sweep_says_what_it_plays(finished):
    text = plans.describe(plan(), finished)
    assert "data: corridor, from tests" in text
    assert "4 runs, 4 of them done" in text


def test_a_world_of_which_there_is_one_plays_one_run():
    workload = build(point())
    assert not modes.one_at_a_time(workload)
    single = dataclasses.replace(workload.world, single=True)
    assert modes.one_at_a_time(dataclasses.replace(workload, world=single))


# Configs.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data__name": "minatar_breakuot"}, "is no world .*did you mean 'minatar_breakout'"),
        ({"train__batch_size": 48}, r"does not divide task.agents · task.horizon = 128"),
        ({"task__gamma": 1.5}, "task.gamma=1.5 is not allowed: it should be from 0 to 1"),
        ({"task__agents": 0}, "task.agents=0 is not allowed"),
        ({"task__horizon": 8.0}, "task.horizon=8.0 should be of type int"),
        ({"task__noops": 3}, "task.noops=3 is not allowed with data.name='corridor'"),
        ({"data__name": "atari_pong"}, "model.name='minatar_cnn' is not allowed.*'nature_cnn'"),
        ({"data__label_noise": 0.2}, "data.label_noise=0.2 is not defined"),
        ({"curvature__every": "end"}, "curvature.every='end' is not allowed"),
        ({"train__batch_size": 129}, "does not divide"),
    ],
)
def test_bad_configs(fields, words):
    with pytest.raises(UserError, match=words):
        point(**fields)


@pytest.mark.parametrize("arg", ["", "smoke", "cpu", "data=minatar_breakout", "width=16+32"])
def test_the_width_config(arg, monkeypatch):
    monkeypatch.syspath_prepend("configs")
    module = importlib.import_module("atari_width")
    config = module.get_config(arg)
    points = sweep.expand(config, module.sweep(config))
    assert {p["optimizer"]["name"] for p in points} == {"base", "sam"}
    assert len({configs.point_name(p) for p in points}) == len(points)
    again = configs.from_json(copy.deepcopy(configs.to_json(points[0])))
    assert configs.point_name(again) == configs.point_name(points[0])
