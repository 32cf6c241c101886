"""Linear stability of SAM at a minimum that interpolates: criteria, and what each one assumes.

For unnormalised SAM without momentum or decay, x ← x − η∇f_i(x + ρ∇f_i(x)), near a point where
every ∇f_i = 0 the error is multiplied by B_i = I − ηA_i, A_i = H_i + ρH_i². M_k = E[H_i^k], H = M₁,
Σ_k = M_k − H^k, a = λ_max(H), s_k^k = λ_max(Σ_k). Theory of arXiv 2311.17539; the sharper bound on
s₂ is this project's own.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from samop.errors import UserError

LINEAR = "an interpolating minimum; unnormalised SAM, no momentum, no decay"
CONTRACTS = f"{LINEAR}; E[B²] ⪯ I (sufficient for stability, not necessary)"


class Criterion(NamedTuple):
    """A measured value beside the bound that stability, or a theorem, puts on it.

    Attributes:
      name: the inequality, as in "λ_max(H + ρM₂) ≤ 2/η".
      value, bound: its two sides.
      kind: "necessary" (broken: unstable), "sufficient" (kept: stable), or "implied" (a theorem's
        bound under what it assumes; broken: the assumption fails).
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
      errors: of these, by their names here: "a", 2, 3, 4, "h_rho_m2", "contraction".

    H_i, and with them M_k and s_k, are the Hessians of what one step sees: of batches, where it
    sees more than one example (`of_batches` turns the second moment of examples into theirs).

    Raises:
      UserError: a rate or radius out of range.
    """
    if not (math.isfinite(eta) and eta > 0):
        raise UserError(f"eta={eta} should be a finite number > 0")
    if not (math.isfinite(rho) and rho >= 0):
        raise UserError(f"rho={rho} should be a finite number ≥ 0")
    s, wrong = s or {}, errors or {}
    # (√(1 + 8ρ/η) − 1)/(2ρ), written so that nothing cancels for a small ρ.
    largest = 4 / eta / (1 + math.sqrt(1 + 8 * rho / eta))
    found = []

    def add(name, of, value, bound, kind, assumes):
        found.append(Criterion(name, value, bound, kind, assumes, wrong.get(of, 0.0)))

    if h_rho_m2 is not None:
        add("λ_max(H + ρM₂) ≤ 2/η", "h_rho_m2", h_rho_m2, 2 / eta, "necessary", LINEAR)
    add("a ≤ (√(1 + 8ρ/η) − 1)/(2ρ)", "a", a, largest, "necessary", LINEAR)
    if contraction is not None:
        add("λ_max(E[B²]) ≤ 1", "contraction", 1 + contraction, 1.0, "sufficient", LINEAR)
    if 2 in s:
        sharper = math.sqrt(sharper_s2(rho / eta)) / eta
        add("s₂ ≤ sharper bound", 2, s[2], sharper, "implied", CONTRACTS)
    larger = f"{CONTRACTS}; η ≥ 2ρ"
    # Outside of η ≥ 2ρ they are no theorems: a planted violation of the fourth is in the tests.
    if 2 in s and eta > 2 * rho:
        bound = 1 / math.sqrt(eta * (eta - 2 * rho))
        add("s₂ ≤ (η(η − 2ρ))^(−1/2)", 2, s[2], bound, "implied", larger)
    if 3 in s and rho and eta >= 2 * rho:
        add("s₃ ≤ (2η²ρ)^(−1/3)", 3, s[3], (2 * eta**2 * rho) ** (-1 / 3), "implied", larger)
    if 4 in s and rho and eta >= 2 * rho:
        add("s₄ ≤ (η²ρ²)^(−1/4)", 4, s[4], (eta**2 * rho**2) ** (-1 / 4), "implied", larger)
    return found


def of_batches(n: int, size: int) -> float:
    """Σ₂ of batches of `size` drawn from n without replacement, as a share of that of examples."""
    return (n - size) / (size * (n - 1)) if n > 1 else 0.0


def sharper_s2(ratio: float) -> float:
    """η²s₂² ≤ this, for unnormalised SAM with ρ/η = ratio ≥ 0, given E[B²] ⪯ I.

    The largest t² − [½t²(1 + rt)² − rt²]₊² over 0 ≤ t ≤ 2 with the bracket at most t; 1 for SGD and
    decreasing, so that SAM's minima have more uniform Hessians than SGD's.
    """
    t = np.linspace(0, 2, 2_000_001)
    bracket = np.maximum(0.5 * t**2 * (1 + ratio * t) ** 2 - ratio * t**2, 0)
    return float(np.max(np.where(bracket <= t, t**2 - bracket**2, 0)))
