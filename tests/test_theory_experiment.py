"""From trained runs to judged minima: gradients, and what is left out with its reason."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from small import small_plan

from samop import checkpoint, sweep
from samop.errors import UserError

FILE = Path(__file__).parent.parent / "experiments" / "linear_stability.py"


@pytest.fixture(scope="module")
def stability():
    spec = importlib.util.spec_from_file_location("linear_stability", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(**optimizer):
    fields = {
        "base": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.02,
        "ascent": "unnormalized", **optimizer,
    }  # fmt: skip
    return small_plan(
        {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.008,), "seed": (0,)},
        workload="regression",
        data__name="digits_parity",
        data__normalize="none",
        data__train_size=20,
        model__hidden=(4,),
        model__activation="tanh",
        train__batch_size=1,
        train__epochs=1,
        **{f"optimizer__{name}": value for name, value in fields.items()},
    )


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
    for name, fields, message in (
        ("momentum", {"momentum": 0.9}, "without momentum and decay"),
        ("schedule", {"schedule": "cosine"}, "constant rate"),
        ("ascent", {"ascent": "normalized"}, "optimizer.ascent='unnormalized'"),
    ):
        made = plan(**fields)
        sweep.write_plan(made, tmp_path / name)
        run = tmp_path / name / "points" / next(n for n in made.points if "sam" in n)
        with pytest.raises(UserError, match=message):
            stability.rates(run)
