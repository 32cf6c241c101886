"""Moments, bounds and their proofs, step by step; the search for violations; judged minima."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from test_theory_exact import draws, outer

from samop import theory
from samop.errors import UserError
from samop.figures import stability as drawing
from samop.theory import bounds, ensembles, minima

RATIOS = (0.0, 0.1, 0.4, 0.5, 2.0, 10.0)


def test_the_mean_square_is_a_polynomial_in_the_moments():
    rng = np.random.default_rng(0)
    for _ in range(100):
        hessians, p = draws(rng, 3, 4)
        eta, rho = rng.uniform(0.01, 0.5), rng.uniform(0, 0.5)
        b = np.eye(3) - eta * (hessians + rho * hessians @ hessians)
        expected = np.tensordot(p, b @ b, 1)
        m = theory.dense_moments(hessians, p)
        size = np.abs(expected).max()
        assert np.abs(theory.mean_square(m, eta, rho) - expected).max() <= 1e-12 * max(size, 1)
        top = np.linalg.eigvalsh(expected)[-1]
        assert theory.contraction(m, eta, rho) == pytest.approx(top - 1, abs=1e-11 * max(size, 1))
        a = hessians + rho * hessians @ hessians
        mean = np.tensordot(p, a, 1)
        spread = np.linalg.eigvalsh(np.tensordot(p, a @ a, 1) - mean @ mean)[-1]
        assert theory.variance(m, rho) == pytest.approx(spread, rel=1e-9)


def test_rank_one_moments():
    rng = np.random.default_rng(1)
    g, p = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(5))
    np.testing.assert_allclose(
        theory.rank_one_moments(g, p), theory.dense_moments(outer(g), p), rtol=1e-12
    )
    with pytest.raises(UserError, match="k=5 should be from 2 to 4"):
        theory.nonuniformities(theory.rank_one_moments(g, p), orders=(5,))


@pytest.mark.parametrize("ratio", RATIOS)
def test_sufficient_then_exact_then_necessary(ratio):
    """Each criterion's edge, as a multiple of η and ρ, on random draws."""
    rng = np.random.default_rng(2)
    for _ in range(8):
        g = theory.span(rng.normal(size=(5, 3)) * rng.gamma(1.0, 1.0, size=(5, 1)))
        edges = minima.edges(g, 0.1, 0.1 * ratio)
        order = [edges[name] for name in ("sufficient", "exact", "necessary", "a")]
        for below, above in itertools.pairwise(order):
            assert below <= above * (1 + 1e-6)
        t = edges["exact"]
        assert theory.rank_one_radius(g, 0.1 * t, 0.1 * t * ratio).value == pytest.approx(1.0)
        v = theory.rank_one_worst_direction(g, 0.1 * t, 0.1 * t * ratio)
        assert v.value <= 1 + 1e-6
        # The test along v is at least that of the mean in its top direction.
        m = theory.rank_one_moments(g)
        mean = m[0] + 0.1 * t * ratio * m[1]
        assert v.value >= 0.1 * t * np.linalg.eigvalsh(mean)[-1] / 2 * (1 - 1e-9)


