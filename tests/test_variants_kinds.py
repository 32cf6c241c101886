"""Sweeps of several variants: what is a kind of its own, and what equal compute is."""

import numpy as np
import pandas as pd
import planted
import pytest
from families import family_table, random_family, words

from samop import comparison, records, results, variants, wording
from samop.errors import UserError

# What counts as a kind of its own.


def test_a_default_and_its_value_are_one_kind(tmp_path):
    runs = [planted.variant("base", 4, s, None, [(0.5, 0.5)]) for s in range(4)]
    for s in range(4):
        k = {"optimizer__k": -1} if s < 2 else {"optimizer__k": 5}
        runs.append(planted.variant("looksam", 4, s, 0.1, [(0.5, 0.6)], **k))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == []
    gains = results.gains(table)
    assert list(gains["n"]) == [4]
    assert set(table["optimizer"]) == {"SGD", "LookSAM"}
    # The same seed twice, once as the default and once as its value, is one run too many.
    again = planted.variant("looksam", 4, 0, 0.1, [(0.5, 0.6)], optimizer__k=5)
    table = results.load(planted.sweep(tmp_path / "twice", [*runs, again]))
    with pytest.raises(UserError, match="two runs of seed 0 differ in nothing"):
        results.gains(table)


@pytest.mark.parametrize("written", [False, True])
def test_defaults_of_variants_make_no_columns(tmp_path, written):
    """GSAM's alpha is .4 and LookSAM's .7: their names say so."""
    runs = []
    for s in range(2):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        for name, alpha in (("gsam", 0.4), ("looksam", 0.7)):
            field = {"optimizer__alpha": alpha if written else -1.0}
            runs.append(planted.variant(name, 4, s, 0.1, [(0.5, 0.6)], **field))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == table.attrs["ascent"] == []
    assert table.attrs["kinds"] == {}
    assert len(results.gains(table)) == 2
    assert "fields: GSAM alpha = 0.4; LookSAM alpha = 0.7, k = 5" in words(results.table(table))


def test_a_field_that_differs_within_one_variant(tmp_path):
    runs = []
    for s in range(2):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        runs.append(planted.variant("looksam", 4, s, 0.1, [(0.5, 0.6)]))
        runs.append(planted.variant("sam", 4, s, 0.1, [(0.5, 0.6)]))
        for alpha in (-1.0, 0.2):
            value = [(0.5, 0.7 if alpha == 0.2 else 0.8)]
            runs.append(planted.variant("gsam", 4, s, 0.1, value, optimizer__alpha=alpha))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["ascent"] == ["optimizer.alpha"]
    assert table.attrs["kinds"] == {"gsam": ["optimizer.alpha"]}
    alphas = table.groupby("transform")["optimizer.alpha"].apply(set)
    assert alphas["gsam"] == {0.2, 0.4}
    assert alphas["looksam"] == {0.7}
    assert np.isnan([*alphas["base"], *alphas["sam"]]).all()
    labels = [wording.arm_label(arm, table) for arm in comparison.arms(table)]
    assert labels == ["SAM", "GSAM (alpha = 0.2)", "GSAM (alpha = 0.4)", "LookSAM"]
    assert list(results.gains(table)["gain"]) == pytest.approx([10, 20, 30, 10])
    one = comparison.only(table, comparison.arms(table)[1])
    assert list(results.gains(one)["gain"]) == pytest.approx([20])
    assert wording.sam_label(one) == "GSAM (alpha = 0.2)"


def test_what_a_variant_does_not_read_makes_no_kind(tmp_path):
    runs = [planted.variant("base", 4, s, None, [(0.5, 0.5)], optimizer__k=3) for s in range(4)]
    idle = [{}, {"k": 7}, {"rho_end": 0.01}, {"m_by": "vmap"}]
    for s, fields in enumerate(idle):
        fields = {f"optimizer__{name}": value for name, value in fields.items()}
        runs.append(planted.variant("sam", 4, s, 0.1, [(0.5, 0.6)], **fields))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == []
    assert list(results.gains(table)["n"]) == [4]


