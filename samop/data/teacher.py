"""Synthetic regression: a fixed two-layer teacher that a wider student learns.

The paper trains students of 1…10 ×10⁴ parameters on a synthetic regression, but does not say what
its teacher was (hidden sizes, noise, sample size). The constants below are our choice.
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
_REFERENCE = 20_000  # inputs by which the teacher is standardised


def _teacher(x: np.ndarray, hidden: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x @ hidden + bias, 0.0) @ out


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
    for field, value, least in (("n_train", n_train, 1), ("n_test", n_test, 1), ("seed", seed, 0)):
        if not isinstance(value, numbers.Integral) or value < least:
            raise UserError(f"{field} is {value!r}, allowed: an integer of at least {least}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise UserError(f"noise is {noise!r}, allowed: a finite number of at least 0")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    weights, reference, train, test, label_noise = streams
    net = (
        weights.standard_normal((INPUT_DIM, TEACHER_HIDDEN)) / math.sqrt(INPUT_DIM),
        weights.standard_normal(TEACHER_HIDDEN),
        weights.standard_normal(TEACHER_HIDDEN) / math.sqrt(TEACHER_HIDDEN),
    )
    typical = _teacher(reference.standard_normal((_REFERENCE, INPUT_DIM)), *net)
    centre, spread = typical.mean(), typical.std()

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((count, INPUT_DIM))
        return x, (_teacher(x, *net) - centre) / spread

    train_x, train_y = draw(train, n_train)
    train_y = train_y + noise * label_noise.standard_normal(n_train)
    test_x, test_y = draw(test, n_test)
    arrays = Arrays(*(a.astype(np.float32) for a in (train_x, train_y, test_x, test_y)))
    return Dataset(
        name="synthetic",
        train_x=arrays.train_x,
        train_y=arrays.train_y,
        test_x=arrays.test_x,
        test_y=arrays.test_y,
        num_classes=0,
        source={
            "kind": "generated",
            "origin": f"samop teacher of {TEACHER_HIDDEN} hidden units",
            "parameters": f"n_train={n_train} n_test={n_test} noise={noise} seed={seed}",
            "generator": f"numpy {np.__version__}",
            "sha256": content_hash(arrays),
        },
        scale=1.0,
        mean=(0.0,),
        std=(1.0,),
    )
