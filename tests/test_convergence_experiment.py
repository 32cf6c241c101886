"""The scripts of the two statements on rates: what they compute, count and call a thing."""

import importlib.util
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from samop.figures.convergence import AVERAGE, BOTH, FAR, LINE, NEAR, NO_MINIMUM, by_start

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))  # for `common`, as where a script is run
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rates(monkeypatch):
    return script("convergence", monkeypatch)


@pytest.fixture
def posed(monkeypatch):
    return script("convergence_problems", monkeypatch)


@pytest.fixture
def widths(monkeypatch):
    return script("two_layer_error", monkeypatch)


def test_largest_is_the_largest_absolute_eigenvalue(rates):
    # [[a, b], [b, c]] has the eigenvalues (a + c)/2 ± √((a − c)²/4 + b²): ±5, and 1 and −9.
    alpha = np.array([[3.0, -3.0], [-4.0, -4.0]])
    beta = np.array([[4.0, 99.0], [5.0, 99.0]])  # the last is beside no diagonal
    np.testing.assert_allclose(rates.largest(alpha, beta), [5, 9])
    rng = np.random.default_rng(0)
    alpha, beta = rng.normal(size=(2, 3, 6)), rng.normal(size=(2, 3, 6))
    for i, j in np.ndindex(2, 3):
        off = beta[i, j, :-1]
        matrix = np.diag(alpha[i, j]) + np.diag(off, 1) + np.diag(off, -1)
        expected = np.abs(np.linalg.eigvalsh(matrix)).max()
        assert rates.largest(alpha, beta)[i, j] == pytest.approx(expected)


def test_curvature_is_that_of_a_quadratic(posed, rates):
    """Lanczos through `largest`: f_i = ½ h_i·x², so the whole has max mean(h), a batch more."""
    h = np.array([[1.0, 5.0], [3.0, 1.0], [2.0, 6.0], [2.0, 0.0]], np.float32)
    problem = posed.problems(True)[0]._replace(
        loss=lambda x, batch: 0.5 * ((batch[0] @ (x**2)) / len(batch[0])).sum()
    )
    curve = rates.curvature(problem, lambda x: x)
    found = curve(np.ones((1, 1, 2), np.float32), (h[None],), jax.random.key(0)[None])
    tops = rates.largest(*map(np.asarray, found))
    assert tops.shape == (1, 1, 1 + rates.BATCHES)
    assert tops[0, 0, 0] == pytest.approx(3, rel=1e-5)
    assert tops.max() <= 6 + 1e-4


@pytest.mark.parametrize(
    ("alpha", "eta", "rho", "f_star", "bound", "why"),
    [
        # κ = βρ√(β/α) = 4 · .05 · 2 = .4; factor 1 − 2·.05·(1 − .4) + 2·4·.05²·(1.2)² = .9688
        (1.0, 0.05, 0.05, 0.0, -math.log(0.9688), ""),
        (1.0, 0.05, 0.0, 0.0, -math.log(1 - 0.1 + 0.02), ""),
        (1.0, 0.05, 0.125, 0.0, math.nan, "κ"),
        (1.0, 0.25, 0.0, 0.0, math.nan, "η"),
        (1.0, 0.05, 0.05, 0.3, math.nan, "interpolation"),
        (0.0, 0.05, 0.05, 0.0, math.nan, "‖∇f‖²"),
    ],
)
def test_judged_gives_the_bound_or_the_assumption_that_fails(
    rates, alpha, eta, rho, f_star, bound, why
):
    found = rates.judged({"eta": eta, "rho": rho, "f_star": f_star}, alpha, 4.0, 2.0)
    assert found["bound"] == pytest.approx(bound, nan_ok=True)
    assert why in found["no_bound_because"]
    assert bool(found["no_bound_because"]) == bool(why)
    assert found["largest_eta_sgd"] == pytest.approx(2 * alpha / 8)
    assert found["kappa"] == pytest.approx(8 * rho / math.sqrt(alpha) if alpha else math.inf)
    assert found["largest_rho"] == pytest.approx(math.sqrt(alpha) / 8)


def test_the_floor_is_what_a_rank_leaves_out(posed):
    y = np.zeros((200, 10))
    y[:3, :3] = np.diag([30.0, 20.0, 10.0])
    assert posed.rank_floor((None, y), 1, 9.0, 9.0) == pytest.approx((400 + 100) / 200)
    assert posed.rank_floor((None, y), 10, 9.0, 9.0) == 0
    assert posed.seen_floor(None, 4, 1.0, 1e-3) == 0
    assert posed.seen_floor(None, 4, 1.0, 1.1e-3) == 1.1e-3


def test_two_starts_that_are_one_are_trained_once(posed):
    matrix, digits = posed.problems(False)
    for width in (8, 10):
        starts = posed.starts_of(matrix, width)
        one, two = (posed.init_matrix(width, start, jax.random.key(0)) for start in matrix.starts)
        same = all(np.array_equal(one[name], two[name]) for name in one)
        assert len(starts) == (1 if same else 2)
        assert (starts == (BOTH,)) == same == (width == 10)
        both = posed.init_matrix(width, starts[0], jax.random.key(0))
        assert np.array_equal(both["first"], one["first"])
    assert [w for w in matrix.widths if len(posed.starts_of(matrix, w)) == 1] == [10]
    assert posed.starts_of(digits, 10) == digits.starts


