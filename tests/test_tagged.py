"""Tagged sentences: files → arrays, baselines without context, and rows of one length."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from samop.data import packing, strings, tagged
from samop.errors import UserError

BROWN = {
    "package/ca02": b"\n\n\tHalf/abn of/in 1/2/cd \xe9t\xe9/fw-nn ./.\n",
    "package/ca01": b"\tThe/at-tl jury/nn\n\n  \n said/vbd odd /nn x/ ./.\n",
}
CONLLU = """# sent_id = 1
1\tEvin\tev\tNOUN\tNN\t_\t2\tposs\t_\t_
2-3\tkapısı\t_\t_\t_\t_\t_\t_\t_\t_
2\tkapı\tkapı\tNOUN\tNNP\t_\t0\troot\t_\t_
3\tsı\tsı\tPRON\t_\t_\t0\troot\t_\t_
3.1\tvar\tvar\tVERB\tVB\t_\t_\t_\t_\t_

# a comment alone

1\tkısa\tNOUN
1\t.\t.\tPUNCT\t.\t_\t0\tp\t_\t_"""


def sentences(arrays, about):
    """The sentences as (word, tag) pairs."""
    words, tags = strings.unpack(arrays["words"]), about["tags"]
    pairs = [(words[w], tags[t]) for w, t in zip(arrays["word"], arrays["tag"], strict=True)]
    start = arrays["start"]
    return [pairs[a:b] for a, b in itertools.pairwise(start)]


def test_brown():
    arrays, about = tagged.brown(BROWN)
    assert sentences(arrays, about) == [
        [("The", "at-tl"), ("jury", "nn")],
        [("said", "vbd"), (".", ".")],
        [("Half", "abn"), ("of", "in"), ("1/2", "cd"), ("été", "fw-nn"), (".", ".")],
    ]
    assert about["untagged_words"] == 3  # "odd", "/nn" and "x/"
    assert {k: v.dtype for k, v in arrays.items()} == {
        "word": np.int32, "tag": np.int16, "start": np.int64, "words": np.uint8
    }  # fmt: skip


def test_conllu():
    arrays, about = tagged.conllu({"web.conllu": CONLLU.encode()})
    assert sentences(arrays, about) == [
        [("Evin", "NOUN"), ("kapı", "NOUN"), ("sı", "PRON")],
        [(".", "PUNCT")],
    ]
    odd = {"malformed_lines": 1, "untagged_words": 0, "ranges_and_empty_nodes": 2}
    assert about == {"tags": ["NOUN", "PRON", "PUNCT"], **odd}
    arrays, about = tagged.conllu({"web.conllu": CONLLU.replace("\n", "\r\n").encode()}, "xpos")
    assert sentences(arrays, about) == [[("Evin", "NN"), ("kapı", "NNP")], [(".", ".")]]
    assert about["untagged_words"] == 1


@pytest.mark.parametrize(
    ("decode", "content", "said"),
    [
        (tagged.brown, b"no tags here\n", r"b\.x: holds no line of word/tag"),
        (tagged.brown, b"", r"b\.x: holds no line of word/tag"),
        (tagged.conllu, b"1\tword\n", r"b\.x: holds no sentence in CoNLL-U"),
        (tagged.conllu, b"\xff\xfe", r"b\.x: is not UTF-8 \(invalid start byte at 0\)"),
    ],
)
def test_a_file_without_sentences_is_named(decode, content, said):
    good = BROWN["package/ca01"] if decode is tagged.brown else CONLLU.encode()
    with pytest.raises(UserError, match=said):
        decode({"a.x": good, "b.x": content})


def tfds_stored(split, examples):
    """Examples in the order in which TFDS stores those with the keys 0, 1, 2, …"""
    keys = [hashlib.md5(f"{split}{i}".encode()).digest() for i in range(len(examples))]
    return [example for _, example in sorted(zip(keys, examples, strict=True), key=lambda p: p[0])]


def example(*triples):
    words, upos, xpos = zip(*triples, strict=True) if triples else ((), (), ())
    return {
        "idx": b"tlg0008.tlg001@1",
        "tokens": np.array([word.encode() for word in words], object),
        "upos": np.array([tagged.UPOS.index(tag) for tag in upos], np.int64),
        "xpos": np.array([tag.encode() for tag in xpos], object),
        "text": " ".join(words).encode(),
    }


def test_examples_of_tfds_come_back_in_the_order_of_the_files():
    train = [example((f"λόγος{i}", "NOUN", "n-s---mn-"), (",", "PUNCT", "u--------"))
             for i in range(9)]  # fmt: skip
    train.append(example(("εἴθ’", "_", "None"), ("εἴ", "SCONJ", "c--------"), ("?", "X", "None")))
    stored = {
        "test": tfds_stored("test", [example(("καί", "CCONJ", "c--------"))]),
        "train": tfds_stored("train", train),
        "dev": tfds_stored("dev", [example(("δέ", "ADV", "d--------")), example()]),
    }
    arrays, about = tagged.universal_dependencies(stored)
    found = sentences(arrays, about)
    assert [pairs[0][0] for pairs in found[:9]] == [f"λόγος{i}" for i in range(9)]
    assert found[9:] == [[("εἴ", "c--------")], [("δέ", "d--------")], [("καί", "c--------")]]
    assert arrays["part"].tolist() == [0] * 10 + [1, 2]
    assert (about["untagged_words"], about["empty_sentences"]) == (2, 1)
    arrays, about = tagged.universal_dependencies(stored, "upos")
    assert about["tags"] == ["ADV", "CCONJ", "NOUN", "PUNCT", "SCONJ", "X"]
    with pytest.raises(UserError, match="split 'tests' is unknown; allowed: train, dev, test"):
        tagged.universal_dependencies({"tests": []})
    with pytest.raises(UserError, match="no word of this treebank has a tag in xpos"):
        tagged.universal_dependencies({"train": [example(("a", "X", "_"))]})


def test_baselines_agree_with_counting_by_hand():
    rng = np.random.default_rng(0)
    word, tag = rng.integers(0, 40, 300), rng.integers(0, 5, 300)
    other, truth = rng.integers(0, 60, 200), rng.integers(0, 5, 200)
    most = Counter(tag.tolist()).most_common(1)[0][0]
    choice = {}
    for w in set(word.tolist()):
        counts = Counter(tag[word == w].tolist())
        choice[w] = min(t for t in counts if counts[t] == max(counts.values()))
    found = tagged.majority(word, tag, other, truth)
    assert found.tag == np.mean(truth == most)
    guesses = [choice.get(w, most) for w in other.tolist()]
    assert found.word == np.mean(truth == np.array(guesses))
    assert found.unknown == np.mean([w not in choice for w in other.tolist()])


def test_best_fit_takes_the_fullest_row_that_has_room():
    rng = np.random.default_rng(1)
    lengths, row = rng.integers(1, 31, 400), 30
    where, at = packing.best_fit(lengths, row)
    used: list[int] = []
    for length, chosen, begin in zip(lengths, where, at, strict=True):
        fitting = [u for u in used if u + length <= row]
        if fitting:
            assert used[chosen] == max(fitting) == begin
            used[chosen] += length
        else:
            assert (chosen, begin) == (len(used), 0)
            used.append(length)
    assert sum(lengths) / (row * len(used)) > 0.93


def test_packing_keeps_every_token_once():
    rng = np.random.default_rng(2)
    start = np.concatenate([[0], np.cumsum(rng.integers(1, 25, 50))])
    chosen = rng.permutation(50)[:30]
    packed = packing.pack(start, chosen, longest=10, row=16)
    real = packed.token >= 0
    wanted = np.concatenate([np.arange(start[s], start[s + 1]) for s in chosen])
    assert sorted(packed.token[real]) == sorted(wanted)
    assert packed.cut == sum(start[s + 1] - start[s] > 10 for s in chosen)
    assert (packed.segment > 0).tolist() == real.tolist()
    assert not packed.position[~real].any()
    owner = np.searchsorted(start, packed.token, "right") - 1
    for row in range(len(real)):
        segments = packed.segment[row][real[row]]
        assert sorted(set(segments)) == list(range(1, segments.max() + 1))
        for segment in range(1, segments.max() + 1):
            inside = packed.segment[row] == segment
            tokens, place = packed.token[row][inside], packed.position[row][inside]
            assert place.tolist() == list(range(len(place)))  # one piece, whole, in order
            assert (np.diff(tokens) == 1).all()
            assert len(set(owner[row][inside])) == 1
            assert len(place) <= 10
            assert (tokens[0] - start[owner[row][inside][0]]) % 10 == 0
