"""Sweeps of several variants: differences, the table, what the report writes."""

import json

import numpy as np
import pandas as pd
import planted
import pytest
from families import NAMES, SEEDS, family_table, left_out, random_family, words
from scipy import stats

from samop import report, results, variants
from samop.errors import UserError

# Variants against each other.


@pytest.mark.parametrize("metric", [planted.ACCURACY, planted.LOSS], ids=["accuracy", "loss"])
@pytest.mark.parametrize("epoch", ["last", "best"])
def test_between_agrees_with_brute_force(tmp_path, metric, epoch):
    lower = metric is planted.LOSS
    table, drawn = family_table(tmp_path, metric, noises=(0.0, 0.4))
    between = results.between(table, epoch=epoch)
    assert list(between["transform"].unique()) == ["asam", "looksam"]
    assert len(between) == 2 * 2 * 2
    for noise in (0.0, 0.4):
        p_values = []
        rows = between[between["label_noise"] == noise]
        for row in rows.to_dict("records"):
            hidden = int(row["width"].split("-")[0])
            scores = {
                name: metric["scale"]
                * np.array([left_out(drawn, name, hidden, s, noise, lower) for s in range(SEEDS)])
                for name in ("sam", row["transform"])
            }
            sign = -1 if lower else 1
            expected = stats.ttest_rel(sign * scores[row["transform"]], sign * scores["sam"])
            low, high = expected.confidence_interval(0.95)
            assert row["n"] == SEEDS
            assert row["mean"] == pytest.approx(scores[row["transform"]].mean())
            assert row["reference_mean"] == pytest.approx(scores["sam"].mean())
            difference = sign * (scores[row["transform"]] - scores["sam"]).mean()
            assert row["difference"] == pytest.approx(difference)
            assert row["difference_low95"] == pytest.approx(low)
            assert row["difference_high95"] == pytest.approx(high)
            assert row["difference_half95"] == pytest.approx((high - low) / 2)
            assert row["p"] == pytest.approx(expected.pvalue)
            p_values.append(expected.pvalue)
        # Holm by its definition, over variants × widths of the condition.
        holm = [
            min(1.0, max(q * sum(r >= q for r in p_values) for q in p_values if q <= p))
            for p in p_values
        ]
        assert list(rows["p_holm"]) == pytest.approx(holm)


def test_between_is_the_difference_of_the_gains(tmp_path):
    table, _ = family_table(tmp_path)
    gains = results.gains(table)
    of = {(r["transform"], r["width"]): r["gain"] for r in gains.to_dict("records")}
    for row in results.between(table, reference="looksam").to_dict("records"):
        width = row["width"]
        expected = of[row["transform"], width] - of["looksam", width]
        assert row["difference"] == pytest.approx(expected)
        assert (row["reference"], row["epoch"], row["choice"]) == ("looksam", "last", "validation")
        assert row["reference_grad_evals"] == 24


def test_between_takes_the_seeds_that_both_have(tmp_path):
    runs, drawn = random_family(rhos=(0.1,))
    # ASAM lacks seed 0, and its seed 1 has no number.
    runs = [
        r for r in runs
        if not (r["config"]["optimizer"]["name"] == "asam" and r["config"]["seed"] == 0)
    ]  # fmt: skip
    for r in runs:
        if r["config"]["optimizer"]["name"] == "asam" and r["config"]["seed"] == 1:
            r["values"] = [(0.5, float("nan"))] * 2
    between = results.between(results.load(planted.sweep(tmp_path, runs)))
    row = between[(between["transform"] == "asam") & (between["width"] == "4-4")].iloc[0]
    assert (row["n"], row["n_excluded"], row["n_unpaired"]) == (3, 1, 1)
    values = [
        100 * (drawn["asam", 4, 0.0, s, 0.1][1] - drawn["sam", 4, 0.0, s, 0.1][1])
        for s in (2, 3, 4)
    ]
    assert row["difference"] == pytest.approx(np.mean(values))


def test_between_needs_no_base(tmp_path):
    runs, drawn = random_family(rhos=(0.1,), widths=(4,))
    runs = [r for r in runs if r["config"]["optimizer"]["name"] != "base"]
    row = results.between(results.load(planted.sweep(tmp_path, runs))).iloc[0]
    values = [
        100 * (drawn["asam", 4, 0.0, s, 0.1][1] - drawn["sam", 4, 0.0, s, 0.1][1])
        for s in range(SEEDS)
    ]
    assert row["difference"] == pytest.approx(np.mean(values))


