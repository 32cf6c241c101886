"""The best ρ against the number of parameters: planted choices, edges and shortfalls."""

import numpy as np
import planted
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from samop import figures, radius, results
from samop.errors import UserError
from samop.figures.best_rho import SHADES
from samop.figures.curvature_parts import NothingToDraw
from samop.figures.looks import BLUE

GRID = (0.01, 0.02, 0.04, 0.08)
BEST = {8: 0.01, 16: 0.02, 32: 0.04, 64: 0.08}


def value(hidden, noise, s, rho, best=BEST):
    """A point less on validation per factor of 2 away from the best; test says the opposite."""
    away = 0 if not rho else abs(np.log2(rho / best[hidden]))
    return [(0.8 - 0.01 * away + 0.001 * s, 0.5 + 0.01 * away)]


def drawn(folder, runs, **kwargs):
    planted.sweep(folder, runs, **kwargs)
    return figures.best_rho(results.load(folder, allow_incomplete=True))


def stars(axes):
    line = next(
        line for line in axes.lines if len(line.get_xdata()) and line.get_linestyle() == "-"
    )
    return list(line.get_xdata()), list(line.get_ydata())


def marks(axes, marker):
    """The heights of the markers of a kind."""
    here = [line for line in axes.lines if line.get_marker() == marker]
    return [y for line in here for y in line.get_ydata()]


def words(figure):
    found = [t.get_text() for t in (*figure.texts, *figure.legends[0].get_texts())]
    return "\n".join([*found, *(t.get_text() for axes in figure.axes for t in axes.texts)])


def test_the_best_rho_and_the_ends_of_the_grid(tmp_path):
    grid = planted.grid(value, widths=BEST, rhos=GRID, noises=(0.0, 0.4), seeds=3)
    figure = drawn(tmp_path, grid)
    assert [axes.get_title("left") for axes in figure.axes] == ["Clean labels", "40 % label noise"]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert stars(axes) == ([64 * h + h**2 for h in BEST], list(BEST.values()))
        assert marks(axes, "^") == [0.08]
        assert marks(axes, "v") == [0.01]
        assert marks(axes, "o") == [0.02, 0.04]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["0.01", "0.02", "0.04", "0.08"]
    shown = words(figure)
    for text in (
        "The best ρ of SAM", "digits · mlp · validation accuracy at the last epoch (1)", "3 seeds",
        "highest of the grid: a larger one may be better", "a smaller one may be better",
        "ρ* ∝ parameters^",
    ):  # fmt: skip
        assert text in shown, text
    assert "bootstrap" not in shown  # three seeds


def test_cells_are_as_dark_as_they_are_good(tmp_path):
    figure = drawn(tmp_path, planted.grid(value, widths=BEST, rhos=GRID, seeds=2))
    (axes,) = figure.axes
    patches = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(patches) == len(BEST) * len(GRID)
    shades = [to_hex(shade) for shade in SHADES]
    for patch in patches:
        x = patch.get_x() + patch.get_width() / 2
        hidden = min(BEST, key=lambda h: abs(np.log(64 * h + h**2) - np.log(x)))
        low, high = patch.get_y(), patch.get_y() + patch.get_height()
        (rho,) = [rho for rho in GRID if low < rho < high]
        below = abs(np.log2(rho / BEST[hidden]))  # in points
        place = 0 if below < 1.5 else 1 if below < 2.5 else 2
        assert to_hex(patch.get_facecolor()) == shades[place], (hidden, rho)
    shown = words(figure)
    assert "validation accuracy within 1 point of the width's best" in shown
    assert "validation accuracy within 2 points of the width's best" in shown
    assert "worse" in shown


def test_eight_seeds_have_the_intervals_of_the_table(tmp_path):
    def noisy(hidden, noise, s, rho):
        rng = np.random.default_rng([hidden, s, int(1000 * (rho or 0))])
        return [(value(hidden, noise, s, rho)[0][0] + 0.01 * rng.normal(), 0.5)]

    planted.sweep(tmp_path, planted.grid(noisy, widths=(16, 32), rhos=GRID, seeds=8))
    runs = results.load(tmp_path)
    figure = figures.best_rho(runs)
    table = radius.best_rho(runs)
    (axes,) = figure.axes
    (bars,) = (c for c in axes.collections if len(c.get_segments()) == 2)
    ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
    assert ends == list(zip(table["rho_low95"], table["rho_high95"]))
    growth = radius.growth(runs).iloc[0]
    slope, low, high = (round(growth[c], 2) + 0.0 for c in ("slope", "low95", "high95"))
    assert f"parameters^{slope:.2f} [{low:.2f}, {high:.2f}]" in words(figure)
    assert "95 % bootstrap interval over seeds, n = 8" in words(figure)


def test_zero_stands_below_the_others_and_is_no_end(tmp_path):
    def none(hidden, noise, s, rho):
        return [(0.8 - (rho or 0) + 0.001 * s, 0.5)]

    figure = drawn(tmp_path, planted.grid(none, widths=(8, 16), rhos=(0.0, 0.02, 0.04), seeds=2))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "0.02", "0.04"]
    assert stars(axes)[1] == pytest.approx([0.01, 0.01])
    assert not marks(axes, "v")
    assert "∝" not in words(figure)


def test_values_are_means_over_the_seeds_with_every_rho(tmp_path):
    grid = planted.grid(value, widths=(16,), rhos=GRID, seeds=3)
    gone = next(
        i for i in grid if i["config"]["seed"] == 2 and i["config"]["optimizer"]["rho"] == 0.04
    )
    gone["done"] = False
    planted.sweep(tmp_path, grid)
    table = radius.on_validation(results.load(tmp_path, allow_incomplete=True))
    for row in table.to_dict("records"):
        scores = [100 * value(16, 0.0, s, row["rho"])[0][0] for s in (0, 1)]
        assert row["value"] == pytest.approx(np.mean(scores))
        assert (row["n"], row["n_diverged"]) == (2, 0)


def test_each_variant_has_its_panel(tmp_path):
    def member(name, hidden, noise, s, rho):
        best = {"sam": 0.01, "asam": 0.08}.get(name, 0.02)
        return value(hidden, noise, s, rho, dict.fromkeys(BEST, best))[0]

    grid = planted.family(member, ("sam", "asam"), widths=(8, 16), rhos=GRID, seeds=2)
    figure = drawn(tmp_path, grid)
    assert [axes.get_title("left") for axes in figure.axes] == ["SAM", "ASAM"]
    assert [stars(axes)[1] for axes in figure.axes] == [[0.01, 0.01], [0.08, 0.08]]
    assert {to_hex(line.get_color()) for axes in figure.axes for line in axes.lines} == {
        to_hex(BLUE)
    }


def test_where_nothing_was_chosen(tmp_path):
    one = planted.grid(value, widths=(16,), rhos=(0.02,), seeds=2)
    with pytest.raises(NothingToDraw, match="best_rho: no ρ was chosen"):
        drawn(tmp_path / "one", one)
    early = planted.grid(value, widths=(16,), rhos=(0.01, 0.02), seeds=2)
    for item in early:  # neither seed has both
        optimizer, seed = item["config"]["optimizer"], item["config"]["seed"]
        item["done"] = optimizer["rho"] != (0.01, 0.02)[seed]
    with pytest.raises(NothingToDraw):
        drawn(tmp_path / "early", early)
    with pytest.raises(UserError, match="epoch='first'"):
        figures.best_rho(results.load(tmp_path / "one"), epoch="first")
