import math

import numpy as np
import planted
import pytest
from figure_checks import assert_on_the_page, texts
from matplotlib.colors import to_hex

from samop import comparison, figures, flatness, results
from samop.errors import UserError
from samop.figures import curvature_parts, looks
from samop.figures.spectrum import SMOOTH, smoothed
from samop.flatness import Density

WIDTHS = (4, 16, 64, 128)
GREY, BLUE = (to_hex(looks.LOOKS[k][0]) for k in ("base", "sam"))
PROBES, STEPS = 3, 8


def accuracy(hidden, noise, s, rho):
    gain = 0 if rho is None else 0.1 - abs(rho - 0.1)
    return [(0.6 + gain, 0.6 + gain)] * 6


def curvature(hidden, noise, s, rho, epoch):
    rng = np.random.default_rng([hidden, s, int(1000 * (rho or 0)), int(10 * noise)])
    top = 3.0 * hidden**0.3 * math.exp(0.1 * rng.normal()) * (1 + noise) * (1 + epoch / 6)
    top *= 1 if rho is None else 2 * hidden**-0.3
    row = {"lambda_max": top, "trace": 4 * top, "s2": 1.5 * top, "ggn_lambda_max": 0.9 * top}
    row |= {"loss": math.exp(-0.6 * epoch * (0.8 if rho else 1.0))}
    if hidden == 64 and s == 1 and rho:
        row["lambda_max_converged"] = False
    if epoch == 6:
        nodes = np.sort(rng.normal(0, 0.05 * top, (PROBES, STEPS)), axis=1)
        nodes[:, -1] = top
        weights = rng.uniform(0.5, 1, (PROBES, STEPS))
        weights /= weights.sum(axis=1, keepdims=True)
        row |= {"density_nodes": nodes.ravel().tolist(), "density_probes": PROBES}
        row |= {"density_weights": weights.ravel().tolist(), "eigenvalues": [top, top / 2]}
    return row


def written(folder, value=curvature, epochs=(0, 2, 4, 6), grid=None, **kwargs):
    shape = {"widths": WIDTHS, "rhos": (0.05, 0.1), "seeds": 3, **kwargs}
    runs = grid or planted.grid(accuracy, **shape)
    planted.sweep(folder, planted.measured(runs, value, epochs))
    table = results.load(folder)
    return table, flatness.load(folder, table)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sweep"), noises=(0.0, 0.4))


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title("left") == title)


def drawn(axes, color, marker=None):
    """The line of a colour, or its markers: the y values."""
    for line in axes.lines:
        wanted = line.get_marker() == marker if marker else len(line.get_xdata()) > 1
        if to_hex(line.get_color()) == color and wanted and line.get_linewidth() > 1:
            return np.array(line.get_ydata(), float)
    raise AssertionError(f"no {color} line in {axes.get_title('left')}")


def test_curvature_shows_both_and_their_ratio(tables):
    figure = figures.curvature(*tables)
    assert len(figure.axes) == 2 * 2 * 4  # conditions × rows × (three quantities and the loss)
    table = flatness.compare(*tables)
    equal = flatness.compare(*tables, at="equal_loss")
    for noise, label in ((0.0, "Clean labels"), (0.4, "40 % label noise")):
        for name, symbol in (("lambda_max", "λ_max"), ("trace", "trace"), ("s2", "s₂")):
            rows = table[(table["label_noise"] == noise) & (table["quantity"] == name)]
            axes = panel(figure, f"{label} · {symbol}")
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
            assert list(drawn(axes, GREY)) == pytest.approx(list(rows["base_mean"]))
            assert list(drawn(axes, BLUE)) == pytest.approx(list(rows["sam_mean"]))
            segments = [s for c in axes.collections for s in c.get_segments()]
            ends = sorted(float(y) for s in segments for y in s[:, 1])
            expected = rows[["base_low95", "base_high95", "sam_low95", "sam_high95"]].to_numpy()
            assert ends == pytest.approx(sorted(expected.ravel()))
            axes = panel(figure, f"{label} · {symbol}: SAM / SGD")
            assert list(drawn(axes, BLUE)) == pytest.approx(list(rows["ratio"]))
            here = equal[(equal["label_noise"] == noise) & (equal["quantity"] == name)]
            color = to_hex(looks.LOOKS["equal"][0])
            assert list(drawn(axes, color)) == pytest.approx(list(here["ratio"]))
            low, high = axes.get_ylim()
            assert low < min(1, rows["ratio"].min())
            assert max(1, rows["ratio"].max()) < high
    shown = texts(figure)
    for words in (
        "How sharp the networks of SAM and SGD are as they grow", "digits · mlp", "3 seeds",
        "curvature of the training loss on 100 examples at the last epoch (6)",
        "equal epochs (6), not equal compute", "ρ chosen on validation per width",
        "for each seed by the other seeds", "largest eigenvalue of the Hessian",
        "per doubling of parameters", "← SAM flatter    SGD flatter →", "ρ*",
        "95 % t interval of the geometric mean, n = 3", "ratio at equal training loss",
        "hollow: not converged, λ_max in 2 of 48 runs",
    ):  # fmt: skip
        assert words in shown, words


