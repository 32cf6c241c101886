"""Writes work folders with known numbers, as a sweep would leave them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from samop import records, variants

ACCURACY = {"name": "accuracy", "higher_is_better": True, "scale": 100, "unit": "points"}
LOSS = {"name": "loss", "higher_is_better": False, "scale": 1, "unit": ""}


def run(
    hidden: int,
    seed: int,
    rho: float | None,
    values: list[tuple[float, float]],
    *,
    noise: float = 0.0,
    losses: list[float] | None = None,
    done: bool = True,
    **fields: Any,
) -> dict[str, Any]:
    """One run: rho None is the base; values are (validation, test) of the metric per epoch.

    `fields` override the config, with "__" for the dot. `losses`: one number for the losses of
    all splits per epoch, 0.5 where not given.
    """
    config: dict[str, dict[str, Any]] = {
        "data": {"name": "digits", "label_noise": noise, "dir": f"/home/{seed}"},
        "model": {"name": "mlp", "hidden": [hidden, hidden]},
        "optimizer": {
            "name": "base" if rho is None else "sam",
            "base": "sgd",
            "rho": 0.0 if rho is None else rho,
            "lr": 0.1,
            "decay_in_ascent": False,
        },
        "train": {"epochs": len(values), "batch_size": 64},
        "run": {"replicates": seed},
    }
    for field, value in fields.items():
        section, key = field.split("__")
        config.setdefault(section, {})[key] = value
    extra = "".join(f"_{k}{v}" for k, v in fields.items())
    name = f"w{hidden}_rho{rho}_noise{noise}_seed{seed}{extra}"
    return {
        "name": name,
        "config": {"seed": seed, **config},
        "hidden": hidden,
        "values": values,
        "losses": losses or [0.5] * len(values),
        "done": done,
    }


def sweep(root: Path, runs: list[dict[str, Any]], metric=ACCURACY, plan=None) -> Path:
    """Writes the runs and a plan of all of them, or of the names given."""
    for item in runs:
        folder = root / "points" / item["name"]
        folder.mkdir(parents=True)
        config = {
            "name": item["name"],
            "experiment": "digits_width",
            "config": item["config"],
            "width": f"{item['hidden']}-{item['hidden']}",
            "parameters": 64 * item["hidden"] + item["hidden"] ** 2,
            "metric": metric,
            "data": {"sha256": "00"},
            "environment": {"jax": "0.10.2", "device": "cpu"},
        }
        records.write_json(folder / "config.json", config)
        # Ten steps an epoch.
        cost = 10 * (item.get("cost") or variants.cost(item["config"]["optimizer"]))
        rows = []
        for epoch, ((validation, test), loss) in enumerate(zip(item["values"], item["losses"]), 1):
            row = {"step": 10 * epoch, "epoch": epoch, "grad_evals": round(cost * epoch)}
            row |= {f"{split}_loss": loss for split in ("train", "validation", "test")}
            row[f"train_{metric['name']}"] = loss if metric is LOSS else 0.9
            row[f"validation_{metric['name']}"] = validation
            row[f"test_{metric['name']}"] = test
            rows.append(row)
        records.append_rows(folder / "metrics.jsonl", rows)
        if "curvature" in item:
            records.append_rows(folder / "curvature.jsonl", item["curvature"])
        if item["done"]:
            finish(folder)
    names = [item["name"] for item in runs] if plan is None else plan
    plan_record = {"experiment": "digits_width", "command": "c", "axes": {}, "points": names}
    records.write_json(root / "plan.json", plan_record)
    return root


def finish(folder: Path) -> None:
    """Writes DONE for whatever metrics.jsonl holds."""
    content = (folder / "metrics.jsonl").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    done = {"steps": 0, "rows": content.count(b"\n"), "metrics_sha256": digest}
    (folder / "DONE").write_text(json.dumps(done))


def grid(
    value, widths=(4, 8, 16), rhos=(0.05, 0.1, 0.2), seeds=4, noises=(0.0,)
) -> list[dict[str, Any]]:
    """All runs of a grid; value(hidden, noise, seed, rho) -> (validation, test) per epoch."""
    return [
        run(w, s, rho, value(w, noise, s, rho), noise=noise)
        for w in widths
        for noise in noises
        for s in range(seeds)
        for rho in (None, *rhos)
    ]


def variant(
    name: str, hidden: int, seed: int, rho: float | None, values: list, **kwargs: Any
) -> dict[str, Any]:
    """A run of one of the family; "base" has no ρ."""
    fields = {} if name == "base" else {"optimizer__name": name}
    return run(hidden, seed, None if name == "base" else rho, values, **fields, **kwargs)


def family(
    value, names=("sam", "asam", "gsam"), widths=(4, 8, 16), rhos=(0.05, 0.1), seeds=4,
    noises=(0.0,), epochs=None, **kwargs: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """A grid of base and variants; value(name, hidden, noise, seed, rho) -> (validation, test).

    `epochs`: name → number of epochs that it trains, all with that value; two where not given.
    """
    epochs = epochs or {}
    kwargs.setdefault("train__epochs", epochs.get("base", 2))
    return [
        variant(
            n, w, s, rho, [value(n, w, noise, s, rho)] * epochs.get(n, 2), noise=noise, **kwargs
        )
        for w in widths
        for noise in noises
        for s in range(seeds)
        for n in ("base", *names)
        for rho in ((None,) if n == "base" else rhos)
    ]


def measured(runs: list[dict[str, Any]], value, epochs=None) -> list[dict[str, Any]]:
    """Gives runs the rows of a curvature.jsonl, ten steps an epoch; returns the runs.

    Args:
      runs: of `run`, `grid` and so on.
      value: (hidden, noise, seed, rho, epoch) → the fields of a row, None for a run without any.
        Residuals and standard errors (1e-4 and .02 of the value) and `converged` are added.
      epochs: when; the last one where not given.
    """
    for item in runs:
        config = item["config"]
        rho = None if config["optimizer"]["name"] == "base" else config["optimizer"]["rho"]
        place = (item["hidden"], config["data"]["label_noise"], config["seed"], rho)
        rows = []
        for epoch in epochs or [len(item["values"])]:
            fields = value(*place, epoch)
            if fields is None:
                continue
            row = {"step": 10 * epoch, "epoch": epoch, "examples": 100, "parameters": 1}
            for name, number in {"loss": 0.1, **fields}.items():
                row[name] = number
                if name in ("trace", "ggn_trace"):
                    row.setdefault(f"{name}_se", 0.02 * abs(number))
                elif name in ("lambda_max", "lambda_min", "s2", "ggn_lambda_max", "ggn_s2"):
                    row.setdefault(f"{name}_residual", 1e-4 * abs(number))
                    row.setdefault(f"{name}_converged", True)
            rows.append({**row, **fields})
        if rows:
            item["curvature"] = rows
    return runs


def random_grid(seed=0, **kwargs):
    """A grid of runs with random values in three epochs."""
    rng = np.random.default_rng(seed)

    def value(hidden, noise, s, rho):
        return [tuple(rng.integers(30, 99, 2) / 100) for _ in range(3)]

    return grid(value, **kwargs)
