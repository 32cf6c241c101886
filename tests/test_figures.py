import itertools
import subprocess
import sys
import types

import matplotlib
import numpy as np
import planted
import pytest
from absl import flags
from matplotlib.colors import to_hex
from scipy import optimize

from samop import comparison, figures, report, results, throughput, wording
from samop.errors import UserError
from samop.figures import family

GAIN = {4: -0.37, 8: -0.2, 16: 0.005, 32: 0.006, 64: 0.01, 128: 0.012}


def collapse(hidden, noise, s, rho):
    """Small networks lose far more than wide ones gain; ρ = .1 is best."""
    rng = np.random.default_rng([hidden, s, int(1000 * (rho or 0))])
    gain = 0 if rho is None else GAIN[hidden] * (10 if noise and hidden > 8 else 1)
    gain -= 0 if rho is None else 0.02 * abs(rho - 0.1)
    return [(0.6 + gain, 0.6 + gain + 0.002 * rng.normal())] * 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    grid = planted.grid(collapse, widths=GAIN, noises=(0.0, 0.4))
    return results.load(planted.sweep(tmp_path_factory.mktemp("sweep"), grid))


def headline(axes):
    return max(axes.lines, key=lambda line: line.get_linewidth())


def texts(figure):
    found = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title("left"), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [label.get_text() for label in axes.get_xticklabels()]
    return "\n".join([*found, *(t.get_text() for t in figure.legends[0].get_texts())])


def test_width_gap_shows_the_gains(runs):
    figure = figures.width_gap(runs)
    gains = results.gains(runs)
    assert [a.get_title("left") for a in figure.axes] == ["Clean labels", "40 % label noise"]
    for axes, noise in zip(figure.axes, (0.0, 0.4)):
        rows = gains[gains["label_noise"] == noise]
        line = headline(axes)
        assert axes.get_xscale() == "log"
        assert list(line.get_xdata()) == list(rows["parameters"])
        low, high = axes.get_ylim()
        drawn = np.array(line.get_ydata())
        seen = ~np.isnan(drawn)
        assert drawn[seen] == pytest.approx(rows["gain"][seen].to_numpy())
        # The collapse is cut off and written; what SAM gains fills the panel.
        assert list(seen) == [False, False, True, True, True, True]
        assert high < 2 * rows["gain_high95"].max()
        assert low > -high
        values = [t.get_text() for t in axes.texts]
        assert any(v.startswith(("−37", "−36")) for v in values)
        drawn_rhos = [li for li in axes.lines if li.get_linewidth() == 1.1]
        assert len(drawn_rhos) == 3
        assert len({(li.get_marker(), to_hex(li.get_color())) for li in drawn_rhos}) == 3
    shown = texts(figure)
    for words in (
        "What SAM gains over SGD", "digits · mlp", "last epoch (2)", "4 seeds", "SAM better",
        "95 % t interval", "paired by seed, n = 4", "fixed ρ = 0.05", "below the axis",
        "272\n4-4\n0.1", "25k\n128-128\n0.1", "per doubling of the parameters",
        "3 largest widths", "ρ chosen on validation", "own scale",
    ):  # fmt: skip
        assert words in shown, words


def test_no_cut_without_a_collapse(tmp_path):
    def mild(hidden, noise, s, rho):
        return [(0.6, 0.6 + (0 if rho is None else GAIN[hidden] if hidden > 8 else -0.01))]

    axes = figures.width_gap(
        results.load(planted.sweep(tmp_path, planted.grid(mild, widths=GAIN)))
    ).axes[0]
    assert not np.isnan(headline(axes).get_ydata()).any()
    assert axes.get_ylim()[0] < -1


def test_accuracy_shows_both_arms(runs):
    figure = figures.accuracy(runs, epoch="best")
    gains = results.gains(runs, epoch="best")
    for axes, noise in zip(figure.axes, (0.0, 0.4)):
        rows = gains[gains["label_noise"] == noise]
        assert list(axes.lines[0].get_ydata()) == list(rows["base_mean"])
        assert list(axes.lines[1].get_ydata()) == list(rows["sam_mean"])
        assert axes.get_ylabel() == "test accuracy (%)"
    assert "best epoch on validation" in texts(figure)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"seeds": 1},
        {"rhos": (0.1,)},
        {"widths": (16,)},
        {"seeds": 1, "rhos": (0.1,), "widths": (4,)},
        {"noises": (0.0, 0.2, 0.4, 0.6)},
        {"rhos": tuple(0.01 * 2**k for k in range(8)), "seeds": 2},
    ],
)
def test_other_shapes(tmp_path, kwargs):
    runs = results.load(planted.sweep(tmp_path, planted.grid(collapse, **kwargs)))
    for figure in (figures.width_gap(runs), figures.accuracy(runs)):
        figure.draw_without_rendering()
        assert len(figure.axes) == len(kwargs.get("noises", (0,)))
        # The legend and the heads are inside the page.
        page = figure.bbox
        for item in (*figure.legends, *figure.texts):
            box = item.get_window_extent()
            assert page.x0 <= box.x0
            assert box.x1 <= page.x1
            assert page.y0 <= box.y0
            assert box.y1 <= page.y1