def test_points_that_did_not_converge_are_hollow(tables):
    figure = figures.curvature(*tables)
    axes = panel(figure, "Clean labels · λ_max")
    hollow = [li for li in axes.lines
              if li.get_markerfacecolor() == "white" and len(li.get_xdata())]  # fmt: skip
    assert len(hollow) == 1
    assert to_hex(hollow[0].get_color()) == BLUE
    table = flatness.compare(*tables)
    rows = table[(table["quantity"] == "lambda_max") & (table["width"] == "64-64")]
    assert list(hollow[0].get_ydata()) == pytest.approx([rows["sam_mean"].iloc[0]])
    trace = panel(figure, "Clean labels · trace")
    assert not [li for li in trace.lines
                if li.get_markerfacecolor() == "white" and len(li.get_xdata())]  # fmt: skip


def test_a_trace_of_both_signs(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        return row | ({"trace": -2.0} if hidden == 4 and s == 0 and rho else {})

    runs, measured = written(tmp_path, value, epochs=[6])
    figure = figures.curvature(runs, measured)
    figure.draw_without_rendering()
    axes = panel(figure, "trace")
    assert axes.get_yscale() == "symlog"
    table = flatness.compare(runs, measured)
    rows = table[table["quantity"] == "trace"]
    assert list(drawn(axes, BLUE)) == pytest.approx(list(rows["sam_mean"]))
    ratio = drawn(panel(figure, "trace: SAM / SGD"), BLUE)
    assert list(np.isnan(ratio)) == [True, False, False, False]
    shown = texts(figure)
    assert "no ratio (signs not clear): 4-4" in shown
    assert "trace of the Hessian; axis linear around 0" in shown
    assert "arithmetic where signs are not clear" in shown
    assert panel(figure, "λ_max").get_yscale() == "log"


def test_gauss_newton_has_a_figure_of_its_own(tables):
    found = figures.curvatures(*tables)
    assert set(found) == {"curvature", "curvature_ggn", "spectrum", "curvature_training"}
    assert "Clean labels · GGN λ_max" in texts(found["curvature_ggn"])
    assert len(found["curvature_ggn"].axes) == 2 * 2 * 2


def test_spectrum_of_the_ends(tables):
    runs, measured = tables
    figure = figures.spectrum(runs, measured)
    pairs = flatness.pairs(runs, measured)
    pairs = pairs[pairs["quantity"] == "lambda_max"]
    assert len(figure.axes) == 4
    for axes, (noise, hidden) in zip(figure.axes, [(n, h) for n in (0.0, 0.4) for h in (4, 128)]):
        assert f"{hidden}-{hidden}" in axes.get_title("left")
        here = pairs[(pairs["label_noise"] == noise) & (pairs["width"] == f"{hidden}-{hidden}")]
        middle = here.sort_values("log2_ratio").iloc[1]  # of three seeds
        assert f"seed {middle['seed']}, ρ = 0.1" in "\n".join(t.get_text() for t in axes.texts)
        assert (axes.get_xscale(), axes.get_yscale()) == ("asinh", "log")
        tops = [flatness.density(measured, middle[f"{k}_point"]).eigenvalues
                for k in ("base", "sam")]  # fmt: skip
        ticks = [
            [segment[0, 0] for segment in collection.get_segments()]
            for collection in axes.collections
            if hasattr(collection, "get_segments") and len(collection.get_segments()) == 2
        ]
        assert ticks == [pytest.approx(list(top)) for top in tops]
        low, high = axes.get_xlim()
        assert all(low < top < high for top in np.concatenate(tops))
    shown = texts(figure)
    for words in (
        "The Hessian's eigenvalues, smallest and widest network", "272 parameters",
        "25k parameters",
        "± standard error over 3 random probes", "the 2 largest eigenvalues", "λ₀ = ",
        "whose ratio of λ_max is the median of the seeds", "height of one single eigenvalue",
        "density per unit of asinh(λ/λ₀)", "stochastic Lanczos quadrature",
    ):  # fmt: skip
        assert words in shown, words


def test_the_smoothed_density_integrates_to_one():
    rng = np.random.default_rng(0)
    weights = rng.uniform(size=(4, 6))
    weights /= weights.sum(axis=1, keepdims=True)
    nodes = rng.normal(0, 3, (4, 6))
    density = Density(nodes, weights, np.array([]), 100, 1)
    grid = np.linspace(-8, 8, 4001)
    mean, error = smoothed(density, grid, 0.1)
    assert np.trapezoid(mean, grid) == pytest.approx(1)
    # A probe's density is the sum of its Gaussians; the error is that of the mean over probes.
    at = 2000
    each = [
        sum(w * math.exp(-0.5 * ((grid[at] - math.asinh(x / 0.1)) / SMOOTH) ** 2)
            for x, w in zip(*probe)) / SMOOTH / math.sqrt(2 * math.pi)
        for probe in zip(nodes, weights)
    ]  # fmt: skip
    assert mean[at] == pytest.approx(np.mean(each))
    assert error[at] == pytest.approx(np.std(each, ddof=1) / 2)
    alone = Density(nodes[:1], weights[:1], np.array([]), 100, 1)
    assert np.isnan(smoothed(alone, grid, 0.1)[1]).all()


def test_training_shows_both_against_epoch_and_loss(tables):
    runs, measured = tables
    figure = figures.curvature_training(runs, measured)
    assert len(figure.axes) == 2 * 2 * 4
    rows = flatness.tracks(measured)
    for axes, hidden in zip(figure.axes[:4], WIDTHS):
        assert axes.get_title("left") == f"Clean labels · {hidden}-{hidden}"
        for color, rho in ((GREY, None), (BLUE, 0.1)):
            tracks = [rows[f"w{hidden}_rho{rho}_noise0.0_seed{s}"] for s in range(3)]
            values = [[row["lambda_max"] for row in track] for track in tracks]
            expected = np.exp(np.log(values).mean(axis=0))
            assert list(drawn(axes, color)) == pytest.approx(list(expected))
        assert axes.get_xlabel() == "epoch"
    for axes in figure.axes[4:8]:
        line = next(li for li in axes.lines if to_hex(li.get_color()) == BLUE and li.get_lw() > 1)
        assert list(line.get_xdata()) == pytest.approx(
            [math.exp(-0.48 * epoch) for epoch in (0, 2, 4, 6)]
        )
        low, high = axes.get_xlim()
        assert (axes.get_xscale(), low > high) == ("log", True)
    assert "λ_max of SAM and SGD along training" in texts(figure)
    assert "hollow: not converged in some run" in texts(figure)
    # The planted configs have no momentum: there is no edge of stability to draw.
    assert "momentum" not in texts(figure)


def test_the_edge_of_stability_where_it_is_near(tmp_path):
    grid = planted.grid(accuracy, widths=(4,), rhos=(0.1,), seeds=2)
    for item in grid:
        item["config"]["optimizer"].update(
            momentum=0.9, schedule="step", milestones=[0.5], factor=0.1, warmup=0.0, lr=0.5
        )
    figure = figures.curvature_training(*written(tmp_path, grid=grid))
    (edge,) = [li for li in figure.axes[0].lines if li.get_drawstyle() == "steps-post"]
    assert list(edge.get_xdata()) == [0, 2, 4, 6]
    assert list(edge.get_ydata()) == pytest.approx([7.6, 7.6, 76, 76])
    assert "2(1 + momentum)/η of SGD" in texts(figure)


def test_widths_that_are_not_shown_are_named(tmp_path):
    widths = (4, 8, 16, 32, 64, 128)
    figure = figures.curvature_training(*written(tmp_path, widths=widths, seeds=2))
    assert len(figure.axes) == 2 * 4
    assert "not shown: the widths 8-8, 64-64" in texts(figure)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"seeds": 1},
        {"widths": (16,), "rhos": (0.1,), "seeds": 1},
        {"rhos": ()},
        {"noises": (0.0, 0.2, 0.4)},
        {"epochs": (6,), "widths": (4, 8)},
    ],
)
def test_other_shapes(tmp_path, kwargs):
    runs, measured = written(tmp_path, **kwargs)
    found = figures.curvatures(runs, measured)
    assert ("curvature_training" in found) == ("epochs" not in kwargs)
    for figure in found.values():
        inside = [t for axes in figure.axes for t in (*axes.texts, axes.title, axes._left_title)]
        assert_on_the_page(figure, inside)
        # No title runs into its neighbour.
        for axes in figure.axes:
            box = axes._left_title.get_window_extent()
            for other in figure.axes:
                if other is not axes and axes._left_title.get_text():
                    assert not box.overlaps(other._left_title.get_window_extent())


