"""Molecules packed into rows of one shape, several to a row, so that little of it is padding.

Padding each molecule to the largest would multiply the work by ten (moleculeace: 31 atoms in the
mean, 316 at most). Rows are as long as the largest molecule; which molecules share a row is settled
once, by a fixed permutation, and no molecule's outputs depend on it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from samop.data.splits import Split, permutation
from samop.errors import UserError

_SEED = 20213  # a constant: which molecules share a row never varies
_OPEN = 64  # rows that are being filled at a time
NONE = -1  # no neighbour; label of no molecule


class Shape(NamedTuple):
    """Sizes that all rows of a data set share.

    Attributes:
      atoms: atoms of a row.
      molecules: places for molecules in a row.
      neighbours: places for an atom's neighbours.
    """

    atoms: int
    molecules: int
    neighbours: int


def neighbours(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Each atom's neighbours, numbered within its molecule, then `NONE`: int16 [atoms, most]."""
    atoms, ends = len(arrays["atom"]), np.asarray(arrays["bond_ends"], np.int64)
    base = np.repeat(np.asarray(arrays["atom_start"][:-1]), np.diff(arrays["bond_start"]))
    one = np.concatenate([ends[:, 0], ends[:, 1]])
    other = np.concatenate([ends[:, 1], ends[:, 0]])
    own = one + np.tile(base, 2)
    order = np.argsort(own, kind="stable")
    own, other = own[order], other[order]
    degree = np.bincount(own, minlength=atoms)
    place = np.arange(len(own)) - np.repeat(np.cumsum(degree) - degree, degree)
    found = np.full((atoms, max(1, int(degree.max(initial=0)))), NONE, np.int16)
    found[own, place] = other
    return found


def shape(arrays: Mapping[str, np.ndarray], row: int = 0) -> Shape:
    """The shape for rows of `row` atoms; 0: as long as the largest molecule.

    Raises:
      UserError: a row that is shorter than the largest molecule.
    """
    sizes = np.diff(arrays["atom_start"])
    largest = int(sizes.max())
    if row and row < largest:
        raise UserError(
            f"task.row={row} is too short: the largest molecule has {largest} atoms; allowed: "
            f"≥ {largest}, or 0 for that"
        )
    row = row or largest
    # A quarter more than the mean number that fits, so that small ones do not leave atoms unused.
    molecules = max(1, math.ceil(1.25 * row / float(sizes.mean())))
    return Shape(row, molecules, neighbours(arrays).shape[1])


def packed(sizes: np.ndarray, shape: Shape) -> list[list[int]]:
    """Places in `sizes` of each row's molecules, taken in a fixed random order, first fit."""
    rows: list[list[int]] = []
    free = np.zeros(_OPEN, np.int64)  # atoms; of the rows in `number`, the oldest first
    number = np.zeros(_OPEN, np.int64)
    left = 0  # of them in use
    for place in permutation(len(sizes), _SEED):
        size = int(sizes[place])
        fits = np.flatnonzero(free[:left] >= size)
        if len(fits):
            at = int(fits[0])
        else:
            if left == _OPEN:  # the oldest is closed
                free[:-1], number[:-1] = free[1:].copy(), number[1:].copy()
                left -= 1
            at, left = left, left + 1
            free[at], number[at] = shape.atoms, len(rows)
            rows.append([])
        row = rows[number[at]]
        row.append(int(place))
        free[at] = 0 if len(row) == shape.molecules else free[at] - size
    return rows


def split(arrays: Mapping[str, np.ndarray], index: np.ndarray, shape: Shape) -> Split:
    """The molecules `index` of a data set (see `molecules`) in rows.

    Returns:
      x: "atom" uint8 [rows, atoms, 9]; "neighbour" int16 [rows, atoms, neighbours], numbered
        within the row, `NONE` where there is none; "atoms" int16 [rows, molecules], how many each
        molecule has: they follow one another, and what is left of the row is padding.
      y: int8 [rows, molecules, tasks], `NONE` where not measured and where no molecule is.
    """
    start = np.asarray(arrays["atom_start"])
    sizes = np.diff(start)[index]
    rows = packed(sizes, shape)
    around = neighbours(arrays)
    atom = np.zeros((len(rows), shape.atoms, arrays["atom"].shape[1]), np.uint8)
    neighbour = np.full((len(rows), shape.atoms, shape.neighbours), NONE, np.int16)
    atoms = np.zeros((len(rows), shape.molecules), np.int16)
    y = np.full((len(rows), shape.molecules, arrays["label"].shape[1]), NONE, np.int8)
    for number, row in enumerate(rows):
        begin = 0
        for place, member in enumerate(row):
            size, molecule = int(sizes[member]), int(index[member])
            end = begin + size
            source = slice(int(start[molecule]), int(start[molecule]) + size)
            atom[number, begin:end] = arrays["atom"][source]
            near = around[source]
            neighbour[number, begin:end] = np.where(near == NONE, NONE, near + np.int16(begin))
            atoms[number, place] = size
            y[number, place] = arrays["label"][molecule]
            begin = end
    return Split({"atom": atom, "neighbour": neighbour, "atoms": atoms}, y)
