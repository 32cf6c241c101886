"""Which fields of a config differ between the runs of a table, and which of them matter. No jax."""

import json
from collections.abc import Mapping
from typing import Any

from samop.comparison import BUDGET, SECOND_PASS
from samop.variants import FIELDS, UNSET, VARIANTS, resolved

# Fields that have a column of their own, and those that do not change what is computed.
NAMED = ("data.name", "model.name", "optimizer.name", "optimizer.base", "data.label_noise", "seed")
IRRELEVANT = ("experiment", "parallel", "data.dir", "train.diagnostics_every")
IRRELEVANT_SECTIONS = ("run.", "sweep.", "curvature.")
# What records from before these fields mean.
LATER = {
    "data.noise": "symmetric",
    "model.activation": "relu",
    "model.norm": "none",
    "sparsity.method": "none",
    "sparsity.level": 0.0,
    "linearized.mode": "none",
    "linearized.alpha": 1.0,
    "train.label_parts": False,
    "train.statistics": "batch",
}
# Fields of the perturbation: a base run has none, and is compared with every value of theirs. The
# budget is one of them, as a base run uses as many gradient evaluations under either.
ASCENT = (*(f"optimizer.{name}" for name in FIELDS), BUDGET, SECOND_PASS)


def add_varying(known: list) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Finds the fields that differ between runs and adds them to the rows.

    Returns:
      Their names; which of them belong to the perturbation; of these, for each transform, those
      that differ between its own runs. What differs only between transforms, as their defaults
      do, is not among them: the transform's name tells the runs apart.
    """
    runs = [
        (row, {**LATER, **_flatten(record["config"]), **_perturbation(record["config"])})
        for row, record in known
    ]
    bases = [flat for row, flat in runs if row["transform"] == "base"]
    varying, ascent = [], []
    kinds: dict[str, list[str]] = {}
    for field in sorted({field for _, flat in runs for field in flat}):
        if field in (*NAMED, *IRRELEVANT, "optimizer.rho"):
            continue
        if field.startswith(IRRELEVANT_SECTIONS):
            continue
        is_ascent = field in ASCENT or (
            field.startswith("optimizer.") and not any(field in flat for flat in bases)
        )
        seen: dict[Any, set[str]] = {}
        for row, flat in runs:
            value = flat.get(field)
            if is_ascent and (row["transform"] == "base" or (field in ASCENT and value is None)):
                continue
            # The width's label stands for the layer sizes; a model field that it does not
            # determine is one more thing that varies.
            place: tuple = (row["model"], row["width"]) if field.startswith("model.") else ()
            place = (row["transform"],) if is_ascent else place
            seen.setdefault(place, set()).add(_comparable(value))
        if all(len(values) == 1 for values in seen.values()):
            continue
        varying.append(field)
        if is_ascent:
            ascent.append(field)
            for (transform,), values in seen.items():
                if len(values) > 1:
                    kinds.setdefault(transform, []).append(field)
        for row, flat in runs:
            row[field] = None if is_ascent and row["transform"] == "base" else flat.get(field)
    return varying, ascent, kinds


def settings(known: list, kinds: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Per transform the fields worth telling that all its runs share: own ones, unusual ones."""
    found: dict[str, dict[str, Any]] = {}
    for row, record in known:
        transform = row["transform"]
        if transform not in VARIANTS or transform == "base":
            continue
        own = VARIANTS[transform].own
        for field, value in _perturbation(record["config"]).items():
            name = field.removeprefix("optimizer.")
            if name not in FIELDS or name == "rho" or field in kinds.get(transform, []):
                continue
            told = value is not None and value is not False
            if told and (name in own or value != FIELDS[name]):
                found.setdefault(transform, {})[name] = value
    return found


def _perturbation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields ASCENT as the run reads them; None for what it does not read."""
    optimizer = config["optimizer"]
    name = optimizer["name"]
    if name not in VARIANTS:  # of another version
        fields = {field: optimizer.get(field) for field in FIELDS}
    else:
        fields = resolved(optimizer)
        idle = set(FIELDS) - VARIANTS[name].fields
        idle |= {f for f, value in fields.items() if value == UNSET and FIELDS[f] == UNSET}
        idle |= {"rho_end"} if fields["rho_schedule"] == "constant" else set()
        idle |= set() if fields["m"] else {"m_by"}
        fields.update(dict.fromkeys(idle))
    flat = {f"optimizer.{field}": value for field, value in fields.items()}
    # Records of earlier versions have neither of these; there it was as said here.
    budget = config.get("train", {}).get("budget", "epochs")
    precision = config.get("precision", {})
    one_pass = name in ("base", "msam") or precision.get("compute", "float32") == "float32"
    second = None if one_pass else precision.get("second_pass")
    return {**flat, BUDGET: None if name == "base" else budget, SECOND_PASS: second}


def _comparable(value: Any) -> str:
    """1 and 1.0 are the same value, 1 and true are not."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
