"""Networks of one input as functions, planes of the loss, and the experiment that uses both."""

import importlib.util
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from samop import piecewise, planes
from samop.errors import UserError
from samop.figures import solutions

# w, b, a: kinks at −1, 0, 0.5 (two neurons), 2, and a constant.
HAND = np.array(
    [
        [1.0, -2.0, 2.0, -1.0, 3.0, 0.0],
        [1.0, 0.0, -1.0, 0.5, -6.0, 7.0],
        [2.0, 1.5, -1.0, 5.0, 1.0, 1.0],
    ]
)


def random_net(seed=0, width=30):
    return np.random.default_rng(seed).normal(size=(3, width)) * [[2.5], [2.5], [4.0]]


def test_a_network_made_by_hand():
    places, changes = piecewise.kinks(HAND, -1.5, 1.5)
    np.testing.assert_allclose(places, [-1, 0, 0.5])
    np.testing.assert_allclose(changes, [2, 3, -2 + 5])
    assert piecewise.pieces(HAND, -1.5, 1.5) == 4
    assert piecewise.total_variation(HAND, -1.5, 1.5) == pytest.approx(8)
    assert piecewise.total_variation(HAND, -1.5, 2.5) == pytest.approx(11)
    assert piecewise.pieces(HAND, -1, 0) == 1  # ends are not inside
    want = 2 * 2 + 1.5 * 2 + 1 * 3 + 5 * 1.5 + 1 * 9 + 1 * 7
    assert piecewise.path_norm(HAND) == pytest.approx(want)
    # At x = 0.25: 2·1.25 + 0 + 0 + 5·0.25 + 0 + 7.
    np.testing.assert_allclose(piecewise.evaluate(HAND, np.array([0.25])), [10.75])


def test_kinks_that_cancel_are_none():
    pair = np.array([[1.0, 2.0], [-0.5, -1.0], [2.0, -1.0]])
    assert piecewise.pieces(pair, 0, 1) == 1
    np.testing.assert_array_equal(piecewise.evaluate(pair, np.linspace(0, 1, 5)), 0)


@pytest.mark.parametrize("seed", range(3))
def test_total_variation_agrees_with_a_fine_grid(seed):
    net = random_net(seed)
    x = np.linspace(-1, 1, 200_001)
    slopes = np.diff(piecewise.evaluate(net, x)) / np.diff(x)
    grid = np.abs(np.diff(slopes)).sum()
    # Opposite kinks within one cell of the grid are all that it may lose.
    assert piecewise.total_variation(net, -1, 1) == pytest.approx(grid, rel=1e-3)


def test_rescaling_neurons_changes_neither_function_nor_path_norm():
    net = random_net()
    scale = np.exp(np.random.default_rng(1).normal(size=net.shape[1]))
    other = net * np.stack([scale, scale, 1 / scale])
    x = np.linspace(-2, 2, 50)
    np.testing.assert_allclose(piecewise.evaluate(other, x), piecewise.evaluate(net, x))
    assert piecewise.path_norm(other) == pytest.approx(piecewise.path_norm(net))
    for measure in (piecewise.pieces, piecewise.total_variation):
        assert measure(other, -1, 1) == pytest.approx(measure(net, -1, 1))
    seen = [piecewise.visible_pieces(p, -1, 1, 0.1) for p in (net, other)]
    assert seen[0] == seen[1] < piecewise.pieces(net, -1, 1)


def test_visible_pieces_of_known_polylines():
    slight = HAND.copy()
    slight[2] *= [1, 1, 1, 1, 1, 0]
    assert piecewise.visible_pieces(slight, -1.5, 1.5, 1e-9) == 4
    assert piecewise.visible_pieces(slight, -1.5, 1.5, 100.0) == 1
    # A tent of height 1 beside ripples of .01: two pieces, unless ripples are looked for.
    tent = np.array([[1.0, 1.0], [0.0, -1.0], [1.0, -2.0]])
    ripples = np.array([[1.0] * 4, [-0.2, -0.21, -0.22, -1.5], [1.0, -2.0, 1.0, 0.0]])
    both = np.concatenate([tent, ripples], axis=1)
    assert piecewise.visible_pieces(both, 0, 2, 0.05) == 2
    assert piecewise.visible_pieces(both, 0, 2, 0.001) > 2
    assert piecewise.visible_pieces(np.zeros((3, 4)), 0, 2, 0.05) == 1


