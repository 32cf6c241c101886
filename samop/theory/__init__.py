"""The theory of arXiv 2311.17539 as numbers: what it says of a minimum, and what is measured.

`stability` judges minima by linear stability, with what `exact` (the criterion itself), `moments`,
`bounds` (and their proofs) and `directions` give; `simulate` and `ensembles` check all of it.
"""

from samop.theory.bounds import best_s2, best_s3, largest_a, paper, paper_formula, sharper_s2
from samop.theory.directions import Direction, rank_one_worst_direction, worst_direction
from samop.theory.exact import (
    batches,
    edge,
    noise_ratio,
    radius,
    rank_one_noise_ratio,
    rank_one_radius,
    span,
)
from samop.theory.lanczos import Radius
from samop.theory.moments import (
    batch_second,
    contraction,
    dense_moments,
    mean_square,
    nonuniformities,
    of_batches,
    rank_one_moments,
    variance,
)
from samop.theory.stability import CONTRACTS, EXACT, LINEAR, Criterion, stability

__all__ = [
    "CONTRACTS",
    "EXACT",
    "LINEAR",
    "Criterion",
    "Direction",
    "Radius",
    "batch_second",
    "batches",
    "best_s2",
    "best_s3",
    "contraction",
    "dense_moments",
    "edge",
    "largest_a",
    "mean_square",
    "noise_ratio",
    "nonuniformities",
    "of_batches",
    "paper",
    "paper_formula",
    "radius",
    "rank_one_moments",
    "rank_one_noise_ratio",
    "rank_one_radius",
    "rank_one_worst_direction",
    "sharper_s2",
    "span",
    "stability",
    "variance",
    "worst_direction",
]
