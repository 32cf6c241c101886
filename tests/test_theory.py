"""Linear stability: every bound against random draws, and where it stops being a theorem."""

import numpy as np
import pytest

from samop import theory
from samop.errors import UserError


def draws(rng, dimension, count):
    """Non-commuting Hessians H_i ⪰ 0, [count, d, d], and their probabilities."""
    factors = rng.normal(size=(count, dimension, rng.integers(1, dimension + 1)))
    sizes = rng.gamma(1.0, 1.0, size=count)
    hessians = np.einsum("nij,nkj->nik", factors, factors) * sizes[:, None, None]
    return hessians, rng.dirichlet(np.ones(count))


def moments(hessians, p):
    power = np.broadcast_to(np.eye(hessians.shape[1]), hessians.shape)
    found = []
    for _ in range(4):
        power = power @ hessians
        found.append(np.einsum("n,nij->ij", p, power))
    return found


def top(matrix):
    return np.linalg.eigvalsh(matrix)[-1]


def contracted(hessians, p, eta, rho):
    """λ_max(E[B²])."""
    b = np.eye(hessians.shape[1]) - eta * (hessians + rho * hessians @ hessians)
    return top(np.einsum("n,nij->ij", p, b @ b))


def criteria(hessians, p, eta, rho):
    m = moments(hessians, p)
    h = m[0]
    excess = {k: top(m[k - 1] - np.linalg.matrix_power(h, k)) for k in (2, 3, 4)}
    s = {k: np.sign(v) * abs(v) ** (1 / k) for k, v in excess.items()}
    found = theory.stability(
        eta,
        rho,
        top(h),
        s,
        h_rho_m2=top(h + rho * m[1]),
        contraction=contracted(hessians, p, eta, rho) - 1,
    )
    return {c.name: c for c in found}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.4, 0.5, 2.0, 10.0])
def test_what_contracts_keeps_every_bound(ratio):
    rng = np.random.default_rng(0)
    tight = 0.0
    for _ in range(60):
        hessians, p = draws(rng, 3, int(rng.integers(2, 6)))
        # Scaled to the edge of the sufficient condition, where the bounds are tight.
        low, high = 0.0, 1e3
        for _ in range(40):
            eta = (low + high) / 2
            low, high = (
                (eta, high) if contracted(hessians, p, eta, ratio * eta) <= 1 else (low, eta)
            )
        if low == 0:
            continue
        found = criteria(hessians, p, low, ratio * low)
        assert all(c.verdict == "holds" for c in found.values()), found
        tight = max(tight, found["s₂ ≤ sharper bound"].value / found["s₂ ≤ sharper bound"].bound)
    assert tight > 0.3  # the draws come near the bounds


def test_the_sharper_bound_is_sgds_at_zero_and_falls_with_rho():
    ratios = (0, 0.05, 0.2, 0.4, 0.7, 10)
    found = [theory.sharper_s2(r) for r in ratios]
    np.testing.assert_allclose(found, [1, 0.93, 0.78, 0.66, 0.55, 0.12], atol=0.006)
    assert sorted(found, reverse=True) == found


def test_a_violation_outside_of_eta_at_least_two_rho():
    """H = .4 with probability .63 else 0, η = 1, ρ = 10: E[B²] = 1, yet s₄⁴ η²ρ² > 1."""
    hessians, p = np.array([[[0.4]], [[0.0]]]), np.array([0.63, 0.37])
    found = criteria(hessians, p, 1.0, 10.0)
    assert found["λ_max(E[B²]) ≤ 1"].value == pytest.approx(1.0)
    m = moments(hessians, p)
    fourth = float(m[3][0, 0] - m[0][0, 0] ** 4)
    assert fourth * 10.0**2 == pytest.approx(1.21, abs=0.005)
    # So it is not among the criteria there, nor is that of s₂, which is none; that of s₃ is, and
    # holds, as does the best one.
    offered = {name for name in found if name.startswith("s")}
    assert offered == {
        "s₂ ≤ sharper bound",
        "s₂ ≤ (√(1 + 8ρ/η) − 1)/(4ρ)",
        "s₃ ≤ (2/(3√3))^⅓ (√(1 + 8ρ/η) − 1)/(2ρ)",
        "s₃ ≤ (2η²ρ)^(−1/3)",
    }
    third = found["s₃ ≤ (2η²ρ)^(−1/3)"]
    assert third.assumes.endswith("ρ > 0")
    assert third.verdict == "holds"


def test_what_is_offered_of_s3_by_radius():
    def offered(rho):
        return {c.name: c for c in theory.stability(0.1, rho, 1.0, {3: 1.0}) if c.name[0] == "s"}

    best, paper = "s₃ ≤ (2/(3√3))^⅓ (√(1 + 8ρ/η) − 1)/(2ρ)", "s₃ ≤ (2η²ρ)^(−1/3)"
    assert set(offered(0.0)) == set()
    assert set(offered(0.03)) == {paper}
    for rho in (0.04, 0.05, 0.06, 1.0):
        found = offered(rho)
        assert set(found) == {best, paper}
        assert found[paper].bound == theory.paper(3, 0.1, rho)
        assert found[best].bound == theory.best_s3(0.1, rho) < found[paper].bound
        assert found[best].assumes.endswith("ρ ≥ ⅜η")


def test_independent_draws_are_said_to_be_assumed():
    found = theory.stability(0.1, 0.0, 1.0, radius=0.9)[0]
    assert found.assumes == theory.EXACT
    assert "draws its examples independently" in found.assumes
    assert "reshuffles every epoch" in found.assumes


def test_the_necessary_condition_solves_its_quadratic():
    eta, rho = 0.1, 0.03
    bound = theory.stability(eta, rho, 1.0)[0].bound
    assert bound * (1 + rho * bound) == pytest.approx(2 / eta)
    assert theory.stability(eta, 0.0, 1.0)[0].bound == pytest.approx(2 / eta)


def test_margin_and_sides():
    inside, outside = (theory.stability(0.1, 0.0, a)[0] for a in (5.0, 30.0))
    assert (inside.margin, inside.verdict) == (pytest.approx(0.75), "holds")
    assert (outside.margin, outside.verdict) == (pytest.approx(-0.5), "broken")
    near = theory.stability(0.1, 0.0, 19.9, errors={"a": 0.2})[0]
    assert near.verdict == "undecided"
    assert all("interpolating" in c.assumes for c in (inside, outside))


@pytest.mark.parametrize(("eta", "rho"), [(0.0, 0.1), (-1.0, 0.1), (0.1, -0.1), (float("nan"), 0)])
def test_bad_rates_are_refused(eta, rho):
    with pytest.raises(UserError, match=r"(eta|rho)=.* should be a finite number"):
        theory.stability(eta, rho, 1.0)


def test_a_small_radius_does_not_cancel():
    assert theory.stability(0.1, 1e-17, 1.0)[0].bound == pytest.approx(20.0)


def test_the_second_moment_of_batches():
    """Σ₂ of all batches of two of four, drawn without replacement, against that of examples."""
    rng = np.random.default_rng(1)
    hessians = rng.normal(size=(4, 2, 2))
    hessians = hessians + hessians.transpose(0, 2, 1)
    pairs = [(hessians[i] + hessians[j]) / 2 for i in range(4) for j in range(i)]

    def excess(matrices):
        mean = np.mean(matrices, 0)
        return np.mean([m @ m for m in matrices], 0) - mean @ mean

    np.testing.assert_allclose(excess(pairs), theory.of_batches(4, 2) * excess(hessians))
