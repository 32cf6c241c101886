"""Several variants of SAM in one figure: gains, metric, labels beside the lines."""

import itertools

import numpy as np
import planted
import pytest
from figure_checks import assert_on_the_page, texts
from matplotlib.colors import to_hex
from scipy import optimize
from test_figures import GAIN

from samop import comparison, figures, results, wording
from samop.errors import UserError
from samop.figures import family, looks

FAMILY = ("sam", "asam", "gsam", "looksam", "msam")
SIZE = {"sam": 1.0, "asam": 1.3, "gsam": 0.7, "looksam": 0.5, "msam": -0.2}
EPOCHS = {"base": 6, "sam": 3, "asam": 3, "gsam": 3, "looksam": 5, "msam": 6}


def member(name, hidden, noise, s, rho):
    """As `collapse`, more or less of it; a tenth of it without noise."""
    rng = np.random.default_rng([hidden, s, int(10 * noise), len(name)])
    gain = 0 if name == "base" else GAIN[hidden] * SIZE[name] * (1 if noise else 0.1)
    return (0.6 + gain, 0.6 + gain + 0.0005 * rng.normal())


@pytest.fixture(scope="module")
def variant_runs(tmp_path_factory):
    grid = planted.family(
        member, FAMILY, widths=(8, 16, 32, 64), seeds=4, noises=(0.0, 0.4), epochs=EPOCHS,
        train__budget="grad_evals",
    )  # fmt: skip
    return results.load(planted.sweep(tmp_path_factory.mktemp("family"), grid))


def drawn(axes, least=3):
    """Lines with data at each width, at least so many: name of the colour → (x, y)."""
    inside = [li for li in axes.lines if li.get_transform() == axes.transData]
    long = [li for li in inside if len(li.get_xdata()) >= least and li.get_linestyle() != "None"]
    return {to_hex(li.get_color()): (li.get_xdata(), li.get_ydata()) for li in long}


def test_variants_show_the_gains(variant_runs):
    figure = figures.variants(variant_runs)
    gains = results.gains(variant_runs)
    assert [a.get_title("left") for a in figure.axes] == ["Clean labels", "40 % label noise"]
    for axes, noise in zip(figure.axes, (0.0, 0.4)):
        here = gains[gains["label_noise"] == noise]
        lines = drawn(axes)
        assert len(lines) == len(FAMILY)
        for name, (x, y) in zip(FAMILY, lines.values()):
            rows = here[here["transform"] == name]
            assert list(y) == pytest.approx(list(rows["gain"]))
            # Moved apart, but nearer to their width than to the next.
            counts = rows["parameters"].to_numpy()
            assert np.abs(np.log(x / counts)).max() < 0.5 * np.diff(np.log(counts)).min()
        # All points of a width stand at places of their own.
        at = np.array([x for x, _ in lines.values()])
        assert all(len(set(column)) == len(FAMILY) for column in at.T)
        bars = [c for c in axes.collections if hasattr(c, "get_segments") and c.get_segments()]
        segments = [segment for bar in bars for segment in bar.get_segments() if segment.ndim == 2]
        halves = [np.ptp(segment[:, 1]) / 2 for segment in segments]
        cut = here["gain"] < axes.get_ylim()[0]
        expected = np.where(cut, np.nan, here["gain_half95"])
        assert np.array(halves) == pytest.approx(expected[~np.isnan(expected)])
        assert axes.get_ylabel() == "← SGD better    gain (points)    variant better →"
    shown = texts(figure)
    for word in (
        "What the variants of SAM gain over SGD", "digits · mlp", "at the last epoch of each run",
        "4 seeds", "equal gradient evaluations, not equal epochs: SGD 6 epochs; SAM, ASAM, GSAM 3",
        "LookSAM 5; MSAM 6", "interval of the gain over SGD, paired by seed, n = 4",
        "ρ chosen on validation", "  SAM", "  LookSAM", "own scale",
    ):  # fmt: skip
        assert word in shown, word


def test_values_below_the_axis_are_written(variant_runs):
    figure = figures.variants(variant_runs)
    axes = figure.axes[1]
    gains = results.gains(variant_runs)
    lost = gains[(gains["label_noise"] == 0.4) & (gains["gain"] < axes.get_ylim()[0])]
    assert set(lost["width"]) == {"8-8"}
    written = [t.get_text() for t in axes.texts if "…" in t.get_text()]
    low, high = lost["gain"].min(), lost["gain"].max()
    assert written == [f"{low:.0f} … {high:.0f}".replace("-", "−")]
    markers = [li for li in axes.lines if li.get_marker() == "v" and len(li.get_xdata()) == 1]
    assert len(markers) == len(lost)
    assert "below the axis: values written" in texts(figure)


def test_looks_differ_without_colour_and_stay_with_the_variant(variant_runs):
    figure = figures.variants(variant_runs)
    without = {(marker, str(dash)) for _, marker, dash in looks.KINDS}
    assert len(without) == len(looks.KINDS)
    colours = list(drawn(figure.axes[0]))
    some = variant_runs[~variant_runs["transform"].isin(["sam", "gsam"])]
    fewer = list(drawn(figures.variants(some).axes[0]))
    assert fewer == [colours[1], colours[3], colours[4]]


