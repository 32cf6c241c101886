"""One number out of a run's measured steps: of the trained network, or where a loss is passed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samop.flatness.records import Quantity

Track = Sequence[Mapping[str, Any]]  # rows of one run, steps ascending


class Reading(NamedTuple):
    """A value of a run.

    Attributes:
      value: in the quantity's unit; NaN where there is none.
      error: of the measurement, in the same unit; NaN where the quantity has none.
      converged: whether the iteration ended within its tolerance; True where there is none.
      loss: training loss at the same weights.
      epoch: when; between two measured ones where interpolated.
    """

    value: float
    error: float
    converged: bool
    loss: float
    epoch: float


NOTHING = Reading(math.nan, math.nan, True, math.nan, math.nan)


def of_row(row: Mapping[str, Any], quantity: Quantity) -> Reading:
    """The quantity in one measured row."""
    value = _number(row, quantity.name)
    error = _number(row, quantity.error) if quantity.error else math.nan
    converged = row.get(quantity.converged, True) if quantity.converged else True
    # A field that the row does not have is NaN in a table: then there is no value either.
    said = converged if isinstance(converged, (bool, np.bool_)) else not math.isfinite(value)
    return Reading(value, error, bool(said), _number(row, "loss"), _number(row, "epoch"))


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name, math.nan)
    return math.nan if value is None else float(value)


def at_last(track: Track, quantity: Quantity) -> Reading:
    """The quantity of the trained network."""
    rows = [row for row in track if row["trained"]]
    return of_row(rows[-1], quantity) if rows else NOTHING


def at_equal_loss(one: Track, other: Track, quantity: Quantity) -> tuple[Reading, Reading]:
    """The quantity of two runs where each first reaches the lowest loss that both reach.

    That is the larger one of the two least measured losses. Between two measured steps the
    quantity is interpolated linearly in the logarithm of the loss, on the logarithm of the
    quantity where both of its values have the sign that has one. A run whose first measured loss
    is below it already has no reading.
    """
    sides = [[r for r in (of_row(row, quantity) for row in track) if _usable(r)]
             for track in (one, other)]  # fmt: skip
    if not all(sides):
        return NOTHING, NOTHING
    target = max(min(reading.loss for reading in side) for side in sides)
    first, second = (_passing(side, target, quantity) for side in sides)
    return first, second


def _usable(reading: Reading) -> bool:
    return math.isfinite(reading.value) and math.isfinite(reading.loss)


def _passing(side: list[Reading], target: float, quantity: Quantity) -> Reading:
    place = next(i for i, reading in enumerate(side) if reading.loss <= target)
    after = side[place]
    if after.loss == target:
        return after
    if place == 0:
        return NOTHING
    before = side[place - 1]
    if after.loss > 0:
        whole = math.log(before.loss / after.loss)
        share = math.log(before.loss / target) / whole
    else:
        share = (before.loss - target) / (before.loss - after.loss)
    pair = [quantity.sign * before.value, quantity.sign * after.value]
    if min(pair) > 0:
        value = quantity.sign * math.exp(
            (1 - share) * math.log(pair[0]) + share * math.log(pair[1])
        )
    else:
        value = (1 - share) * before.value + share * after.value
    epoch = (1 - share) * before.epoch + share * after.epoch
    # No smaller than either, relative to its value: the interpolation adds an error of its own.
    worst = float(np.fmax(_relative(before), _relative(after)))
    converged = before.converged and after.converged
    return Reading(value, worst * abs(value), converged, target, epoch)


def _relative(reading: Reading) -> float:
    return reading.error / abs(reading.value) if reading.value else math.nan
