"""NumPy arrays out of a pickle, without running anything that the pickle names.

A pickle is a program: it names functions and calls them. The names below are all that a pickle of
integer arrays needs, and even these get stand-ins of ours instead of NumPy's own functions, so that
nothing outside this file is ever called, whatever the bytes say.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from samop.errors import UserError

# What the unpickler raises on bytes that are no pickle, or none of arrays.
_DAMAGED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)
_NDARRAY = "ndarray"  # names the type; it cannot be called
_KINDS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}


class _Dtype:
    """An integer type: "i8" with a byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: Any = False, copy: Any = True):
        if code not in _KINDS:
            raise UserError(f"its type {code!r} is none of integers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise UserError(f"its byte order {order!r} is unknown")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array being read; `value` once its state has come."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        if not (isinstance(kind, _Dtype) and isinstance(content, bytes)):
            raise UserError("an array's state is not as NumPy writes it")
        if len(content) != math.prod(shape) * kind.dtype.itemsize:
            raise UserError(
                f"an array of shape {shape} and type {kind.dtype} has {len(content)} bytes"
            )
        flat = np.frombuffer(content, kind.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: str, shape: tuple, code: bytes) -> _Array:
    """In place of NumPy's: an empty array, which `BUILD` then fills."""
    if kind != _NDARRAY:
        raise UserError("an array is of a type that is not numpy.ndarray")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """In place of codecs.encode: how protocol 2 writes bytes."""
    if encoding != "latin1":
        raise UserError(f"bytes are encoded as {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


class _Call:
    """A function that a pickle may call, and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UserError("it changes a function")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Call(_reconstruct),  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _Call(_reconstruct),  # NumPy 2
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Call(_encode),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"it names {module}.{name}, which is refused; allowed: "
                + ", ".join(".".join(pair) for pair in ALLOWED)
            )
        return ALLOWED[module, name]


def arrays(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The integer arrays of a pickled dict.

    Args:
      data: the pickle.
      name: what errors call it.

    Returns:
      key → array as written, read-only.

    Raises:
      UserError: the pickle names anything but what integer arrays need, is damaged, or holds
        something else than a dict of arrays; it names the file.
    """
    try:
        value = _Unpickler(io.BytesIO(data)).load()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())  # some of its messages have two lines
        raise UserError(f"{name}: is no readable pickle of arrays ({reason})") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: holds a {type(value).__name__}, expected a dict of arrays")
    found = {}
    for key, item in value.items():
        array = item.value if isinstance(item, _Array) else None
        if not isinstance(key, str) or array is None:
            raise UserError(f"{name}: {key!r} is no array, expected arrays by name")
        found[key] = array
    return found
