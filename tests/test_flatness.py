import math

import numpy as np
import planted
import pytest
from planted_curvature import RATIO, WIDTHS, curvature, lambda_max, logs, of, written
from scipy import stats

from samop import comparison, flatness, report, results
from samop.errors import UserError


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sweep"))


def test_planted_ratios_are_recovered_with_the_intervals_of_scipy(tables):
    table = of(flatness.compare(*tables))
    for (_, row), values in zip(table.iterrows(), logs()):
        interval = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
        assert math.log(row["ratio"]) == pytest.approx(values.mean())
        assert np.log([row["ratio_low95"], row["ratio_high95"]]) == pytest.approx(interval)
        assert row["p"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        assert (row["n"], row["rho_star"]) == (4, 0.1)
    # The planted ones, to the noise of four seeds.
    assert list(table["ratio"]) == pytest.approx(list(RATIO.values()), rel=0.1)
    ordered = np.sort(table["p"])
    holm = np.maximum.accumulate(ordered * [4, 3, 2, 1]).clip(max=1)
    assert np.sort(table["p_holm"]) == pytest.approx(holm)


def test_means_are_geometric(tables):
    table = of(flatness.compare(*tables))
    for side, rho in (("base", None), ("sam", 0.1)):
        for hidden, (_, row) in zip(WIDTHS, table.iterrows()):
            values = [lambda_max(hidden, s, rho) for s in range(4)]
            assert row[f"{side}_mean"] == pytest.approx(stats.gmean(values))
            logs_ = np.log(values)
            low, high = stats.t.interval(0.95, 3, logs_.mean(), stats.sem(logs_))
            assert row[f"{side}_low95"] == pytest.approx(math.exp(low))
            assert row[f"{side}_high95"] == pytest.approx(math.exp(high))


def test_negative_eigenvalues_have_a_ratio_too(tables):
    table = of(flatness.compare(*tables), "lambda_min")
    assert list(table["ratio"]) == pytest.approx(list(of(flatness.compare(*tables))["ratio"]))
    assert (table["base_mean"] < 0).all()
    assert (table["base_low95"] < table["base_mean"]).all()
    assert (table["base_mean"] < table["base_high95"]).all()


def test_pairing_takes_out_the_level_of_the_seed(tables):
    row = of(flatness.compare(*tables)).iloc[-1]
    unpaired = math.log(row["base_high95"] / row["base_low95"])
    assert math.log(row["ratio_high95"] / row["ratio_low95"]) < 0.2 * unpaired
    pairs = flatness.pairs(*tables)
    assert (pairs["rho"] == 0.1).all()
    for _, pair in pairs.iterrows():
        assert f"seed{pair['seed']}" in pair["base_point"]
        assert f"seed{pair['seed']}" in pair["sam_point"]


def test_errors_and_losses_stand_beside_the_ratio(tables):
    table = flatness.compare(*tables)
    top, trace, loss = (of(table, q) for q in ("lambda_max", "trace", "loss"))
    assert (top["error_kind"] == "residual").all()
    assert list(top["base_error"]) == pytest.approx([1e-4] * 4)
    assert (trace["error_kind"] == "standard error").all()
    assert list(trace["error_max"]) == pytest.approx([0.02] * 4)
    assert (loss["error_kind"] == "").all()
    assert loss["error_max"].isna().all()
    assert list(top["base_loss"]) == pytest.approx([0.02] * 4)
    assert list(top["loss_ratio"]) == pytest.approx([2] * 4)
    text = flatness.section(*tables)
    assert "The training losses are not equal (SAM / SGD: 2.00)" in text
    assert "runs measured once give none at equal training loss" in text
    assert "λ_max\u00a00.01\u00a0%".replace("\u00a0", " ") in text


def test_slope_is_that_of_each_seed(tables):
    slope = flatness.slopes(*tables)
    row = slope[slope["quantity"] == "lambda_max"].iloc[0]
    x = np.log2([64 * h + h * h for h in WIDTHS])
    each = [stats.linregress(x, column).slope for column in logs().T / math.log(2)]
    low, high = stats.t.interval(0.95, 3, np.mean(each), stats.sem(each))
    assert row["slope"] == pytest.approx(np.mean(each))
    assert [row["slope_low95"], row["slope_high95"]] == pytest.approx([low, high])
    assert row["p"] == pytest.approx(stats.ttest_1samp(each, 0).pvalue)
    assert [row["factor"], row["factor_high95"]] == pytest.approx([2 ** np.mean(each), 2**high])
    assert (row["n"], row["n_widths"], row["n_left_out"], row["n_no_ratio"]) == (4, 4, 0, 0)
    upper = flatness.slopes(*tables, widths="upper")
    assert set(upper["n_widths"]) == {2}
    text = flatness.section(*tables)
    assert "The ratio of λ_max, SAM / SGD, falls with width: × 0." in text
    assert "over the 2 largest widths alone" in text


def test_a_fixed_rho(tables):
    fixed = of(flatness.compare(*tables, choice=0.05))
    assert list(fixed["ratio"] / list(RATIO.values())) == pytest.approx([50] * 4, rel=0.2)
    assert set(fixed["choice"]) == {"fixed"}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"at": "first"}, "at='first'"), ({"choice": 3.0}, "choice=3.0"), ({"choice": "x"}, "'x'")],
)
def test_unknown_words_are_refused(tables, kwargs, words):
    with pytest.raises(UserError, match=words):
        flatness.compare(*tables, **kwargs)
    with pytest.raises(UserError, match="widths='some'"):
        flatness.slopes(*tables, widths="some")


