"""Learning curves: what is drawn is the mean over the seeds at the ρ chosen on validation."""

import math

import numpy as np
import planted
import pytest
from figure_checks import texts
from matplotlib.colors import to_hex

from samop import curves, figures, results
from samop.errors import UserError
from samop.figures.looks import LOOKS

EPOCHS = 8
BEST = {4: 0.05, 8: 0.1, 16: 0.1, 32: 0.2}
GREY, BLUE = (to_hex(LOOKS[side][0]) for side in ("base", "sam"))


def value(hidden, noise, s, rho):
    """Rises along training, with a spread over seeds; each width has its own best ρ."""
    rng = np.random.default_rng([hidden, s, int(100 * (rho or 0))])
    score = 0.5 if rho is None else 0.8 - abs(rho - BEST[hidden])
    return [(score + 0.01 * e, score + 0.01 * e + 0.02 * rng.normal()) for e in range(EPOCHS)]


def drawn(folder, runs, **kwargs):
    planted.sweep(folder, runs, **kwargs)
    table = results.load(folder, allow_incomplete=True)
    return figures.learning_curves(table, curves.load(folder, table))


def lines(axes):
    """Colour → (x, y) of the thick lines."""
    thick = [line for line in axes.lines if line.get_linewidth() == 1.8]
    return {to_hex(line.get_color()): (line.get_xdata(), line.get_ydata()) for line in thick}


def expected(runs, hidden, noise, rho):
    """Test accuracy in per cent, [seeds, epochs], straight from the planted runs."""
    chosen = [
        [100 * test for _, test in item["values"]]
        for item in runs
        if item["hidden"] == hidden
        and item["config"]["data"]["label_noise"] == noise
        and item["config"]["optimizer"]["rho"] == (rho or 0.0)
    ]
    return np.array(chosen)


