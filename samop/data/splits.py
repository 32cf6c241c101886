"""Train, validation and test parts, the same ones for every run of every seed."""

import dataclasses
import math
import numbers

import numpy as np

from samop.data.dataset import Dataset
from samop.errors import UserError

_TRAIN_SEED, _TEST_SEED = 20210, 20211  # constants: which example is in which part never varies
ALIGNMENT = 64  # bytes; what XLA:CPU wants


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part: `x` `[n, …]` and `y` `[n]`, in memory, of the data set's types."""

    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set; no example is in two of them."""

    train: Split
    validation: Split
    test: Split


def permutation(count: int, seed: int) -> np.ndarray:
    """A fixed permutation of `count` positions; int64 `[count]`.

    Sorts PCG64's raw output, since NumPy keeps a bit generator's stream for ever but allows
    `Generator.permutation` to change.

    >>> permutation(5, seed=0)
    array([3, 2, 1, 0, 4])
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def _size(field: str, value: int, largest: int, why: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UserError(f"{field} is {value!r}, allowed: an integer from 0 to {largest}")
    if not 0 <= value <= largest:
        raise UserError(f"{field} is {value}, allowed: 0 to {largest} ({why})")
    return int(value)


def split(dataset: Dataset, validation: int, train: int = 0, test: int = 0) -> Splits:
    """Carves a validation part out of the training part.

    A smaller `train` or `test` takes the first examples of the same fixed permutation, so a cut
    part is a subset of the whole one and the validation part does not depend on it. Within a part
    the examples keep the data set's order.

    Args:
      dataset: as loaded.
      validation: number of validation examples; may be 0.
      train: number of training examples to keep; 0 keeps all that validation leaves.
      test: number of test examples to keep; 0 keeps all.

    Raises:
      UserError: a size does not fit; it names the size and the range allowed.
    """
    total, test_total = len(dataset.train_y), len(dataset.test_y)
    having = f"{dataset.name} has {total} training examples"
    validation = _size("validation", validation, total - 1, having)
    rest = total - validation
    train = _size("train", train, rest, f"{having}, {validation} of them for validation") or rest
    test = _size("test", test, test_total, f"{dataset.name} has {test_total} test examples")
    order = permutation(total, _TRAIN_SEED)
    held, kept = np.sort(order[:validation]), np.sort(order[validation : validation + train])
    tested = np.sort(permutation(test_total, _TEST_SEED)[: test or test_total])
    return Splits(
        train=Split(_taken(dataset.train_x, kept), _taken(dataset.train_y, kept)),
        validation=Split(_taken(dataset.train_x, held), _taken(dataset.train_y, held)),
        test=Split(_taken(dataset.test_x, tested), _taken(dataset.test_y, tested)),
    )


def _taken(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """array[index], where jax's CPU devices can use it as it lies instead of copying it each."""
    shape = (len(index), *array.shape[1:])
    out = aligned(shape, array.dtype)
    return np.take(array, index, axis=0, out=out, mode="clip")


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a multiple of 64 bytes."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)