def test_the_reference_is_the_plain_kind(tmp_path):
    """Of SAM with m = 0, 16 and 64 it is m = 0 that the others, of SAM or not, are held to."""
    runs = []
    for s in range(3):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        runs.append(planted.variant("asam", 4, s, 0.1, [(0.5, 0.8)]))
        for m in (0, 16, 64):
            value = [(0.5, 0.6 + m / 1000)]
            runs.append(planted.variant("sam", 4, s, 0.1, value, optimizer__m=m))
    table = results.load(planted.sweep(tmp_path / "with", runs))
    between = results.between(table)
    assert list(between["optimizer.m"]) == [16, 64, 0]  # ASAM reads m as well
    assert list(between["difference"]) == pytest.approx([1.6, 6.4, 20])
    # Without the plain kind nothing is compared, and the table says so.
    rest = [r for r in runs if r["config"]["optimizer"].get("m") != 0]
    table = results.load(planted.sweep(tmp_path / "without", rest))
    assert results.between(table).empty
    assert "no plain SAM that the variants could be tested against" in words(results.table(table))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "gsam"}, r"reference='gsam' is no variant .* allowed: asam, looksam, sam"),
        ({"reference": "base"}, "reference='base' is no variant"),
        ({"epoch": "first"}, "epoch='first' is not allowed"),
        ({"choice": "test"}, "choice='test' is not allowed"),
        ({"choice": 0.3}, r"choice=0\.3 is no rho"),
    ],
)
def test_bad_arguments_of_between(tmp_path, arguments, message):
    table, _ = family_table(tmp_path)
    with pytest.raises(UserError, match=message):
        results.between(table, **arguments)


def test_between_without_variants(tmp_path):
    runs, _ = random_family(names=())
    with pytest.raises(UserError, match="allowed: none"):
        results.between(results.load(planted.sweep(tmp_path, runs)))


# The table.


def known(name, hidden, noise, s, rho):
    """Gains of 2, 3 and 0 points; SAM's and ASAM's differ from 0 beyond doubt."""
    gain = {"base": 0, "sam": 0.02, "asam": 0.03, "looksam": 0.0}[name]
    spread = 0.001 * ((s + len(name)) % 3 - 1) if name != "base" else 0
    return (0.5 + gain, 0.6 + gain + spread)


def test_side_by_side(tmp_path):
    runs = planted.family(known, names=NAMES, rhos=(0.1,), seeds=6, noises=(0.0, 0.4))
    table = results.load(planted.sweep(tmp_path, runs))
    text = results.table(table)
    assert max(map(len, text.splitlines())) <= 100
    blocks = text.split("\n\n")
    start = blocks.index("clean labels: gain of every variant over SGD in points")
    lines = blocks[start + 1].splitlines()
    assert lines[0].split() == ["width", "SAM", "ASAM", "LookSAM"]
    assert [line.split()[0] for line in lines[2:]] == ["4-4", "8-8", "16-16"]
    gains = results.gains(table)
    gains = gains[gains["label_noise"] == 0].set_index(["transform", "width"])
    for line in lines[2:]:
        cells = line.replace(" ± ", "±").split()
        for name, cell in zip(NAMES, cells[1:]):
            row = gains.loc[(name, cells[0])]
            value, half = cell.rstrip("*").replace("−", "-").split("±")
            assert float(value) == pytest.approx(row["gain"], abs=0.005)
            assert float(half) == pytest.approx(row["gain_half95"], abs=0.005)
            assert cell.endswith("*") == (abs(row["gain"]) > row["gain_half95"])
    assert words(blocks[start + 2]) == (
        "every gain is over the same SGD runs; * its 95 % interval, unadjusted, excludes 0: at "
        "16-16 of SAM, ASAM, not of LookSAM"
    )
    assert "difference to SAM in points" in words(blocks[start + 3])
    assert "over all 6 differences" in words(blocks[start + 3])
    between = results.between(table)
    between = between[(between["label_noise"] == 0) & (between["width"] == "16-16")]
    lines = blocks[start + 4].splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["ASAM", "LookSAM"]
    for line, row in zip(lines[2:], between.to_dict("records")):
        value = line.replace("−", "-").split()[1]
        assert float(value) == pytest.approx(row["difference"], abs=0.005)
    assert lines[2].split()[-1] == "1×"
    assert lines[3].split()[-1] == "0.6×"
    # One block for each variant comes before, under the variant's own name.
    assert "clean labels, LookSAM: LookSAM’s gain over SGD has no clear trend" in text
    assert "gain: variant − SGD in points" in words(text)


def test_many_variants_fit_the_terminal(tmp_path):
    names = [name for name in variants.VARIANTS if name != "base"]
    runs, _ = random_family(names=names, rhos=(0.1,), seeds=2, widths=(4,))
    text = results.table(results.load(planted.sweep(tmp_path, runs)))
    assert max(map(len, text.splitlines())) <= 100
    for name in names:
        assert (
            f"\n{variants.LABELS[name]}: How {variants.LABELS[name]}’s gain over SGD changes"
            in text
        )


