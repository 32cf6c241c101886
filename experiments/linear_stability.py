"""Where SGD's and SAM's minima lie against the bounds of linear stability, and which are theorems.

python -m samop.main --config=configs/digits_stability.py
python experiments/linear_stability.py --workdir=runs/digits_stability \\
    [--out=experiments/results/linear_stability] \\
    [--parts minima ensembles] [--figures minima ensembles] [--smoke]

Of each run the gradients of the network's output at the training examples, in float64, and from
them everything else (`samop.theory.minima`): `minima.csv`, a row a run, with the reason where a run
is left out (it diverged, or does not interpolate). Then random ensembles of Hessians at the edge of
a criterion, and the search for those that break a bound: `ensembles.csv`. From these, of
`minima.csv`: `summary.csv`, SGD and SAM paired by seed; `trends.csv`, how their ratio changes with
the width; and the figures. --parts without a name: from these tables as they are. --smoke: of
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
from common import markdown, write

from samop import checkpoint, statistics, wording, workloads
from samop import config as configs
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

# Of a measure the column with SAM's best bound on it.
BOUNDS = {"a": "a_bound", "s2": "s2_best_bound", "s3": "s3_best_bound"}
# What the theory assumes of a run: field, its only value, the theory's side of it.
ASSUMED = (
    ("workload", "regression", "of the loss ½(f − y)²"),
    ("model.name", "mlp", "of outputs that depend on parameters and example alone"),
    ("model.norm", "none", "of outputs that depend on parameters and example alone"),
    ("sparsity.method", "none", "of networks whose parameters all move"),
    ("linearized.mode", "none", "of the network itself"),
    ("train.batch_size", 1, "judged for one example a step"),
    ("optimizer.base", "sgd", "of plain SGD steps"),
    ("optimizer.momentum", 0.0, "without momentum"),
    ("optimizer.weight_decay", 0.0, "without decay"),
    ("optimizer.clip", 0.0, "without clipping"),
    ("optimizer.schedule", "constant", "of a constant rate"),
    ("optimizer.warmup", 0.0, "of a constant rate"),
)
# And of SAM.
ASSUMED_OF_SAM = (
    ("optimizer.ascent", "unnormalized", "of unnormalised SAM"),
    ("optimizer.ascent_steps", 1, "of one ascent step"),
    ("optimizer.rho_schedule", "constant", "of a constant ρ"),
    ("optimizer.mask", "all", "of a perturbation of all parameters"),
    ("optimizer.start", 0.0, "of SAM in every step"),
    ("optimizer.end", 1.0, "of SAM in every step"),
    ("optimizer.m", 0, "of one ascent for the whole batch"),
)


def gradients(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the output in the parameters `[n, d]`, and residuals f − y `[n]`, float64.

    Of the training examples of a finished run, at its last parameters.

    Raises:
      UserError: the network keeps a state beside them.
    """
    config = read_point(run.parent.parent, run.name)
    state = checkpoint.load(run)
    params = state.pop("params")
    if state:
        raise UserError(
            f"{run}: the network keeps {', '.join(state)} beside its parameters; the theory is of "
            "outputs that depend on parameters and example alone"
        )
    with jax.enable_x64(True):
        workload = workloads.build(config)
        assert workload.splits is not None
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        train = workload.splits.train
        x, y = (jnp.asarray(a, jnp.float64) for a in (train.x, train.y))
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def output(w, one):
            return workload.apply(unravel(w), {}, {"x": one[None]}, None, False)[0][0, 0]

        value, slope = jax.vmap(jax.value_and_grad(output), in_axes=(None, 0))(flat, x)
        return np.asarray(slope), np.asarray(value - y)


