"""Curvature records of a work folder → one row per run and measured step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samop.errors import UserError
from samop.pairing import finished
from samop.records import CorruptRecord, read_json, read_rows

RESIDUAL, STANDARD_ERROR = "residual", "standard error"


class Quantity(NamedTuple):
    """A measured number.

    Attributes:
      name: its column.
      symbol: how tables and figures call it.
      text: what it is.
      error: column of the measurement's own error, in the quantity's unit; "" where it has none.
      kind: what that error is.
      converged: column that says whether the iteration ended within its tolerance; "" where there
        is no iteration.
      sign: of the values that have a ratio: −1 for the most negative eigenvalue.
    """

    name: str
    symbol: str
    text: str
    error: str = ""
    kind: str = ""
    converged: str = ""
    sign: int = 1


def _iterated(name: str, symbol: str, text: str, sign: int = 1) -> Quantity:
    return Quantity(name, symbol, text, f"{name}_residual", RESIDUAL, f"{name}_converged", sign)


def _sampled(name: str, symbol: str, text: str) -> Quantity:
    return Quantity(name, symbol, text, f"{name}_se", STANDARD_ERROR)


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        _iterated("lambda_max", "λ_max", "largest eigenvalue of the Hessian"),
        _sampled("trace", "trace", "trace of the Hessian"),
        _iterated("s2", "s₂", "spread of the per-example Hessians"),
        _iterated("s3", "s₃", "the same of their third powers"),
        _iterated("s4", "s₄", "the same of their fourth powers"),
        _iterated("lambda_min", "λ_min", "most negative eigenvalue of the Hessian", -1),
        _iterated("ggn_lambda_max", "GGN λ_max", "largest eigenvalue of the Gauss–Newton matrix"),
        _sampled("ggn_trace", "GGN trace", "trace of the Gauss–Newton matrix"),
        _iterated("ggn_s2", "GGN s₂", "spread of the per-example Gauss–Newton matrices"),
        _iterated("ggn_s3", "GGN s₃", "the same of their third powers"),
        _iterated("ggn_s4", "GGN s₄", "the same of their fourth powers"),
        Quantity("loss", "training loss", "mean training loss on the examples measured"),
    )
}


def load(
    workdir: str | Path, runs: pd.DataFrame, *, allow_incomplete: bool = False
) -> pd.DataFrame:
    """Reads the curvature records of the runs of a work folder.

    Args:
      workdir: the folder that the runs were loaded from.
      runs: table of `samop.results.load`.
      allow_incomplete: accept finished runs whose record stops before the trained network.

    Returns:
      One row per run and measured step, in the order of `runs`: its columns point … seed, then
      step, epoch, trained (whether it is the last epoch of a finished run), edge, examples, loss,
      and every other number of the rows under its own name. `edge` is 2(1 + momentum)/η, above
      which full-batch SGD with the rate η of that step is unstable; NaN for other bases. Runs
      without a record have no rows; where no run has one, the table is empty. `attrs` are those of
      `runs` and: workdir; incomplete: names of the runs accepted by allow_incomplete; without:
      number of finished runs that have no row of the trained network.

    Raises:
      UserError: a corrupt record by its name, or an incomplete one.
    """
    root = Path(workdir)
    varying = runs.attrs.get("varying", [])
    keys = ["point", "experiment", "status", "dataset", "model", "width", "parameters"]
    keys += ["optimizer", "base", "transform", "rho", "label_noise", *varying, "seed"]
    first = [*keys, "step", "epoch", "trained", "edge", "examples", "loss"]
    attrs = {**runs.attrs, "workdir": str(root), "incomplete": [], "without": 0}
    table = pd.DataFrame(columns=first)
    if any(path_of(root, point).exists() for point in runs["point"]):
        found: list[dict[str, Any]] = []
        for run in runs.to_dict("records"):
            rows, due = _run(root, run)
            found += [{**{k: run[k] for k in keys}, **row} for row in rows]
            if run["status"] == "done" and due and not any(row["trained"] for row in rows):
                attrs["incomplete"].append(run["point"])
        others = dict.fromkeys(k for row in found for k in row if k not in first)
        table = pd.DataFrame(found, columns=[*first, *others])
        measured = {row["point"] for row in found if row["trained"]}
        attrs["without"] = len(set(finished(runs)["point"]) - measured)
    table["trained"] = table["trained"].astype(bool)
    table.attrs = attrs
    if attrs["incomplete"] and not allow_incomplete:
        names = attrs["incomplete"]
        some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise UserError(
            f"workdir={str(root)!r}: the curvature of {len(names)} trained networks was not "
            f"measured, or not to the end: {some}; measure them, or accept it with "
            "load(…, allow_incomplete=True)"
        )
    return table


def path_of(root: Path, point: str) -> Path:
    """The curvature record of a run."""
    return root / "points" / point / "curvature.jsonl"


def rows_of(path: Path, done: bool) -> list[dict[str, Any]]:
    """The rows of a record; of a run that was killed, up to the first bad one.

    Raises:
      UserError: a bad row of a finished run, or one that lacks what every row must have.
    """
    try:
        rows = read_rows(path, tolerate_tail=not done)
        lacking = {k for row in rows for k in ("step", "epoch", "examples", "loss") if k not in row}
    except (CorruptRecord, KeyError, TypeError, AttributeError) as error:
        # CorruptRecord names the file; the others are rows that are no objects with a step.
        text = str(error) if isinstance(error, CorruptRecord) else f"{path}: a row is no record"
        raise UserError(f"{text}; delete the file and measure the run again") from None
    if lacking:
        raise UserError(f"{path}: a row lacks {', '.join(sorted(lacking))}")
    return rows


def _run(root: Path, run: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The rows of one run, and whether there should be some."""
    path = path_of(root, run["point"])
    done = run["status"] in ("done", "diverged")
    rows = rows_of(path, done)
    record = path.with_name("config.json")
    config = read_json(record)["config"] if record.exists() else {}
    found = []
    for row in rows:
        # `parameters` is the run's own; lists are the figures' affair.
        plain = {k: v for k, v in row.items() if not isinstance(v, list) and k != "parameters"}
        plain["trained"] = done and math.isclose(row["epoch"], run["last_epoch"])
        plain["edge"] = _edge(config, row["epoch"] / run["last_epoch"]) if done else math.nan
        found.append(plain)
    return found, bool(rows) or config.get("curvature", {}).get("every", "") != ""


