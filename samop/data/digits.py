"""The 1,797 real 8×8 digits that scikit-learn ships: the data set that every machine has.

As 10 classes, and as a regression on whether the digit is even.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import numpy as np

from samop.data.dataset import Arrays, Dataset, channel_moments, content_hash, image_dataset
from samop.data.splits import permutation
from samop.errors import UserError

TEST = 500
# scikit-learn lists the writers one after the other; a fixed permutation mixes them.
_SEED = 1797
_CONTENT = "bf2d8ce8e7b0489d2a8ea8739e1c393dbe8cf16b945a8ecf1cd7b84e529c4db2"


def digits() -> Dataset:
    """1,297 training and 500 test images, uint8 `[n, 8, 8, 1]` with values 0…16, 10 classes.

    Raises:
      UserError: the installed scikit-learn ships other digits than the known ones.
    """
    table = _table()
    table = table[permutation(len(table), _SEED)]
    x, y = table[:, :64].astype(np.uint8).reshape(-1, 8, 8, 1), table[:, 64].astype(np.int32)
    arrays = Arrays(x[:-TEST], y[:-TEST], x[-TEST:], y[-TEST:])
    release = version("scikit-learn")
    if (got := content_hash(arrays)) != _CONTENT:
        raise UserError(
            f"data set 'digits' from scikit-learn {release}: sha256 of its arrays expected "
            f"{_CONTENT}, got {got}"
        )
    source = {"kind": "installed", "origin": f"scikit-learn {release}", "version": release}
    return image_dataset("digits", arrays, num_classes=10, scale=16.0, source=source)


def digits_parity() -> Dataset:
    """Regression on the images of `digits`: target 1 for an even digit, −1 for an odd one.

    With squared loss a network can interpolate it at finite weights, which linear stability is
    about; with cross-entropy on the classes none can.

    Returns:
      float32 `[n, 64]` in [0, 1] and float32 `[n]` of ±1; 1,297 training and 500 test examples.

    Raises:
      UserError: as `digits`.
    """
    images = digits()

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1).astype(np.float32) / np.float32(images.scale)

    def sign(y: np.ndarray) -> np.ndarray:
        return (1 - 2 * (y % 2)).astype(np.float32)

    arrays = Arrays(
        flat(images.train_x), sign(images.train_y), flat(images.test_x), sign(images.test_y)
    )
    mean, std = channel_moments(images.train_x, images.scale)
    return Dataset(
        name="digits_parity",
        train_x=arrays.train_x,
        train_y=arrays.train_y,
        test_x=arrays.test_x,
        test_y=arrays.test_y,
        num_classes=0,
        source={
            **images.source,
            "derived": "pixels / 16, flat; target 1 for even digits, −1 for odd ones",
            "derived_from": images.source["sha256"],
            "sha256": content_hash(arrays),
        },
        scale=1.0,
        mean=mean,
        std=std,
    )


def _table() -> np.ndarray:
    """[1797, 65]: 64 pixels and the class of each image, in scikit-learn's order.

    Read from the installed package without importing it, which takes a second; if a later release
    keeps its table elsewhere, by its own function.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])
