"""The theory of arXiv 2311.17539 as numbers: what it says of a minimum, and what is measured.

`stability` judges minima by linear stability, `rate` bounds how fast a loss falls, `fit_rate` and
`fit_power_law` measure how it does.
"""

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
from samop.theory.powerlaw import PowerLaw, below_floor, fit_power_law
from samop.theory.stability import (
    CONTRACTS,
    LINEAR,
    Criterion,
    of_batches,
    sharper_s2,
    stability,
)

__all__ = ["CONTRACTS", "LINEAR", "Criterion", "of_batches", "sharper_s2", "stability"]
__all__ += ["Fit", "Rate", "fit_rate", "full_batch_rate", "kappa", "largest_rho", "pl_constant"]
__all__ += ["PowerLaw", "below_floor", "fit_power_law", "rate", "window"]
