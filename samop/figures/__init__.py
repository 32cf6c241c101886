"""Tables of runs → figures that explain themselves. No jax, no training, no global pyplot state."""

from samop.figures.best_rho import best_rho
from samop.figures.convergence import convergence
from samop.figures.curvature import curvature, curvatures
from samop.figures.domains import domains
from samop.figures.family import variants
from samop.figures.layout import count_label, save
from samop.figures.learning import learning_curves
from samop.figures.powerlaw import power_laws
from samop.figures.spectrum import one_spectrum, spectrum
from samop.figures.training import curvature_training
from samop.figures.trends import trends
from samop.figures.width import accuracy, width_gap

__all__ = [
    "accuracy",
    "best_rho",
    "convergence",
    "count_label",
    "curvature",
    "curvature_training",
    "curvatures",
    "domains",
    "learning_curves",
    "one_spectrum",
    "power_laws",
    "save",
    "spectrum",
    "trends",
    "variants",
    "width_gap",
]