def test_what_did_not_converge_is_said_and_stays_in(tmp_path, tables):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        bad = hidden == 16 and s < 3 and rho == 0.1
        return row | ({"lambda_max_converged": False, "lambda_max_residual": 7.0} if bad else {})

    runs, measured = written(tmp_path, value)
    table = of(flatness.compare(runs, measured))
    assert list(table["sam_unconverged"]) == [0, 0, 3, 0]
    assert list(table["base_unconverged"]) == [0, 0, 0, 0]
    assert list(table["ratio"]) == pytest.approx(list(of(flatness.compare(*tables))["ratio"]))
    assert table["error_max"].iloc[2] == pytest.approx(7 / lambda_max(16, 0, 0.1))
    text = flatness.section(runs, measured)
    assert "NOT CONVERGED, in the means as measured: λ_max of 3 of 32 runs, at 16-16" in text
    assert "Every eigenvalue iteration converged" in flatness.section(*tables)


def test_values_of_both_signs_have_no_ratio(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        return row | ({"trace": -1.0 - s} if hidden == 8 and rho == 0.1 and s == 2 else {})

    runs, measured = written(tmp_path, value)
    table = of(flatness.compare(runs, measured), "trace")
    assert list(table["scale"]) == ["log", "linear", "log", "log"]
    row = table.iloc[1]
    assert np.isnan(row[["ratio", "p", "p_holm"]].astype(float)).all()
    sam = [4 * lambda_max(8, s, 0.1) for s in range(4)]
    sam[2] = -3.0
    base = [4 * lambda_max(8, s, None) for s in range(4)]
    assert row["sam_mean"] == pytest.approx(np.mean(sam))
    assert row["difference"] == pytest.approx(np.mean(sam) - np.mean(base))
    half = stats.sem(np.subtract(sam, base)) * stats.t.ppf(0.975, 3)
    assert row["difference_half95"] == pytest.approx(half)
    slope = flatness.slopes(runs, measured)
    slope = slope[slope["quantity"] == "trace"].iloc[0]
    assert (slope["n_widths"], slope["n"], slope["n_no_ratio"]) == (3, 4, 1)
    text = " ".join(flatness.section(runs, measured).split())
    assert "of 0; arithmetic means: trace at 8-8 (SGD " in text


def test_a_diverged_run_is_left_out_and_counted(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        row = curvature(hidden, noise, s, rho, epoch)
        return row | (dict.fromkeys(row, math.nan) if hidden == 8 and s == 1 and not rho else {})

    runs, measured = written(tmp_path, value)
    row = of(flatness.compare(runs, measured)).iloc[1]
    assert (row["n"], row["n_excluded"], row["n_unpaired"]) == (3, 1, 0)
    assert math.log(row["ratio"]) == pytest.approx(np.delete(logs()[1], 1).mean())
    assert "1 pairs have no number" in flatness.section(runs, measured)
    slope = flatness.slopes(runs, measured).iloc[0]
    assert (slope["n"], slope["n_left_out"]) == (3, 1)


# At equal training loss.


def along(hidden, noise, s, rho, epoch):
    """loss = e^−t for both, SAM half as fast; λ_max = c · loss^−½, half as much for SAM."""
    loss = math.exp(-epoch * (0.5 if rho else 1.0))
    return {"lambda_max": 10 * loss**-0.5 * (0.5 if rho else 1.0), "loss": loss}


def test_equal_loss_is_interpolated(tmp_path):
    epochs = [0, 1, 2, 3, 4]
    grid = [planted.run(h, s, rho, [(0.5, 0.5)] * 4)
            for h in (4, 8) for s in range(3) for rho in (None, 0.1)]  # fmt: skip
    runs, measured = written(tmp_path, along, epochs=epochs, grid=grid)
    last = of(flatness.compare(runs, measured))
    # SAM is at e^−2, the base at e^−4: the unequal loss hides half of the difference.
    assert list(last["ratio"]) == pytest.approx([0.5 * math.exp(-1)] * 2)
    assert list(last["loss_ratio"]) == pytest.approx([math.exp(2)] * 2)
    equal = of(flatness.compare(runs, measured, at="equal_loss"))
    assert list(equal["ratio"]) == pytest.approx([0.5] * 2)
    assert list(equal["base_loss"]) == pytest.approx([math.exp(-2)] * 2)
    assert list(equal["sam_loss"]) == pytest.approx([math.exp(-2)] * 2)
    pairs = flatness.pairs(runs, measured, at="equal_loss")
    assert list(pairs["base_epoch"].unique()) == pytest.approx([2])
    assert list(pairs["sam_epoch"].unique()) == pytest.approx([4])
    text = " ".join(flatness.section(runs, measured).split())
    assert "at equal training loss (the lowest that both of a pair reach): 4-4: 0.50 " in text


def test_equal_loss_between_two_steps(tmp_path):
    grid = [planted.run(4, s, rho, [(0.5, 0.5)] * 4) for s in range(3) for rho in (None, 0.1)]

    def value(hidden, noise, s, rho, epoch):
        row = along(hidden, noise, s, rho, epoch)
        # The base is measured at 0 and 4 only; the one seed starts below the loss that is shared.
        low = s == 2 and rho is None
        return (
            None if rho is None and epoch not in (0, 4) else row | ({"loss": 1e-3} if low else {})
        )

    runs, measured = written(tmp_path, value, epochs=[0, 2, 4], grid=grid)
    row = of(flatness.compare(runs, measured, at="equal_loss")).iloc[0]
    assert row["ratio"] == pytest.approx(0.5)  # a power law is a line in the logarithms
    assert (row["n"], row["n_excluded"]) == (2, 1)
    # As exact as the less exact of the two, relative to the value.
    assert row["base_error"] == pytest.approx(1e-4)


def test_one_measurement_gives_none_at_equal_loss(tables):
    assert flatness.compare(*tables, at="equal_loss").empty
    assert flatness.slopes(*tables, at="equal_loss").empty


def test_base_alone(tmp_path):
    runs, measured = written(tmp_path, rhos=())
    table = of(flatness.compare(runs, measured))
    assert list(table["n"]) == [4] * 4
    assert table["ratio"].isna().all()
    expected = [stats.gmean([lambda_max(h, s, None) for s in range(4)]) for h in WIDTHS]
    assert list(table["base_mean"]) == pytest.approx(expected)
    assert flatness.slopes(runs, measured).empty
    text = flatness.section(runs, measured)
    assert "No trend of λ_max with width can be computed" in text
    assert "SGD, the other measures" in text


def test_several_variants(tmp_path):
    grid = planted.family(
        lambda name, hidden, noise, s, rho: (0.5, 0.5 if name == "base" else 0.6),
        ("sam", "asam"), widths=(4, 8), rhos=(0.1,), seeds=3,
    )  # fmt: skip
    for item in grid:
        name, hidden = item["config"]["optimizer"]["name"], item["hidden"]
        top = hidden * {"base": 1.0, "sam": 0.5, "asam": 0.25}[name]
        row = {"step": 20, "epoch": 2, "examples": 9, "loss": 0.1, "lambda_max": top}
        item["curvature"] = [row]
    planted.sweep(tmp_path, grid)
    runs = results.load(tmp_path)
    table = flatness.compare(runs, flatness.load(tmp_path, runs))
    for name, ratio in (("sam", 0.5), ("asam", 0.25)):
        here = of(table[table["transform"] == name])
        assert list(here["ratio"]) == pytest.approx([ratio] * 2)
    report.write(tmp_path)
    drawn = {path.name for path in (tmp_path / "figures").glob("curvature*.png")}
    assert drawn == {"curvature.png", "curvature_asam.png"}


def test_different_numbers_of_examples_are_said(tmp_path):
    def value(hidden, noise, s, rho, epoch):
        return curvature(hidden, noise, s, rho, epoch) | {"examples": 10 if rho else 100}

    runs, measured = written(tmp_path, value)
    assert of(flatness.compare(runs, measured))["examples"].isna().all()
    text = " ".join(flatness.section(runs, measured).split())
    assert "at 4-4, 8-8, 16-16, 32-32 was measured on different numbers of examples" in text


def test_the_choice_of_rho_is_that_of_the_gains(tables):
    runs, measured = tables
    gains = comparison.gains(runs).set_index("parameters")
    table = of(flatness.compare(runs, measured))
    for column in ("rho_star", "selection", "edge"):
        assert list(table[column]) == list(gains[column])