def test_the_steps_of_the_proof_of_the_sharper_bound():
    """Numbered as in its docstring, at the spectral measures of random draws."""
    rng = np.random.default_rng(3)
    for ratio in RATIOS:
        for _ in range(10):
            hessians, p = draws(rng, 3, 4)
            hessians = ensembles.scale(hessians[None], p[None], ratio, "E[B²] ⪯ I") * hessians
            m = theory.dense_moments(hessians, p)
            v = rng.normal(size=3)
            v = v / np.linalg.norm(v)
            h, m2, m3, m4 = (v @ power @ v for power in m)
            values, vectors = np.linalg.eigh(hessians)
            weight = (p[:, None] * np.einsum("nji,j->ni", vectors, v) ** 2).ravel()
            x = values.ravel()
            np.testing.assert_allclose([weight @ x**k for k in range(1, 5)], [h, m2, m3, m4])
            near = 1e-9
            y2 = weight @ (x + ratio * x**2) ** 2
            t, r = math.sqrt(m2), ratio
            bracket = 0.5 * t**2 * (1 + r * t) ** 2 - r * t**2
            assert y2 >= t**2 * (1 + r * t) ** 2 - near  # 1
            assert y2 <= 2 * h + 2 * r * t**2 + near  # E[B²] ⪯ I
            assert h >= bracket - near  # 2
            assert -near <= h <= t + near  # 3
            assert t <= 2 + near  # 4
            excess = theory.dense_moments(hessians, p)[1] - m[0] @ m[0]
            assert v @ excess @ v <= m2 - h**2 + near
            assert m2 - h**2 <= t**2 - max(bracket, 0) ** 2 + near  # 5
            assert m2 - h**2 <= theory.sharper_s2(r) + 1e-6
            # And what the best bound says before its last step.
            assert m2 <= theory.largest_a(1.0, r) * h + near


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_best_bounds_and_their_certificates(ratio):
    c = theory.largest_a(1.0, ratio)
    assert c * (1 + ratio * c) == pytest.approx(2.0)
    assert theory.best_s2(1.0, ratio) == pytest.approx(c / 2)
    assert theory.best_s2(1.0, ratio) ** 2 <= theory.sharper_s2(ratio) + 1e-9
    x = np.linspace(0, 10, 10_001)
    y = x + ratio * x**2
    weight = 1 / ((1 + ratio * c) * (ratio * c + 2 / c))
    assert (x**2 - c * x + weight * y * (2 - y)).max() < 1e-9
    if ratio >= 0.375:
        assert (x**3 - c**2 * x + 2 * c * weight * y * (2 - y)).max() < 1e-9
        assert theory.best_s3(1.0, ratio) < theory.paper_formula(3, 1.0, ratio)
    # Attained by two scalars.
    for k, q, bound in ((2, 0.5, theory.best_s2), (3, 3**-0.5, theory.best_s3)):
        if k == 3 and ratio < 0.375:
            with pytest.raises(UserError, match="best bound on s₃ assumes ρ ≥ ⅜η"):
                bound(1.0, ratio)
            continue
        m = theory.dense_moments(np.array([[[c]], [[0.0]]]), np.array([q, 1 - q]))
        assert theory.contraction(m, 1.0, ratio) == pytest.approx(0.0, abs=1e-12)
        assert theory.nonuniformities(m)[k] == pytest.approx(bound(1.0, ratio))


@pytest.mark.parametrize(
    ("k", "eta", "rho", "message"),
    [
        (2, 0.1, 0.05, "bound on s₂ assumes η > 2ρ"),
        (3, 0.1, 0.0, "bound on s3 assumes ρ > 0"),
        (4, 0.1, 0.06, "bound on s4 is a theorem for η ≥ 2ρ alone: eta=0.1, rho=0.06"),
        (5, 0.1, 0.01, "k=5 should be 2, 3 or 4"),
    ],
)
def test_a_bound_outside_of_its_assumptions_is_refused(k, eta, rho, message):
    with pytest.raises(UserError, match=message):
        theory.paper(k, eta, rho)


@pytest.mark.parametrize("ratio", [0.01, 0.374, 0.376, 0.5, 0.501, 2.0, 1e3])
def test_the_papers_third_bound_is_a_theorem_for_every_radius(ratio):
    """Below ½ by the paper's proof; from ⅜ on by the best bound, which is below it."""
    assert theory.paper(3, 0.1, 0.1 * ratio) == theory.paper_formula(3, 0.1, 0.1 * ratio)
    assert ensembles.is_theorem("s₃, paper", "E[B²] ⪯ I", ratio)
    for k in (2, 4):
        holds = ensembles.is_theorem(ensembles.PAPER[k], "E[B²] ⪯ I", ratio)
        assert holds == (ratio < 0.5 if k == 2 else ratio <= 0.5)
    if ratio > 0.375:
        assert theory.best_s3(1.0, ratio) < theory.paper(3, 1.0, ratio)
    found = ensembles.search(
        ratio,
        "E[B²] ⪯ I",
        count=50,
        climbs=20,
        rng=np.random.default_rng(0),
        shapes=(("scalar", 2, 1), ("general", 3, 2)),
        only=("s₃, paper",),
    )
    assert (found[0].violations, found[0].theorem) == (0, True)
    assert found[0].worst <= 1 + 1e-9


