"""Metrics of a whole split, such as average precision: on the host, from a network's outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from samop.train import OUTPUTS
from samop.workloads import Workload

PyTree = Any


def scored(workload: Workload, values: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """An epoch's values with the outputs of its splits replaced by what the workload scores.

    Args:
      workload: its `score` says how, if it has one.
      values: of an epoch, [runs, ...] each; "validation_outputs" [runs, batches, size, ...].

    Returns:
      Numbers alone, [runs] each.
    """
    plain = {name: value for name, value in values.items() if not name.endswith(f"_{OUTPUTS}")}
    if workload.score is None:
        return plain
    for split in ("validation", "test"):
        y, outputs = getattr(workload.splits, split).y, values[f"{split}_{OUTPUTS}"]
        runs = len(jax.tree.leaves(outputs)[0])
        rows = [workload.score(jax.tree.map(_of_run(i, len(y)), outputs), y) for i in range(runs)]
        for name in rows[0]:
            plain[f"{split}_{name}"] = np.array([row[name] for row in rows])
    return plain


def _of_run(i: int, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """[runs, batches, size, ...] → [count, ...] of run i; what filled the last batch goes."""
    return lambda x: x[i].reshape(-1, *x.shape[3:])[:count]
