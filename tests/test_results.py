"""Gains, ρ and slopes against brute force on planted sweeps."""

import subprocess
import sys

import numpy as np
import pandas as pd
import planted
import pytest
from scipy import stats

from samop import report, results, statistics
from samop.errors import UserError

NAN = float("nan")


def by_name(runs):
    """(hidden, noise, seed, rho) → (validation, test) per epoch, straight from the planted runs."""
    found = {}
    for r in runs:
        opt, data = r["config"]["optimizer"], r["config"]["data"]
        rho = None if opt["name"] == "base" else opt["rho"]
        found[r["hidden"], data["label_noise"], r["config"]["seed"], rho] = r["values"]
    return found


def row_of(table, hidden, noise=0.0):
    rows = table[(table["width"] == f"{hidden}-{hidden}") & (table["label_noise"] == noise)]
    assert len(rows) == 1
    return rows.iloc[0]


def brute_best(values, rhos, seeds, split):
    """The ρ of the best mean, the smallest among equals; values[seed, rho] -> (val, test)."""
    means = [round(sum(values[s, r][split] for s in seeds) / len(seeds), 9) for r in rhos]
    return rhos[means.index(max(means))]


def test_load_reads_last_and_best_epoch(tmp_path):
    values = [(0.5, 0.6), (0.8, 0.7), (0.8, 0.9), (0.7, 0.65)]
    runs = [planted.run(4, 1, None, values), planted.run(4, 1, 0.1, values, noise=0.4)]
    table = results.load(planted.sweep(tmp_path, runs))
    assert list(table["optimizer"]) == ["SGD", "SAM"]
    assert list(table["rho"]) == [0.0, 0.1]
    assert list(table["label_noise"]) == [0.0, 0.4]
    row = table.iloc[0]
    assert (row["status"], row["dataset"], row["model"], row["width"]) == (
        "done", "digits", "mlp", "4-4",
    )  # fmt: skip
    assert (row["parameters"], row["seed"], row["epochs"], row["grad_evals"]) == (272, 1, 4, 40)
    assert (row["last_epoch"], row["last_test_accuracy"]) == (4, 0.65)
    # Epochs 2 and 3 are equal on validation: the earlier counts, whatever test says.
    assert (row["best_epoch"], row["best_test_accuracy"]) == (2, 0.7)
    assert results.metric(table) == results.Metric("accuracy", True, 100, "points")
    assert table.attrs["varying"] == []


@pytest.mark.parametrize("epoch", ["last", "best"])
def test_gains_agree_with_brute_force(tmp_path, epoch):
    rhos, seeds, noises = (0.05, 0.1, 0.2), 5, (0.0, 0.4)
    planted_runs = planted.random_grid(rhos=rhos, seeds=seeds, noises=noises)
    runs = results.load(planted.sweep(tmp_path, planted_runs))
    table = results.gains(runs, epoch=epoch)
    raw = {}
    for key, epochs in by_name(planted_runs).items():
        best = max(range(3), key=lambda e: (epochs[e][0], -e))
        raw[key] = epochs[2 if epoch == "last" else best]
    assert len(table) == 6
    for noise in noises:
        p_values, slope_gains = [], []
        for hidden in (4, 8, 16):
            cell = {(s, r): raw[hidden, noise, s, r] for s in range(seeds) for r in (None, *rhos)}
            everyone = list(range(seeds))
            left_out = [
                brute_best(cell, rhos, [o for o in everyone if o != s], 0) for s in everyone
            ]
            base = np.array([100 * cell[s, None][1] for s in everyone])
            sam = np.array([100 * cell[s, r][1] for s, r in zip(everyone, left_out)])
            row = row_of(table, hidden, noise)
            star = brute_best(cell, rhos, everyone, 0)
            assert row["rho_star"] == star
            assert (row["rho_low"], row["rho_high"]) == (min(left_out), max(left_out))
            assert row["rho_votes"] == left_out.count(star)
            assert row["edge"] == {0.05: "lowest", 0.1: "", 0.2: "highest"}[star]
            assert row["selection"] == "leave-one-seed-out"
            assert row["n"] == seeds
            for name, sample in (("base", base), ("sam", sam)):
                low, high = stats.t.interval(0.95, seeds - 1, sample.mean(), stats.sem(sample))
                assert row[f"{name}_mean"] == pytest.approx(sample.mean())
                assert row[f"{name}_half95"] == pytest.approx((high - low) / 2)
            expected = stats.ttest_rel(sam, base)
            interval = expected.confidence_interval(0.95)
            assert row["gain"] == pytest.approx(np.mean(sam - base))
            assert (row["gain_low95"], row["gain_high95"]) == pytest.approx(tuple(interval))
            assert row["p"] == pytest.approx(expected.pvalue)
            p_values.append(expected.pvalue)
            slope_gains.append(sam - base)
        adjusted = [row_of(table, h, noise)["p_holm"] for h in (4, 8, 16)]
        assert adjusted == pytest.approx(brute_holm(p_values))
        slopes = results.slopes(runs, epoch=epoch)
        slope = slopes[slopes["label_noise"] == noise].iloc[0]
        x = np.log2([64 * h + h**2 for h in (4, 8, 16)])
        fits = [np.polyfit(x, per_seed, 1)[0] for per_seed in np.array(slope_gains).T]
        expected = stats.ttest_1samp(fits, 0)
        assert slope["slope"] == pytest.approx(np.mean(fits))
        interval = expected.confidence_interval(0.95)
        assert (slope["slope_low95"], slope["slope_high95"]) == pytest.approx(tuple(interval))
        assert slope["p"] == pytest.approx(expected.pvalue)
        assert (slope["n"], slope["n_widths"], slope["n_left_out"]) == (seeds, 3, 0)


