"""The records of a group's runs while they train: JSON lines, and TensorBoard through clu."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samop import records

Row = dict[str, Any]


def rows_of(step: int, epoch: int, metrics: Mapping[str, np.ndarray]) -> list[Row]:
    """One row a run from arrays of all runs.

    Args:
      step: updates done.
      epoch: epochs done.
      metrics: name → [runs]; floats are written with the digits that identify them in their dtype.
    """
    columns = {
        name: [_number(x) for x in np.asarray(values).reshape(-1)]
        for name, values in metrics.items()
    }
    runs = len(next(iter(columns.values())))
    return [
        {"step": step, "epoch": epoch, **{name: column[i] for name, column in columns.items()}}
        for i in range(runs)
    ]


def _number(x: np.generic) -> int | float:
    # str gives the shortest text that reads back as the same float32: .974, not .97399997711.
    return int(x) if np.issubdtype(x.dtype, np.integer) else float(str(x))


def tensorboard_available() -> bool:
    """Whether what clu's writers need is installed: TensorFlow and TensorBoard."""
    return all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard"))


class GroupRecords:
    """Buffers the rows of a group's runs and appends them to each `metrics.jsonl`.

    Args:
      folders: the runs' folders, in the group's order.
      tensorboard: also write event files through clu into each folder's `tensorboard/`.
    """

    def __init__(self, folders: Sequence[Path], tensorboard: bool = False):
        self.files = [folder / "metrics.jsonl" for folder in folders]
        self._buffer: list[list[Row]] = []
        self._writers: list[Any] = []
        if tensorboard:
            from clu.metric_writers import SummaryWriter  # imports TensorFlow

            self._writers = [SummaryWriter(str(folder / "tensorboard")) for folder in folders]

    def add(self, rows: list[Row]) -> None:
        """Keeps one row a run until the next flush."""
        self._buffer.append(rows)

    def flush(self, sync: bool = False) -> None:
        """Appends what was kept; with `sync` it is on the disk when this returns."""
        for i, file in enumerate(self.files):
            own = [rows[i] for rows in self._buffer]
            if own or sync:
                records.append_rows(file, own, sync)
        for i, writer in enumerate(self._writers):
            for rows in self._buffer:
                values = {k: v for k, v in rows[i].items() if k not in ("step", "epoch")}
                writer.write_scalars(rows[i]["step"], values)
            writer.flush()
        self._buffer = []

    def close(self) -> None:
        """Closes TensorBoard's files; what was not flushed is dropped."""
        for writer in self._writers:
            writer.close()