def test_evaluation_is_the_same_in_jax_and_has_the_relu_s_gradient(x64):
    net, x = random_net(), np.linspace(-1, 1, 12)
    np.testing.assert_allclose(
        piecewise.evaluate(jnp.asarray(net), jnp.asarray(x)), piecewise.evaluate(net, x), rtol=1e-12
    )

    def relu(p):
        return jnp.sum(jax.nn.relu(jnp.outer(jnp.asarray(x), p[0]) + p[1][None]) @ p[2])

    got = jax.grad(lambda p: jnp.sum(piecewise.evaluate(p, jnp.asarray(x))))(jnp.asarray(net))
    np.testing.assert_allclose(got, jax.grad(relu)(jnp.asarray(net)), rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: piecewise.kinks(np.zeros((2, 4)), 0, 1), r"shape \(2, 4\) should be \[3, n\]"),
        (lambda: piecewise.path_norm(np.full((3, 2), np.nan)), "the run diverged"),
        (lambda: piecewise.pieces(HAND, 1, 1), "low=1 should be less than high=1"),
        (lambda: piecewise.visible_pieces(HAND, 0, 1, 0), "tolerance=0 should be positive"),
        (lambda: planes.through(np.zeros(3), np.ones(3), 2 * np.ones(3)), "lie on one line"),
        (lambda: planes.through(np.zeros(3), np.zeros(3), np.ones(3)), "lie on one line"),
        (
            lambda: planes.through(np.zeros(3), np.ones(2), np.ones(3)),
            r"not \(3,\), \(2,\), \(3,\)",
        ),
        (lambda: planes.through(np.zeros(2), np.ones(2), np.full(2, np.inf)), "diverged"),
        (lambda: planes.barrier(np.sum, np.zeros(2), np.ones(2), 2), "points=2 should be at least"),
    ],
)
def test_bad_input_is_refused_in_words(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_a_plane_holds_its_three_points():
    origin, first, second = np.random.default_rng(0).normal(size=(3, 40))
    plane = planes.through(origin, first, second)
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-14)
    coordinates = plane.coordinates(np.stack([origin, first, second]))
    np.testing.assert_allclose(plane.points(coordinates), [origin, first, second], atol=1e-12)
    np.testing.assert_allclose(coordinates[0], 0)
    assert coordinates[1] == pytest.approx([np.linalg.norm(first - origin), 0])
    assert coordinates[2, 1] > 0
    across = np.linalg.svd(plane.basis)[2][2]  # at right angles to the plane
    steps = np.stack([first, origin + across, first + np.linalg.norm(first - origin) * across])
    np.testing.assert_allclose(plane.share(steps), [1, 0, np.sqrt(0.5)], atol=1e-12)
    assert np.isnan(plane.share(origin))


def test_nearly_parallel_directions_still_give_an_orthonormal_basis():
    rng = np.random.default_rng(1)
    first = rng.normal(size=300)
    second = first + 1e-6 * rng.normal(size=300)
    basis = planes.through(np.zeros(300), first, second).basis
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-14)


def test_the_loss_on_a_plane_and_on_a_line():
    def losses(points):  # two valleys, at ±1 of the first parameter
        return (points[:, 0] ** 2 - 1) ** 2 + points[:, 1] ** 2

    plane = planes.through(np.zeros(3), np.array([2.0, 0, 0]), np.array([1.0, 3, 0]))
    grid = planes.loss_grid(losses, plane, np.array([-1.0, 0, 1]), np.array([0.0, 2]))
    np.testing.assert_allclose(grid, [[0, 1, 0], [4, 5, 4]])
    left, right = np.array([-1.0, 0, 0]), np.array([1.0, 0.5, 0])
    middle = np.array([0.0, 0.25, 0])
    assert planes.barrier(losses, left, right) == pytest.approx(
        losses(middle[None])[0] - 0.25, 0.02
    )
    assert planes.barrier(losses, np.array([0.5, 0, 0]), right) == 0


@pytest.fixture(scope="module")
def script():
    file = Path(__file__).parent.parent / "experiments" / "solution_space.py"
    spec = importlib.util.spec_from_file_location("solution_space", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_seeds_parts_have_the_sample_variance_as_their_mean(script):
    values = np.random.default_rng(0).normal(size=(6, 50))
    parts, logarithms = script.seed_variance(values)
    variance = values.var(0, ddof=1).mean()
    assert parts.mean() == pytest.approx(variance)
    assert np.exp(logarithms.mean()) == pytest.approx(variance, rel=0.2)


def test_the_experiment_in_small(script, x64, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(script, "RHOS", (0.3,))
    script.run(tmp_path, (4, 6), seeds=3, steps=20_000, say=said.append)
    rows = pd.read_csv(tmp_path / "solutions.csv")
    assert len(rows) == 2 * 4 * 3
    gd = rows[rows["arm"] == solutions.GD].reset_index()
    start = rows[rows["arm"] == solutions.START].reset_index()
    assert (gd["train_loss"] < start["train_loss"]).all()
    assert (start["travel"] == 0).all()
    found = pd.read_csv(tmp_path / "summary.csv").set_index(["width", "arm", "measure"])
    sam = rows[(rows["arm"] == "SAM ρ=0.3") & (rows["width"] == 6)].set_index("seed")
    ratio = np.log(sam["path_norm"] / gd[gd["width"] == 6].set_index("seed")["path_norm"]).mean()
    assert found.loc[(6, "SAM ρ=0.3", "path_norm"), "ratio"] == pytest.approx(np.exp(ratio), 1e-3)
    trend = pd.read_csv(tmp_path / "trends.csv")
    assert (trend["n"] == 3).all()
    assert any("SAM ρ=0.3, then GD" in line for line in said)
    for name in ("functions", "measures", "planes"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_figures_say_what_they_show():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.linspace(-1, 1, 5)
        index = pd.MultiIndex.from_product(
            [(10, 100), (solutions.GD, solutions.sam(0.3)), range(4)],
            names=["width", "arm", "seed"],
        )
        curves = pd.DataFrame(np.ones((16, 5)) * x, index=index, columns=x)
        arms = [solutions.GD, solutions.sam(0.3)]
        figure = solutions.functions(curves, np.array([[-1.0, 0], [1, 1]]), arms, "a net")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["GD, 10 neurons", "GD, 100 neurons", "SAM ρ=0.3, 10 neurons",
                      "SAM ρ=0.3, 100 neurons"]  # fmt: skip
    assert any("4 in all" in text.get_text() for text in figure.texts)
    np.testing.assert_allclose(figure.axes[0].get_lines()[4].get_ydata(), x)  # the mean
