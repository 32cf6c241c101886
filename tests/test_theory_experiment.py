"""From trained runs to judged minima: gradients, and what is left out with its reason."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import small_plan

from samop import checkpoint, sweep
from samop.errors import UserError

FILE = Path(__file__).parent.parent / "experiments" / "linear_stability.py"


@pytest.fixture(scope="module")
def stability():
    spec = importlib.util.spec_from_file_location("linear_stability", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILE.parent)  # as of a script: it imports `common`
        spec.loader.exec_module(module)
    return module


def judged(stability, ratio, seeds=4, widths=(4, 16, 64)):
    """A table of minima with SAM/SGD = ratio(width, seed) in every measure."""
    rows = []
    for seed in range(seeds):
        for width in widths:
            for name in ("SGD", "SAM"):
                size = 3.0 + seed
                value = size * ratio(width, seed) if name == "SAM" else size
                rows.append(
                    {
                        "eta": 0.1, "width": width, "optimizer": name, "seed": seed, "left_out": "",
                        **dict.fromkeys(stability.MEASURES, value), "lyapunov": -value,
                        "edge_sufficient": 0.5, "edge_exact": 2.0, "a_bound": 9.0,
                        "s2_best_bound": 4.5 if name == "SAM" else 10.0, "s3_best_bound": np.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def cells(text):
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]


def test_every_cell_has_its_header(stability):
    table = judged(stability, lambda width, seed: 0.5)
    for text in (
        stability.counts(table),
        stability.compared(stability.summarise(table)),
        stability.changes(stability.trends(table)),
    ):
        assert len({len(row) for row in cells(text)}) == 1
    head, _, first, *_ = cells(stability.counts(table))
    found = dict(zip(head, first, strict=True))
    assert (found["E[B²] ⪯ I"], found["radius ≤ 1"], found["Lyapunov ≤ 0"]) == ("0", "0", "4")
    assert found["edge of exact"] == "2.00"


def test_a_planted_trend_with_width(stability):
    shifts = np.array([-0.02, 0.01, 0.03, -0.02])  # of the slopes: their mean is 0
    table = judged(stability, lambda w, seed: 0.7 * np.exp((-0.05 + shifts[seed]) * np.log2(w)))
    found = stability.trends(table)
    assert set(found["measure"]) == set(stability.MEASURES) - {"lyapunov"}  # below 0: no ratio
    row = found.set_index("measure").loc["s2"]
    half = 3.182446 * shifts.std(ddof=1) / 2
    assert row["n"] == 4
    assert row["factor"] == pytest.approx(np.exp(-0.05))
    assert row["factor_low95"] == pytest.approx(np.exp(-0.05 - half))
    assert row["factor_high95"] == pytest.approx(np.exp(-0.05 + half))
    # A seed without one of its minima is left out, whichever it is.
    table.loc[(table["seed"] == 1) & (table["width"] == 64) & (table["optimizer"] == "SAM"),
              ["left_out", "s2"]] = ("diverged", np.nan)  # fmt: skip
    row = stability.trends(table).set_index("measure").loc["s2"]
    assert (row["n"], row["factor"]) == (3, pytest.approx(np.exp(-0.05 - 0.01 / 3)))
    assert stability.trends(table[table["width"] == 16]).empty
    assert "no trend" in stability.changes(stability.trends(table[table["width"] == 16]))


def test_sgds_minima_above_sams_bound_are_counted(stability):
    summary = stability.summarise(judged(stability, lambda width, seed: 0.5))
    row = summary.set_index(["width", "measure"]).loc[(4, "s2")]
    assert (row["sgd_minima"], row["sgd_above_sam_bound"]) == (4, 2)  # 5 and 6 of 3 … 6
    assert summary.loc[~summary["measure"].isin(["a", "s2"]), "sgd_above_sam_bound"].isna().all()
    without = judged(stability, lambda width, seed: 0.5)
    without.loc[(without["width"] == 64) & (without["optimizer"] == "SAM"), "left_out"] = "diverged"
    last = stability.summarise(without).query("width == 64 and measure == 's2'").iloc[0]
    assert (last["n"], last["sgd_minima"]) == (0, 4)
    assert np.isnan(last["sgd_above_sam_bound"])


def test_the_published_tables_follow_from_the_published_minima(stability, tmp_path, capsys):
    (tmp_path / "minima.csv").write_bytes((stability.RESULTS / "minima.csv").read_bytes())
    stability.derived(tmp_path)
    for name in ("summary", "trends"):
        made, published = (
            pd.read_csv(folder / f"{name}.csv") for folder in (tmp_path, stability.RESULTS)
        )
        pd.testing.assert_frame_equal(made, published, rtol=1e-6)


def plan(axes=None, **fields):
    given = {
        "optimizer__base": "sgd", "optimizer__momentum": 0.0, "optimizer__weight_decay": 0.0,
        "optimizer__schedule": "constant", "optimizer__lr": 0.02,
        "optimizer__ascent": "unnormalized", "workload": "regression",
        "data__name": "digits_parity", "data__normalize": "none", "data__train_size": 20,
        "model__hidden": (4,), "model__activation": "tanh", "train__batch_size": 1,
        "train__epochs": 1, **fields,
    }  # fmt: skip
    axes = axes or {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.008,), "seed": (0,)}
    return small_plan(axes, **given)


def test_runs_that_do_not_interpolate_are_left_out(stability, tmp_path, capsys, monkeypatch):
    sweep.run(plan(), tmp_path)
    with pytest.raises(UserError, match="no run has a minimum to judge"):
        stability.measure(tmp_path)
    assert capsys.readouterr().out.count("does not interpolate") == 2
    # Taken for minima all the same, they are measured.
    monkeypatch.setattr(stability.minima, "INTERPOLATES", np.inf)
    table = stability.measure(tmp_path)
    assert set(table["optimizer"]) == {"SGD", "SAM"}
    assert (table["left_out"] == "").all()
    assert (table["s2_share"] == table["s2"] / table["s2_best_bound"]).all()
    assert "| 0.02 | 4 | SAM | 1 | 0 |" in stability.counts(table)
    summary = stability.summarise(table)
    assert set(summary["measure"]) == set(stability.MEASURES)
    assert "| 0.02 | 4 | s₂/a |" in stability.compared(summary)
    # The gradients against their formula, for a = tanh(Wx + b).
    run = next((tmp_path / "points").glob("*sgd*"))
    g, residuals = stability.gradients(run)
    params = checkpoint.load(run)["params"]
    assert g.dtype == np.float64
    assert g.shape == (20, 4 * 64 + 4 + 4 + 1)
    out = np.asarray(params["Dense_1"]["kernel"], float)[:, 0]
    to_bias, to_out = g[:, :4], g[:, -4:]  # in the order of names: bias, kernel; bias, kernel
    np.testing.assert_allclose(to_bias, (1 - to_out**2) * out, rtol=1e-9)
    assert np.isin(np.round(to_out @ out + params["Dense_1"]["bias"] - residuals, 6), (-1, 1)).all()


def test_what_the_theory_does_not_have_is_refused(stability, tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        stability.measure(tmp_path)
    for field, value, extra in (
        ("optimizer.momentum", 0.9, {}),
        ("optimizer.weight_decay", 1e-4, {}),
        ("optimizer.clip", 1.0, {}),
        ("optimizer.schedule", "cosine", {}),
        ("optimizer.warmup", 0.1, {}),
        ("optimizer.base", "adam", {}),
        ("optimizer.ascent", "normalized", {}),
        ("optimizer.ascent_steps", 2, {}),
        ("optimizer.rho_schedule", "lr", {}),
        ("optimizer.mask", "no_biases", {}),
        ("optimizer.start", 0.5, {}),
        ("optimizer.end", 0.5, {}),
        ("optimizer.m", 1, {}),
        ("train.batch_size", 2, {}),
        ("model.norm", "batch", {}),
        ("sparsity.method", "random", {"sparsity__level": 0.5}),
        ("linearized.mode", "jvp", {}),
    ):
        run = planned(tmp_path / field, **{field.replace(".", "__"): value}, **extra)
        with pytest.raises(UserError, match=re.escape(f"{field}={value!r}: the theory is ")):
            stability.rates(run)
    other = planned(tmp_path / "other", "gsam")
    with pytest.raises(UserError, match=r"optimizer\.name='gsam': the theory is of SGD and SAM"):
        stability.rates(other)
    assert stability.rates(planned(tmp_path / "noise", data__label_noise=0.5))["rho"] == 0.008


def planned(folder, name="sam", **fields):
    """The folder of a run that is written, but not trained."""
    made = plan(**fields, axes={"optimizer.name": (name,), "optimizer.rho": (0.008,)})
    sweep.write_plan(made, folder)
    return folder / "points" / next(iter(made.points))


def test_a_network_with_a_state_of_its_own_is_refused(stability, tmp_path):
    axes = {"optimizer.name": ("sam",), "optimizer.rho": (0.008,)}
    sweep.run(plan(axes, model__norm="batch"), tmp_path)
    with pytest.raises(UserError, match="keeps batch_stats beside its parameters"):
        stability.gradients(next((tmp_path / "points").iterdir()))
