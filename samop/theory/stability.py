"""Linear stability of SAM at a minimum that interpolates: criteria, and what each one assumes.

For unnormalised SAM without momentum or decay, x ← x − η∇f_i(x + ρ∇f_i(x)), near a point where
every ∇f_i = 0 the error is multiplied by B_i = I − ηA_i, A_i = H_i + ρH_i². M_k = E[H_i^k], H = M₁,
Σ_k = M_k − H^k, a = λ_max(H), s_k^k = λ_max(Σ_k). Theory of arXiv 2311.17539; the sharper bound on
s₂ is this project's own.
"""

from collections.abc import Mapping
from typing import NamedTuple

from samop.theory import bounds, inputs

LINEAR = "an interpolating minimum; unnormalised SAM, no momentum, no decay"
EXACT = f"{LINEAR}; each step draws its examples independently, a sweep reshuffles every epoch"
CONTRACTS = f"{LINEAR}; E[B²] ⪯ I (sufficient for stability, not necessary)"


class Criterion(NamedTuple):
    """A measured value beside the bound that stability, or a theorem, puts on it.

    Attributes:
      name: the inequality, as in "λ_max(H + ρM₂) ≤ 2/η".
      value, bound: its two sides.
      kind: "exact" (kept: stable, broken: unstable), "necessary" (broken: unstable), "sufficient"
        (kept: stable), or "implied" (a theorem's bound under what it assumes; broken: the
        assumption fails).
      assumes: what it is true under.
      error: what the value may be wrong by, ≥ 0.
    """

    name: str
    value: float
    bound: float
    kind: str
    assumes: str
    error: float = 0.0

    @property
    def margin(self) -> float:
        """1 − value/bound: 1 far inside, 0 at the edge, negative outside."""
        return 1 - self.value / self.bound

    @property
    def verdict(self) -> str:
        """ "holds", "broken", or "undecided" where the error reaches across the bound."""
        # A Ritz value is never above the eigenvalue: by itself it errs towards stability. In the
        # null directions of the Hessians E[B²] is the identity, up to rounding in float32.
        if self.value + self.error <= self.bound * (1 + 1e-6):
            return "holds"
        return "broken" if self.value - self.error > self.bound else "undecided"


def stability(
    eta: float,
    rho: float,
    a: float,
    s: Mapping[int, float] | None = None,
    *,
    h_rho_m2: float | None = None,
    contraction: float | None = None,
    variance: float | None = None,
    radius: float | None = None,
    direction: float | None = None,
    errors: Mapping[str | int, float] | None = None,
) -> list[Criterion]:
    """The criteria that what was measured allows to judge.

    Args:
      eta: learning rate, > 0.
      rho: radius of unnormalised SAM, ≥ 0; 0 is SGD. Of normalised SAM it is ρ/‖∇f_i‖, which grows
        without bound near an interpolating minimum: there these criteria do not apply.
      a: λ_max(H).
      s: k → s_k for k = 2, 3, 4.
      h_rho_m2: λ_max(H + ρM₂).
      contraction: λ_max(E[B²] − I).
      variance: λ_max(E[A²] − (E A)²).
      radius: the spectral radius of X → E[B_i X B_i] (`exact.radius`).
      direction: the ratio of the test along single directions (`directions.worst_direction`).
      errors: of these, by their names here: "a", 2, 3, 4, "h_rho_m2", "contraction", …

    H_i, and with them M_k and s_k, are the Hessians of what one step sees: of batches, where it
    sees more than one example (`of_batches` turns the second moment of examples into theirs).

    Raises:
      UserError: a rate or radius out of range.
    """
    inputs.rates(eta, rho)
    s, wrong = s or {}, errors or {}
    largest = bounds.largest_a(eta, rho)
    found = []

    def add(name, of, value, bound, kind, assumes):
        found.append(Criterion(name, value, bound, kind, assumes, wrong.get(of, 0.0)))

    if radius is not None:
        add("radius of X → E[BXB] ≤ 1", "radius", radius, 1.0, "exact", EXACT)
    if h_rho_m2 is not None:
        add("λ_max(H + ρM₂) ≤ 2/η", "h_rho_m2", h_rho_m2, 2 / eta, "necessary", EXACT)
    add("a ≤ (√(1 + 8ρ/η) − 1)/(2ρ)", "a", a, largest, "necessary", EXACT)
    if direction is not None:
        name = "η E[(vᵀAv)²] ≤ 2 vᵀE[A]v for every v"
        add(name, "direction", direction, 1.0, "necessary", EXACT)
    if contraction is not None:
        add("λ_max(E[B²]) ≤ 1", "contraction", 1 + contraction, 1.0, "sufficient", EXACT)
    if variance is not None:
        of, bound = "variance", bounds.variance(eta)
        add("λ_max(E[A²] − (E A)²) ≤ 1/η²", of, variance, bound, "implied", CONTRACTS)
    if 2 in s:
        sharper = bounds.sharper_s2(rho / eta) ** 0.5 / eta
        add("s₂ ≤ sharper bound", 2, s[2], sharper, "implied", CONTRACTS)
        best = bounds.best_s2(eta, rho)
        add("s₂ ≤ (√(1 + 8ρ/η) − 1)/(4ρ)", 2, s[2], best, "implied", CONTRACTS)
    if 3 in s and bounds.best_s3_holds(eta, rho):
        best = bounds.best_s3(eta, rho)
        name = "s₃ ≤ (2/(3√3))^⅓ (√(1 + 8ρ/η) − 1)/(2ρ)"
        add(name, 3, s[3], best, "implied", f"{CONTRACTS}; ρ ≥ ⅜η")
    # Elsewhere they are no theorems: a planted violation of the fourth is in the tests.
    for k, (name, where) in _PAPER.items():
        if k in s and bounds.paper_holds(k, eta, rho):
            bound = bounds.paper(k, eta, rho)
            add(name, k, s[k], bound, "implied", f"{CONTRACTS}; {where}")
    return found


_PAPER = {
    2: ("s₂ ≤ (η(η − 2ρ))^(−1/2)", "η > 2ρ"),
    3: ("s₃ ≤ (2η²ρ)^(−1/3)", "ρ > 0"),
    4: ("s₄ ≤ (η²ρ²)^(−1/4)", "η ≥ 2ρ > 0"),
}