def test_panels_share_a_scale_they_can_be_read_in(tmp_path, variant_runs):
    limits = [axes.get_ylim() for axes in figures.variants(variant_runs).axes]
    assert limits[0] != limits[1]

    def alike(name, hidden, noise, s, rho):
        return (0.5, 0.5 + (0 if name == "base" else 0.01 + 0.01 * noise + 0.001 * s))

    grid = planted.family(alike, ("sam", "asam"), noises=(0.0, 0.4))
    figure = figures.variants(results.load(planted.sweep(tmp_path, grid)))
    limits = [axes.get_ylim() for axes in figure.axes]
    assert limits[0] == limits[1]
    assert "own scale" not in texts(figure)


def test_accuracy_of_several_variants(variant_runs):
    figure = figures.accuracy(variant_runs)
    assert len(figure.axes) == 2
    gains = results.gains(variant_runs)
    for axes, noise in zip(figure.axes, (0.0, 0.4)):
        here = gains[gains["label_noise"] == noise]
        lines = list(drawn(axes).values())
        assert len(lines) == 1 + len(FAMILY)
        assert list(lines[0][1]) == pytest.approx(list(here["base_mean"])[:4])
        for name, (_, y) in zip(FAMILY, lines[1:]):
            assert list(y) == pytest.approx(list(here[here["transform"] == name]["sam_mean"]))
    for word in ("SGD", "LookSAM", "interval of the mean of SGD", "a variant's mean"):
        assert word in texts(figure)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"seeds": 1},
        {"widths": (16,)},
        {"widths": (8, 32), "names": ("sam", "asam", "gsam", "looksam")},
        {"noises": (0.0, 0.2, 0.4, 0.6)},
        {"names": tuple(wording.LABELS)},
        {"optimizer__name": "sam"},
    ],
)
def test_other_shapes_of_variants(tmp_path, kwargs):
    kwargs = dict(kwargs)
    names = kwargs.pop("names", ("sam", "asam"))
    if kwargs.pop("optimizer__name", ""):
        # Kinds whose labels do not fit beside the lines.
        runs = [planted.run(h, s, None, [(0.5, 0.5)]) for h in (4, 8) for s in range(2)]
        runs += [
            planted.run(h, s, 0.1, [(0.5, 0.6)], optimizer__m=m, optimizer__ascent=ascent)
            for h in (4, 8)
            for s in range(2)
            for m in (0, 16)
            for ascent in ("normalized", "unnormalized")
        ]
    else:
        runs = planted.family(
            lambda name, *key: member("sam" if name in wording.LABELS else name, *key),
            names,
            **{"widths": (8, 16, 32), "rhos": (0.1,), "seeds": 2, **kwargs},
        )
    runs = results.load(planted.sweep(tmp_path, runs))
    one = comparison.only(runs, comparison.arms(runs)[-1])
    for figure in (figures.variants(runs), figures.accuracy(runs), figures.width_gap(one)):
        assert_on_the_page(figure, [t for axes in figure.axes for t in axes.texts])
        for axes in figure.axes:
            low, high = axes.get_xlim()
            for x, _ in drawn(axes, 1).values():
                assert low < min(x)
                assert max(x) < high
        # Names beside the lines do not run into each other.
        for axes in figure.axes:
            names_ = [t.get_window_extent() for t in axes.texts if t.get_text().startswith("  ")]
            for one_, other in itertools.pairwise(names_):
                assert other.y0 >= one_.y0 + 0.5 * one_.height


def test_no_variants_to_draw(tmp_path):
    runs = planted.family(member, ("sam", "asam"), widths=(8, 16))
    runs = [r for r in runs if r["config"]["optimizer"]["name"] != "base"]
    with pytest.raises(UserError, match="variants: no gain to draw"):
        figures.variants(results.load(planted.sweep(tmp_path, runs)))
    with pytest.raises(UserError, match="epoch='first'"):
        figures.variants(results.load(tmp_path), epoch="first")


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_least(seed):
    rng = np.random.default_rng(seed)
    wanted, gap = np.sort(rng.uniform(0.2, 0.8, 6)), 0.08
    spots = family.spread(wanted, gap)
    assert (np.diff(spots) >= gap - 1e-12).all()
    between = [{"type": "ineq", "fun": lambda z, i=i: z[i + 1] - z[i] - gap} for i in range(5)]
    best = optimize.minimize(
        lambda z: ((z - wanted) ** 2).sum(), np.linspace(0, 1, 6), method="SLSQP",
        constraints=between, options={"ftol": 1e-14},
    )  # fmt: skip
    assert spots == pytest.approx(best.x, abs=1e-5)


def test_labels_stay_in_the_panel():
    assert list(family.spread(np.array([1.0, 1.0, 1.0]), 0.1)) == pytest.approx([0.8, 0.9, 1.0])
    assert list(family.spread(np.zeros(3), 0.1)) == pytest.approx([0.0, 0.1, 0.2])
    # Too many for the gap: as far apart as there is room.
    assert list(family.spread(np.full(5, 0.5), 0.5)) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert list(family.spread(np.array([2.0]), 0.1)) == [1.0]
    assert len(family.spread(np.empty(0), 0.1)) == 0