def rates(run: Path) -> dict[str, Any]:
    """What a run was trained with.

    Label noise is fine: what interpolates, interpolates the labels that it was given.

    Raises:
      UserError: with something that the theory does not have.
    """
    config = read_point(run.parent.parent, run.name)
    fields = config["optimizer"]
    sam = fields["name"] == "sam"
    if fields["name"] not in ("base", "sam"):
        raise UserError(
            f"{run}: optimizer.name={fields['name']!r}: the theory is of SGD and SAM; "
            "allowed: 'base', 'sam'"
        )
    for field, allowed, words in ASSUMED + (ASSUMED_OF_SAM if sam else ()):
        if (value := configs.get(config, field)) != allowed:
            raise UserError(f"{run}: {field}={value!r}: the theory is {words}: {field}={allowed!r}")
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
    """Means of SGD and SAM, and SAM/SGD paired by seed, with 95 % t intervals; Holm by measure.

    Where SAM has a best bound: how many of all `sgd_minima` are above SAM's.
    """
    rows = []
    for (eta, width), cell in table[table["left_out"] == ""].groupby(["eta", "width"]):
        parts = [cell[cell["optimizer"] == name].set_index("seed") for name in ("SGD", "SAM")]
        pairs = parts[0].index.intersection(parts[1].index)
        for name in MEASURES:
            sgd, sam = (part.loc[pairs, name].to_numpy(float) for part in parts)
            means = [statistics.estimate(values) for values in (sgd, sam)]
            paired = statistics.estimate(sam - sgd)
            positive = (np.concatenate([sgd, sam]) > 0).all()  # else there is no ratio
            ratio = statistics.estimate(np.log(sam / sgd) if positive else np.full(1, np.nan))
            low, high = (np.exp(ratio.mean + sign * ratio.half) for sign in (-1, 1))
            bound = parts[1][BOUNDS[name]].dropna() if name in BOUNDS else ()
            above = (parts[0][name] > bound.iloc[0]).sum() if len(bound) else np.nan
            rows.append(
                {
                    "eta": eta, "width": width, "measure": name, "n": paired.n,
                    "sgd": means[0].mean, "sgd_half95": means[0].half,
                    "sam": means[1].mean, "sam_half95": means[1].half,
                    "difference": paired.mean, "difference_half95": paired.half, "p": paired.p,
                    "ratio": np.exp(ratio.mean), "ratio_low95": low, "ratio_high95": high,
                    "sgd_minima": len(parts[0]), "sgd_above_sam_bound": above,
                }
            )  # fmt: skip
    found = pd.DataFrame(rows)
    found["p_holm"] = found.groupby("measure")["p"].transform(
        lambda p: statistics.holm(p.to_numpy())
    )
    return found


def trends(table: pd.DataFrame) -> pd.DataFrame:
    """By how much SAM/SGD changes when the width doubles: a row a rate and measure.

    `factor` is exp of the mean over seeds of each one's least-squares slope of log(SAM/SGD) on
    log₂ width, with the 95 % t interval and p of factor = 1, Holm by measure. Of the seeds that
    have a minimum of both at every width; measures that are not positive have no ratio.
    """
    kept = table[table["left_out"] == ""]
    rows = []
    for eta, cell in kept.groupby("eta"):
        doublings = np.log2(np.sort(cell["width"].unique()))
        if len(doublings) < 2:
            continue
        doublings = doublings - doublings.mean()
        for name in MEASURES:
            values = cell.pivot(index="seed", columns=["optimizer", "width"], values=name)
            values = values.sort_index(axis="columns").dropna()
            complete = values.shape[1] == 2 * len(doublings) and len(values)
            if not complete or not (values > 0).all(axis=None):
                continue
            ratio = np.log(values["SAM"].to_numpy() / values["SGD"].to_numpy())  # [seeds, widths]
            found = statistics.estimate(ratio @ doublings / (doublings @ doublings))
            low, high = (np.exp(found.mean + sign * found.half) for sign in (-1, 1))
            rows.append(
                {
                    "eta": eta, "measure": name, "n": found.n, "factor": np.exp(found.mean),
                    "factor_low95": low, "factor_high95": high, "p": found.p,
                }
            )  # fmt: skip
    columns = ("eta", "measure", "n", "factor", "factor_low95", "factor_high95", "p")
    made = pd.DataFrame(rows, columns=columns)
    made["p_holm"] = made.groupby("measure")["p"].transform(lambda p: statistics.holm(p.to_numpy()))
    return made


