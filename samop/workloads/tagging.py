"""Part-of-speech tagging: cross-entropy of every token's tag, sentences packed into rows."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop import data
from samop.data import packing, splits
from samop.errors import UserError
from samop.workloads import Metric, Workload, supervised

PADDING, UNKNOWN = 0, 1  # tokens; words of the vocabulary follow
_ORDER_SEED = 20213  # a constant: which sentences share a row never varies


def tokens(batch: dict[str, Any]) -> jax.Array:
    """Number of real tokens of each row, [rows]."""
    return jnp.sum(batch["x"]["segment"] > 0, axis=1).astype(jnp.result_type(float))


def examples(logits: jax.Array, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """Mean cross-entropy (nats) and accuracy of each row's tokens, both [rows]; 0 without any.

    Args:
      logits: [rows, length, tags].
      batch: "y" holds the tags, int [rows, length], and "x" the "segment", 0 in the padding.
    """
    real, tag = batch["x"]["segment"] > 0, batch["y"].astype(jnp.int32)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tag)
    right = (jnp.argmax(logits, -1) == tag).astype(loss.dtype)
    share = real / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1).astype(loss.dtype)
    return {"loss": jnp.sum(share * loss, axis=1), "accuracy": jnp.sum(share * right, axis=1)}


def forgotten(token: jax.Array, rate: float, key: jax.Array, index: jax.Array) -> jax.Array:
    """Tokens [rows, length] of which a share `rate`, other ones for each row, is UNKNOWN.

    Otherwise words that training lacks would meet an embedding that was never trained.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(index)
    lost = jax.vmap(lambda key: jax.random.bernoulli(key, rate, token.shape[1:]))(keys)
    return jnp.where(lost & (token != PADDING), UNKNOWN, token)


def vocabulary(word: np.ndarray, words: int, least: int) -> tuple[np.ndarray, int]:
    """Tokens of words, the most frequent first.

    Args:
      word: int [n], the training tokens.
      words: number of distinct words in all.
      least: a word that training holds less often is UNKNOWN.

    Returns:
      token of each word, int32 [words]; number of tokens, PADDING and UNKNOWN included.
    """
    counts = np.bincount(word, minlength=words)
    known = np.flatnonzero(counts >= least)
    known = known[np.argsort(-counts[known], kind="stable")]
    token = np.full(words, UNKNOWN, np.int32)
    token[known] = np.arange(UNKNOWN + 1, UNKNOWN + 1 + len(known))
    return token, UNKNOWN + 1 + len(known)


def _split(arrays: Mapping[str, np.ndarray], token: np.ndarray, packed: packing.Packed):
    real, place = packed.token >= 0, np.maximum(packed.token, 0)
    x = {
        "token": np.where(real, token[arrays["word"][place]], PADDING).astype(np.int32),
        "segment": packed.segment,
        "position": packed.position,
    }
    return data.Split(x, np.where(real, arrays["tag"][place], 0).astype(np.int16))


@functools.lru_cache(maxsize=4)
def _load(name: str, directory: str, sizes: tuple[int, int, int], task: tuple[int, int, int]):
    """Splits, number of tokens and of tags, and source; kept, since groups share them."""
    found = data.load(name, directory or None)
    if not isinstance(found, data.Collection) or "tag" not in found.arrays:
        raise UserError(f"data.name={name!r} has no tagged words, as 'brown' has")
    arrays, (validation, train, test), (least, longest, row) = found.arrays, sizes, task
    start = np.asarray(arrays["start"])
    chosen = data.parts(
        len(start) - 1, validation=validation, train=train, test=test, own=arrays.get("part")
    )
    packs = []
    for places in chosen:
        # In the order of the source neighbours would share rows, and batches be less mixed.
        mixed = places[splits.permutation(len(places), _ORDER_SEED)]
        packs.append(packing.pack(start, mixed, longest, row))
    training, *others = (packed.token[packed.token >= 0] for packed in packs)
    word, tag = np.asarray(arrays["word"]), np.asarray(arrays["tag"])
    token, size = vocabulary(word[training], int(word.max()) + 1, least)
    kinds = len(found.about["tags"])
    held = np.concatenate(others)
    unseen = np.bincount(tag[training], minlength=kinds)[tag[held]] == 0
    source = {
        **found.record,
        "sentences": " + ".join(str(len(places)) for places in chosen),
        "tokens": " + ".join(str(np.sum(packed.token >= 0)) for packed in packs),
        "vocabulary": f"{size - 2} words that training holds at least {least} times",
        "unknown": f"{np.mean(token[word[held]] == UNKNOWN):.2%} of validation and test tokens",
        # No network has a reason to give these; they count like all others.
        "unseen_tags": f"{np.sum(unseen)} validation and test tokens have one of the "
        f"{len(np.unique(tag[held][unseen]))} tags that training lacks",
        "cut": f"{sum(p.cut for p in packs)} sentences longer than {longest} tokens were cut",
    }
    parts = data.Splits(*(_split({"word": word, "tag": tag}, token, p) for p in packs))
    return parts, size, kinds, source


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`."""
    fields, task = config["data"], config["task"]
    parts, size, kinds, source = _load(
        fields["name"],
        fields["dir"],
        (fields["validation"], fields["train_size"], fields["test_size"]),
        (task["min_frequency"], task["max_length"], task["row"]),
    )
    example = {
        name: jax.ShapeDtypeStruct((1, task["row"]), jnp.int32) for name in sorted(parts.train.x)
    }
    init, apply = supervised.network(config, example, kinds, vocabulary=size)

    def batch(x, y, key, index):
        if key is not None and task["word_dropout"]:
            x = {**x, "token": forgotten(x["token"], task["word_dropout"], key, index)}
        return {"x": x, "y": y}

    return Workload(
        metric=Metric("accuracy", True, 100.0, "points"),
        splits=parts,
        num_classes=0,
        init=init,
        batch=batch,
        apply=apply,
        examples=examples,
        source=source,
        weight=tokens,
        unit="tokens",
    )
