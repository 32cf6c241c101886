"""Activities of molecules: binary labels of many tasks, most of them missing; average precision."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop import data
from samop.data import Collection, Split, Splits, molecule_rows
from samop.errors import UserError
from samop.workloads import Metric, Workload, supervised

TEST_SHARE = 0.2  # of the molecules, where the source has no test part of its own
METRIC = "average_precision"


def measured(y: Any) -> Any:
    """Whether each label was measured; y [rows, molecules, tasks], −1 where it was not."""
    return y >= 0


def examples(outputs: jax.Array, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """Sigmoid cross-entropy (nats), the mean over a row's measured labels, [rows]; 0 without any.

    Args:
      outputs: logits [rows, molecules, tasks].
      batch: "y" holds the labels, int [rows, molecules, tasks]: 0, 1, or −1 for not measured.
    """
    y = batch["y"]
    there = measured(y)
    loss = optax.losses.sigmoid_binary_cross_entropy(outputs, jnp.maximum(y, 0))
    total = jnp.sum(jnp.where(there, loss, 0), axis=(1, 2))
    return {"loss": total / jnp.maximum(jnp.sum(there, axis=(1, 2)), 1)}


def weight(batch: dict[str, Any]) -> jax.Array:
    """Number of a row's measured labels, float [rows]."""
    return jnp.sum(measured(batch["y"]), axis=(1, 2)).astype(jnp.result_type(float))


def counting(y: np.ndarray) -> np.ndarray:
    """The tasks with both a positive and a negative label: of others no precision is defined."""
    y = y.reshape(-1, y.shape[-1])
    return np.flatnonzero((y == 1).any(0) & (y == 0).any(0))


def score(outputs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The mean over the counting tasks of the average precision on their measured labels.

    Args:
      outputs: logits [rows, molecules, tasks] of a whole split.
      y: labels, int [rows, molecules, tasks]: 0, 1, or −1 for not measured.

    Returns:
      NaN where a logit of a measured label is not finite.
    """
    from sklearn.metrics import average_precision_score

    outputs, y = (np.asarray(a).reshape(-1, a.shape[-1]) for a in (outputs, y))
    there = measured(y)
    if not np.isfinite(outputs[there]).all():
        return {METRIC: float("nan")}
    found = [
        average_precision_score(y[there[:, task], task], outputs[there[:, task], task])
        for task in counting(y)
    ]
    return {METRIC: float(np.mean(found))}


def normalization(split: Split, how: str) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset), float32 [1, 1, 9] each: raw · gain + offset enters the network.

    Args:
      split: the training part, whose atoms are looked at.
      how: "standardize" for mean 0 and deviation 1 of each property; "none".
    """
    atom = split.x["atom"]
    gain, offset = np.ones(atom.shape[-1]), np.zeros(atom.shape[-1])
    if how == "standardize":
        atoms = split.x["atoms"].sum(axis=1, dtype=np.int64)
        real = atom[np.arange(atom.shape[1])[None] < atoms[:, None]]
        deviation = real.std(axis=0)
        gain = 1 / np.where(deviation > 0, deviation, 1)
        offset = -real.mean(axis=0) * gain
    return gain.astype(np.float32)[None, None], offset.astype(np.float32)[None, None]


@functools.lru_cache(maxsize=4)
def _load(
    name: str, directory: str, validation: int, train: int, test: int, row: int
) -> tuple[Collection, Splits]:
    dataset = data.load(name, directory or None)
    if not isinstance(dataset, Collection) or "bond_ends" not in dataset.arrays:
        raise UserError(f"data.name={name!r} holds no molecules: use another workload")
    arrays = {key: np.asarray(value) for key, value in dataset.arrays.items()}
    sizes = {"validation": validation, "train": train, "test": test}
    parts = data.parts(len(arrays["label"]), **sizes, test_share=TEST_SHARE, own=arrays.get("part"))
    shape = molecule_rows.shape(arrays, row)
    return dataset, Splits(*(molecule_rows.split(arrays, index, shape) for index in parts))


def build(config: Mapping[str, Any]) -> Workload:
    """See `samop.workloads.build`. An example is a row of molecules, its weight their labels.

    Raises:
      UserError: no task has labels of both kinds in a part that is evaluated.
    """
    fields = config["data"]
    sizes = (fields["validation"], fields["train_size"], fields["test_size"])
    dataset, splits = _load(fields["name"], fields["dir"], *sizes, config["task"]["row"])
    source = dataset.record
    for part in ("train", "validation", "test"):
        split = getattr(splits, part)
        tasks, molecules = len(counting(split.y)), int((split.x["atoms"] > 0).sum())
        if not tasks:
            raise UserError(
                f"data.name={fields['name']!r}: none of its tasks has labels of both kinds among "
                f"the {molecules} molecules of the {part} part: take more"
            )
        source[part] = (
            f"{molecules} molecules in {len(split)} rows, {int(measured(split.y).sum())} labels, "
            f"{tasks} of {split.y.shape[-1]} tasks count"
        )

    train = splits.train
    gain, offset = normalization(train, fields["normalize"])

    def batch(x, y, key, index):
        atom = x["atom"].astype(jnp.result_type(float)) * gain + offset
        return {"x": {**x, "atom": atom}, "y": y}

    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), train.x)
    example["atom"] = jax.ShapeDtypeStruct(example["atom"].shape, jnp.result_type(float))
    init, apply = supervised.network(config, example, train.y.shape[-1])
    return Workload(
        metric=Metric(METRIC, True, 100.0, "points"),
        splits=splits,
        num_classes=0,
        init=init,
        batch=batch,
        apply=apply,
        examples=examples,
        source=source,
        weight=weight,
        score=score,
        unit="labels",
    )
