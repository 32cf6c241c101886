"""Where SGD's and SAM's minima lie against the bounds of linear stability, and which are theorems.

python -m samop.main --config=configs/digits_stability.py
python experiments/linear_stability.py --workdir=runs/digits_stability \\
    [--out=experiments/results/linear_stability] \\
    [--parts minima ensembles] [--figures minima ensembles] [--smoke]

Of each run the gradients of the network's output at the training examples, in float64, and from
them everything else (`samop.theory.minima`): `minima.csv`, a row a run, with the reason where a run
is left out (it diverged, or does not interpolate); `summary.csv`, SGD and SAM paired by seed. Then
random ensembles of Hessians at the edge of a criterion, and the search for those that break a
bound: `ensembles.csv`. --parts without a name: the figures alone, from these tables. --smoke: of
`runs/digits_stability_smoke`, with a small search, into that folder.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

# Of matrices this small the threads of a product mostly wait for each other: 5 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from samop import checkpoint, figures, report, statistics, wording, workloads
from samop.errors import UserError
from samop.figures import stability as drawing
from samop.groups import read_point
from samop.theory import ensembles, exact, minima

RESULTS = Path(__file__).parent / "results" / "linear_stability"
RATIOS = (0.0, 0.1, 0.4, 0.5, 2.0, 10.0)  # ρ/η of the ensembles
# What is compared; the smaller the flatter, or the farther from an edge.
MEASURES = {
    "a": "a", "s2": "s₂", "s3": "s₃", "s4": "s₄", "s2_over_a": "s₂/a",
    "noise_ratio": "noise ratio", "radius": "spectral radius", "lyapunov": "Lyapunov exponent",
    "a_share": "a / its bound", "s2_share": "s₂ / best bound",
    "variance_share": "Var A / its bound",
    "noise_ratio_as_sam": "noise ratio under SAM's rule",
}  # fmt: skip


def gradients(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the output in the parameters `[n, d]`, and residuals f − y `[n]`, float64.

    Of the training examples of a finished run, at its last parameters.
    """
    config = read_point(run.parent.parent, run.name)
    with jax.enable_x64(True):
        workload = workloads.build(config)
        assert workload.splits is not None
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), checkpoint.load(run)["params"]
        )
        train = workload.splits.train
        x, y = (jnp.asarray(a, jnp.float64) for a in (train.x, train.y))
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def output(w, one):
            return workload.apply(unravel(w), {}, {"x": one[None]}, None, False)[0][0, 0]

        value, slope = jax.vmap(jax.value_and_grad(output), in_axes=(None, 0))(flat, x)
        return np.asarray(slope), np.asarray(value - y)


def rates(run: Path) -> dict[str, Any]:
    """What a run was trained with.

    Raises:
      UserError: with something that the theory does not have.
    """
    config = read_point(run.parent.parent, run.name)
    fields = config["optimizer"]
    sam = fields["name"] == "sam"
    if fields["base"] != "sgd" or fields["momentum"] or fields["weight_decay"]:
        raise UserError(f"{run}: the theory is of SGD without momentum and decay")
    if fields["schedule"] != "constant" or config["train"]["batch_size"] != 1:
        raise UserError(f"{run}: the criteria are of a constant rate and one example a step")
    if fields["name"] not in ("base", "sam") or (sam and fields["ascent"] != "unnormalized"):
        raise UserError(f"{run}: the theory's SAM is optimizer.ascent='unnormalized'")
    return {
        "width": config["model"]["hidden"][0],
        "optimizer": "SAM" if sam else "SGD",
        "eta": float(fields["lr"]),
        "rho": float(fields["rho"]) if sam else 0.0,
        "seed": int(config["seed"]),
    }


