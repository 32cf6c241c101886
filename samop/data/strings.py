"""Lists of words as one array, so that they are stored and hashed like every other array."""

from collections.abc import Sequence

import numpy as np

from samop.errors import UserError


def pack(words: Sequence[str]) -> np.ndarray:
    """UTF-8 bytes of the words, each ended by a newline; uint8.

    Raises:
      UserError: a word that holds a newline.

    >>> unpack(pack(["Straße", ""]))
    ['Straße', '']
    """
    for word in words:
        if "\n" in word:
            raise UserError(f"word {word!r} holds a newline, which ends a word here")
    return np.frombuffer("".join(f"{word}\n" for word in words).encode(), np.uint8)


def unpack(array: np.ndarray) -> list[str]:
    """The inverse of `pack`."""
    return np.asarray(array).tobytes().decode().split("\n")[:-1]
