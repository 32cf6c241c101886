"""What molecules give away without a graph network: the reference for `molpcba_width.py`.

python experiments/baselines/molecules.py --data=moleculeace --validation=3500

Mean average precision on the validation and the test part, the same parts as the networks':

- random: the share of positive labels, which is the average precision of a random ranking;
- atoms: logistic regression on how many atoms of each value of each property a molecule has;
- surroundings: on which surroundings its atoms have, of radius 0, 1 and 2, each a hash of the
  atom and of its neighbours' hashes, folded into 2,048 bits (circular fingerprints).

One regression a task, on its measured labels; its penalty is the best of three on validation data.
Hardware: one CPU core; about two minutes.
"""

import argparse
import hashlib
from collections.abc import Mapping

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from samop import data
from samop.data import molecule_rows
from samop.data.molecules import ATOM_FEATURES
from samop.workloads.molecules import TEST_SHARE

BITS, RADIUS = 2048, 2
PENALTIES = (0.01, 0.1, 1.0)  # scikit-learn's C: smaller is stronger


def atoms(arrays: Mapping[str, np.ndarray]) -> sparse.csr_matrix:
    """How many atoms of a molecule have each value of each property, as its logarithm."""
    sizes = [len(values) for values in ATOM_FEATURES.values()]
    base = np.cumsum([0, *sizes[:-1]])
    column = (np.asarray(arrays["atom"], np.int64) + base[None]).reshape(-1)
    counts = _counts(arrays, column, len(sizes), sum(sizes))
    return counts.log1p()


def surroundings(arrays: Mapping[str, np.ndarray]) -> sparse.csr_matrix:
    """Which surroundings of radius 0 to `RADIUS` a molecule has, of `BITS`: 0 or 1."""
    start = np.asarray(arrays["atom_start"])
    near = molecule_rows.neighbours(arrays).astype(np.int64)
    base = np.repeat(start[:-1], np.diff(start))
    there = near >= 0
    place = np.where(there, near + base[:, None], 0)
    found = _hashed(np.asarray(arrays["atom"], np.int64))
    layers = [found]
    for _ in range(RADIUS):
        around = np.sort(np.where(there, found[place], 0), axis=1)  # whatever their order
        found = _hashed(np.concatenate([found[:, None], around], axis=1))
        layers.append(found)
    column = np.stack(layers, axis=1).reshape(-1) % BITS
    counts = _counts(arrays, column, len(layers), BITS)
    return (counts > 0).astype(float).tocsr()


def _hashed(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for the same row: [n, k] → [n], int64 ≥ 0."""
    different, which = np.unique(rows, axis=0, return_inverse=True)
    digests = [hashlib.sha256(row.tobytes()).digest()[:7] for row in different]
    return np.array([int.from_bytes(d, "little") for d in digests])[which.reshape(-1)]


def _counts(arrays, column: np.ndarray, of_atom: int, width: int) -> sparse.csr_matrix:
    start = np.asarray(arrays["atom_start"])
    row = np.repeat(np.arange(len(start) - 1), of_atom * np.diff(start))
    shape = (len(start) - 1, width)
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)


def precision(
    x: sparse.csr_matrix | None, label: np.ndarray, parts: tuple[np.ndarray, ...]
) -> tuple[float, float]:
    """Mean average precision on validation and test; x None: of a random ranking."""
    train, *rest = parts
    rows = []
    for task in range(label.shape[1]):
        y = label[:, task]
        fit, *held = (index[y[index] >= 0] for index in (train, *rest))
        if any(len(np.unique(y[index])) < 2 for index in (fit, *held)):
            continue
        if x is None:
            rows.append([float(np.mean(y[index] == 1)) for index in held])
            continue
        found = []
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=1000).fit(x[fit], y[fit])
            scores = [model.decision_function(x[index]) for index in held]
            found.append([average_precision_score(y[i], s) for i, s in zip(held, scores)])
        rows.append(max(found, key=lambda pair: pair[0]))
    validation, test = np.mean(rows, axis=0)
    return float(validation), float(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="moleculeace")
    parser.add_argument("--validation", type=int, default=3500)
    parser.add_argument("--train_size", type=int, default=0)
    args = parser.parse_args()
    collection = data.load(args.data)
    assert isinstance(collection, data.Collection)
    arrays = {name: np.asarray(array) for name, array in collection.arrays.items()}
    parts = data.parts(
        len(arrays["label"]),
        validation=args.validation,
        train=args.train_size,
        test_share=TEST_SHARE,
        own=arrays.get("part"),
    )
    for name, x in (
        ("random", None),
        ("atoms", atoms(arrays)),
        ("surroundings", surroundings(arrays)),
    ):
        validation, test = precision(x, arrays["label"], parts)
        print(f"{name:14} validation {100 * validation:5.1f}  test {100 * test:5.1f}", flush=True)


if __name__ == "__main__":
    main()