def brute_holm(p_values):
    """The definition: the largest, over all smaller p, of p times the number of p not below it."""
    return [
        min(1.0, max(q * sum(r >= q for r in p_values) for q in p_values if q <= p))
        for p in p_values
    ]


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, NAN, 0.7])[0] == 1.0
    assert np.isnan(statistics.holm([0.6, NAN, 0.7])[1])
    assert statistics.holm([NAN, 0.2])[1] == 0.2


def test_estimate_of_equal_differences():
    assert statistics.estimate([0.0, 0.0]) == (0.0, 0.0, 1.0, 2)
    assert statistics.estimate([1.0, 1.0]) == (1.0, 0.0, 0.0, 2)
    mean, half, p, n = statistics.estimate([1.0, NAN])
    assert (mean, n) == (1.0, 1)
    assert np.isnan([half, p]).all()


def test_oracle_and_fixed(tmp_path):
    planted_runs = planted.random_grid(1)
    runs = results.load(planted.sweep(tmp_path, planted_runs))
    raw = by_name(planted_runs)
    oracle = results.gains(runs, choice="oracle")
    assert set(oracle["choice"]) == {"oracle (chosen on test)"}
    assert set(oracle["selection"]) == {"chosen on test: optimistic"}
    for hidden in (4, 8, 16):
        cell = {
            (s, r): raw[hidden, 0.0, s, r][-1] for s in range(4) for r in (None, 0.05, 0.1, 0.2)
        }
        star = brute_best(cell, (0.05, 0.1, 0.2), range(4), 1)
        expected = np.mean([100 * (cell[s, star][1] - cell[s, None][1]) for s in range(4)])
        row = row_of(oracle, hidden)
        assert (row["rho_star"], row["gain"]) == (star, pytest.approx(expected))
        fixed = row_of(results.gains(runs, choice=0.1), hidden)
        expected = np.mean([100 * (cell[s, 0.1][1] - cell[s, None][1]) for s in range(4)])
        assert (fixed["choice"], fixed["gain"]) == ("fixed", pytest.approx(expected))
        assert fixed["edge"] == ""
    with pytest.raises(UserError, match=r"choice=0\.3 .* allowed: 0\.05, 0\.1, 0\.2"):
        results.gains(runs, choice=0.3)
    with pytest.raises(UserError, match="allowed: validation, oracle"):
        results.gains(runs, choice="test")
    with pytest.raises(UserError, match="allowed: last, best"):
        results.gains(runs, epoch="first")


def test_choice_never_sees_the_test_split(tmp_path):
    planted_runs = planted.random_grid(2, noises=(0.0, 0.4))
    runs = results.load(planted.sweep(tmp_path, planted_runs))
    rng = np.random.default_rng(0)
    for epoch in ("last", "best"):
        before = results.pairs(runs, epoch=epoch)
        stars = results.gains(runs, epoch=epoch)["rho_star"]
        other = runs.copy()
        for column in [c for c in runs if "_test_" in c]:
            other[column] = rng.permutation(runs[column])
        other.loc[::5, "last_test_accuracy"] = NAN
        other.loc[::5, "last_test_loss"] = NAN
        other.loc[::5, "status"] = "diverged"
        assert list(results.pairs(other, epoch=epoch)["rho"]) == list(before["rho"])
        assert list(results.gains(other, epoch=epoch)["rho_star"]) == list(stars)
        assert not other["last_test_loss"].equals(runs["last_test_loss"])