def test_the_search_finds_the_planted_violation():
    """H = .4 with probability .63 else 0 at ρ/η = 10, where s₄ breaks the bound by 1.21^¼."""
    found = ensembles.search(
        10.0,
        "E[B²] ⪯ I",
        count=100,
        climbs=60,
        rng=np.random.default_rng(0),
        shapes=(("scalar", 2, 1),),
        only=("s₄, paper", "s₂, best"),
    )
    fourth = next(f for f in found if f.bound == "s₄, paper")
    assert not fourth.theorem
    assert fourth.violations > 0
    assert fourth.worst == pytest.approx(1.21**0.25, abs=1e-3)
    i = int(np.argmax(fourth.hessians))
    assert fourth.hessians[i, 0, 0] == pytest.approx(0.4, abs=0.005)
    assert fourth.p[i] == pytest.approx(0.63, abs=0.02)
    m = theory.dense_moments(fourth.hessians, fourth.p)
    assert theory.contraction(m, 1.0, 10.0) == pytest.approx(0.0, abs=1e-9)
    second = next(f for f in found if f.bound == "s₂, best")
    assert (second.theorem, second.violations) == (True, 0)
    assert 0.98 < second.worst <= 1 + 1e-9


@pytest.mark.parametrize("ratio", [0.0, 0.4, 2.0])
def test_no_theorem_is_broken(ratio):
    rng = np.random.default_rng(1)
    for criterion in ensembles.CRITERIA:
        for found in ensembles.search(ratio, criterion, count=40, climbs=5, rng=rng):
            if found.theorem:
                assert found.violations == 0, found
                assert found.worst <= 1 + 1e-6, found


def test_sgds_bound_is_no_theorem_under_the_exact_criterion():
    found = ensembles.search(
        0.0,
        "exact",
        count=300,
        climbs=40,
        rng=np.random.default_rng(2),
        shapes=(("general", 4, 3), ("general", 3, 2)),
        only=("s₂, best",),
    )[0]
    assert not found.theorem
    assert found.violations > 0
    assert found.worst > 1.05
    # It is stable all the same, by another way to see it.
    assert theory.radius(found.hessians, 1.0, 0.0, found.p).value <= 1 + 1e-9
    s2 = theory.nonuniformities(theory.dense_moments(found.hessians, found.p))[2]
    assert s2 == pytest.approx(found.worst)
    with pytest.raises(UserError, match="criterion='radius' should be one of"):
        ensembles.scale(found.hessians[None], found.p[None], 0.0, "radius")


def minimum(rng, scale=0.3):
    return scale * rng.normal(size=(8, 20)) * rng.gamma(4.0, 0.25, size=(8, 1))


def test_a_judged_minimum():
    rng = np.random.default_rng(5)
    g, eta, rho = minimum(rng), 0.2, 0.08
    row = minima.judge(g, np.full(8, 1e-3), eta, rho)
    m = theory.dense_moments(outer(g))
    assert row["loss"] == pytest.approx(5e-7)
    assert row["rank"] == 8
    assert row["a"] == pytest.approx(np.linalg.eigvalsh(m[0])[-1])
    for k, value in theory.nonuniformities(m).items():
        assert row[f"s{k}"] == pytest.approx(value)
    assert (row["noise_ratio"] <= 1) == (row["radius"] <= 1)
    assert row["noise_ratio"] >= row["direction"] * (1 - 1e-9)
    assert (row["contraction"] <= 0) == (row["edge_sufficient"] >= 1)
    for k in (2, 3, 4):
        assert row[f"s{k}_paper_bound"] == theory.paper(k, eta, rho)
    plain = minima.judge(g, np.zeros(8), eta, 0.0)
    assert np.isnan(plain["s3_paper_bound"])
    assert plain["s2_best_bound"] == pytest.approx(1 / eta)
    kinds = {c.kind for c in minima.criteria(g, eta, rho)}
    assert kinds == {"exact", "necessary", "sufficient", "implied"}


