import subprocess
import sys

import matplotlib
import numpy as np
import planted
import pytest
from absl import flags
from figure_checks import assert_on_the_page, texts
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from samop import figures, report, results, throughput
from samop.errors import UserError

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


def bars(axes):
    found = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    return [segment for lines in found for segment in lines.get_segments()]


def test_an_interval_without_neighbours_is_a_bar(tmp_path):
    """Of a sweep that is half done, say: a band between points would not show it."""
    grid = [r for r in planted.grid(collapse, widths=GAIN) if r["hidden"] in (8, 32, 64)]
    for r in grid:
        r["done"] = r["hidden"] == 8 or r["config"]["optimizer"]["name"] != "base"
    runs = results.load(planted.sweep(tmp_path, grid), allow_incomplete=True)
    figure = figures.width_gap(runs)
    (row,) = results.gains(runs).dropna(subset=["gain"]).to_dict("records")
    (bar,) = bars(figure.axes[0])
    wanted = [row["gain"] - row["gain_half95"], row["gain"] + row["gain_half95"]]
    np.testing.assert_allclose(bar, [[row["parameters"], y] for y in wanted])
    whole = figures.width_gap(results.load(planted.sweep(tmp_path / "w", planted.grid(collapse))))
    assert bars(whole.axes[0]) == []


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
        assert len(figure.axes) == len(kwargs.get("noises", (0,)))
        assert_on_the_page(figure)


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
    stems = ("width_gap", "accuracy", "learning_curves", "best_rho")
    names += [f"figures/{stem}.{kind}" for stem in stems for kind in ("png", "pdf")]
    names.append("report.html")
    before = dict(matplotlib.rcParams)
    first = report.write(tmp_path)
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert report.write(tmp_path) == first
    assert [(tmp_path / name).read_bytes() for name in names] == contents
    assert len(list((tmp_path / "figures").iterdir())) == 2 * len(stems)
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
    assert report.main([f"--workdir={workdir}", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_importing_the_report_defines_no_flags():
    assert "allow_incomplete" not in flags.FLAGS