def test_a_seed_does_not_choose_for_itself(tmp_path):
    """Seed 0 alone likes .2; alone it tips the mean, but must be scored with the others' .1."""
    validation = {0.1: [0.5, 0.6, 0.6], 0.2: [0.95, 0.55, 0.55]}

    def value(hidden, noise, s, rho):
        return [(0.5, 0.5) if rho is None else (validation[rho][s], 0.5 + rho)]

    runs = results.load(planted.sweep(tmp_path, planted.grid(value, (4,), (0.1, 0.2), seeds=3)))
    pairs = results.pairs(runs)
    assert list(pairs["rho"]) == [0.1, 0.2, 0.2]
    assert row_of(results.gains(runs), 4)["rho_star"] == 0.2


def test_equal_means_choose_the_smallest_rho():
    # .1 + .2 and .3 + 0 differ in floating point, and so would the choice.
    values = np.array([[0.3, 0.0], [0.1, 0.2], [0.0, 0.1]])
    none = np.zeros((3, 2), bool)
    assert (0.1 + 0.2) > 0.3
    assert statistics.choose(values, none, True) == 0
    assert statistics.choose(-values, none, False) == 0


def test_lower_is_better(tmp_path):
    def value(hidden, noise, s, rho):
        return [(0.5, 0.5 + 0.01 * s)] if rho is None else [(rho, 0.5 + 0.01 * s - rho)]

    runs = planted.grid(value, (4, 8), (0.1, 0.2), seeds=3, noises=(0.3,))
    table = results.load(planted.sweep(tmp_path, runs, planted.LOSS))
    gains = results.gains(table)
    # Validation likes .1, the smaller loss; SAM's test loss is lower by it.
    assert list(gains["rho_star"]) == [0.1, 0.1]
    assert list(gains["gain"]) == pytest.approx([0.1, 0.1])
    assert list(results.gains(table, choice="oracle")["rho_star"]) == [0.2, 0.2]
    text = results.table(table)
    assert "test loss" in text
    assert "gain: SGD − SAM in loss" in text
    assert "target noise of deviation 0.3:" in text


def test_divergence_is_kept_and_not_chosen(tmp_path):
    runs = []
    for s in range(3):
        runs.append(planted.run(4, s, None, [(0.8, 0.8)]))
        runs.append(planted.run(4, s, 0.1, [(0.7, 0.7)]))
        lost = {"losses": [NAN]} if s == 2 else {}
        runs.append(planted.run(4, s, 0.2, [(0.9, 0.1 if lost else 0.9)], **lost))
    table = results.load(planted.sweep(tmp_path, runs))
    assert results.completeness(table).diverged == ("w4_rho0.2_noise0.0_seed2",)
    row = row_of(results.gains(table), 4)
    assert row["rho_star"] == 0.1
    # Seed 2 is left out of its own choice, so it takes .2 and its chance-level accuracy.
    assert list(results.pairs(table)["rho"]) == [0.1, 0.1, 0.2]
    assert row["gain"] == pytest.approx(np.mean([-10, -10, -70]))
    assert (row["n"], row["n_diverged"], row["n_excluded"]) == (3, 1, 0)
    assert "1 of 9 runs diverged" in results.table(table)
    fixed = row_of(results.gains(table, choice=0.2), 4)
    assert fixed["gain"] == pytest.approx(np.mean([10, 10, -70]))


def test_divergence_everywhere(tmp_path):
    def value(hidden, noise, s, rho):
        lost = rho == 0.2 or (rho == 0.1 and s == 0)
        return [(NAN, NAN)] if lost else [(1.0, 1.0 + 0.1 * s) if rho is None else (0.5, 0.5)]

    runs = planted.grid(value, (4,), (0.1, 0.2), seeds=3)
    table = results.load(planted.sweep(tmp_path, runs, planted.LOSS))
    row = row_of(results.gains(table), 4)
    # All ρ diverged somewhere, so all are allowed; only .1 has a mean.
    assert row["rho_star"] == 0.1
    assert (row["n"], row["n_excluded"], row["n_diverged"]) == (2, 1, 1)
    assert row["gain"] == pytest.approx(np.mean([0.6, 0.7]))
    row = row_of(results.gains(table, choice=0.2), 4)
    assert (row["n"], row["n_excluded"]) == (0, 3)
    assert np.isnan(row["gain"])
    assert "leave out 1 pairs" in results.table(table)


def test_best_epoch_of_a_diverged_run(tmp_path):
    run = planted.run(4, 0, 0.1, [(0.6, 0.6), (0.9, 0.9), (NAN, 0.1)], losses=[1, 1, NAN])
    row = results.load(planted.sweep(tmp_path, [run])).iloc[0]
    assert (row["status"], row["best_epoch"], row["best_test_accuracy"]) == ("diverged", 2, 0.9)


def linear(hidden, noise, s, rho):
    """A gain of 3 points per doubling of the layer size, ρ = .1 best, one more point a seed."""
    gain = 0 if rho is None else 0.03 * np.log2(hidden / 8) - abs(rho - 0.1)
    return [(0.6 + gain, 0.6 + gain + 0.01 * s), (0.6 + gain, 0.6 + gain + 0.01 * s)]


