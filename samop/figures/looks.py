"""How things look in every figure: colours, markers and dashes, told apart in grey as well.

The base optimiser is grey, dashed, with squares; SAM blue, solid, with dots; a third comparison a
dark orange. Kinds have the colours of Okabe and Ito, which colour-blind readers can tell apart,
without the yellow that white paper swallows; degrees have shades of one scale. Either has markers
and dashes of its own besides, so that no figure needs its colours to be read.
"""

from typing import Any

import matplotlib
import numpy as np

BLUE, INK, FAINT = "#0067A5", "0.2", "0.45"
GREY, ORANGE, AMBER = "0.35", "#B04A00", "#D97B1F"
# Colour, marker and dash of the base, of SAM, and of a third comparison of the same panel.
LOOKS: dict[str, tuple[str, str, Any]] = {
    "base": (GREY, "s", (0, (4, 2))),
    "sam": (BLUE, "o", "-"),
    "equal": (ORANGE, "D", (0, (1, 1.2))),
}
# Colour, marker, dash of kinds: of a variant those at its place in samop.variants.LABELS.
KINDS: list[tuple[str, str, Any]] = [
    ("#000000", "o", "-"),
    ("#D55E00", "s", (0, (6, 1.8))),
    ("#0072B2", "^", (0, (2.2, 1.2))),
    ("#009E73", "D", (0, (6, 1.5, 1.2, 1.5))),
    ("#CC79A7", "v", (0, (1, 1))),
    ("#8A6D00", "P", (0, (4, 1, 1, 1, 1, 1))),
    ("#56B4E9", "X", (0, (9, 1.8))),
    ("#7A3B00", "<", (0, (6, 1.8))),
    ("#E69F00", "*", (0, (2.2, 1.2))),
    ("#5B2A86", ">", (0, (6, 1.5, 1.2, 1.5))),
    ("#4D4D4D", "p", (0, (1, 1))),
    ("#D55E00", "h", (0, (1, 2))),
    ("#0072B2", "d", (0, (8, 3))),
    ("#009E73", "H", (0, (3, 3))),
]
MARKERS = "osD^vPX*<>"
DASHES: list[Any] = [(0, (6, 2)), (0, (3, 1.5)), (0, (1, 1.2)), (0, (6, 2, 1, 2))]


def shades(count: int) -> np.ndarray:
    """Colours of degrees, light to dark [count, 4]; the lightest can still be seen on white."""
    return matplotlib.colormaps["viridis"](np.linspace(0.66, 0.0, count))


def shades_of_rho(count: int) -> np.ndarray:
    """Colours of a grid of ρ, light to dark [count, 4]: browns, beside the blue of the choice."""
    return matplotlib.colormaps["YlOrBr"](np.linspace(0.52, 0.95, count))
