"""The theory of arXiv 2311.17539 as numbers: what it says of a minimum, and what is measured.

`stability` judges minima by linear stability.
"""

from samop.theory.stability import (
    CONTRACTS,
    LINEAR,
    Criterion,
    of_batches,
    sharper_s2,
    stability,
)

__all__ = ["CONTRACTS", "LINEAR", "Criterion", "of_batches", "sharper_s2", "stability"]
