"""The theory of arXiv 2311.17539 as numbers: what it says of a minimum, and what is measured.

`stability` judges minima by linear stability, with what `exact` (the criterion itself), `moments`,
`bounds` (and their proofs) and `directions` give; `simulate` and `ensembles` check all of it.
`rate` bounds how fast a loss falls, `fit_rate` and `fit_power_law` measure how it does.
"""

from samop.theory.bounds import best_s2, best_s3, largest_a, paper, paper_formula, sharper_s2
from samop.theory.convergence import (
    Fit,
    Rate,
    fit_rate,
    full_batch_rate,
    kappa,
    largest_rho,
    pl_constant,
    rate,
    window,
)
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
from samop.theory.powerlaw import PowerLaw, below_floor, fit_power_law
from samop.theory.stability import CONTRACTS, EXACT, LINEAR, Criterion, stability

__all__ = [
    "CONTRACTS",
    "EXACT",
    "LINEAR",
    "Criterion",
    "Direction",
    "Fit",
    "PowerLaw",
    "Radius",
    "Rate",
    "batch_second",
    "batches",
    "below_floor",
    "best_s2",
    "best_s3",
    "contraction",
    "dense_moments",
    "edge",
    "fit_power_law",
    "fit_rate",
    "full_batch_rate",
    "kappa",
    "largest_a",
    "largest_rho",
    "mean_square",
    "noise_ratio",
    "nonuniformities",
    "of_batches",
    "paper",
    "paper_formula",
    "pl_constant",
    "radius",
    "rank_one_moments",
    "rank_one_noise_ratio",
    "rank_one_radius",
    "rank_one_worst_direction",
    "rate",
    "sharper_s2",
    "span",
    "stability",
    "variance",
    "window",
    "worst_direction",
]