@pytest.mark.parametrize("rho", [0.0, 0.08])
def test_two_almost_equal_gradients_are_judged(rho):
    """Alike but for 1e-9 to 1e-6: as if alike, and with every criterion next to that."""
    rng = np.random.default_rng(5)
    g = minimum(rng)
    g[1] = g[0]
    apart = rng.normal(size=20)
    alike = minima.judge(g, np.zeros(8), 0.2, rho)
    assert alike["rank"] == 7
    for by in (1e-9, 3e-8, 1e-6):
        near = g.copy()
        near[1] += by * apart
        span = theory.span(near)
        assert theory.rank_one_radius(near, 0.2, rho).converged
        np.testing.assert_allclose(span @ span.T, near @ near.T, atol=1e-12)
        row = minima.judge(near, np.zeros(8), 0.2, rho)
        for name, value in alike.items():
            # Those are decided by directions that hardly move: 1, or 0, as soon as there is one.
            if name not in ("rank", "radius", "radius_residual", "lyapunov", "contraction"):
                assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-9, nan_ok=True), (
                    by,
                    name,
                )
        assert alike["radius"] - 1e-9 <= row["radius"] <= max(1, alike["radius"]) + 1e-9
        assert alike["contraction"] - 1e-9 <= row["contraction"]
        assert row["contraction"] <= max(0, alike["contraction"]) + 1e-9
        assert row["rank"] == {1e-9: 7, 1e-6: 8}.get(by, row["rank"])


def test_the_spread_of_lengths_and_probabilities_hides_no_direction():
    """What `span` keeps is judged, though example 0 is hardly ever drawn."""
    rng = np.random.default_rng(9)
    g = rng.normal(size=(6, 6))
    g[1] = g[0] + 1e-6 * rng.normal(size=6)
    p = np.array([1e-6, *[(1 - 1e-6) / 5] * 5])
    found = theory.rank_one_radius(g, 0.02, 0.01, p)
    assert found.converged
    assert found.value == pytest.approx(1)
    assert theory.span(g).shape[1] == 6


def test_a_network_that_does_not_interpolate_is_refused():
    g = minimum(np.random.default_rng(6))
    with pytest.raises(UserError, match=r"does not interpolate: its training loss is 0\.005"):
        minima.judge(g, np.full(8, 0.1), 0.1, 0.0)
    with pytest.raises(UserError, match="diverged"):
        minima.judge(g, np.full(8, np.nan), 0.1, 0.0)


def test_the_figures_draw_what_they_are_given():
    rng = np.random.default_rng(7)
    rows = []
    for seed in range(2):
        for width in (4, 16):
            for name, rho in (("SGD", 0.0), ("SAM", 0.08)):
                row = minima.judge(minimum(rng), np.zeros(8), 0.2, rho)
                key = {"width": width, "optimizer": name, "eta": 0.2, "rho": rho, "seed": seed}
                rows.append(key | row | {"left_out": ""})
    rows.append(rows[-1] | {"seed": 3, "left_out": "the run diverged"})
    figure = drawing.minima(pd.DataFrame(rows))
    assert len(figure.axes) == len(drawing.PANELS)
    assert "1 of 9 runs left out" in " ".join(text.get_text() for text in figure.texts)
    with pytest.raises(UserError, match="no run has a minimum"):
        drawing.minima(pd.DataFrame(rows[-1:]))
    found = [
        f._asdict()
        for criterion in ensembles.CRITERIA
        for f in ensembles.search(0.4, criterion, count=20, climbs=2, rng=rng)
    ]
    assert len(drawing.ensembles(pd.DataFrame(found)).axes) == 2
    with pytest.raises(UserError, match="no ensemble"):
        drawing.ensembles(pd.DataFrame(found)[:0])


def test_bounds_without_assumptions_name_bad_rates():
    for bound in (bounds.largest_a, bounds.best_s2, bounds.best_s3):
        with pytest.raises(UserError, match=r"eta=0.0 should be a finite number > 0"):
            bound(0.0, 0.1)
    with pytest.raises(UserError, match="rho=-1"):
        theory.sharper_s2(-1)
