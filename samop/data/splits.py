"""Train, validation and test parts, the same ones for every run of every seed."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from samop.data.dataset import Dataset
from samop.errors import UserError

_TRAIN_SEED, _TEST_SEED = 20210, 20211  # constants: which example is in which part never varies
ALIGNMENT = 64  # bytes; what XLA:CPU wants


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part, in memory, of the data set's types.

    Attributes:
      x: `[n, …]`, or several such arrays by name.
      y: `[n, …]`: a class or target each, or one for each of an example's parts.
    """

    x: Any  # a tree of arrays: without jax there is no type for one
    y: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.y)


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
    held, kept, tested = places(dataset, validation, train, test)
    return Splits(
        train=Split(_taken(dataset.train_x, kept), _taken(dataset.train_y, kept)),
        validation=Split(_taken(dataset.train_x, held), _taken(dataset.train_y, held)),
        test=Split(_taken(dataset.test_x, tested), _taken(dataset.test_y, tested)),
    )


def places(
    dataset: Dataset, validation: int, train: int = 0, test: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where `split` takes its parts from: sorted places, int64.

    Returns:
      Of the validation and of the training part among the data set's training examples, and of
      the test part among its test examples. Arguments and errors as for `split`.
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
    return held, kept, tested


def parts(
    count: int,
    *,
    validation: int,
    train: int = 0,
    test: int = 0,
    test_share: float = 0.1,
    own: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which examples of a collection train, validate and test: sorted places, int64.

    Fixed, and smaller parts subsets of larger ones, as in `split`.

    Args:
      count: number of examples, ≥ 3.
      validation: number of validation examples; where the source names its own, as many of them
        (0: all of them).
      train: number of training examples to keep; 0 keeps all.
      test: number of test examples to keep; 0 keeps all.
      test_share: of the examples that test, where the source has no test part.
      own: the source's own parts, `[count]` of 0 (train), 1 (validation), 2 (test); a part that
        it lacks is carved out of the training part. None: it has none.

    Raises:
      UserError: a size does not fit; it names the size and the range allowed.
    """
    own = np.zeros(count, np.uint8) if own is None else own
    order = permutation(count, _TRAIN_SEED)
    training, held, tested = (order[own[order] == part] for part in range(3))
    if not len(tested):
        size = math.ceil(test_share * len(training))
        tested, training = training[:size], training[size:]
    size = _size("test", test, len(tested), f"there are {len(tested)} test examples")
    tested = tested[: size or len(tested)]
    if len(held):
        why = f"there are {len(held)} validation examples"
        held = held[: _size("validation", validation, len(held), why) or len(held)]
    else:
        why = f"there are {len(training)} training examples"
        size = _size("validation", validation, len(training) - 1, why)
        held, training = training[:size], training[size:]
    why = f"{len(training)} training examples are left"
    training = training[: _size("train", train, len(training), why) or len(training)]
    return np.sort(training), np.sort(held), np.sort(tested)


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