def counts(table: pd.DataFrame) -> str:
    """How many minima keep each criterion, a line a cell."""
    rows: list[dict[str, object]] = []
    for (eta, width, name), cell in table.groupby(["eta", "width", "optimizer"]):
        kept = cell[cell["left_out"] == ""]
        rows.append(
            {
                "η": f"{eta:g}", "width": width, "": name,
                "n": len(kept), "left out": len(cell) - len(kept),
                "E[B²] ⪯ I": int((kept["edge_sufficient"] >= 1).sum()),
                "radius ≤ 1": int((kept["noise_ratio"] <= 1).sum()),
                "Lyapunov ≤ 0": int((kept["lyapunov"] <= 0).sum()),
                "radius ≤ 1 under SAM's rule": int((kept["noise_ratio_as_sam"] <= 1).sum()),
                "edge of exact": f"{kept['edge_exact'].median():.2f}",
            }
        )  # fmt: skip
    return markdown(rows)


def _ratio(row: dict[str, Any], name: str, digits: int) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low95", f"{name}_high95"))
    if not np.isfinite(value):
        return wording.DASH
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def compared(summary: pd.DataFrame) -> str:
    """The summary as a table of text."""
    rows = [
        {
            "η": f"{row['eta']:g}", "width": row["width"], "measure": MEASURES[row["measure"]],
            "SGD": f"{row['sgd']:.3g} ± {row['sgd_half95']:.2g}",
            "SAM": f"{row['sam']:.3g} ± {row['sam_half95']:.2g}",
            "SAM/SGD": _ratio(row, "ratio", 2), "p (Holm)": f"{row['p_holm']:.2g}", "n": row["n"],
            "SGD above SAM's bound": f"{row['sgd_above_sam_bound']:.0f} of {row['sgd_minima']}"
            if np.isfinite(row["sgd_above_sam_bound"])
            else wording.DASH,
        }
        for row in summary.to_dict("records")
    ]  # fmt: skip
    return markdown(rows)


def changes(trend: pd.DataFrame) -> str:
    """The trends as a table of text."""
    if trend.empty:
        return "no trend with the width: it takes two widths, and a seed with minima at all"
    rows = [
        {
            "η": f"{row['eta']:g}", "measure": MEASURES[row["measure"]],
            "SAM/SGD, factor per doubling of the width": _ratio(row, "factor", 3),
            "p (Holm)": f"{row['p_holm']:.2g}", "n": row["n"],
        }
        for row in trend.to_dict("records")
    ]  # fmt: skip
    return markdown(rows)


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


def measured(workdir: Path, out: Path) -> None:
    """The minima: writes their table."""
    begin = time.monotonic()
    write(out, {"minima": measure(workdir)})
    print(f"{time.monotonic() - begin:.0f} s")


def searched(smoke: bool, out: Path) -> None:
    """The ensembles: prints and writes their table."""
    begin = time.monotonic()
    table = search(smoke)
    shown = table[["ratio", "criterion", "bound", "theorem", "draws", "violations", "worst"]]
    print(f"{shown.to_string(index=False)}\n\n{time.monotonic() - begin:.0f} s")
    write(out, {"ensembles": table})


def derived(out: Path) -> None:
    """What follows from `minima.csv` alone: prints and writes summary and trends."""
    table = pd.read_csv(out / "minima.csv").fillna({"left_out": ""})
    tables = {"summary": summarise(table), "trends": trends(table)}
    print(f"{counts(table)}\n\n{compared(tables['summary'])}\n\n{changes(tables['trends'])}\n")
    write(out, tables)


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
        if "minima" in (*args.parts, *args.figures):
            derived(out)
        for part in args.figures:
            write(out, {}, {part: getattr(drawing, part)(pd.read_csv(out / f"{part}.csv"))})
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"linear_stability: {error}")


if __name__ == "__main__":
    main()
