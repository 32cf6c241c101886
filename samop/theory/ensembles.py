"""Random ensembles of Hessians at the edge of a criterion, and the search for broken bounds.

A bound that a proof calls a theorem must survive it; what breaks is none. In units η = 1, ρ = r,
which is general: only ηH_i and ρ/η matter.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from samop.errors import UserError
from samop.theory import bounds, moments

CRITERIA = ("E[B²] ⪯ I", "exact")
# Kind of ensemble, number of Hessians n, dimension d.
SHAPES = (
    ("scalar", 2, 1),
    ("scalar", 4, 1),
    ("commuting", 4, 2),
    ("rank one", 3, 2),
    ("rank one", 6, 3),
    ("general", 3, 2),
    ("general", 4, 3),
)
TOLERANCE = 1e-9  # by which a ratio may pass 1 before it counts as a violation
_DIRECTIONS = 32  # random v in which the test along directions is looked at
_HALVINGS = 45


class Ensembles(NamedTuple):
    """Several ensembles of one shape.

    Attributes:
      kind: one of `SHAPES`.
      factors: `[count, n, d, k]`; H_i = F_i F_iᵀ.
      logits: `[count, n]`, of the probabilities.
    """

    kind: str
    factors: np.ndarray
    logits: np.ndarray

    @property
    def hessians(self) -> np.ndarray:
        """H_i, `[count, n, d, d]`."""
        return self.factors @ self.factors.swapaxes(-1, -2)

    @property
    def p(self) -> np.ndarray:
        """Their probabilities, `[count, n]`."""
        e = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


class Finding(NamedTuple):
    """What a search found of one bound at one ρ/η under one criterion.

    Attributes:
      ratio: ρ/η.
      criterion: what all ensembles satisfy, one of `CRITERIA`.
      bound: the bound.
      theorem: whether it is one there.
      draws: random ensembles looked at.
      violations: of these, where value/bound > 1.
      median, largest: value/bound over the random ensembles.
      worst: and the largest that climbing from there reached.
      kind: of that ensemble.
      hessians, p: itself, `[n, d, d]` and `[n]`, at the edge of the criterion for η = 1.
    """

    ratio: float
    criterion: str
    bound: str
    theorem: bool
    draws: int
    violations: int
    median: float
    largest: float
    worst: float
    kind: str
    hessians: np.ndarray
    p: np.ndarray


def draw(kind: str, n: int, d: int, count: int, rng: np.random.Generator) -> Ensembles:
    """Ensembles of very different sizes and probabilities, some Hessians next to 0."""
    size = rng.gamma(0.7, 1.0, size=(count, n, 1, 1)) * (rng.random((count, n, 1, 1)) > 0.2)
    columns = 1 if kind in ("scalar", "rank one") else d
    factors = rng.normal(size=(count, n, d, columns)) * (size + 1e-3)
    return Ensembles(kind, _shaped(kind, factors), rng.normal(size=(count, n)) * 1.5)


def _shaped(kind: str, factors: np.ndarray) -> np.ndarray:
    return factors * np.eye(factors.shape[2]) if kind == "commuting" else factors


def scale(h: np.ndarray, p: np.ndarray, r: float, criterion: str) -> np.ndarray:
    """t `[count]` such that the ensembles t·H_i satisfy the criterion, and just so."""
    m = moments.each(h, p)
    if criterion == CRITERIA[0]:

        def excess(t):
            t = t[:, None, None]
            rest = (1 - 2 * r) * t * m[1] + 2 * r * t**2 * m[2] + r**2 * t**3 * m[3]
            return moments.tops(rest - 2 * m[0])
    elif criterion == CRITERIA[1]:

        def excess(t):
            scaled = t[:, None, None, None] * h
            b = np.eye(h.shape[-1]) - scaled - r * scaled @ scaled
            count, _, d, _ = b.shape
            maps = np.einsum("cn,cnij,cnkl->cikjl", p, b, b).reshape(count, d * d, d * d)
            return moments.tops(maps) - 1
    else:
        raise UserError(f"criterion={criterion!r} should be one of {', '.join(CRITERIA)}")
    # Beyond a* nothing is stable.
    low, high = np.zeros(len(h)), 1.001 * bounds.largest_a(1.0, r) / moments.tops(m[0])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        holds = excess(middle) <= 0
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return low


def ratios(h: np.ndarray, p: np.ndarray, r: float) -> dict[str, np.ndarray]:
    """Value over bound, `[count]`, of every bound with a finite right-hand side at η = 1, ρ = r."""
    m = moments.each(h, p)
    mean = m[0] + r * m[1]
    square = m[1] + 2 * r * m[2] + r**2 * m[3]
    a = h + r * h @ h
    v = np.random.default_rng(0).normal(size=(_DIRECTIONS, h.shape[-1]))
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    v = np.concatenate(
        [np.broadcast_to(v, (len(h), *v.shape)), np.linalg.eigh(mean)[1].swapaxes(1, 2)], axis=1
    )
    along = np.einsum("csi,cnij,csj->cns", v, a, v, optimize=True)
    tested = np.einsum("cn,cns->cs", p, along**2) / np.maximum(
        2 * np.einsum("cn,cns->cs", p, along), 1e-300
    )
    found = {
        "a": moments.tops(m[0]) / bounds.largest_a(1.0, r),
        "λ_max(H + ρM₂)": moments.tops(mean) / 2,
        "each direction v": tested.max(1),
        "λ_max(Var A)": moments.tops(square - mean @ mean),
    }
    s = {k: moments.root(moments.tops(moments.excess(m, k)), k) for k in (2, 3, 4)}
    found["s₂, best"] = s[2] / bounds.best_s2(1.0, r)
    found["s₂, sharper"] = s[2] / bounds.sharper_s2(r) ** 0.5
    if bounds.best_s3_holds(1.0, r):
        found["s₃, best"] = s[3] / bounds.best_s3(1.0, r)
    for k, name in PAPER.items():
        bound = bounds.paper_formula(k, 1.0, r)
        if np.isfinite(bound):
            found[name] = s[k] / bound
    return found


PAPER = {2: "s₂, paper", 3: "s₃, paper", 4: "s₄, paper"}


def is_theorem(bound: str, criterion: str, r: float) -> bool:
    """Whether a bound is proven for ρ/η = r under a criterion (see `samop.theory.bounds`)."""
    if bound in ("a", "λ_max(H + ρM₂)", "each direction v"):
        return True
    if criterion != CRITERIA[0]:
        return False
    order = next((k for k, name in PAPER.items() if name == bound), None)
    return order is None or bounds.paper_holds(order, 1.0, r)


def search(
    r: float,
    criterion: str,
    *,
    count: int,
    climbs: int,
    rng: np.random.Generator,
    shapes: tuple[tuple[str, int, int], ...] = SHAPES,
    only: tuple[str, ...] = (),
) -> list[Finding]:
    """Random ensembles at the edge of a criterion, then hill climbing towards each bound's worst.

    Args:
      r: ρ/η, ≥ 0.
      criterion: one of `CRITERIA`.
      count: random ensembles of each shape.
      climbs: steps of the climb, from the 8 worst ensembles of each of the 2 worst shapes.
      rng: of everything random.
      shapes: of ensembles.
      only: names of the bounds to look at; empty: all.

    Returns:
      A finding for each bound.
    """
    drawn = [draw(*shape, count, rng) for shape in shapes]
    values = [_at_edge(e, r, criterion) for e in drawn]
    names = [name for name in values[0] if not only or name in only]
    findings = []
    for name in names:
        all_values = np.concatenate([v[name] for v in values])
        first = np.argsort([-v[name].max() for v in values])[:2]
        ends = [_climb(drawn[i], values[i][name], name, r, criterion, climbs, rng) for i in first]
        worst, ensemble = max(ends, key=lambda end: end[0])
        h, p = ensemble.hessians, ensemble.p
        t = scale(h, p, r, criterion)
        findings.append(
            Finding(
                r,
                criterion,
                name,
                is_theorem(name, criterion, r),
                len(all_values),
                int(np.sum(all_values > 1 + TOLERANCE)),
                float(np.median(all_values)),
                float(all_values.max()),
                worst,
                ensemble.kind,
                t[0] * h[0],
                p[0],
            )
        )
    return findings


def _at_edge(e: Ensembles, r: float, criterion: str) -> Mapping[str, np.ndarray]:
    h, p = e.hessians, e.p
    return ratios(scale(h, p, r, criterion)[:, None, None, None] * h, p, r)


def _climb(e, values, name, r, criterion, steps, rng) -> tuple[float, Ensembles]:
    best = np.argsort(-values)[:8]
    at, held = values[best], Ensembles(e.kind, e.factors[best], e.logits[best])
    size = np.full(len(best), 0.3)
    for _ in range(steps):
        by = size[:, None] * rng.normal(size=held.logits.shape)
        amount = size[:, None, None, None] * np.abs(held.factors).max((1, 2, 3), keepdims=True)
        moved = held.factors + _shaped(e.kind, amount * rng.normal(size=held.factors.shape))
        tried = Ensembles(e.kind, moved, held.logits + by)
        value = _at_edge(tried, r, criterion)[name]
        better = value > at
        at = np.where(better, value, at)
        size = np.clip(np.where(better, 1.5 * size, 0.9 * size), 1e-4, 1.0)
        held = Ensembles(
            e.kind,
            np.where(better[:, None, None, None], moved, held.factors),
            np.where(better[:, None], tried.logits, held.logits),
        )
    i = int(np.argmax(at))
    return float(at[i]), Ensembles(e.kind, held.factors[i : i + 1], held.logits[i : i + 1])