def test_the_theorem_gets_more_steps_and_as_many_records(posed):
    matrix, digits = posed.problems(False)
    for width, times in ((10, posed.LONGER[10]), (16, posed.LONGER[16]), (64, 1)):
        slow = posed.patient(matrix, width)
        assert (slow.steps, slow.every) == (4000 * times, 5 * times)
    assert posed.patient(digits, 16) == digits


def runs(rates):
    """Rates 10⁻⁴ w² (start "a") and 10⁻³ w ("b"), which are one at width 10; SAM's doubled."""
    rows = []
    for start, width, power in (
        ("a", 5, 2), ("b", 5, 1), (BOTH, 10, 1), ("a", 20, 2), ("b", 20, 1), ("a", 40, 2),
        ("b", 40, 1),
    ):  # fmt: skip
        for name, seed in ((name, seed) for name in ("SGD", "SAM") for seed in range(3)):
            rate = 1e-2 * (width / 10) ** power * (2 if name == "SAM" else 1) * (1 + 0.01 * seed)
            row = dict(zip(rates.KEYS, ("p", start, width, 20 * width, name, "fixed")))
            row |= {"seed": seed, "eta": 0.02, "rho": 0.0, "fit_rate": rate, "fit_r2": 0.99}
            row |= {"first_loss": 4.0, "last_loss": 0.02, "f_star": 1.0 if width == 5 else 0.0}
            row |= {"beta": 4.0, "lam": 2.0}
            for where in ("", "window_"):
                found = {"alpha": rate, "kappa": seed + width, "bound": rate / 2}
                found |= {"largest_rho": 0.1, "largest_eta_sgd": 0.1}
                row |= {f"{where}{name}": value for name, value in found.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def test_summary_counts_each_run_once_and_gives_the_range_of_kappa(rates):
    tables = rates.tables(runs(rates), pd.DataFrame())
    table = tables["summary"]
    assert table["n"].sum() == len(tables["runs"]) == 7 * 6
    assert table.loc[table["width"] == 10, "start"].tolist() == [BOTH] * 2
    row = table[(table["width"] == 10) & (table["optimizer"] == "SAM")].iloc[0]
    assert (row["kappa_min"], row["kappa"], row["kappa_max"]) == (10, 11, 12)
    assert row["gain"] == pytest.approx(0.0101)  # of 10⁻² (1 + 0, 1, 2 %)
    assert row["bound_holds"] == 3
    assert row["log10_over_bound"] == pytest.approx(math.log10(2))
    assert row["last_share_max"] == pytest.approx(0.005)
    assert by_start(table)["n"].sum() == 8 * 6


def test_trends_have_both_arms_over_widths_that_interpolate(rates):
    table = rates.trends(runs(rates))
    assert set(table["widths"]) == {"10+20+40"}
    for start, power in (("a", 2), ("b", 1)):
        found = table.loc[table["start"] == start, "exponent"]
        assert len(found) == 4
        np.testing.assert_allclose(found, power, rtol=1e-6)


@pytest.mark.parametrize(
    ("r2", "share", "f_star", "slope", "end"),
    [
        ([0.95, 0.99], [0.01, 1e-9], [0, 0], LINE, NEAR),
        ([0.94, 0.99], [0.01, 1e-9], [0, 0], AVERAGE, NEAR),
        ([0.99, 0.99], [0.011, 1e-9], [0, 0], LINE, FAR),
        ([math.nan, 0.99], [1.0, 1.0], [0, 0.1], AVERAGE, NO_MINIMUM),
    ],
)
def test_the_worst_seed_decides_what_a_setting_is_called(rates, r2, share, f_star, slope, end):
    group = pd.DataFrame({"fit_r2": r2, "last_share": share, "f_star": f_star})
    assert rates.marks(group) == {"slope": slope, "end": end}


def test_a_part_run_anew_replaces_its_rows_alone(posed, rates):
    def table(*rows):
        return pd.DataFrame(rows, columns=["problem", "start", "width", "value"])

    matrix, digits = (problem.name for problem in posed.problems(False))
    old = table(
        (matrix, "a", 5, 1), (matrix, "a", 10, 2), (matrix, "b", 10, 3), (matrix, "a", 16, 4),
        (digits, "a", 10, 5),
    )  # fmt: skip
    found = rates.merged(old, table((matrix, BOTH, 10, 6), (matrix, "a", 10, 7)))
    assert found["value"].tolist() == [1, 6, 7, 4, 5]
    assert rates.merged(pd.DataFrame(), old)["value"].tolist() == [1, 2, 3, 4, 5]


def falls(problem, per_step):
    """What `descend` gives where loss is 4 exp(−per_step t) and ‖∇f‖² = 2 · 3 · loss."""

    def run(flat, data, keys, etas, rhos):
        steps = np.arange(0, problem.steps + 1, problem.every)
        loss = np.tile(4 * np.exp(-per_step * steps), (len(etas), 1))
        x = np.zeros((*loss.shape, flat.shape[1]))
        return {"loss": loss, "gradient": 6 * loss, "x": x}

    return run


def test_measure_fits_judges_and_lets_the_theorem_follow(posed, rates):
    """α = 3, λ = 4, β = 5: SAM's first run sets η* / 2 and half the largest ρ of the second."""
    problem = posed.problems(True)[0]._replace(steps=400, every=5, longer={10: 3})
    slow = posed.patient(problem, 10)
    run = {"fixed": falls(problem, 0.01), "theorem": falls(slow, 0.001)}

    def curve(points, data, keys):
        tops = np.r_[4.0, [5.0] * rates.BATCHES]
        alpha = np.broadcast_to(tops[:, None], (*points.shape[:2], len(tops), 2))
        return alpha, np.zeros_like(alpha)

    with jax.enable_x64(True):
        rows, curves = rates.measure(problem, 10, BOTH, 2, run, curve)
    found = pd.DataFrame(rows)
    assert found["optimizer"].tolist() == ["SGD"] * 2 + ["SAM"] * 4
    assert found["rates"].tolist() == ["fixed"] * 4 + ["theorem"] * 2
    np.testing.assert_allclose(found["fit_rate"], [0.01] * 4 + [0.001] * 2)
    assert found["fit_first"].tolist() == [200] * 4 + [600] * 2
    assert found["fit_last"].tolist() == [400] * 4 + [1200] * 2
    np.testing.assert_allclose(found["last_loss"], 4 * np.exp([-4] * 4 + [-1.2] * 2))
    for where in ("", "window_"):
        np.testing.assert_allclose(found[f"{where}alpha"], 3)
        assert set(found[f"{where}lam"]) == {4}
        assert set(found[f"{where}beta"]) == {5}
    rho = math.sqrt(3 / 5) / 5 / 2  # κ = 1/2
    eta = 3 * 0.5 / (4 * 5 * (1 + 5 * rho) ** 2) / 2
    np.testing.assert_allclose(found["rho"], [0] * 2 + [0.02] * 2 + [rho] * 2)
    np.testing.assert_allclose(found["eta"], [0.02] * 4 + [eta] * 2)
    np.testing.assert_allclose(found["kappa"][4:], 0.5)
    # At η*/2 the factor is 1 − ¾ α²(1 − κ)²/(λβ(1 + βρ)²).
    slope = -math.log(1 - 0.75 * 9 * 0.25 / (20 * (1 + 5 * rho) ** 2))
    np.testing.assert_allclose(found["bound"][4:], slope)
    assert found["bound"][:4].notna().all()  # .02 < 2η*, κ = .129
    assert max(row["step"] for row in curves if row["rates"] == "theorem") == 1200
    assert max(row["step"] for row in curves if row["rates"] == "fixed") == 400


def two_layer(validation, test):
    """Losses of Adam and of SAM, which has the same but for a worse validation at width 32."""
    table = pd.DataFrame({"width": [4, 8, 16, 32, 64], "train": 1.0})
    table = table.assign(validation=validation, test=test, examples=100)
    parts = [
        table.assign(seed=seed, rho=rho, optimizer=name)
        for rho, name in ((0.0, "Adam"), (0.05, "SAM")) for seed in (0, 1)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_widths_are_chosen_by_validation_whatever_the_test_says(widths):
    validation, low, high = [1.0, 1.1, 1.25, 1.2, 1.3], [1.0] * 5, [9.0] * 5
    for test in (low, high):
        assert widths.usable(two_layer(validation, test)) == [4, 8, 16, 32]
    assert widths.usable(two_layer([1.0, 1.3, 1.0, 1.0, 1.0], low)) == [4], "it stays closed"
    table = two_layer(validation, low)
    worse = (table["optimizer"] == "SAM") & (table["width"] == 32)
    table.loc[worse & (table["seed"] == 0), "validation"] = 1.4  # mean of seeds 1.3
    assert widths.usable(table) == [4, 8, 16], "one optimiser at its floor ends it for all"


def test_exponents_of_planted_powers(widths, capsys):
    table = two_layer([1.0, 1.1, 1.2, 1.3, 1.4], 1.0)
    power = np.where(table["rho"] > 0, 0.7, 0.5)
    table["test"] = 3 * table["width"] ** -power * (1 + 0.1 * table["seed"])
    found = widths.exponents(table).query("of == 'test'").set_index(["widths", "optimizer"])
    assert found.loc[("below the floor", "Adam"), ["first", "last"]].tolist() == [4, 16]
    assert found.loc[("all", "SAM"), "last"] == 64
    for where in ("below the floor", "all"):
        assert found.loc[(where, "Adam"), "exponent"] == pytest.approx(0.5)
        assert found.loc[(where, "SAM"), "exponent"] == pytest.approx(0.7)
        assert found.loc[(where, "SAM"), "minus_base"] == pytest.approx(0.2)
    shown = widths.shown(found.reset_index().to_dict("records")[0])
    assert shown["widths"] == "4–16 (below the floor)"
