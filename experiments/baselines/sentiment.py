"""How well a bag of words does: what a network that reads sentences has to beat.

python experiments/baselines/sentiment.py movie_snippets [--train_size=0]

Logistic regression on which words a sentence has, of those that training holds at least three
times; its penalty is the best of three on validation data. And the more frequent class. Accuracy on
the parts that configs/sst2_width.py trains and tests on; one CPU core, seconds.
"""

import argparse

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from samop import data

LEAST = 3  # occurrences in training
PENALTIES = (0.03, 0.1, 0.3)  # scikit-learn's C: smaller is stronger


def main() -> None:
    """Fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--train_size", type=int, default=0)
    args = parser.parse_args()
    for name in args.names:
        arrays = data.load(name).arrays
        start, word, label = (np.asarray(arrays[key]) for key in ("start", "word", "label"))
        n = len(label)
        train, held, test = data.parts(
            n,
            validation=args.validation,
            train=args.train_size,
            own=arrays.get("part"),
        )
        owner = np.repeat(np.arange(n), np.diff(start))
        counts = np.bincount(word[np.isin(owner, train)], minlength=int(word.max()) + 1)
        there = np.unique(np.stack([owner, word], 1)[counts[word] >= LEAST], axis=0)
        bag = sparse.csr_matrix(
            (np.ones(len(there)), (there[:, 0], there[:, 1])), shape=(n, len(counts))
        )
        fits = [LogisticRegression(C=c, max_iter=1000).fit(bag[train], label[train])
                for c in PENALTIES]  # fmt: skip
        best = max(fits, key=lambda fit: fit.score(bag[held], label[held]))
        majority = np.mean(label[test] == np.bincount(label[train]).argmax())
        print(
            f"{name}: {len(train)} / {len(held)} / {len(test)} sentences; more frequent class "
            f"{100 * majority:.1f} %, bag of words {100 * best.score(bag[test], label[test]):.1f} %"
        )


if __name__ == "__main__":
    main()
