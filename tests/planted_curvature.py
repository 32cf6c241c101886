"""A planted sweep whose ratios of curvature, SAM / base, are known."""

import math

import numpy as np
import planted

from samop import flatness, results

WIDTHS = (4, 8, 16, 32)
RATIO = {4: 1.2, 8: 0.9, 16: 0.6, 32: 0.4}


def accuracy(hidden, noise, s, rho):
    """ρ = .1 is best on validation at every width, whatever the seed."""
    gain = 0 if rho is None else 0.1 - abs(rho - 0.1)
    return [(0.6 + gain, 0.6 + gain)] * 2


def lambda_max(hidden, s, rho):
    """A level of the seed that pairing takes out, and noise of 5 % that it does not."""
    rng = np.random.default_rng([hidden, s, int(1000 * (rho or 0))])
    level = 3.0 * hidden * math.exp(0.5 * s)
    noise = math.exp(0.05 * rng.normal())
    # Another ρ than the chosen one is far off: it must not be taken.
    return level * noise * (1 if rho is None else RATIO[hidden] * (1 if rho == 0.1 else 50))


def curvature(hidden, noise, s, rho, epoch):
    top = lambda_max(hidden, s, rho)
    loss = 0.02 * (2 if rho else 1)
    return {"lambda_max": top, "lambda_min": -0.1 * top, "trace": 4 * top, "loss": loss}


def written(folder, value=curvature, *, epochs=None, grid=None, **kwargs):
    """Loads a planted sweep: its runs and what was measured of them."""
    runs = grid or planted.grid(accuracy, **{"widths": WIDTHS, **kwargs})
    planted.sweep(folder, planted.measured(runs, value, epochs))
    table = results.load(folder)
    return table, flatness.load(folder, table)


def of(table, quantity="lambda_max"):
    return table[table["quantity"] == quantity].set_index("parameters").sort_index()


def path_of(folder, hidden, rho, seed):
    return folder / "points" / f"w{hidden}_rho{rho}_noise0.0_seed{seed}" / "curvature.jsonl"


def logs(seeds=4, hidden=WIDTHS):
    """ln(SAM / base) as planted, [widths, seeds]."""
    return np.log([[lambda_max(h, s, 0.1) / lambda_max(h, s, None) for s in range(seeds)]
                   for h in hidden])  # fmt: skip
