"""Bounds on the Hessians of a stable minimum: what each assumes, and the proofs of our own.

All for x ← B_i x near an interpolating minimum (see `samop.theory.stability` for the notation),
H_i ⪰ 0. Those on s_k and on the spread of the A_i assume E[B²] ⪯ I, which is sufficient for
stability but not necessary. Under the exact criterion alone nothing is proven of them, and the best
ones are broken there, SGD's s₂ ≤ 1/η too (`samop.theory.ensembles` finds by what).

The common step. For a unit v let x ≥ 0 be random: draw H_i, then an eigenvalue of it with the
probability (vᵀu)² of its eigenvector u. Then vᵀM_kv = E[x^k] for all k, and with y = x + ρx²
vᵀE[B²]v = E[(1 − ηy)²], so that E[B²] ⪯ I says ηE[y²] ≤ 2E[y] for every v. And vᵀH^kv ≥
(vᵀHv)^k = (E x)^k by Jensen's inequality, H ⪰ 0, so vᵀΣ_kv ≤ E[x^k] − (E x)^k. With v the top
eigenvector of Σ_k any bound on the right-hand side bounds s_k^k.
"""

import functools
import math

import numpy as np

from samop.errors import UserError
from samop.theory import inputs


def largest_a(eta: float, rho: float) -> float:
    """a ≤ this at every stable minimum: a* = (√(1 + 8ρ/η) − 1)/(2ρ), 2/η for SGD.

    It solves a(1 + ρa) = 2/η. Necessary, for every η > 0 and ρ ≥ 0, under the exact criterion too:
    Φ maps vvᵀ to E[B_i vvᵀ B_i], so a radius ≤ 1 of this self-adjoint map makes E[(vᵀB_iv)²] ≤ 1,
    hence (1 − ηvᵀE[A]v)² ≤ 1, λ_max(H + ρM₂) ≤ 2/η, and M₂ ⪰ H² does the rest.
    """
    inputs.rates(eta, rho)
    # Written so that nothing cancels for a small ρ.
    return 4 / eta / (1 + math.sqrt(1 + 8 * rho / eta))


def best_s2(eta: float, rho: float) -> float:
    """s₂ ≤ a*/2 = (√(1 + 8ρ/η) − 1)/(4ρ), given E[B²] ⪯ I; 1/η for SGD. The best there is.

    This project's own, for every ρ ≥ 0. With it SAM's bound on s₂ falls below SGD's by the same
    factor as the one on a.

    Proof. Let η = 1, by the units of H and ρ, a* = c and φ = y(2 − y); E φ ≥ 0 by the common step
    above. y = 2 at x = c, so 2 − x − ρx² = (c − x)(ρx + 2/c), and φ = x(c − x)(1 + ρx)(ρx + 2/c).
    With λ = 1/((1 + ρc)(ρc + 2/c)) > 0

        x² − cx + λφ = x(c − x)·[λ(1 + ρx)(ρx + 2/c) − 1] ≤ 0 for every x ≥ 0,

    since the bracket does not fall with x and is 0 at x = c, where c − x changes sign (for ρ = 0
    both sides are 0 throughout). So E x² ≤ c·E x − λ·E φ ≤ c·E x, and Var x = E x² − (E x)² ≤
    c·E x − (E x)² ≤ c²/4. ∎ It is attained: by H_i = c or 0, scalars, each with probability ½,
    of which y is 2 or 0 and E[B²] = 1.
    """
    return largest_a(eta, rho) / 2


def best_s3_holds(eta: float, rho: float) -> bool:
    """Whether `best_s3` is a theorem, given E[B²] ⪯ I: ρ ≥ ⅜η."""
    inputs.rates(eta, rho)
    return rho >= 0.375 * eta


def best_s3(eta: float, rho: float) -> float:
    """s₃ ≤ (2/(3√3))^⅓ a*, given E[B²] ⪯ I and ρ ≥ ⅜η. The best there is.

    This project's own. Proof, as that of `best_s2`, whose notation it keeps: with λ = 2c/((1 +
    ρc)(ρc + 2/c)), x³ − c²x + λφ = x(c − x)·[λ(1 + ρx)(ρx + 2/c) − (x + c)]. The bracket is convex
    in x and 0 at x = c; at x = 0 it is 2λ/c − c, which is ≤ 0 exactly where c ≤ 4/3, that is ρ ≥ ⅜.
    Then it is ≤ 0 up to c and ≥ 0 beyond, so E x³ ≤ c²·E x and E x³ − (E x)³ ≤ c²h − h³ ≤
    2c³/(3√3). ∎ Attained by H_i = c with probability 1/√3, else 0. It is below 1/(2η²ρ) for every
    such ρ, (2/(3√3))·2c(2 − c) < 1, so that the paper's bound on s₃ is a theorem for all ρ > 0.

    Raises:
      UserError: ρ < ⅜η.
    """
    if not best_s3_holds(eta, rho):
        raise UserError(f"the best bound on s₃ assumes ρ ≥ ⅜η: eta={eta}, rho={rho}")
    return (2 / (3 * math.sqrt(3))) ** (1 / 3) * largest_a(eta, rho)


