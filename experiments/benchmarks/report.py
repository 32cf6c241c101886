"""How long a report takes: tables, figures and page of a planted work folder, a part at a time.

python experiments/benchmarks/report.py --runs=1000

The folder holds what a sweep leaves: {SGD, SAM × 4 ρ} × 5 widths × clean and noisy labels, seeds as
needed, rows of `--epochs` epochs whose values are made up. Nothing is trained. Wall and processor
seconds, each the median of `--repeats` calls; `whole command` is `python -m samop.report` with its
start. Little of it runs on two cores at a time: where nothing else runs, both are about the same.
The last line is the size of the page.
"""

import argparse
import contextlib
import copy
import hashlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from samop import records

WIDTHS = (4, 8, 16, 32, 64)
NOISES = (0.0, 0.4)
RHOS = (0.0, 0.05, 0.1, 0.2, 0.5)  # 0: the base
PER_SEED = len(WIDTHS) * len(NOISES) * len(RHOS)
METRIC = {"name": "accuracy", "higher_is_better": True, "scale": 100.0, "unit": "points"}
ENVIRONMENT = {"python": "3.11.7", "samop": "0.1.0", "jax": "0.10.2", "device": "planted"}


def plant(root: Path, runs: int, epochs: int) -> None:
    """Writes a work folder of at least so many finished runs."""
    names = []
    for number in range(-(-runs // PER_SEED) * PER_SEED):
        seed, place = divmod(number, PER_SEED)
        place, rho = divmod(place, len(RHOS))
        width, noise = divmod(place, len(NOISES))
        names.append(_run(root, seed, WIDTHS[width], NOISES[noise], RHOS[rho], epochs))
    plan = {"experiment": "planted", "command": "python -m samop.main", "axes": [], "points": names}
    records.write_json(root / "plan.json", plan)


def _run(root: Path, seed: int, hidden: int, noise: float, rho: float, epochs: int) -> str:
    optimizer = {"name": "sam" if rho else "base", "base": "sgd", "rho": rho, "lr": 0.1}
    config: dict[str, Any] = {
        "seed": seed,
        "data": {"name": "digits", "label_noise": noise},
        "model": {"name": "mlp", "hidden": [hidden, hidden]},
        "optimizer": optimizer,
        "train": {"epochs": epochs, "batch_size": 64, "budget": "epochs"},
        "run": {"claim_seconds": 60.0},
    }
    name = f"digits_mlp_{hidden}-{hidden}_rho{rho:g}_noise{noise:g}_seed{seed}"
    folder = root / "points" / name
    folder.mkdir(parents=True)
    record = {"name": name, "experiment": "planted", "config": copy.deepcopy(config)}
    record |= {"width": f"{hidden}-{hidden}", "parameters": 64 * hidden + hidden**2}
    record |= {"metric": METRIC, "data": {"sha256": "00", "origin": "made up"}}
    records.write_sealed(folder / "config.json", {**record, "environment": ENVIRONMENT}, sync=False)
    rng = np.random.default_rng([seed, hidden, int(10 * noise), int(100 * rho)])
    level = 0.8 + (0.02 * np.log2(hidden) * noise if rho else 0.0) + rng.normal(0, 0.005)
    rows = []
    for epoch in range(1, epochs + 1):
        value = float(level * (1 - np.exp(-epoch / 5)) + rng.normal(0, 0.002))
        row = {"step": 10 * epoch, "epoch": epoch, "grad_evals": (20 if rho else 10) * epoch}
        for split in ("train", "validation", "test"):
            row |= {f"{split}_loss": round(1 - value, 6), f"{split}_accuracy": round(value, 6)}
        rows.append(row)
    records.append_rows(folder / "metrics.jsonl", rows)
    timing = {"group": f"{hidden}{noise}{rho}", "runs": 20, "epochs": epochs, "seconds": 1.0}
    records.append_plain(folder / "timing.jsonl", {**timing, "steps_per_second": 1000.0})
    text = (folder / "metrics.jsonl").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    done = {"group": "g", "steps": 10 * epochs, "rows": epochs, "metrics_sha256": digest}
    records.write_sealed(folder / "DONE", done, sync=False)
    return name


def seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median wall and processor time of a call, its subprocesses included."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), _processor()
        call()
        times.append((time.perf_counter() - wall, _processor() - cpu))
    walls, cpus = zip(*times)
    return statistics.median(walls), statistics.median(cpus)


def _processor() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workdir", default="", help="keep the planted folder here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(options.workdir or stack.enter_context(tempfile.TemporaryDirectory()))
        if not (root / "plan.json").exists():
            plant(root, options.runs, options.epochs)
        _print(measure(root, options.repeats), root)


def measure(root: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds by what was timed."""
    from samop import report, results

    command = [sys.executable, "-m", "samop.report", f"--workdir={root}"]
    return {
        "reading and verifying the runs": seconds(lambda: results.load(root), repeats),
        "tables, figures and page": seconds(lambda: report.write(root), repeats),
        "whole command": seconds(
            lambda: subprocess.run(command, check=True, capture_output=True), repeats
        ),
    }


def _print(times: dict[str, tuple[float, float]], root: Path) -> None:
    runs = len(list((root / "points").iterdir()))
    print(f"| {runs:,} runs | seconds | of a processor |\n|---|---|---|")
    for what, (wall, cpu) in times.items():
        print(f"| {what} | {wall:.1f} | {cpu:.1f} |")
    page = root / "report.html"
    print(f"\nreport.html: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