def test_a_field_that_follows_from_another_is_not_told_twice(tmp_path):
    runs = [planted.variant("base", 4, s, None, [(0.5, 0.5)]) for s in range(2)]
    for s in range(2):
        for ascent in ("normalized", "adaptive"):
            fields = {"optimizer__ascent": ascent}
            runs.append(planted.variant("sam", 4, s, 0.1, [(0.5, 0.6)], **fields))
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == ["optimizer.ascent"]
    labels = {wording.arm_label(arm, table) for arm in comparison.arms(table)}
    assert labels == {"SAM (ascent = normalized)", "SAM (ascent = adaptive)"}


def test_records_of_earlier_versions(tmp_path):
    """They have none of the new fields, and are the same kind as runs that have the defaults."""
    new = {f"optimizer__{k}": v for k, v in variants.FIELDS.items() if k != "rho"}
    new |= {"train__budget": "epochs", "train__diagnostics_every": 10}
    runs = []
    for s in range(4):
        fields = new if s % 2 else {}
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)]))
        runs.append(planted.variant("sam", 4, s, 0.1, [(0.5, 0.6)], **fields))
    for number, item in enumerate(runs):
        item["name"] = str(number)
    old = next(r["config"] for r in runs if r["config"]["optimizer"]["name"] == "sam")
    assert "budget" not in old["train"]
    assert "k" not in old["optimizer"]
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["varying"] == []
    assert list(results.gains(table)["n"]) == [4]


def test_a_variant_of_another_version(tmp_path):
    runs = [planted.variant("base", 4, 0, None, [(0.5, 0.5)])]
    for zeta in (1, 2):
        field = {"optimizer__zeta": zeta}
        runs.append(planted.variant("sam", 4, 0, 0.1, [(0.5, 0.6)], **field))
    for item in runs[1:]:
        item["config"]["optimizer"]["name"] = "zetasam"
    root = tmp_path / "work"
    for item in runs:
        item["cost"] = 1
    table = results.load(planted.sweep(root, runs))
    labels = [wording.arm_label(arm, table) for arm in comparison.arms(table)]
    assert labels == ["ZETASAM (zeta = 1)", "ZETASAM (zeta = 2)"]
    assert "ZETASAM (zeta = 2): " in results.table(table)


def test_measured_perturbations_are_tolerated(tmp_path):
    runs, _ = random_family(names=("sam",))
    root = planted.sweep(tmp_path, runs)
    before = results.load(root)
    folder = root / "points" / runs[1]["name"]
    rows = records.read_rows(folder / "metrics.jsonl")
    rows = [{k: v for k, v in row.items() if k != "crc"} for row in rows]
    rows[0] |= {"sam_norm": 0.05, "sam_cosine": float("nan")}
    records.rewrite_rows(folder / "metrics.jsonl", rows)
    planted.finish(folder)
    pd.testing.assert_frame_equal(results.load(root), before)


def test_second_pass_belongs_to_the_perturbation(tmp_path):
    runs = []
    for s in range(2):
        for second in (None, "float32", "compute"):
            name, rho = ("base", None) if second is None else ("sam", 0.1)
            item = planted.variant(name, 4, s, rho, [(0.5, 0.6)])
            second = second or "float32"
            item["config"]["precision"] = {"compute": "bfloat16", "second_pass": second}
            item["name"] += second
            runs.append(item)
    table = results.load(planted.sweep(tmp_path, runs))
    assert table.attrs["ascent"] == ["precision.second_pass"]
    assert list(results.gains(table)["n"]) == [2, 2]
    # In float32 there is no choice.
    for item in runs:
        item["config"]["precision"]["compute"] = "float32"
    kept = [r for r in runs if not r["name"].endswith("compute")]
    table = results.load(planted.sweep(tmp_path / "wide", kept))
    assert table.attrs["varying"] == []


# Equal epochs or equal compute.

EQUAL = {"base": 6, "sam": 3, "asam": 3, "looksam": 5, "msam": 6}