@functools.lru_cache(maxsize=256)
def sharper_s2(ratio: float) -> float:
    """η²s₂² ≤ this, for unnormalised SAM with ρ/η = ratio ≥ 0, given E[B²] ⪯ I.

    The largest t² − [½t²(1 + rt)² − rt²]₊² over 0 ≤ t ≤ 2 with the bracket at most t; 1 for SGD and
    decreasing, so that SAM's minima have more uniform Hessians than SGD's. `best_s2` is below it.

    Proof. Let η = 1, ρ = r, t = √E[x²] and h = E x (the common step above).
    1. E[x³] ≥ t³ and E[x⁴] ≥ t⁴ (means of powers increase), so E[y²] = E[x²] + 2rE[x³] + r²E[x⁴] ≥
       t²(1 + rt)².
    2. E[B²] ⪯ I: E[y²] ≤ 2E[y] = 2h + 2rt². With 1: h ≥ ½t²(1 + rt)² − rt², the bracket b(t).
    3. 0 ≤ h ≤ t (Jensen). So b(t) ≤ t, and h² ≥ [b(t)]₊².
    4. b(t) ≤ t says (1 − 2r)t + 2rt² + r²t³ ≤ 2 for t > 0. At t = 2 its left side is 2 + 4r + 8r²
       ≥ 2, and beyond it grows, its slope being at least 1 − 2r + 8r. So t ≤ 2.
    5. Var x = t² − h² ≤ t² − [b(t)]₊². ∎
    """
    inputs.rates(1.0, ratio)
    t = np.linspace(0, 2, 2_000_001)
    bracket = np.maximum(0.5 * t**2 * (1 + ratio * t) ** 2 - ratio * t**2, 0)
    return float(np.max(np.where(bracket <= t, t**2 - bracket**2, 0)))


def paper_formula(k: int, eta: float, rho: float) -> float:
    """The right-hand side of `paper`, theorem or not; infinite where it has none."""
    _order(k)
    inputs.rates(eta, rho)
    if k == 2:
        return 1 / math.sqrt(eta * (eta - 2 * rho)) if eta > 2 * rho else math.inf
    if not rho:
        return math.inf
    return (2 * eta**2 * rho) ** (-1 / 3) if k == 3 else (eta * rho) ** (-1 / 2)


def paper_holds(k: int, eta: float, rho: float) -> bool:
    """Whether `paper` is a theorem, given E[B²] ⪯ I: k = 2: η > 2ρ; 3: ρ > 0; 4: η ≥ 2ρ > 0."""
    _order(k)
    inputs.rates(eta, rho)
    return {2: eta > 2 * rho, 3: rho > 0, 4: eta >= 2 * rho > 0}[k]


def _order(k: int) -> None:
    if k not in (2, 3, 4):
        raise UserError(f"k={k} should be 2, 3 or 4")


def paper(k: int, eta: float, rho: float) -> float:
    """s_k ≤ this (arXiv 2311.17539), given E[B²] ⪯ I; where, `paper_holds` says.

    (η(η − 2ρ))^(−1/2), (2η²ρ)^(−1/3), (η²ρ²)^(−1/4). Proof, by the common step, with h = E x, m_k =
    E[x^k] and u = h + ρh²: E[B²] ⪯ I says (η − 2ρ)m₂ + 2ηρm₃ + ηρ²m₄ ≤ 2h, hence
    (η − 2ρ)(m₂ − h²) + 2ηρ(m₃ − h³) + ηρ²(m₄ − h⁴) ≤ 2u − ηu² ≤ 1/η, and no term is negative while
    η ≥ 2ρ. Beyond that the third goes on to hold (`best_s3`) and the fourth fails: H = .4 with
    probability .63, else 0, η = 1, ρ = 10.

    Raises:
      UserError: outside of these assumptions, naming the one that fails.
    """
    bound = paper_formula(k, eta, rho)
    if k == 2 and not eta > 2 * rho:
        raise UserError(f"the bound on s₂ assumes η > 2ρ: eta={eta}, rho={rho}")
    if k > 2 and not rho > 0:
        raise UserError(f"the bound on s{k} assumes ρ > 0, SAM: rho={rho}")
    if not paper_holds(k, eta, rho):
        raise UserError(f"the bound on s{k} is a theorem for η ≥ 2ρ alone: eta={eta}, rho={rho}")
    return bound


def variance(eta: float) -> float:
    """λ_max(E[A²] − (E A)²) ≤ 1/η², given E[B²] ⪯ I, for every ρ ≥ 0.

    Proof. E[B²] = (I − ηE[A])² + η²(E[A²] − (E A)²) ⪯ I, and the square is ⪰ 0.
    """
    inputs.rates(eta, 0.0)
    return 1 / eta**2