def test_planted_slope_and_table(tmp_path):
    runs = planted.grid(linear, widths=(4, 8, 16, 32), seeds=4, noises=(0.0, 0.4))
    table = results.load(planted.sweep(tmp_path, runs))
    gains = results.gains(table)
    assert list(gains["gain"][:4]) == pytest.approx([-3, 0, 3, 6])
    counts = np.log2([64 * h + h**2 for h in (4, 8, 16, 32)])
    expected = np.polyfit(counts, [-3, 0, 3, 6], 1)[0]
    assert list(results.slopes(table)["slope"]) == pytest.approx([expected] * 2)
    upper = results.slopes(table, widths="upper")
    assert list(upper["n_widths"]) == [2, 2]
    assert list(upper["slope"]) == pytest.approx([3 / (counts[3] - counts[2])] * 2)
    text = results.table(table)
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "clean labels: SAM’s gain over SGD grows by +2.57 ± 0.00 points per doubling",
        "40 % label noise",
        "4 seeds",
        "last epoch (2)",
        "best on the validation split among 0.05, 0.1, 0.2",
        "−3.00",
        "+6.00",
        "0.1 (4/4)",
        "does not contain 0",
        "2× the gradient evaluations",
        "best epoch on validation",
    ):
        assert words in text.replace("\n", " ").replace("  ", " "), words


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"seeds": 1}, "one seed"),
        ({"rhos": (0.1,)}, "only ρ = 0.1 was run"),
        ({"widths": (4,)}, "changes with width cannot be said: one width was run"),
        ({"rhos": ()}, "only base runs"),
        ({"seeds": 1, "rhos": (0.1,), "widths": (8,)}, "one seed"),
        ({"rhos": (0.0, 0.1)}, "contains 0"),
        ({"rhos": (0.01, 0.05)}, "▲ best ρ at the edge of the grid in 3 of 3 rows"),
        ({"rhos": (0.2, 0.5)}, "▼ best ρ at the edge"),
    ],
)
def test_small_sweeps(tmp_path, kwargs, words):
    table = results.load(planted.sweep(tmp_path, planted.grid(linear, **kwargs)))
    assert words in " ".join(results.table(table).split())
    assert "largest widths" not in results.table(table)  # there are less than four
    assert results.slopes(table, widths="upper").empty
    if kwargs.get("seeds") == 1:
        gains = results.gains(table)
        assert gains[["gain_low95", "p", "p_holm"]].isna().all(axis=None)
        assert gains["gain"].notna().all()
        if len(kwargs) == 1:
            assert set(gains["selection"]) == {"same seed: only one"}
    if kwargs.get("rhos") == ():
        gains = results.gains(table)
        assert gains["gain"].isna().all()
        assert gains["base_mean"].notna().all()
        assert len(results.tidy(table)) == 2 * 3


def test_only_perturbed_runs(tmp_path):
    runs = [r for r in planted.grid(linear) if r["config"]["optimizer"]["name"] == "sam"]
    table = results.load(planted.sweep(tmp_path, runs))
    assert "no base runs" in results.table(table)
    gains = results.gains(table)
    assert gains["gain"].isna().all()
    assert list(gains["rho_star"]) == [0.1] * 3
    assert list(gains["sam_mean"]) == pytest.approx([58.5, 61.5, 64.5])
    assert list(gains["n_excluded"]) == [0] * 3


def test_tidy_holds_every_choice(tmp_path):
    runs = results.load(planted.sweep(tmp_path, planted.random_grid(6, noises=(0.0, 0.4))))
    table = results.tidy(runs)
    assert len(table) == 2 * 5 * 6
    assert table.columns.is_unique
    counts = table.groupby(["epoch", "choice"]).size()
    assert counts["last", "fixed"] == 18
    assert counts["best", "oracle (chosen on test)"] == 6
    part = table[(table["epoch"] == "best") & (table["choice"] == "validation")]
    expected = results.gains(runs, epoch="best")
    pd.testing.assert_frame_equal(part.reset_index(drop=True), expected, check_flags=False)


def test_output_depends_on_the_records_alone(tmp_path):
    runs = planted.random_grid(7)
    one = planted.sweep(tmp_path / "one", runs)
    other = planted.sweep(tmp_path / "other", runs[::-1])
    tables = [results.load(root) for root in (one, other)]
    assert results.table(tables[0]) == results.table(tables[1])
    assert report.csv(tables[0]) == report.csv(tables[1])
    assert report.csv(results.tidy(tables[0])) == report.csv(results.tidy(tables[1]))


def test_results_never_load_jax():
    code = (
        "import sys, samop.results, samop.figures, samop.report\n"
        "assert 'jax' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
