"""Sentences with a sentiment: movie-review snippets of a package, and SST-2 of GLUE.

Both become words, the same ones however they are written: lower case, and what is no letter or
digit stands alone, a character a word, except that dots in a row are one. English contractions
come apart as the Penn Treebank writes them, "isn't" into "is" and "n't", "film's" into "film" and
"'s". SST-2 comes in the Treebank's form already; what that joins with hyphens or dots, as in
"cross-cultural", comes apart here too, so that both sets have the same kind of words.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from samop.data import strings
from samop.errors import UserError

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_MOST_BYTES = 20_000_000  # the file has 1.4 MB
_HIGHEST = 4.0  # of a rating, and minus that the lowest
_WORD = re.compile(
    r"[^\W_]+(?=n't(?![^\W_]))"  # "is" of "isn't"
    r"|n't(?![^\W_])"
    r"|'(?:s|m|d|re|ve|ll)(?![^\W_])"
    r"|[^\W_]+|\.+|\S"
)

Decoded = tuple[dict[str, np.ndarray], dict[str, Any]]


def tokens(text: str) -> list[str]:
    """The words of a text.

    >>> tokens("It isn't Spielberg's best... (1941)!")
    ['it', 'is', "n't", 'spielberg', "'s", 'best', '...', '(', '1941', ')', '!']
    """
    return _WORD.findall(text.lower())


def sentences(
    texts: Iterable[str], labels: Iterable[int], where: str, part: Iterable[int] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a collection of labelled sentences.

    Args:
      texts: the sentences.
      labels: 0 (negative) or 1 (positive) of each.
      where: file or split, for errors.
      part: 0 (train) or 2 (test) of each; None: the source has no parts.

    Returns:
      `words` (packed, in order of first use), `word` int32 [tokens], `start` int64
      [sentences + 1], `label` int32 [sentences] and, where given, `part` uint8 [sentences].
    """
    number: dict[str, int] = {}
    word: list[int] = []
    start = [0]
    for place, text in enumerate(texts):
        found = tokens(text)
        if not found:
            raise UserError(f"{where}: sentence {place + 1} has no words")
        word += [number.setdefault(one, len(number)) for one in found]
        start.append(len(word))
    arrays = {
        "words": strings.pack(list(number)),
        "word": np.array(word, np.int32),
        "start": np.array(start, np.int64),
        "label": np.array(list(labels), np.int32),
    }
    if part is not None:
        arrays["part"] = np.array(list(part), np.uint8)
    return arrays


def movie_snippets(files: Mapping[str, bytes]) -> Decoded:
    """Snippets rated by people, from the archive inside the package.

    A snippet is positive where the mean of its ratings (from −4 to 4) is above zero, negative
    where it is below; those of exactly zero are left out, and `about` counts them.

    Raises:
      UserError: names the file, and the line where there is one.
    """
    path = next((name for name in files if name.rsplit("/", 1)[-1] == ARCHIVE), None)
    if path is None:
        raise UserError(f"{ARCHIVE}: is not among the files {sorted(files)}")
    return _rated(_member(files[path], path), f"{path}: {RATINGS}")


def _member(archive: bytes, path: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for info in tar:
                if info.name != RATINGS:
                    continue
                file = tar.extractfile(info) if info.isreg() else None
                if file is None or info.size > _MOST_BYTES:
                    raise UserError(
                        f"{path}: member {RATINGS!r} is no regular file of at most {_MOST_BYTES} "
                        "bytes"
                    )
                return file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); is it truncated?") from error
    raise UserError(f"{path}: has no member {RATINGS!r}")


def _rated(data: bytes, where: str) -> Decoded:
    """Lines of number, mean rating and text, tabs between them."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is no UTF-8 ({error})") from error
    texts, labels, neither = [], [], 0
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        try:
            (_, mean, text), rating = fields, float(fields[1])
        except (ValueError, IndexError):
            raise UserError(
                f"{where}, line {number}: {line[:60]!r} should be number, rating and text with "
                "tabs between them"
            ) from None
        if not abs(rating) <= _HIGHEST:
            raise UserError(f"{where}, line {number}: rating {mean} is not from −4 to 4")
        if rating == 0:
            neither += 1
            continue
        texts.append(text)
        labels.append(int(rating > 0))
    if not texts:
        raise UserError(f"{where}: holds no rated text")
    return sentences(texts, labels, where), {"num_classes": 2, "rated_zero": neither}


def sst2(examples: Mapping[str, Iterable[Mapping[str, Any]]]) -> Decoded:
    """SST-2 as TFDS has it (`sentence`, `label`, `idx`), in its original order.

    The labels of GLUE's test split are not published (all are −1), so its validation split is the
    test part here, and who needs a validation part carves it out of the training part.

    Raises:
      UserError: a label that is neither 0 nor 1, or an index that comes twice.
    """
    texts: list[str] = []
    labels: list[int] = []
    part: list[int] = []
    for split, own in (("train", 0), ("validation", 2)):
        rows = sorted(examples[split], key=lambda row: int(row["idx"]))
        numbers = [int(row["idx"]) for row in rows]
        found = [int(row["label"]) for row in rows]
        if len(set(numbers)) < len(numbers):
            raise UserError(f"glue/sst2: split {split!r} has an idx twice")
        if not set(found) <= {0, 1}:
            raise UserError(
                f"glue/sst2: split {split!r} has labels {sorted(set(found))}, allowed: 0, 1"
            )
        texts += [_text(row["sentence"]) for row in rows]
        labels += found
        part += [own] * len(rows)
    return sentences(texts, labels, "glue/sst2", part), {"num_classes": 2}


def _text(sentence: Any) -> str:
    return sentence.decode("utf-8") if isinstance(sentence, bytes) else str(sentence)
