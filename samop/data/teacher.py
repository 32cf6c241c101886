"""Regression on generated data: fixed two-layer teachers that students of some width learn.

`synthetic` is the paper's width sweep (students of 1…10 ×10⁴ parameters, arXiv 2311.17539), which
does not say what its teacher was (hidden sizes, noise, sample size). The students of `relu_teacher`
are all too narrow to fit it exactly, so their error falls with width. All constants are our choice.
"""

import math
import numbers

import numpy as np

from samop.data.dataset import Arrays, Dataset, content_hash
from samop.errors import UserError

INPUT_DIM = 98  # a student of h hidden units has 98h + h + h + 1 = 100h + 1 parameters
TEACHER_HIDDEN = 20  # far below the narrowest student's 100, so every student can fit the teacher
N_TRAIN = 1200  # training and validation together; 1,000 + 200
N_TEST = 2000
NOISE = 0.0  # a run adds its own, by its seed, to training targets alone: data.label_noise
RELU_DIM = 8  # few enough that 8,000 examples say more than the narrow students can take up
RELU_HIDDEN = 2000  # far above the widest student's 256, so that width always limits the error
RELU_TRAIN = 9000  # 8,000 + 1,000 for validation
RELU_TEST = 10_000
_REFERENCE = 20_000  # inputs by which the teacher is standardised
_CELLS = 400_000  # inputs × hidden units at a time: 3 MB


def _teacher(x: np.ndarray, hidden: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    rows = max(1, _CELLS // len(out))
    parts = [x[i : i + rows] for i in range(0, len(x), rows)]
    return np.concatenate([np.maximum(part @ hidden + bias, 0.0) @ out for part in parts])


def synthetic(
    n_train: int = N_TRAIN, n_test: int = N_TEST, noise: float = NOISE, seed: int = 0
) -> Dataset:
    """Teacher–student regression with inputs x ~ N(0, I) of dimension 98.

    y = (f(x) − c)/s with f(x) = aᵀ·relu(Wx + b), 20 hidden units, W ~ N(0, 1/98), a ~ N(0, 1/20),
    b ~ N(0, 1), and c, s such that the clean targets have mean 0 and variance 1 over inputs. The
    training part's targets, from which validation examples are carved too, carry N(0, noise²) in
    addition; the test part's are clean. More examples of the same seed extend fewer.

    Args:
      n_train: training and validation examples together.
      n_test: test examples.
      noise: standard deviation of the label noise.
      seed: of the teacher, the inputs and the noise.

    Returns:
      float32 `[n, 98]` and `[n]`; `mean` 0 and `std` 1, which the inputs have by construction.

    Raises:
      UserError: a size below 1, or a noise or seed that is negative or not finite.
    """
    return _generate("synthetic", INPUT_DIM, TEACHER_HIDDEN, n_train, n_test, noise, seed)


def relu_teacher(
    n_train: int = RELU_TRAIN, n_test: int = RELU_TEST, noise: float = 0.0, seed: int = 0
) -> Dataset:
    """As `synthetic`, by a teacher of 2,000 hidden units on inputs of dimension 8: x ~ N(0, I).

    Nearly a draw from a Gaussian process, so that students of far fewer units keep an error of
    approximation, and their test error says how it falls with width.

    Args, errors: as of `synthetic`.

    Returns:
      float32 `[n, 8]` and `[n]`; `mean` 0 and `std` 1, which the inputs have by construction.
    """
    return _generate("relu_teacher", RELU_DIM, RELU_HIDDEN, n_train, n_test, noise, seed)


def relu_teacher_64k() -> Dataset:
    """`relu_teacher` with 64,000 + 1,000 training examples: the same teacher and test part."""
    return _generate("relu_teacher_64k", RELU_DIM, RELU_HIDDEN, 65_000, RELU_TEST, 0.0, 0)


def _generate(
    name: str, dim: int, units: int, n_train: int, n_test: int, noise: float, seed: int
) -> Dataset:
    for field, value, least in (("n_train", n_train, 1), ("n_test", n_test, 1), ("seed", seed, 0)):
        if not isinstance(value, numbers.Integral) or value < least:
            raise UserError(f"{field} is {value!r}, allowed: an integer of at least {least}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise UserError(f"noise is {noise!r}, allowed: a finite number of at least 0")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    weights, reference, train, test, label_noise = streams
    net = (
        weights.standard_normal((dim, units)) / math.sqrt(dim),
        weights.standard_normal(units),
        weights.standard_normal(units) / math.sqrt(units),
    )
    typical = _teacher(reference.standard_normal((_REFERENCE, dim)), *net)
    centre, spread = typical.mean(), typical.std()

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((count, dim))
        return x, (_teacher(x, *net) - centre) / spread

    train_x, train_y = draw(train, n_train)
    train_y = train_y + noise * label_noise.standard_normal(n_train)
    test_x, test_y = draw(test, n_test)
    arrays = Arrays(*(a.astype(np.float32) for a in (train_x, train_y, test_x, test_y)))
    return Dataset(
        name=name,
        train_x=arrays.train_x,
        train_y=arrays.train_y,
        test_x=arrays.test_x,
        test_y=arrays.test_y,
        num_classes=0,
        source={
            "kind": "generated",
            "origin": f"samop teacher of {units} hidden units",
            "parameters": f"n_train={n_train} n_test={n_test} noise={noise} seed={seed}",
            "generator": f"numpy {np.__version__}",
            "sha256": content_hash(arrays),
        },
        scale=1.0,
        mean=(0.0,),
        std=(1.0,),
    )
