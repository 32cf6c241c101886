"""Atari's emulators inside compiled epochs. Slow; needs the extra `atari`."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samop import config as configs
from samop import records, sweep, validation, worlds
from samop.errors import UserError

pytestmark = pytest.mark.slow
TASK = {
    "agents": 2,
    "horizon": 16,
    "iterations": 2,
    "update_epochs": 1,
    "eval_episodes": 1,
    "eval_steps": 20,
    "noops": 30,
    "sticky": 0.25,
    "clip_rewards": True,
}
PROCESS = """
import sys
sys.path.insert(0, "tests")
import conftest, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from pathlib import Path
from test_atari import plan
from samop import sweep
sweep.run(plan(), Path(sys.argv[2]))
"""


def plan(**train):
    config = configs.defaults("nature_cnn", "control").to_dict()
    config["experiment"] = "test"
    config["data"]["name"] = "atari_pong"
    config["model"]["channels"] = 2
    config["task"].update(TASK)
    config["optimizer"].update(base="adam", lr=1e-3, schedule="linear", weight_decay=0.0)
    config["train"].update({"epochs": 2, "batch_size": 16, **train})
    config["run"].update(compilation_cache=False, tensorboard=False, devices=2)
    validation.validate(config)
    return sweep.plan(config, {"optimizer.name": ("base", "sam"), "seed": (0, 1)}, "command")


def record_of(workdir):
    files = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in files}


def test_every_process_plays_its_own_emulators_from_one_compilation_cache(tmp_path):
    pytest.importorskip("ale_py")
    compiled = {}
    for name in ("one", "two"):
        subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path / "cache"), str(tmp_path / name)],
            check=True,
            timeout=500,
            cwd=Path(__file__).parent.parent,
        )
        compiled[name] = {file.name for file in (tmp_path / "cache").glob("*-cache")}
    one, two = (record_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 4
    assert one == two
    assert compiled["one"] == compiled["two"]  # the second process compiled nothing of its own
    assert any(name.startswith("jit_mapped") for name in compiled["one"])  # the epochs
    for name in one:
        rows = records.read_rows(tmp_path / "one" / "points" / name / "metrics.jsonl")
        assert len(rows) == 2
        assert np.isfinite([row["train_loss"] for row in rows]).all()


@pytest.mark.parametrize(("game", "life_loss"), [("pong", False), ("breakout", True)])
def test_a_reset_forgets_what_was_played_before(game, life_loss):
    pytest.importorskip("ale_py")
    world = worlds.build(f"atari_{game}", {**TASK, "life_loss": life_loss})
    arena = world.training

    @jax.jit
    def played(handle, key):
        def one(state, key):
            action = jax.random.randint(key, (arena.size,), 0, world.num_actions)
            state, step = arena.step(state, action, key)
            frame = jnp.sum(step.frame.astype(jnp.int32), (1, 2, 3))
            return state, step._replace(frame=frame)

        state, frame = arena.reset(handle, key)
        return frame, jax.lax.scan(one, state, jax.random.split(key, 300))[1]

    first, other, again = (played(arena.handle, jax.random.key(k)) for k in (0, 1, 0))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[1].frame, other[1].frame)
    assert first[0].shape == (2, *world.shape)
    # After an end comes a restart, which nobody did.
    over = np.asarray(first[1].ended | first[1].cut)
    assert over.any() == life_loss
    np.testing.assert_array_equal(~np.asarray(first[1].real)[1:], over[:-1])
    assert not np.asarray(first[1].reward)[1:][over[:-1]].any()


def test_an_unknown_game():
    pytest.importorskip("ale_py")
    with pytest.raises(UserError, match=r"no game .pogn.*did you mean 'pong'"):
        worlds.build("atari_pogn", {**TASK, "life_loss": False})
