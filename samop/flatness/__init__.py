"""How flat the networks of a sweep are: SAM against its base optimiser, paired by seed. No jax.

A run that was measured has a `curvature.jsonl`, a checksummed row per measured step. `load` reads
these of all runs of a work folder; `pairs`, `compare` and `slopes` set SAM beside its base as
`samop.comparison` does for the metric: ρ chosen on validation data per width, pairs by seed, 95 %
t intervals, Holm over widths, a slope on log₂ of the parameters.

Curvatures are compared by their ratio, on the log scale. Two things that a ratio hides stand
beside it in every table: how exact the measurements are, and the training loss of both sides.
Where the loss saturates (cross-entropy), the network with the lower training loss is flatter for
that alone; so where runs were measured at several steps there is also a comparison at equal loss.
"""

from samop.flatness.ratios import compare, pairs, present, slopes
from samop.flatness.records import (
    QUANTITIES,
    Density,
    Quantity,
    density,
    load,
    tracks,
)
from samop.flatness.summary import ratio_text, section

__all__ = [
    "QUANTITIES",
    "Density",
    "Quantity",
    "compare",
    "density",
    "load",
    "pairs",
    "present",
    "ratio_text",
    "section",
    "slopes",
    "tracks",
]
