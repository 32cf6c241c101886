"""The curvature of a group's runs while they train, without touching how they train.

The training program is the same with and without: measurements read the state between its epochs.
What is due within an epoch is measured on a replay: a copy taken through the updates up to there by
a program of its own.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from samop import cadence, measures, processes, records, transforms
from samop.workloads import parameters

if TYPE_CHECKING:
    from samop.loop import Ready

PyTree = Any
FILE = "curvature.jsonl"


def due(config: Any, steps_per_epoch: int, epochs: int) -> tuple[int, ...]:
    """The steps after which the curvature is measured; none where the config does not ask."""
    every = config["curvature"]["every"]
    return cadence.steps(every, steps_per_epoch, epochs, "curvature.every")


def recorded(point: Path, steps: tuple[int, ...], steps_per_epoch: int, epoch: int) -> int:
    """The last epoch ≤ `epoch` by whose end nothing that was due is missing from a run's record."""
    found = {row["step"] for row in records.read_rows(point / FILE, tolerate_tail=True)}
    missing = [step for step in steps if step not in found]
    return min([epoch, *(max(step - 1, 0) // steps_per_epoch for step in missing)])


def cut(point: Path, last_step: int) -> None:
    """Drops the rows of a run's record beyond a step; all of them where it is 0."""
    file = point / FILE
    rows = records.read_rows(file, tolerate_tail=True)
    kept = [row for row in rows if row["step"] <= last_step] if last_step else []
    if file.exists() or kept:
        records.rewrite_rows(file, kept)


class Watch:
    """Measures a group's runs when it is due.

    Args:
      ready: the group.
      workdir: the sweep's folder.
      inputs: the epoch's arguments that stay, see `samop.loop.feed`.
      check: called before rows are written, see `samop.loop.train`.

    Raises:
      UserError: what the config asks for cannot be measured on these data and networks.
    """

    def __init__(
        self,
        ready: "Ready",
        workdir: Path,
        inputs: tuple[PyTree, ...],
        check: Callable[[], None] = lambda: None,
    ):
        self._ready, self._inputs, self._check = ready, inputs, check
        self._config = ready.group.points[0]
        self._spe = ready.run.steps_per_epoch
        self._due = due(self._config, self._spe, ready.epochs)
        self._files = [workdir / "points" / name / FILE for name in ready.group.names]
        self._batches: dict[Any, PyTree] = {}
        self.seconds = 0.0
        if self._due:
            measures.check(self._config, ready.workload, parameters(self._config))

    def before(self, number: int, state: PyTree) -> None:
        """What is due before or within epoch `number`, from the state at its beginning."""
        begin = number * self._spe
        if begin == 0 and 0 in self._due:
            self._measure(0, state)
        if any(begin < step < begin + self._spe for step in self._due):
            jax.block_until_ready(state)
        place, at = self._ready.program.place, 0
        for step in self._due:
            inside = step - begin
            if 0 < inside < self._spe:
                begun = time.monotonic()
                where = (place("every", np.int32(x)) for x in (number, at, inside - at))
                state = self._ready.program.advance(state, *self._inputs, *where)
                jax.block_until_ready(state)
                self.seconds += time.monotonic() - begun
                self._measure(step, state)
                at = inside

    def after(self, number: int, state: PyTree) -> None:
        """What is due at the end of epoch `number`."""
        step = (number + 1) * self._spe
        if step in self._due:
            self._measure(step, state)

    def sync(self) -> None:
        """Puts all rows so far on the disk."""
        if self._due and processes.first():
            for file in self._files:
                records.append_rows(file, [], sync=True)

    def _measure(self, step: int, state: PyTree) -> None:
        jax.block_until_ready(state)  # so that what is left of training is not counted here
        begin = time.monotonic()
        ready, group = self._ready, self._ready.group
        params = transforms.eval_params(state.opt_state, state.params)
        grid = processes.fetch((params, state.model_state))
        if not processes.first():
            return  # one process measures and writes, the others wait at the next epoch
        whole, part = divmod(step, self._spe)
        epoch = step / self._spe if part else whole
        last = step == self._due[-1]
        self._check()
        for i, (point, file) in enumerate(zip(group.points, self._files)):
            place = divmod(i, group.layout.cells)
            params, model_state = jax.tree.map(lambda x, place=place: x[place], grid)
            batch = self._batch(point)
            key = measures.key_of(point["seed"], step)
            row = measures.measure(
                self._config, ready.workload, params, model_state, batch, key, last
            )
            records.append_rows(file, [{"step": step, "epoch": epoch, **row}])
        self.seconds += time.monotonic() - begin

    def _batch(self, point: Any) -> PyTree:
        """The examples with a run's labels; shared by the runs that have the same."""
        which = (point["seed"], point["data"]["label_noise"])
        if not point["data"]["label_noise"]:
            which = (0, 0.0)
        if which not in self._batches:
            labels = self._ready.run.labels(np.uint32(which[0]), which[1])
            self._batches[which] = measures.batch_of(self._config, self._ready.workload, labels)
        return self._batches[which]
