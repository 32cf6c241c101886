"""Planted sweeps of several variants with random values, and what is best in them."""

import numpy as np
import planted

from samop import results

SEEDS = 5
WIDTHS = (4, 8)
RHOS = (0.05, 0.1, 0.2)
NAMES = ("sam", "asam", "looksam")


def random_family(seed=0, names=NAMES, **kwargs):
    """Runs with random values, and (name, hidden, noise, seed, rho) → (validation, test)."""
    rng = np.random.default_rng(seed)
    drawn = {}

    def value(*key):
        return drawn.setdefault(key, tuple(rng.integers(30, 99, 2) / 100))

    kwargs = {"widths": WIDTHS, "rhos": RHOS, "seeds": SEEDS, **kwargs}
    return planted.family(value, names=names, **kwargs), drawn


def left_out(drawn, name, hidden, seed, noise=0.0, lower=False):
    """The test value of a seed, with the ρ that is best on validation over the other seeds."""
    others = [s for s in range(SEEDS) if s != seed]
    means = [np.mean([drawn[name, hidden, noise, s, rho][0] for s in others]) for rho in RHOS]
    means = np.round(means, 9)
    best = RHOS[int(np.argmin(means) if lower else np.argmax(means))]
    return drawn[name, hidden, noise, seed, best][1]


def words(text):
    return " ".join(text.split())


def family_table(tmp_path, metric=planted.ACCURACY, **kwargs):
    runs, drawn = random_family(**kwargs)
    return results.load(planted.sweep(tmp_path, runs, metric)), drawn
