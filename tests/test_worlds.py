"""Networks of agents, and MinAtar's games against their rules."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samop import trees, worlds
from samop.errors import UserError
from samop.models.agents import MinAtarCNN, NatureCNN
from samop.tasks import TASKS

TASK = {**TASKS["control"].fields, "agents": 16}

# Networks.


def shapes_of(module, shape):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape))))["params"]


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(16, 425_047), (32, 1_687_719), (48, 3_788_023), (64, 6_725_959)],
)
def test_nature_cnn_on_pong(channels, parameters):
    assert trees.size(shapes_of(NatureCNN(channels, 6), (84, 84, 4))) == parameters


@pytest.mark.parametrize(("channels", "parameters"), [(4, 8_504), (16, 132_308), (32, 526_756)])
def test_minatar_cnn_on_breakout(channels, parameters):
    assert trees.size(shapes_of(MinAtarCNN(channels, 3), (10, 10, 4))) == parameters


def test_a_policy_begins_almost_uniform():
    module = MinAtarCNN(4, 3)
    x = jax.random.bernoulli(jax.random.key(1), 0.2, (64, 10, 10, 4)).astype(jnp.float32)
    outputs = module.apply(module.init(jax.random.key(0), x), x)
    assert np.abs(jax.nn.softmax(outputs["logits"]) - 1 / 3).max() < 0.02


# MinAtar.


def breakout_by_the_rules(frames, actions, rewards, ended, cut, real):
    """One game of MinAtar's Breakout, replayed from its rules; arguments [steps, ...]."""
    ball = None
    for t in range(len(actions)):
        if ball is None:  # a game that begins: left above going down right, or the mirror image
            board = frames[t]
            (row, column), *_ = np.argwhere(board[:, :, 1])
            assert (row, column) in ((3, 0), (3, 9))
            ball, move = [row, column], [1, 1 if column == 0 else -1]
            paddle, bricks, struck, age = 4, np.zeros((10, 10), bool), False, 0
            bricks[1:4] = True
            trail = [row, column]
        expected = np.zeros((10, 10, 4), bool)
        expected[9, paddle, 0] = expected[(*ball, 1)] = expected[(*trail, 2)] = True
        expected[:, :, 3] = bricks
        np.testing.assert_array_equal(frames[t], expected)
        if not real[t]:
            assert rewards[t] == 0
            ball = None
            continue
        paddle = min(9, max(0, paddle + (0, -1, 1)[actions[t]]))
        trail, to = list(ball), [ball[0] + move[0], ball[1] + move[1]]
        if not 0 <= to[1] <= 9:
            to[1], move[1] = min(9, max(0, to[1])), -move[1]
        reward, over, hit = 0, False, False
        if to[0] < 0:
            to[0], move[0] = 0, -move[0]
        elif bricks[tuple(to)]:
            hit = True
            if not struck:
                reward, struck, bricks[tuple(to)] = 1, True, False
                to[0], move[0] = trail[0], -move[0]
        elif to[0] == 9:
            if not bricks.any():
                bricks[1:4] = True
            if trail[1] == paddle:
                to[0], move[0] = trail[0], -move[0]
            elif to[1] == paddle:
                to[0], move = trail[0], [-move[0], -move[1]]
            else:
                over = True
        struck = struck and hit
        ball, age = to, age + 1
        assert (rewards[t], ended[t], cut[t]) == (reward, over, age == 1000 and not over)


def test_breakout_follows_its_rules_and_is_cut_after_a_thousand_steps():
    pytest.importorskip("gymnax")
    task = TASK | {"agents": 6}
    arena = worlds.build("minatar_breakout", task).training

    def follow(frame, key):
        """Under the ball, mostly; two of the games always."""
        paddle = jnp.argmax(jnp.any(frame[:, 9, :, 0:1], -1), -1)
        ball = jnp.argmax(jnp.any(frame[..., 1], 1), -1)
        wanted = jnp.where(ball < paddle, 1, jnp.where(ball > paddle, 2, 0))
        lapse = jax.random.bernoulli(key, 0.1, (6,)) & (jnp.arange(6) < 4)
        return jnp.where(lapse, 0, wanted).astype(jnp.int32)

    @jax.jit
    def played():
        def one(carry, key):
            state, frame = carry
            action = follow(frame, key)
            state, step = arena.step(state, action, key)
            seen = (frame, action, step.reward, step.ended, step.cut, step.real)
            return (state, step.frame), seen

        start = arena.reset((), jax.random.key(3))
        return jax.lax.scan(one, start, jax.random.split(jax.random.key(4), 1200))[1]

    seen = [np.asarray(x) for x in played()]
    assert seen[3].sum() > 3  # ends
    assert seen[4].sum() >= 1  # cuts
    assert seen[2].sum() > 100  # bricks
    for game in range(6):
        breakout_by_the_rules(*(x[:, game] for x in seen))


def test_sticky_actions_repeat():
    pytest.importorskip("gymnax")
    task = TASK | {"sticky": 1.0}
    arena = worlds.build("minatar_breakout", task).training
    state, _ = arena.reset((), jax.random.key(0))
    left = jnp.ones(16, jnp.int32)
    state, step = jax.jit(arena.step)(state, left, jax.random.key(1))
    assert step.frame[:, 9, 4, 0].all()  # the paddle stays where nothing was done before


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax.environments.minatar.breakout", None)
    with pytest.raises(UserError, match=r"needs gymnax .*pip install 'samop\[minatar\]'"):
        worlds.build("minatar_breakout", TASK)


@pytest.mark.parametrize("name", ["minatar_asterix", "minatar_freeway", "minatar_space_invaders"])
def test_games_restart_in_the_step_after_their_end(name):
    world = worlds.build(name, {**TASK, "agents": 4, "sticky": 0.1})
    arena = world.training

    def play(key):
        def one(games, key):
            act, move = jax.random.split(key)
            actions = jax.random.randint(act, (4,), 0, world.num_actions)
            return arena.step(games, actions, move)

        games, frame = arena.reset(arena.handle, key)
        return frame, jax.lax.scan(one, games, jax.random.split(key, 300))[1]

    frame, seen = jax.device_get(jax.jit(play)(jax.random.key(0)))
    assert frame.shape == (4, *world.shape)
    assert seen.frame.dtype == frame.dtype == world.dtype
    over = seen.ended | seen.cut
    np.testing.assert_array_equal(~seen.real[1:], over[:-1])
    assert (seen.reward[~seen.real] == 0).all()
    assert not (seen.ended & seen.cut).any()
    if name != "minatar_freeway":  # which is never lost
        assert over.any()
