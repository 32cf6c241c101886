"""Runs whose loss is no longer finite: they go on, recorded so, and what they were is kept.

A run that diverges shares its program with others, which it does not touch. Its rows say what
became of it; `points/RUN/last_good/EPOCH` keeps its network as of the last checkpoint at which its
loss was finite, for whoever wants to know how it came to that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import logging

from samop import checkpoint, processes, records, transforms

if TYPE_CHECKING:
    from samop.loop import Ready

LOSSES = ("train_loss", "validation_loss")
FOLDER = "last_good"


class Divergence:
    """Watches the losses of a group's runs.

    Args:
      ready: the group.
      workdir: the sweep's folder, whose records say which runs have diverged already.
    """

    def __init__(self, ready: "Ready", workdir: Path):
        self._ready, self._group = ready, ready.group
        self._points = [workdir / "points" / name for name in ready.group.names]
        self._saved = workdir / "groups" / ready.group.name / "checkpoints"
        self._finite = [True] * len(self._points)
        if processes.first():
            rows = [_last_row(point / "metrics.jsonl") for point in self._points]
            self._finite = [_is_finite(row) for row in rows]

    def read(self, epoch: int, values: Mapping[str, np.ndarray], saver: checkpoint.Writer) -> None:
        """Keeps what is left of the runs that diverged in an epoch.

        Args:
          epoch: number of epochs done.
          values: its metrics, name → [runs].
          saver: of the group's checkpoints.
        """
        now = [_is_finite({k: values[k][i] for k in LOSSES}) for i in range(len(self._points))]
        fresh = [i for i, finite in enumerate(now) if self._finite[i] and not finite]
        self._finite = now
        if not fresh or not processes.first():
            return
        saver.wait()
        good = checkpoint.newest_good(self._saved, epoch - 1)
        for i in fresh:
            kept = "no checkpoint of it was made before"
            if good:
                self._keep(i, good)
                kept = f"its network of epoch {good} is in {self._points[i] / FOLDER}"
            name = self._group.names[i]
            logging.warning("%s has diverged in epoch %d; %s", name, epoch, kept)

    def _keep(self, i: int, epoch: int) -> None:
        place = divmod(i, self._group.layout.cells)
        state = checkpoint.restore_host(self._saved / str(epoch), self._ready.program.state)
        own = jax.tree.map(lambda x: x[place] if x.ndim > 1 else x, state)
        params = transforms.eval_params(own.opt_state, own.params)
        checkpoint.save(
            self._points[i] / FOLDER / str(epoch), {"params": params, **own.model_state}
        )


def load(run: str | Path) -> tuple[dict[str, Any], int]:
    """The network of a run that diverged, as of the last checkpoint before it did.

    Args:
      run: the run's folder, `WORKDIR/points/NAME`.

    Returns:
      Variables for the module's `apply`, NumPy arrays, and the epochs behind them; ({}, 0): none
      was kept.

    Raises:
      UserError: it is damaged.
    """
    folder = Path(run) / FOLDER
    epochs: Sequence[int] = checkpoint.steps(folder)
    if not epochs:
        return {}, 0
    return checkpoint.nested(checkpoint.restore_arrays(folder / str(epochs[-1]))), epochs[-1]


def _last_row(file: Path) -> Mapping[str, Any]:
    rows = records.read_rows(file, tolerate_tail=True)
    return rows[-1] if rows else {}


def _is_finite(row: Mapping[str, Any]) -> bool:
    return all(np.isfinite(row.get(name, 0.0)) for name in LOSSES)
