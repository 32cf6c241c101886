"""Sentences whose words carry a tag each: bytes of published files → arrays, and baselines.

A decoder returns `(arrays, about)`. The arrays: `words`, the distinct words (see
`samop.data.strings`); `word` int32 and `tag` int16, both [tokens], places in `words` and in
`about["tags"]`; `start` int64 [sentences + 1], where each sentence begins; and `part` uint8
[sentences] where the source has parts of its own: 0 train, 1 validation, 2 test. What was left
out is counted in `about`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from samop.data import strings
from samop.data.tfds import original_order
from samop.errors import UserError

Sentence = tuple[list[str], list[str]]  # its words and their tags
Decoded = tuple[dict[str, np.ndarray], dict[str, Any]]
CONLLU_FIELDS = 10
COLUMNS = {"upos": 3, "xpos": 4}  # of CoNLL-U: universal tags, and those of the language
UNTAGGED = ("_", "None")  # how CoNLL-U, and TFDS's reading of it, say that there is no value
PARTS = {"train": 0, "dev": 1, "test": 2}  # TFDS's splits of Universal Dependencies
# TFDS's numbers for universal tags, by its `conllu_dataset_builder_utils`.
UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN",
    "PUNCT", "SCONJ", "SYM", "VERB", "X", "_",
)  # fmt: skip


def brown(files: Mapping[str, bytes]) -> Decoded:
    """The Brown corpus: one sentence a line, of `word/tag`; tags stay as they are written.

    Args:
      files: name → content, Latin-1.

    Raises:
      UserError: a file without any tagged word; names it.
    """
    odd: Counter[str] = Counter(untagged_words=0)
    sentences: list[Sentence] = []
    for name in sorted(files):
        before = len(sentences)
        for line in files[name].decode("latin-1").split("\n"):
            pairs = [token.rpartition("/")[::2] for token in line.split()]
            kept = [(word, tag) for word, tag in pairs if word and tag]
            odd["untagged_words"] += len(pairs) - len(kept)
            if kept:
                sentences.append(([w for w, _ in kept], [t for _, t in kept]))
        if len(sentences) == before:
            raise UserError(f"{name}: holds no line of word/tag")
    return _collected(sentences, None, odd)


def conllu(files: Mapping[str, bytes], column: str = "upos") -> Decoded:
    """Treebanks in CoNLL-U (https://universaldependencies.org/format.html).

    Ranges such as 3-4, which repeat words that follow, and empty nodes such as 3.1 are no words.

    Args:
      files: name → content, UTF-8.
      column: which tags: "upos" or "xpos".

    Raises:
      UserError: a file that is not UTF-8 or has no word; names it.
    """
    odd: Counter[str] = Counter(malformed_lines=0, untagged_words=0, ranges_and_empty_nodes=0)
    sentences: list[Sentence] = []
    for name in sorted(files):
        try:
            text = files[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: is not UTF-8 ({error.reason} at {error.start})") from None
        before = len(sentences)
        for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
            words, tags = _conllu_sentence(block, COLUMNS[column], odd)
            if words:
                sentences.append((words, tags))
        if len(sentences) == before:
            raise UserError(f"{name}: holds no sentence in CoNLL-U")
    return _collected(sentences, None, odd)


def _conllu_sentence(block: str, column: int, odd: Counter[str]) -> Sentence:
    words: list[str] = []
    tags: list[str] = []
    for line in block.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != CONLLU_FIELDS or not fields[1]:
            odd["malformed_lines"] += 1
        elif not fields[0].isdigit():
            odd["ranges_and_empty_nodes" if fields[0][:1].isdigit() else "malformed_lines"] += 1
        elif fields[column] in UNTAGGED:
            odd["untagged_words"] += 1
        else:
            words.append(fields[1])
            tags.append(fields[column])
    return words, tags


def universal_dependencies(
    examples: Mapping[str, Iterable[Mapping[str, Any]]], column: str = "xpos"
) -> Decoded:
    """Examples of TFDS's `universal_dependencies/…`, back in the order of the treebank's files.

    Args:
      examples: by split, of PARTS; each with "tokens" (bytes or str), "upos" (places in `UPOS`) and
        "xpos" (bytes or str).
      column: which tags: "upos" or "xpos".

    Raises:
      UserError: a split that is unknown, or no tags in the column.
    """
    odd: Counter[str] = Counter(untagged_words=0, empty_sentences=0)
    sentences: list[Sentence] = []
    parts: list[int] = []
    for split in sorted(examples, key=lambda split: PARTS.get(split, -1)):
        if split not in PARTS:
            raise UserError(f"split {split!r} is unknown; allowed: {', '.join(PARTS)}")
        stored = list(examples[split])
        for place in original_order(split, len(stored)):
            words, tags = _tfds_sentence(stored[place], column, odd)
            if words:
                sentences.append((words, tags))
                parts.append(PARTS[split])
            else:
                odd["empty_sentences"] += 1
    if not sentences:
        raise UserError(f"no word of this treebank has a tag in {column}")
    return _collected(sentences, parts, odd)


def _tfds_sentence(example: Mapping[str, Any], column: str, odd: Counter[str]) -> Sentence:
    words: list[str] = []
    tags: list[str] = []
    triples = zip(example["tokens"], example["upos"], example["xpos"], strict=True)
    for word, upos, xpos in triples:
        universal = UPOS[int(upos)]
        # TFDS keeps ranges and empty nodes among the words; what has no universal tag is one.
        tag = universal if column == "upos" else _text(xpos)
        if universal == "_" or tag in UNTAGGED:
            odd["untagged_words"] += 1
        else:
            words.append(_text(word))
            tags.append(tag)
    return words, tags


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _collected(sentences: list[Sentence], parts: list[int] | None, odd: Counter[str]) -> Decoded:
    words: dict[str, int] = {}
    names = sorted({tag for _, tags in sentences for tag in tags})
    numbers = {tag: i for i, tag in enumerate(names)}
    lengths = np.fromiter((len(tags) for _, tags in sentences), np.int64, len(sentences))
    total = int(lengths.sum())
    word = (words.setdefault(word, len(words)) for found, _ in sentences for word in found)
    tag = (numbers[tag] for _, found in sentences for tag in found)
    arrays: dict[str, np.ndarray] = {
        "word": np.fromiter(word, np.int32, total),
        "tag": np.fromiter(tag, np.int16, total),
        "start": np.concatenate([[0], np.cumsum(lengths)]),
    }
    arrays["words"] = strings.pack(list(words))
    if parts is not None:
        arrays["part"] = np.array(parts, np.uint8)
    return arrays, {"tags": names, **odd}


class Majority(NamedTuple):
    """Accuracy, in [0, 1], of two taggers that read no context.

    Attributes:
      tag: every word gets the most frequent tag.
      word: every word gets its own most frequent tag; a word that training lacks, as above.
      unknown: share of words that training lacks.
    """

    tag: float
    word: float
    unknown: float


def majority(
    train_word: np.ndarray, train_tag: np.ndarray, word: np.ndarray, tag: np.ndarray
) -> Majority:
    """Baselines from training tokens, measured on others.

    Args:
      train_word: [n] int, numbers of words; train_tag: [n] int, their tags.
      word: [m], likewise; tag: [m].

    >>> words, tags = np.array([0, 0, 0, 1, 2]), np.array([3, 3, 4, 5, 3])
    >>> majority(words, tags, np.array([0, 1, 1, 9]), np.array([3, 3, 5, 3]))
    Majority(tag=0.75, word=0.75, unknown=0.25)
    """
    most = int(np.bincount(train_tag).argmax())
    kinds = int(train_tag.max()) + 1
    pairs, counts = np.unique(train_word.astype(np.int64) * kinds + train_tag, return_counts=True)
    owner, choice = np.divmod(pairs, kinds)
    # Of a word's tags the last in this order is the most frequent one, the first of equals.
    order = np.lexsort((-choice, counts, owner))
    of_word = np.full(max(int(train_word.max()), int(word.max())) + 1, -1)
    of_word[owner[order]] = choice[order]
    unknown = of_word[word] < 0
    guess = np.where(unknown, most, of_word[word])
    return Majority(
        float(np.mean(tag == most)), float(np.mean(guess == tag)), float(np.mean(unknown))
    )
