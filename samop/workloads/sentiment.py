"""Classification of sentences with cross-entropy: SST-2, or movie snippets in its place."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samop import data
from samop.data import Split, Splits, strings
from samop.errors import UserError
from samop.models.lstm import UNKNOWN
from samop.workloads import Metric, Workload, supervised
from samop.workloads.classification import examples

FIRST_WORD = UNKNOWN + 1  # 0 is padding


@functools.lru_cache(maxsize=4)
def _load(
    name: str,
    directory: str,
    sizes: tuple[int, int, int],
    min_frequency: int,
    max_length: int,
) -> tuple[Splits, int, int, dict[str, str]]:
    collection = data.load(name, directory or None)
    if not isinstance(collection, data.Collection) or "label" not in collection.arrays:
        raise UserError(f"data.name={name!r} does not hold sentences with labels")
    arrays = collection.arrays
    validation, train, test = sizes
    parts = data.parts(
        len(arrays["label"]),
        validation=validation,
        train=train,
        test=test,
        own=arrays.get("part"),
    )
    start = np.asarray(arrays["start"])
    kept = np.minimum(np.diff(start), max_length)
    number, words = vocabulary(arrays["word"], start, parts[0], min_frequency)
    splits = Splits(*(_split(arrays, number, start, kept, places) for places in parts))
    about = {
        "vocabulary": str(words),
        "sentences_cut": str(int((np.diff(start) > max_length).sum())),
        "words_in_all": str(len(strings.unpack(arrays["words"]))),
        "unknown": f"{np.mean(number[np.asarray(arrays['word'])] == UNKNOWN):.2%} of all tokens",
    }
    classes = int(collection.about["num_classes"])
    return splits, words, classes, {**collection.record, **about}


def vocabulary(
    word: np.ndarray, start: np.ndarray, places: np.ndarray, min_frequency: int
) -> tuple[np.ndarray, int]:
    """Numbers the words that the training part has often enough.

    Args:
      word: int [tokens], of all sentences.
      start: int [sentences + 1], where each begins.
      places: the training sentences.
      min_frequency: how often a word has to be there.

    Returns:
      The number of each word [words], `UNKNOWN` for rare ones, kept ones in their order; and how
      many numbers there are, padding and the unknown word included.
    """
    length = np.diff(start)
    training = np.isin(np.repeat(np.arange(len(length)), length), places)
    count = np.bincount(np.asarray(word)[training], minlength=int(np.max(word)) + 1)
    often = count >= min_frequency
    number = np.where(often, np.cumsum(often) - 1 + FIRST_WORD, UNKNOWN).astype(np.int32)
    return number, int(often.sum()) + FIRST_WORD


def _split(arrays, number, start, kept, places) -> Split:
    """Sentences of one part, padded to the longest of all parts, [n, steps], and labels [n]."""
    x = np.zeros((len(places), int(kept.max())), np.int32)
    inside = np.arange(x.shape[1]) < kept[places, None]
    at = start[places, None] + np.arange(x.shape[1])
    x[inside] = number[np.asarray(arrays["word"])[at[inside]]]
    return Split(x, np.asarray(arrays["label"])[places].astype(np.int32))


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    fields, task = config["data"], config["task"]
    sizes = fields["validation"], fields["train_size"], fields["test_size"]
    splits, words, classes, source = _load(
        fields["name"], fields["dir"], sizes, task["min_frequency"], task["max_length"]
    )
    example = jax.ShapeDtypeStruct((1, splits.train.x.shape[1]), jnp.int32)
    init, apply = supervised.network(config, example, classes, vocabulary=words)
    return Workload(
        metric=Metric("accuracy", True, 100.0, "points"),
        splits=splits,
        num_classes=classes,
        init=init,
        batch=lambda x, y, key, index: {"x": x, "y": y},
        apply=apply,
        examples=examples,
        source=source,
    )
