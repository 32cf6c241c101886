"""The best ρ, its bootstrap and its growth, on planted validation values; what ρ‖∇f‖ is."""

import numpy as np
import pytest
from planted import run, sweep

from samop import radius, records, results
from samop.errors import UserError

GRID = (0.01, 0.02, 0.04, 0.08, 0.16)


def planted(root, best, seeds=8, spread=0.0, noise=0.0):
    """Validation accuracy falls with |log₂ ρ − log₂ best(width)|; base runs beside."""
    rng = np.random.default_rng(0)
    runs = []
    for hidden, star in best.items():
        for seed in range(seeds):
            runs.append(run(hidden, seed, None, [(0.5, 0.5)], noise=noise))
            own = np.log2(star) + spread * rng.normal()
            for rho in GRID:
                value = 0.9 - 0.1 * abs(np.log2(rho) - own)
                # The test part would choose the opposite: it must not be asked.
                runs.append(run(hidden, seed, rho, [(value, 1 - value)], noise=noise))
    return results.load(sweep(root, runs))


def test_the_planted_best_is_found_without_doubt(tmp_path):
    table = radius.best_rho(planted(tmp_path, {8: 0.02, 32: 0.04, 128: 0.08}))
    assert table["rho_star"].tolist() == [0.02, 0.04, 0.08]
    assert (table["rho_low95"] == table["rho_star"]).all()
    assert (table["rho_high95"] == table["rho_star"]).all()
    assert (table["at_edge"] == 0).all()
    assert (table["edge"] == "").all()
    assert (table["n"] == 8).all()


def test_spread_over_seeds_widens_the_interval(tmp_path):
    row = radius.best_rho(planted(tmp_path, {8: 0.04}, spread=2.0, seeds=10)).iloc[0]
    assert row["rho_low95"] < row["rho_high95"]
    assert row["rho_low95"] <= row["rho_star"] <= row["rho_high95"]


def test_growth_is_the_slope_of_logarithms(tmp_path):
    """Parameters of the planted widths: 64h + h². The slope by polyfit."""
    runs = planted(tmp_path, {8: 0.02, 32: 0.04, 128: 0.16})
    row = radius.growth(runs).iloc[0]
    x = np.log2([64 * h + h**2 for h in (8, 32, 128)])
    want = np.polyfit(x, np.log2([0.02, 0.04, 0.16]), 1)[0]
    assert row["slope"] == pytest.approx(want)
    assert row["low95"] == pytest.approx(want)
    assert row["n_widths"] == 3


def test_few_seeds_have_no_bootstrap(tmp_path):
    runs = planted(tmp_path, {8: 0.01, 32: 0.16}, seeds=3)
    table = radius.best_rho(runs)
    assert table["rho_low95"].isna().all()
    assert table["at_edge"].isna().all()
    assert table["edge"].tolist() == ["lowest", "highest"]
    assert np.isnan(radius.growth(runs).iloc[0]["low95"])


def test_the_regularizer_is_rho_times_the_gradients_norm(tmp_path):
    runs = planted(tmp_path, {8: 0.04}, seeds=1)
    for row in runs.to_dict("records"):
        file = tmp_path / "points" / row["point"] / "metrics.jsonl"
        old = records.read_rows(file)
        extra = {"sam_grad_norm": 3.0, "sam_loss_increase": 0.2, "weight_norm": 5.0}
        file.unlink()
        records.append_rows(file, [{**r, **extra} for r in old], False)
    found = radius.regularizer(tmp_path, runs)
    assert len(found) == len(GRID)
    np.testing.assert_allclose(found["regularizer"], 3.0 * found["rho"])
    assert radius.regularizer(tmp_path, runs[runs["transform"] == "base"]).empty


def test_base_runs_alone_have_no_best_rho(tmp_path):
    runs = results.load(sweep(tmp_path, [run(8, s, None, [(0.5, 0.5)]) for s in (0, 1)]))
    with pytest.raises(UserError, match="finished perturbed runs"):
        radius.best_rho(runs)
    with pytest.raises(UserError, match="epoch='first' is not allowed"):
        radius.best_rho(runs, epoch="first")
