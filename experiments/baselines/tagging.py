"""How well tags are guessed without context: what a tagger has to beat.

python experiments/baselines/tagging.py brown
python experiments/baselines/tagging.py turkish_web --validation=500
python experiments/baselines/tagging.py brown --validation=2000 --train_size=4000 --test_size=2000

Each word gets the most frequent tag of training, or its own most frequent one there. Measured on
the test part of configs/pos_width.py, of its `:cpu` in the last line; a table on standard output. A
second or two on a CPU.
"""

import argparse

import numpy as np

from samop import data
from samop.data import tagged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--validation", type=int, default=3000, help="sentences held out")
    parser.add_argument("--train_size", type=int, default=0, help="sentences; 0: all")
    parser.add_argument("--test_size", type=int, default=0, help="sentences; 0: all")
    args = parser.parse_args()
    print(f"{'data':24} {'tag %':>7} {'word %':>7} {'unknown %':>10}")
    for name in args.names:
        arrays = data.load(name).arrays
        start, word, tag = (np.asarray(arrays[key]) for key in ("start", "word", "tag"))
        training, _, test = data.parts(
            len(start) - 1,
            validation=args.validation,
            train=args.train_size,
            test=args.test_size,
            own=arrays.get("part"),
        )
        owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
        train_at, test_at = (np.isin(owner, part) for part in (training, test))
        found = tagged.majority(word[train_at], tag[train_at], word[test_at], tag[test_at])
        print(f"{name:24}" + "".join(f" {100 * value:{w}.2f}" for value, w in
                                     zip(found, (7, 7, 10), strict=True)))  # fmt: skip


if __name__ == "__main__":
    main()
