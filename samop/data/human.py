"""Labels that people gave CIFAR-10's training images: CIFAR-N (arXiv 2110.12088).

Each image was labelled by three people. `random1` … `random3` are their labels, `aggregate` is the
majority (one of the three where all differ), `worst` a wrong one wherever there was any.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from samop.data import archives, unpickle
from samop.data.dataset import Collection, Dataset
from samop.data.splits import Split, Splits, places
from samop.errors import UserError, nearest

NAME = "cifar10n"  # the data set that holds the labels
OF = "cifar10"  # the one whose training images they label
SYMMETRIC = "symmetric"  # no human labels: data.label_noise says how many are flipped
KINDS = ("aggregate", "random1", "random2", "random3", "worst")
CLASSES = 10
# The file's own names.
_KEYS = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
    "clean": "clean_label",
}
_OUTER, _INNER, _PICKLE = "CIFAR-N.zip", "CIFAR-N/CIFAR-10_human.pt", "archive/data.pkl"
_MOST_BYTES = 10_000_000  # of either archive's member, unpacked; there are 2.4 million


def cifar_n(files: Mapping[str, bytes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The labels: int32 `[n]` each, by the names of `KINDS` and "clean", in CIFAR-10's order.

    The file is one of torch's, a zip archive around a pickle: see `unpickle` for how it is read.

    Raises:
      UserError: names the file.
    """
    path = next((name for name in files if name.rsplit("/", 1)[-1] == _OUTER), None)
    if path is None:
        raise UserError(f"{_OUTER}: is not among the files {sorted(files)}")
    data = files[path]
    for member in (_INNER, _PICKLE):
        data = archives.zip_member(data, path, member, _MOST_BYTES)
        path = f"{path}: {member}"
    found = unpickle.arrays(data, path)
    if set(found) != set(_KEYS.values()):
        raise UserError(f"{path}: holds {sorted(found)}, expected {sorted(_KEYS.values())}")
    count = len(found[_KEYS["clean"]])
    labels = {}
    for name, key in _KEYS.items():
        values = found[key]
        if values.shape != (count,) or not count:
            raise UserError(f"{path}: {key} has shape {values.shape}, expected ({count},), not 0")
        if not (values.min() >= 0 and values.max() < CLASSES):
            raise UserError(
                f"{path}: {key} spans {values.min()}…{values.max()}, allowed: 0…{CLASSES - 1}"
            )
        labels[name] = values.astype(np.int32)
    return labels, {"labels_of": OF}


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for a `data.noise` that does not fit the rest of a config."""
    fields, workload = config["data"], config["workload"]
    noise, name = fields["noise"], fields["name"]
    if name == NAME:
        raise UserError(
            f"data.name={name!r} holds labels, no images: use data.name={OF!r} with data.noise="
            f"{KINDS[-1]!r} (or {', '.join(KINDS[:-1])})"
        )
    if noise == SYMMETRIC:
        return
    if noise not in KINDS:
        allowed = (SYMMETRIC, *KINDS)
        raise UserError(
            f"data.noise={noise!r} is not allowed{nearest(str(noise), allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )
    if name != OF or workload != "classification":
        raise UserError(
            f"data.noise={noise!r} are people's labels of {OF!r}: with data.name={name!r} and "
            f"workload={workload!r} use {SYMMETRIC!r}"
        )
    if fields["label_noise"]:
        raise UserError(
            f"data.label_noise={fields['label_noise']} would flip people's labels "
            f"(data.noise={noise!r}): use 0, or data.noise={SYMMETRIC!r}"
        )


def relabelled(
    dataset: Dataset, splits: Splits, noise: str, people: Any, sizes: Mapping[str, int]
) -> tuple[Dataset, Splits]:
    """The data set with people's labels in its training part; the other parts stay clean.

    Args:
      dataset: CIFAR-10.
      splits: its parts.
      noise: one of `KINDS`.
      people: what `load("cifar10n")` returned.
      sizes: the sizes that `splits` was made with.

    Returns:
      The data set, whose `source` says how many labels are wrong; the parts.

    Raises:
      UserError: the labels are not of these images, in this order.
    """
    if not isinstance(people, Collection):
        raise UserError(f"data set {NAME!r} does not hold labels by name")
    clean, given = people.arrays["clean"], people.arrays[noise]
    if not np.array_equal(clean, dataset.train_y):
        raise UserError(
            f"the clean labels of {NAME!r} ({people.source['origin']}) are not the training labels "
            f"of {dataset.name!r} ({dataset.source['origin']}): they belong to other images or to "
            "another order"
        )
    _, kept, _ = places(dataset, **sizes)
    labels = np.asarray(given)[kept]
    wrong, of_all = np.mean(labels != splits.train.y), np.mean(given != clean)
    told = f"{noise}, {_share(wrong)} of {len(labels):,} differ from the clean labels"
    if len(labels) < len(given):
        told += f" ({_share(of_all)} of all {len(given):,})"
    source = {
        **dataset.source,
        "human_noise": told,
        "human_noise_origin": people.source["origin"],
        "human_noise_sha256": people.source["sha256"],
    }
    return (
        dataclasses.replace(dataset, source=source),
        dataclasses.replace(splits, train=Split(splits.train.x, labels)),
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