def test_every_variant_has_a_label():
    assert list(variants.LABELS) == [name for name in variants.VARIANTS if name != "base"]
    assert len(set(variants.LABELS.values())) == len(variants.LABELS)


def test_one_variant_has_no_comparison(tmp_path):
    table, _ = family_table(tmp_path, names=("gsam",))
    text = words(results.table(table))
    assert "gain: GSAM − SGD" in text
    assert "every variant" not in text
    assert "plain SAM" not in text


def test_each_variant_has_its_own_grid(tmp_path):
    grids = {"sam": (0.05, 0.1), "asam": (0.5, 1.0)}
    runs = []
    for s in range(3):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        for name, grid in grids.items():
            for rho in grid:
                runs.append(planted.variant(name, 4, s, rho, [(0.5, 0.5 + rho / 10)]))
    table = results.load(planted.sweep(tmp_path, runs))
    assert "those of its variant (SAM: 0.05, 0.1; ASAM: 0.5, 1)" in words(results.table(table))
    tidy = results.tidy(table)
    fixed = tidy[(tidy["choice"] == "fixed") & (tidy["epoch"] == "last")]
    assert list(zip(fixed["transform"], fixed["rho_star"])) == [
        ("sam", 0.05), ("sam", 0.1), ("asam", 0.5), ("asam", 1.0),
    ]  # fmt: skip
    assert list(fixed["gain"]) == pytest.approx([0.5, 1, 5, 10])
    # Equal on validation, so the smallest; it is the edge of its own grid.
    assert list(results.gains(table)["edge"]) == ["lowest", "lowest"]


def test_some_grids_contain_zero(tmp_path):
    runs = []
    for s in range(2):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        runs += [planted.variant("sam", 4, s, rho, [(0.5, 0.5)]) for rho in (0.0, 0.1)]
        runs.append(planted.variant("asam", 4, s, 0.1, [(0.5, 0.5)]))
    text = words(results.table(results.load(planted.sweep(tmp_path, runs))))
    assert "the grid of ρ of SAM contains 0" in text
    assert "the grid of ρ of ASAM does not contain 0: they could not choose to do nothing" in text


# What the report writes.


def test_report_of_several_variants(tmp_path):
    names = ("sam", "fsam", "looksam")
    runs, _ = random_family(names=names, rhos=(0.1,), seeds=3, epochs={"base": 2, "looksam": 1})
    text = report.write(planted.sweep(tmp_path, runs))
    stems = ["accuracy", "learning_curves", "variants"]
    stems += ["width_gap", "width_gap_fsam", "width_gap_looksam"]
    expected = sorted(f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png"))
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == expected
    assert f"wrote {tmp_path / 'variants.csv'}" in text
    written = pd.read_csv(tmp_path / "variants.csv")
    for epoch in ("last", "best"):
        part = written[written["epoch"] == epoch].reset_index(drop=True)
        whole = results.between(results.load(tmp_path), epoch=epoch)
        for column in ("difference", "difference_half95", "p_holm", "reference_grad_evals"):
            assert list(part[column]) == pytest.approx(list(whole[column]))
    gains = pd.read_csv(tmp_path / "results.csv")
    kept = gains[(gains["choice"] == "validation") & (gains["epoch"] == "last")]
    looksam = kept[kept["transform"] == "looksam"].iloc[0]
    columns = ["base_epochs", "base_grad_evals", "sam_epochs", "sam_grad_evals"]
    assert list(looksam[columns]) == [2, 20, 1, 12]


def test_report_of_one_variant_has_no_comparison(tmp_path):
    runs, _ = random_family(names=("sam",), rhos=(0.1,), seeds=2)
    report.write(planted.sweep(tmp_path, runs))
    assert not (tmp_path / "variants.csv").exists()
    assert not (tmp_path / "figures" / "variants.png").exists()


def test_report_without_plain_sam(tmp_path):
    runs, _ = random_family(names=("asam", "gsam"), rhos=(0.1,), seeds=2)
    text = report.write(planted.sweep(tmp_path, runs))
    assert "no plain SAM" in text
    assert not (tmp_path / "variants.csv").exists()
    stems = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert stems == {"accuracy", "learning_curves", "variants", "width_gap", "width_gap_gsam"}


def test_output_depends_on_the_records_alone(tmp_path):
    runs, _ = random_family(epochs={"base": 2, "sam": 1}, rhos=(0.1,))
    tables = [
        results.load(planted.sweep(tmp_path / name, order))
        for name, order in (("one", runs), ("other", runs[::-1]))
    ]
    assert results.table(tables[0]) == results.table(tables[1])
    both = [report.csv(results.between(table)) for table in tables]
    assert both[0] == both[1]


def test_attributes_are_plain_values(tmp_path):
    table, _ = family_table(tmp_path, names=("sam", "looksam"))
    assert json.loads(json.dumps(table.attrs)) == table.attrs