def test_only_what_was_measured_is_drawn(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        return {k: row[k] for k in ("lambda_max", "loss")}

    runs, measured = written(tmp_path, value, epochs=[6])
    found = figures.curvatures(runs, measured)
    assert set(found) == {"curvature"}
    assert len(found["curvature"].axes) == 2 * 2
    with pytest.raises(UserError, match="spectrum: no network"):
        figures.spectrum(runs, measured)
    with pytest.raises(UserError, match="two steps"):
        figures.curvature_training(runs, measured)
    with pytest.raises(UserError, match="none of ggn_trace was measured"):
        figures.curvature(runs, measured, ("ggn_trace",))


def test_a_quantity_of_one_condition(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        if noise:
            row.pop("trace")
        return row

    figure = figures.curvature(*written(tmp_path, value, epochs=[6], noises=(0.0, 0.4)))
    figure.draw_without_rendering()
    assert len(figure.axes) == 2 * 2 * 4
    assert not [li for li in panel(figure, "40 % label noise · trace").lines if li.get_lw() > 1.4]


def test_nothing_measured(tmp_path):
    runs, measured = written(tmp_path, lambda *place: None, widths=(4,), seeds=2)
    assert figures.curvatures(runs, measured) == {}
    for draw in (figures.curvature, figures.spectrum, figures.curvature_training):
        with pytest.raises(UserError):
            draw(runs, measured)


def test_one_of_several_variants(tmp_path):
    grid = planted.family(
        lambda name, hidden, noise, s, rho: (0.5, 0.5 if name == "base" else 0.6),
        ("sam", "asam"), widths=(4, 8), rhos=(0.1,), seeds=2,
    )  # fmt: skip
    runs, measured = written(tmp_path, epochs=[1, 2], grid=grid)
    arm = comparison.arms(runs)[1]
    figure = figures.curvature(comparison.only(runs, arm), measured)
    figure.draw_without_rendering()
    assert len(figure.axes) == 2 * 4
    assert "How sharp the networks of ASAM and SGD are" in texts(figure)
    # All at once: a panel for each.
    assert len(figures.curvature(runs, measured).axes) == 2 * 2 * 4


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.3, 1.6, [0.5, 1]), (1.1, 1.45, [1.2, 1.3]), (2, 3000, [10, 100, 1000]),
        (1e-9, 1e9, [1e-9]),
    ],
)  # fmt: skip
def test_ticks_of_a_logarithmic_axis(low, high, ticks):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    curvature_parts.log_ticks(axes.yaxis, low, high)
    places = axes.get_yticks()
    assert set(np.round(ticks, 12)) <= set(np.round(places, 12))
    assert 3 <= len(places) <= 7
    assert curvature_parts.plain(2000.0) == "2,000"
    assert curvature_parts.plain(1e-5) == "1e−05".replace("−0", "−")
