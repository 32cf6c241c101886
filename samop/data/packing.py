"""Sentences of any length in rows of one length: what a compiled program needs, without waste."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Rows of several sentences each; all arrays [rows, length].

    Attributes:
      token: int64, which of the tokens lies here; -1 in the padding.
      segment: int32, which of the row's sentences, from 1; 0 in the padding.
      position: int32, place within the sentence; 0 in the padding.
      cut: how many sentences were longer than allowed.
    """

    token: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    cut: int


def best_fit(lengths: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Places items one after the other, each in the fullest row that has room for it.

    Args:
      lengths: [n] int, from 1 to `row`.
      row: length of a row.

    Returns:
      (row, place within it) of each item, both int64 [n].

    >>> best_fit(np.array([5, 3, 3, 2]), row=8)
    (array([0, 0, 1, 1]), array([0, 5, 0, 3]))
    """
    where, at = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    # Rows by the room left in them; bit r of `some` says whether any row has room r.
    rooms: defaultdict[int, list[int]] = defaultdict(list)
    some, rows = 0, 0
    for i, length in enumerate(lengths.tolist()):
        fitting = some >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = rooms[room].pop()
            if not rooms[room]:
                some ^= 1 << room
        else:
            room, chosen, rows = row, rows, rows + 1
        where[i], at[i] = chosen, row - room
        if room > length:
            rooms[room - length].append(chosen)
            some |= 1 << (room - length)
    return where, at


def pack(start: np.ndarray, chosen: np.ndarray, longest: int, row: int) -> Packed:
    """Rows of chosen sentences.

    Args:
      start: int64 [sentences + 1], where each sentence begins among the tokens.
      chosen: int64 [n], which sentences, in the order in which they are placed.
      longest: a longer sentence is cut into pieces of this length and a rest, each of them then
        a sentence of its own.
      row: length of a row, ≥ `longest`.
    """
    begin, length = start[chosen], start[chosen + 1] - start[chosen]
    pieces = -(-length // longest)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = np.repeat(begin, pieces) + piece * longest
    length = np.minimum(np.repeat(length, pieces) - piece * longest, longest)
    where, at = best_fit(length, row)

    shape = (int(where.max()) + 1, row)
    # The number of a piece within its row: pieces sorted by row, counted from each row's first.
    order = np.lexsort((at, where))
    first = np.searchsorted(where[order], where[order])
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - first + 1
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    flat = np.repeat(where * row + at, length) + within

    def spread(values: np.ndarray, empty: int, dtype: type) -> np.ndarray:
        out: np.ndarray = np.full(shape, empty, dtype)
        out.reshape(-1)[flat] = values
        return out

    return Packed(
        token=spread(np.repeat(begin, length) + within, -1, np.int64),
        segment=spread(np.repeat(number, length), 0, np.int32),
        position=spread(within, 0, np.int32),
        cut=int(np.sum(pieces > 1)),
    )