def _edge(config: Mapping[str, Any], share: float) -> float:
    """2(1 + momentum)/η at a share of training; NaN where the base is not SGD."""
    fields = config["optimizer"]
    schedule = fields.get("schedule", "")
    if fields["base"] != "sgd" or "momentum" not in fields:
        return math.nan
    factor = math.nan
    if schedule == "constant":
        factor = 1.0
    elif schedule == "step":
        factor = fields["factor"] ** sum(share >= place for place in fields["milestones"])
    elif schedule == "cosine":
        start = fields["warmup"]
        done = min(max((share - start) / max(1 - start, 1e-12), 0.0), 1.0)
        factor = 0.5 * (1 + math.cos(math.pi * done))
    if fields.get("warmup", 0.0):
        factor *= min(share / fields["warmup"], 1.0)
    rate = fields["lr"] * factor
    return 2 * (1 + fields["momentum"]) / rate if rate > 1e-12 * fields["lr"] else math.nan


def tracks(measured: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The rows of each finished run by its name, steps ascending."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in finished(measured).to_dict("records"):
        found.setdefault(str(row["point"]), []).append({str(k): v for k, v in row.items()})
    return found


class Density(NamedTuple):
    """The spectral density of one network's Hessian, by stochastic Lanczos quadrature.

    Attributes:
      nodes, weights: [probes, steps]; each probe's weights sum to 1.
      eigenvalues: the largest ones, descending; may be empty.
      parameters: number of eigenvalues that the density stands for.
      epoch: of the network.
    """

    nodes: np.ndarray
    weights: np.ndarray
    eigenvalues: np.ndarray
    parameters: int
    epoch: float


def density(measured: pd.DataFrame, point: str) -> Density | None:
    """The density of a run's last row that has one, read again from its record; None without.

    Args:
      measured: table of `load`.
      point: name of the run.

    Raises:
      UserError: a corrupt record, or nodes and weights that do not fit the number of probes.
    """
    path = path_of(Path(measured.attrs["workdir"]), point)
    rows = [row for row in rows_of(path, True) if "density_nodes" in row]
    if not rows:
        return None
    row = rows[-1]
    nodes, weights = (np.array(row[f"density_{k}"], float) for k in ("nodes", "weights"))
    probes = int(row.get("density_probes", 1))
    if probes < 1 or nodes.size == 0 or nodes.size % probes or nodes.shape != weights.shape:
        raise UserError(
            f"{path}: density_nodes ({nodes.size}), density_weights ({weights.size}) and "
            f"density_probes ({probes}) do not fit each other"
        )
    values = np.array(row.get("eigenvalues", []), float)
    count = int(measured.loc[measured["point"] == point, "parameters"].iloc[0])
    shape = (probes, -1)
    return Density(nodes.reshape(shape), weights.reshape(shape), values, count, row["epoch"])
