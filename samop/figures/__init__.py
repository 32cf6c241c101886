"""Tables of runs → figures that explain themselves. No jax, no training, no global pyplot state."""

from samop.figures.family import variants
from samop.figures.layout import count_label, save
from samop.figures.width import accuracy, width_gap

__all__ = ["accuracy", "count_label", "save", "variants", "width_gap"]