def test_the_curves_are_the_means_at_the_chosen_rho(tmp_path):
    grid = planted.grid(value, widths=BEST, noises=(0.0, 0.4))
    figure = drawn(tmp_path, grid)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == [
        f"{condition} · {w}-{w}"
        for condition in ("Clean labels", "40 % label noise")
        for w in (4, 16, 32)
    ]
    for number, axes in enumerate(figure.axes):
        noise, hidden = (0.0, 0.4)[number // 3], (4, 16, 32)[number % 3]
        found = lines(axes)
        for color, rho in ((GREY, None), (BLUE, BEST[hidden])):
            x, y = found[color]
            assert list(x) == list(range(1, EPOCHS + 1))
            values = expected(grid, hidden, noise, rho)
            assert values.shape == (4, EPOCHS)
            assert list(y) == pytest.approx(list(values.mean(axis=0)))
        # The band of the base: mean ± t(.975, 3) s/2 at every epoch.
        band = axes.collections[0].get_paths()[0].vertices
        values = expected(grid, hidden, noise, None)
        half = 3.182446305 * values.std(axis=0, ddof=1) / 2
        assert band[:, 1].max() == pytest.approx((values.mean(axis=0) + half).max())
        assert f"ρ* = {BEST[hidden]:g}" in axes.texts[0].get_text()
        # Told apart without colour.
        thick = [line for line in axes.lines if line.get_linewidth() == 1.8]
        assert len({line.get_linestyle() for line in thick}) == 2
    shown = texts(figure)
    for words in (
        "Learning curves of SAM and SGD", "digits · mlp · test accuracy along training · 4 seeds",
        "ρ*: the best mean over all seeds on validation data", "not shown: the widths 8-8",
        "95 % t interval of the mean, n = 4", "SAM: mean over seeds", "epoch", "test accuracy (%)",
    ):  # fmt: skip
        assert words in shown, words


def test_one_seed_has_no_band_and_says_so(tmp_path):
    figure = drawn(tmp_path, planted.grid(value, widths=(8,), seeds=1, rhos=(0.1,)))
    shown = texts(figure)
    assert "one seed: no interval" in shown
    assert "95 %" not in shown
    assert "mean over seeds" not in shown


def test_unfinished_runs_are_drawn_as_far_as_they_got(tmp_path):
    grid = planted.grid(value, widths=(8,), seeds=3, rhos=(0.1,))
    for item in grid:
        item["done"] = False
        if item["config"]["seed"] == 2:
            item.update(values=item["values"][:3], losses=item["losses"][:3])
    figure = drawn(tmp_path, grid)
    (axes,) = figure.axes
    values = [[100 * test for _, test in i["values"]] for i in grid if i["name"].find("None") > 0]
    thick = np.array(lines(axes)[GREY][1], float)
    assert thick[:3] == pytest.approx(np.mean([row[:3] for row in values], axis=0))
    assert np.isnan(thick[3:]).all()
    thin = next(
        line for line in axes.lines
        if line.get_linewidth() == 0.8 and to_hex(line.get_color()) == GREY
    )  # fmt: skip
    rest = np.array(thin.get_ydata(), float)
    assert rest[3:] == pytest.approx(np.mean([row[3:] for row in values[:2]], axis=0))
    shown = texts(figure)
    for words in ("not all seeds have got there", "(ρ = 0.1)", "6 of 6 runs not finished"):
        assert words in shown.replace("\n", " "), words


def test_diverged_runs_are_left_out_and_counted(tmp_path):
    grid = planted.grid(value, widths=(8,), seeds=3, rhos=(0.1,))
    lost = next(i for i in grid if i["config"]["optimizer"]["name"] == "base")
    lost["losses"][-1] = math.nan
    figure = drawn(tmp_path, grid)
    kept = [i for i in grid if "None" in i["name"] and i is not lost]
    mean = np.mean([[100 * test for _, test in i["values"]] for i in kept], axis=0)
    assert list(lines(figure.axes[0])[GREY][1]) == pytest.approx(list(mean))
    assert "diverged, left out: 1 of SGD" in texts(figure).replace("\n", " ")


def test_a_panel_in_which_everything_diverged(tmp_path):
    grid = planted.grid(value, widths=(4, 8), seeds=2, rhos=(0.1,))
    for item in grid:
        if item["hidden"] == 4:
            item["losses"] = [math.nan] * EPOCHS
    figure = drawn(tmp_path, grid)
    assert not lines(figure.axes[0])
    assert "every run diverged" in texts(figure)
    assert set(lines(figure.axes[1])) == {GREY, BLUE}


@pytest.mark.parametrize("only", ["base", "sam"])
def test_one_side_alone(tmp_path, only):
    grid = planted.grid(value, widths=(8,), seeds=2)
    grid = [item for item in grid if item["config"]["optimizer"]["name"] == only]
    figure = drawn(tmp_path, grid)
    assert set(lines(figure.axes[0])) == {GREY if only == "base" else BLUE}


def test_each_variant_has_its_panels(tmp_path):
    def member(name, hidden, noise, s, rho):
        return (0.5 + 0.1 * (name != "base") + 0.01 * s,) * 2

    figure = drawn(tmp_path, planted.family(member, ("sam", "asam"), widths=(8, 16)))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["SAM · 8-8", "SAM · 16-16", "ASAM · 8-8", "ASAM · 16-16"]


def test_a_loss_that_falls_far_is_on_a_log_axis(tmp_path):
    def loss(hidden, noise, s, rho):
        return [(10.0**-e, 10.0**-e) for e in range(EPOCHS)]

    figure = drawn(tmp_path, planted.grid(loss, widths=(8,), seeds=2), metric=planted.LOSS)
    assert figure.axes[0].get_yscale() == "log"


def test_nothing_to_draw(tmp_path):
    grid = planted.grid(value, widths=(8,), seeds=1)
    planted.sweep(tmp_path, grid)
    table = results.load(tmp_path)
    none = curves.load(tmp_path, table).iloc[:0]
    with pytest.raises(UserError, match="learning_curves: no run has recorded an epoch"):
        figures.learning_curves(table, none)
