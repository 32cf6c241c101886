"""How the benchmarks time things that are compared: sides that take turns, ratios within a turn."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def take_turns(sides: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, np.ndarray]:
    """Wall and CPU seconds of each side, [2, turns]; odd turns go backwards through the sides.

    A machine that slows down so slows all sides, and the ratio within a turn stays.

    Args:
      sides: functions that do the work and wait for it.
      turns: how often each one is called.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(values).T for name, values in times.items()}


def summary(values: np.ndarray) -> dict[str, Any]:
    """Median, extremes, and the order-statistic interval of the median with coverage ≥ 95 %.

    The k-th smallest and k-th largest of n values miss the median with probability
    2 P(Binomial(n, ½) < k), whatever their distribution. Fewer than six values have no such
    interval; then it is the extremes, with their own coverage.
    """
    ordered, n = np.sort(values), len(values)
    missed = [2 * sum(math.comb(n, i) for i in range(k)) / 2**n for k in range(1, n // 2 + 1)]
    k = max(1, sum(miss <= 0.05 for miss in missed))
    middle = {"median": float(np.median(values)), "coverage": 1 - missed[k - 1] if missed else 0.0}
    interval = [float(ordered[k - 1]), float(ordered[-k])]
    return {**middle, "min": float(ordered[0]), "max": float(ordered[-1]), "interval": interval}