def measure(workdir: Path) -> pd.DataFrame:
    """A row a run of a sweep. SGD's minima are judged under its SAM's rule too."""
    runs = sorted(path for path in (workdir / "points").glob("*") if (path / "DONE").exists())
    if not runs:
        raise UserError(f"--workdir={workdir} holds no finished run: train the sweep first")
    known = [rates(run) for run in runs]
    rho_of = {row["eta"]: row["rho"] for row in known if row["optimizer"] == "SAM"}
    rows = []
    for run, row in zip(runs, known):
        g, residuals = gradients(run)
        try:
            row |= minima.judge(g, residuals, row["eta"], row["rho"])
            rho = rho_of.get(row["eta"], 0.0)
            row["noise_ratio_as_sam"] = exact.rank_one_noise_ratio(exact.span(g), row["eta"], rho)
            row["largest_residual"] = float(np.abs(residuals).max())
            row["left_out"] = ""
        except UserError as reason:
            row["left_out"] = str(reason)
            print(f"left out {run.name}: {reason}")
        rows.append(row)
    table = pd.DataFrame(rows)
    if not table["left_out"].eq("").any():
        raise UserError(f"--workdir={workdir}: no run has a minimum to judge")
    table["s2_over_a"] = table["s2"] / table["a"]
    table["a_share"] = table["a"] / table["a_bound"]
    table["s2_share"] = table["s2"] / table["s2_best_bound"]
    table["variance_share"] = table["variance"] / table["variance_bound"]
    return table.sort_values(["eta", "width", "optimizer", "seed"], ignore_index=True)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means of SGD and SAM, and SAM/SGD paired by seed, with 95 % t intervals; Holm by measure."""
    rows = []
    for (eta, width), cell in table[table["left_out"] == ""].groupby(["eta", "width"]):
        parts = [cell[cell["optimizer"] == name].set_index("seed") for name in ("SGD", "SAM")]
        pairs = parts[0].index.intersection(parts[1].index)
        for name in MEASURES:
            sgd, sam = (part.loc[pairs, name].to_numpy(float) for part in parts)
            means = [statistics.estimate(values) for values in (sgd, sam)]
            paired = statistics.estimate(sam - sgd)
            positive = min(sgd.min(), sam.min()) > 0  # else there is no ratio
            ratio = statistics.estimate(np.log(sam / sgd) if positive else np.full(1, np.nan))
            low, high = (np.exp(ratio.mean + sign * ratio.half) for sign in (-1, 1))
            rows.append(
                {
                    "eta": eta, "width": width, "measure": name, "n": paired.n,
                    "sgd": means[0].mean, "sgd_half95": means[0].half,
                    "sam": means[1].mean, "sam_half95": means[1].half,
                    "difference": paired.mean, "difference_half95": paired.half, "p": paired.p,
                    "ratio": np.exp(ratio.mean), "ratio_low95": low, "ratio_high95": high,
                }
            )  # fmt: skip
    found = pd.DataFrame(rows)
    found["p_holm"] = found.groupby("measure")["p"].transform(
        lambda p: statistics.holm(p.to_numpy())
    )
    return found


def counts(table: pd.DataFrame) -> str:
    """How many minima keep each criterion, a line a cell."""
    head = (
        "η",
        "width",
        "",
        "n",
        "left out",
        "E[B²] ⪯ I",
        "radius ≤ 1",
        "as SAM's",
        "edge of exact",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (eta, width, name), cell in table.groupby(["eta", "width", "optimizer"]):
        kept = cell[cell["left_out"] == ""]
        cells = [
            f"{eta:g}", width, name, len(kept), len(cell) - len(kept),
            int((kept["edge_sufficient"] >= 1).sum()), int((kept["noise_ratio"] <= 1).sum()),
            int((kept["lyapunov"] <= 0).sum()), int((kept["noise_ratio_as_sam"] <= 1).sum()),
            f"{kept['edge_exact'].median():.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def compared(summary: pd.DataFrame) -> str:
    """The summary as a table of text."""
    head = ("η", "width", "measure", "SGD", "SAM", "SAM/SGD", "p (Holm)", "n")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in summary.to_dict("records"):
        cells = [
            f"{row['eta']:g}", row["width"], MEASURES[row["measure"]],
            f"{row['sgd']:.3g} ± {row['sgd_half95']:.2g}",
            f"{row['sam']:.3g} ± {row['sam_half95']:.2g}",
            f"{row['ratio']:.2f} [{row['ratio_low95']:.2f}, {row['ratio_high95']:.2f}]"
            if np.isfinite(row["ratio"])
            else wording.DASH,
            f"{row['p_holm']:.2g}", row["n"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def search(smoke: bool) -> pd.DataFrame:
    """A row for each ρ/η, criterion and bound."""
    count, climbs = (100, 20) if smoke else (1000, 80)
    rng = np.random.default_rng(20231117)
    rows = []
    for ratio in (0.4, 10.0) if smoke else RATIOS:
        for criterion in ensembles.CRITERIA:
            for found in ensembles.search(ratio, criterion, count=count, climbs=climbs, rng=rng):
                row = found._asdict()
                for name in ("hessians", "p"):
                    row[f"worst_{name}"] = np.array2string(
                        row.pop(name), precision=6, separator=",", max_line_width=10**6
                    ).replace("\n", "")
                rows.append(row)
    return pd.DataFrame(rows)


def write(name: str, rows: pd.DataFrame, out: Path) -> None:
    """A table as a file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.csv").write_text(report.csv(rows))
    print(f"wrote {out / name}.csv")


def measured(workdir: Path, out: Path) -> None:
    """The minima: prints and writes their tables."""
    begin = time.monotonic()
    table = measure(workdir)
    summary = summarise(table)
    print(f"{counts(table)}\n\n{compared(summary)}\n\n{time.monotonic() - begin:.0f} s")
    write("minima", table, out)
    write("summary", summary, out)


def searched(smoke: bool, out: Path) -> None:
    """The ensembles: prints and writes their table."""
    begin = time.monotonic()
    table = search(smoke)
    shown = table[["ratio", "criterion", "bound", "theorem", "draws", "violations", "worst"]]
    print(f"{shown.to_string(index=False)}\n\n{time.monotonic() - begin:.0f} s")
    write("ensembles", table, out)


def main() -> None:
    """Measures, searches, writes tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--out", type=Path)
    both = ("minima", "ensembles")
    parser.add_argument("--parts", nargs="*", default=both, choices=both, help="tables to make")
    parser.add_argument("--figures", nargs="*", default=both, choices=both, help="to draw")
    parser.add_argument("--smoke", action="store_true", help="the small sweep, a small search")
    args = parser.parse_args()
    name = "digits_stability_smoke" if args.smoke else "digits_stability"
    workdir = args.workdir or Path("runs") / name
    out = args.out or (Path("runs") / name / "stability" if args.smoke else RESULTS)
    try:
        if "minima" in args.parts:
            measured(workdir, out)
        if "ensembles" in args.parts:
            searched(args.smoke, out)
        for part in args.figures:
            table = pd.read_csv(out / f"{part}.csv")
            for path in figures.save(getattr(drawing, part)(table), out / part):
                print(f"wrote {path}")
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"linear_stability: {error}")


if __name__ == "__main__":
    main()