def test_equal_compute(tmp_path):
    table, _ = family_table(
        tmp_path, names=("sam", "asam", "looksam", "msam"), epochs=EQUAL, train__budget="grad_evals"
    )
    assert table.attrs["varying"] == []
    rows = results.gains(table).set_index("transform")
    for name in ("sam", "asam", "looksam", "msam"):
        row = rows.loc[name].iloc[0]
        assert (row["base_epochs"], row["base_grad_evals"]) == (6, 60)
        assert (row["sam_epochs"], row["sam_grad_evals"]) == (EQUAL[name], 60)
    text = words(results.table(table))
    for sentence in (
        "test accuracy (%) at the last epoch of each run",
        "Compute: SAM 3 epochs, 60 gradient evaluations; SGD 6 epochs, 60: equal",
        "Compute: LookSAM 5 epochs, 60 gradient evaluations; SGD 6 epochs, 60: equal",
        "equal gradient evaluations, not equal epochs: SGD 6 epochs; SAM, ASAM 3; LookSAM 5; "
        "MSAM 6",
        "training values of MSAM (runs.csv) were taken at its perturbed weights",
    ):
        assert sentence in text, sentence
    assert "3–6" not in text
    assert "not equal compute" not in text


def test_equal_epochs(tmp_path):
    table, _ = family_table(
        tmp_path, names=("sam", "asam", "looksam", "msam"), epochs=dict.fromkeys(EQUAL, 5)
    )
    rows = results.gains(table).set_index("transform")
    assert list(rows.loc["looksam", "sam_grad_evals"]) == [60, 60]
    text = words(results.table(table))
    for sentence in (
        "at the last epoch (5)",
        "Compute: ASAM 5 epochs, 100 gradient evaluations; SGD 5 epochs, 50: 2×, not equal",
        "Compute: MSAM 5 epochs, 50 gradient evaluations; SGD 5 epochs, 50: equal",
        "equal epochs (5), not equal compute: SAM, ASAM 2×; LookSAM 1.2×; MSAM 1× the gradient "
        "evaluations of SGD",
    ):
        assert sentence in text, sentence


@pytest.mark.parametrize(
    ("epochs", "sentences"),
    [
        (
            {"base": 61, "sam": 30},  # half of 61, rounded down
            ["0.984×, equal within 2 %", "equal gradient evaluations within 2 %, not equal epochs"],
        ),
        (
            {"base": 3, "sam": 1},
            ["0.667×, not equal", "against those of SGD: SAM 0.333× and 0.667×"],
        ),
        ({"base": 2, "msam": 2}, ["equal epochs (2) and equal gradient evaluations"]),
    ],
)
def test_nearly_equal_compute(tmp_path, epochs, sentences):
    table, _ = family_table(tmp_path, names=[n for n in epochs if n != "base"], epochs=epochs)
    text = words(results.table(table))
    for sentence in sentences:
        assert sentence in text, sentence


def test_both_budgets_share_a_base(tmp_path):
    runs = []
    for s in range(3):
        runs.append(planted.variant("base", 4, s, None, [(0.5, 0.5)] * 4, train__budget="epochs"))
        for budget, epochs, test in (("epochs", 4, 0.7), ("grad_evals", 2, 0.6)):
            for name in ("sam", "asam"):
                fields = {"train__budget": budget, "train__epochs": 4}
                value = [(0.5, test + 0.01 * (name == "asam"))] * epochs
                runs.append(planted.variant(name, 4, s, 0.1, value, **fields))
    table = results.load(planted.sweep(tmp_path, runs))
    assert comparison.condition_columns(table) == ["dataset", "model", "base", "label_noise"]
    gains = results.gains(table)
    labels = [wording.arm_label(row, table) for row in gains.to_dict("records")]
    assert labels == [
        "SAM (equal epochs)", "SAM (equal compute)", "ASAM (equal epochs)", "ASAM (equal compute)",
    ]  # fmt: skip
    assert list(gains["gain"]) == pytest.approx([20, 10, 21, 11])
    assert list(gains["sam_grad_evals"]) == [80, 40, 80, 40]
    # Each is compared with the SAM of its own budget.
    between = results.between(table)
    assert list(between["train.budget"]) == ["epochs", "grad_evals"]
    assert list(between["difference"]) == pytest.approx([1, 1])
    assert list(between["reference_grad_evals"]) == [80, 40]
    text = words(results.table(table))
    assert "SAM (equal epochs), ASAM (equal epochs) 1× and 2×" in text