def test_loss(tmp_path):
    def value(hidden, noise, s, rho):
        loss = 10.0 / hidden**2 * (1 if rho is None else 0.9)
        return [(loss, loss * (1 + 0.01 * s))]

    grid = planted.grid(value, rhos=(0.1,), widths=GAIN)
    runs = results.load(planted.sweep(tmp_path, grid, planted.LOSS))
    assert "gain (loss)" in texts(figures.width_gap(runs))
    assert figures.accuracy(runs).axes[0].get_yscale() == "log"


def test_nothing_to_draw(tmp_path):
    runs = results.load(planted.sweep(tmp_path, planted.grid(collapse, rhos=())))
    with pytest.raises(UserError, match="no gain to draw"):
        figures.width_gap(runs)


def test_close_widths_do_not_write_over_each_other(tmp_path):
    def value(hidden, noise, s, rho):
        return [(0.5, 0.5)]

    grid = planted.grid(value, widths=(1000, 1010, 1020, 4000), rhos=(0.1,), seeds=2)
    axes = figures.width_gap(results.load(planted.sweep(tmp_path, grid))).axes[0]
    assert [t.get_text().split("\n")[1] for t in axes.get_xticklabels()] == [
        "4000-4000", "1020-1020",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "label"),
    [(610, "610"), (999.6, "1.0k"), (9830, "9.8k"), (9960, "10k"), (26122, "26k"),
     (999_700, "1.0M"), (1_430_000, "1.4M"), (179e6, "179M"), (1.6e9, "1.6G")],
)  # fmt: skip
def test_count_label(count, label):
    assert figures.count_label(count) == label


def test_written_files_are_reproducible(tmp_path):
    planted.sweep(tmp_path, planted.grid(collapse, seeds=2))
    names = ["results.csv", "slopes.csv", "runs.csv"]
    names += [f"figures/{n}.{k}" for n in ("width_gap", "accuracy") for k in ("png", "pdf")]
    before = dict(matplotlib.rcParams)
    first = report.write(tmp_path)
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert report.write(tmp_path) == first
    assert [(tmp_path / name).read_bytes() for name in names] == contents
    assert len(list((tmp_path / "figures").iterdir())) == 4
    assert dict(matplotlib.rcParams) == before
    assert all(f"wrote {tmp_path / name}" in first for name in names)
    assert "\ncompute:" not in first
    header = contents[0].decode().splitlines()[0].split(",")
    assert {"width", "parameters", "choice", "rho_star", "gain", "gain_low95"} <= set(header)
    for content in (contents[4], contents[6]):
        assert b"/FontFile2" in content  # TrueType, embedded
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def test_save_takes_any_stem(runs, tmp_path):
    paths = figures.save(figures.accuracy(runs), tmp_path / "new" / "gap.v1")
    assert [p.name for p in paths] == ["gap.v1.png", "gap.v1.pdf"]
    assert sorted(paths, reverse=True) == sorted((tmp_path / "new").iterdir(), reverse=True)


def test_compute_is_told_where_it_was_recorded(runs, tmp_path, caplog):
    timing = tmp_path / "points" / runs["point"].iloc[0] / "timing.jsonl"

    def compute():
        return throughput.compute(runs, throughput.read(tmp_path, runs))

    assert compute() == ""
    timing.parent.mkdir(parents=True)
    timing.write_text('{"runs": 2, "seconds": 5.0}\n{"seconds": 3.5}\n')
    assert "6 s of training recorded by 1 runs" in compute()
    # A killed process leaves half a line: said, and the rest still counts.
    timing.write_text('{"seconds": 4.0}\n{"sec')
    assert "4 s of training recorded by 1 runs" in compute()
    assert "timing.jsonl, line 2 is unreadable" in caplog.text


def test_command_line(tmp_path):
    planted.sweep(tmp_path, planted.grid(collapse, seeds=2, rhos=()))
    (tmp_path / "points" / "w4_rhoNone_noise0.0_seed0" / "DONE").unlink()
    command = [sys.executable, "-m", "samop.report", f"--workdir={tmp_path}", "--allow_incomplete"]
    allowed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (allowed.returncode, allowed.stderr) == (0, "")
    assert "INCOMPLETE: 1 of 6" in allowed.stdout
    assert "width_gap" not in allowed.stdout
    assert f"wrote {tmp_path / 'results.csv'}" in allowed.stdout


@pytest.mark.parametrize(
    ("workdir", "args", "words"),
    [
        ("nowhere", [], "does not exist"),
        (".", [], "holds no plan.json"),
        ("", [], "--workdir=DIR is needed"),
        (".", ["DIR"], "'DIR' is not understood"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, workdir, args, words):
    monkeypatch.chdir(tmp_path)
    given = types.SimpleNamespace(workdir=workdir, allow_incomplete=False)
    monkeypatch.setattr(report.flags, "FLAGS", given)
    assert report._main(["report", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_importing_the_report_defines_no_flags():
    assert "allow_incomplete" not in flags.FLAGS


# Several variants in one figure.

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
    looks = {(look[1], str(look[2])) for look in family.LOOKS}
    assert len(looks) == len(family.LOOKS)
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
        figure.draw_without_rendering()
        page = figure.bbox
        beside = [t for axes in figure.axes for t in axes.texts]
        for item in (*figure.legends, *figure.texts, *beside):
            box = item.get_window_extent()
            assert page.x0 <= box.x0, item
            assert box.x1 <= page.x1, item
            assert page.y0 <= box.y0, item
            assert box.y1 <= page.y1, item
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
