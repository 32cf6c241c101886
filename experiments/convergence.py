"""Linear convergence: how fast the training loss falls under SAM and SGD, against width.

python experiments/convergence.py [--problem=NAME] [--width W …] [--redraw] [--smoke]

Unnormalised SAM, x ← x − η∇f_i(x + ρ∇f_i(x)), and SGD (ρ = 0) with batches of 20 drawn with
replacement, float64, six seeds, which draw data, start and batches; SAM and SGD share all three.

- Matrix factorisation (arXiv 2311.17539; our constants): f = mean over 200 inputs x ~ N(0, I₁₀) of
  ‖W₂W₁x − Ax‖², without ½, A_ij ~ N(0, 1/10), inner width 5 … 64; η = ρ = .02. Below 10 no product
  W₂W₁ can be A: there f* > 0, known from the singular values. Start: "fan-in", variance 1/fan-in,
  by which W₁ᵀW₁ grows with width; "fixed scale", variance 1/width for both, by which it does not.
  At width 10 these are the same start, trained once, "both": tables of runs count it once, figures
  and exponents show it under either.
- Parity of 100 of scikit-learn's digits: tanh 64-w-1, ½(f − y)², y = ±1, η = .04, ρ = .02, fan-in.

The rate is fitted to log loss over the later half of the way to 1e-12 of the first loss (or to the
end). Along that way, α is the least ‖∇f‖²/(2f) of all records; β (of batches) and λ (of f) are the
largest |eigenvalue| (12 steps of Lanczos) of Hessians at five of them. All three err to the side of
a better bound, so where the theorem's assumption fails by them, it fails. Where f* = 0 the
factorisation is trained once more with half the η* and half the largest ρ that the constants of
SAM's first run allow ("theorem" in the column `rates`): there the bound can be compared. So slow a
descent is given more steps at small widths (LONGER); `end` says where a seed still ends above .01
of its first loss, short of the minimum whose α is wanted. `slope` says which fits are of a line (R²
≥ .95 in every seed) and which are an average slope, as log loss curves.

--problem and --width run a part, --redraw none: the other rows are those that are in --out.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from common import RESULTS, gain, markdown, write
from convergence_problems import (
    Problem,
    patient,
    problems,
    rank_floor,
    starts_of,
)
from jax.flatten_util import ravel_pytree

import samop
from samop import ascents, theory, trajectory
from samop.errors import UserError
from samop.figures.convergence import (
    AVERAGE,
    FAR,
    LINE,
    NEAR,
    NO_MINIMUM,
    by_start,
    convergence,
)
from samop.hessian import lanczos
from samop.statistics import estimate

OUT = RESULTS / "convergence"
BATCH = 20
POINTS, BATCHES, LANCZOS = 5, 5, 12
KEYS = ["problem", "start", "width", "parameters", "optimizer", "rates"]
CLOSE = 1e-2  # of the first loss: what ends above it is not called near its minimum
STRAIGHT = 0.95  # R² of what may be called a line


def descend(problem: Problem, unravel: Callable) -> Callable:
    """(start, data, key, η, ρ) → loss, ‖∇f‖², flat parameters at every record; over seeds."""

    def one(flat, data, key, eta, rho):
        tx = samop.sam(optax.sgd(eta), rho, ascent=ascents.unnormalized())
        loss = lambda x, batch: problem.loss(unravel(x), batch)  # noqa: E731

        def record(x):
            value, gradient = jax.value_and_grad(loss)(x, data)
            return {"loss": value, "gradient": gradient @ gradient, "x": x}

        batch_of = trajectory.independent(data, BATCH, key)
        return trajectory.trajectory(
            tx, loss, flat, batch_of, problem.steps, every=problem.every, record=record
        )[1]

    return jax.jit(jax.vmap(one, in_axes=0))


def curvature(problem: Problem, unravel: Callable) -> Callable:
    """(points, data, key) → diagonals of Lanczos's matrices: [seeds, points, 1 + batches, steps].

    The first is of f, the others of batches as training draws them.
    """

    def one(x, data, key):
        gradient = jax.grad(lambda x, batch: problem.loss(unravel(x), batch))

        def top(batch):
            product = lambda v: jax.jvp(lambda y: gradient(y, batch), (x,), (v,))[1]  # noqa: E731
            start = jax.random.normal(jax.random.fold_in(key, 1), x.shape)
            found = lanczos(product, start, min(LANCZOS, x.size))
            return found.alpha, found.beta

        batch_of = trajectory.independent(data, BATCH, key)
        batches = jax.vmap(batch_of)(jnp.arange(BATCHES))
        whole, parts = top(data), jax.vmap(top)(batches)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), whole, parts)

    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, None, None))))


def largest(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Largest |eigenvalue| of tridiagonal matrices, [..., m] → [...]."""
    off = beta[..., :-1, None] * np.eye(alpha.shape[-1])[:-1]
    off = np.concatenate([off, np.zeros_like(off[..., :1, :])], axis=-2)
    off = np.roll(off, 1, axis=-1)
    matrix = alpha[..., None] * np.eye(alpha.shape[-1]) + off + np.swapaxes(off, -1, -2)
    return np.abs(np.linalg.eigvalsh(matrix)).max(axis=-1)


def at_start(problem: Problem, width: int, start: str, seed: int) -> Any:
    params = problem.init(width, start, jax.random.key(seed))
    return jax.tree.map(lambda a: a.astype(jnp.float64), params)  # Flax makes float32


def programs(problem: Problem, width: int) -> tuple[dict[str, Callable], Callable]:
    """What `measure` runs, compiled once for all starts of a width."""
    unravel = ravel_pytree(at_start(problem, width, problem.starts[0], 0))[1]
    fixed, slow = descend(problem, unravel), patient(problem, width)
    theorem = descend(slow, unravel) if slow != problem else fixed
    return {"fixed": fixed, "theorem": theorem}, curvature(problem, unravel)


def measure(
    problem: Problem,
    width: int,
    start: str,
    seeds: int,
    run: dict[str, Callable],
    curve: Callable,
) -> tuple[list, list]:
    """Trains SAM and SGD from the same starts: a row a run, and a row a record that is kept."""
    data = [problem.draw(seed) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a), jnp.float64), *data)
    inits = [at_start(problem, width, start, seed) for seed in range(seeds)]
    flat = jnp.stack([ravel_pytree(params)[0] for params in inits])
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(7), s))(jnp.arange(seeds))
    rows, curves = [], []
    plan = [("SGD", "fixed", problem.eta, 0.0), ("SAM", "fixed", problem.eta, problem.rho)]
    for name, rates, eta, rho in plan:
        timed = patient(problem, width) if rates == "theorem" else problem
        steps = np.arange(0, timed.steps + 1, timed.every)
        etas, rhos = np.broadcast_to(eta, seeds), np.broadcast_to(rho, seeds)
        seen = jax.tree.map(np.asarray, run[rates](flat, stacked, keys, etas, rhos))
        kept = [theory.window(steps, seen["loss"][s]) for s in range(seeds)]
        places = np.stack([np.linspace(0, k[-1], POINTS).round().astype(int) for k in kept])
        points = np.take_along_axis(seen["x"], places[..., None], axis=1)
        tops = largest(*jax.tree.map(np.asarray, curve(points, stacked, keys)))
        key = dict(zip(KEYS, (problem.name, start, width, flat.shape[1], name, rates)))
        own = []
        for s in range(seeds):
            loss, last = seen["loss"][s], seen["loss"][s][kept[s][-1]]
            row = key | {"seed": s, "eta": etas[s], "rho": rhos[s]}
            row |= {f"fit_{k}": v for k, v in theory.fit_rate(steps, loss)._asdict().items()}
            row |= {"first_loss": loss[0], "last_loss": last}
            row["f_star"] = problem.f_star(data[s], width, loss[0], last)
            for where, of in (("", np.arange(kept[s][-1] + 1)), ("window_", kept[s])):
                alpha = theory.pl_constant(seen["gradient"][s][of], loss[of])
                inside = tops[s, np.isin(places[s], of)]
                # f is the mean of what a step sees, of which some batches are looked at.
                lam, beta = inside[:, 0].max(), inside.max()
                found = judged(row, alpha, beta, lam)
                row |= {f"{where}{name}": value for name, value in found.items()}
            own.append(row)
        rows += own
        curves += along(key, steps, seen, max(k[-1] for k in kept))
        feasible = problem.f_star is rank_floor and all(row["f_star"] == 0 for row in own)
        if rates == "fixed" and name == "SAM" and feasible:
            small = [row["largest_rho"] / 2 for row in own]
            best = [theory.rate(r["alpha"], r["beta"], r["lam"], h) for r, h in zip(own, small)]
            plan.append(("SAM", "theorem", [b.eta_star / 2 for b in best], small))
    return rows, curves


def judged(row: dict[str, Any], alpha: float, beta: float, lam: float) -> dict[str, Any]:
    """Constants, and the bound on the rate or the assumption by which there is none."""
    try:
        bound, reason = (
            theory.rate(alpha, beta, lam, row["rho"], row["eta"], f_star=row["f_star"]).slope,
            "",
        )
    except UserError as error:
        bound, reason = math.nan, str(error)
    return {
        "alpha": alpha, "beta": beta, "lam": lam,
        "kappa": theory.kappa(alpha, beta, row["rho"]),
        "largest_rho": theory.largest_rho(alpha, beta),
        "largest_eta_sgd": 2 * alpha / (lam * beta),
        "bound": bound, "no_bound_because": reason,
    }  # fmt: skip


def along(key: dict[str, Any], steps: np.ndarray, seen: dict, last: int) -> list[dict[str, Any]]:
    """Up to 80 records of a setting, means over seeds of logarithms, with the range of the loss."""
    logs, pl = np.log10(seen["loss"]), np.log10(seen["gradient"] / (2 * seen["loss"]))
    rows = []
    for i in np.unique(np.linspace(0, last, 80).round().astype(int)):
        values = {"step": steps[i], "log10_loss": logs[:, i].mean()}
        values |= {"log10_loss_low": logs[:, i].min(), "log10_loss_high": logs[:, i].max()}
        rows.append(key | values | {"log10_pl": pl[:, i].mean()})
    return rows


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a setting: means over seeds with t intervals; SAM − SGD paired by seed."""
    rows = []
    for key, group in runs.groupby(KEYS, sort=False):
        row: dict[str, Any] = dict(zip(KEYS, key)) | {"n": len(group)}
        for name in ("fit_rate", "alpha", "beta", "lam", "kappa", "window_kappa", "eta", "rho"):
            found = estimate(group[name].to_numpy())
            row |= {name: found.mean, f"{name}_half95": found.half}
        row |= {"kappa_min": group["kappa"].min(), "kappa_max": group["kappa"].max()}
        row |= {"fit_r2_min": group["fit_r2"].min(), "f_star": group["f_star"].mean()}
        row |= {"last_share_max": group["last_share"].max()} | marks(group)
        for where in ("", "window_"):
            holds = group[f"{where}bound"].notna()
            row[f"{where}bound_holds"] = int(holds.sum())
            row[f"{where}bound"] = group[f"{where}bound"].mean() if holds.all() else math.nan
            row[f"{where}largest_rho"] = group[f"{where}largest_rho"].mean()
            row[f"{where}largest_eta_sgd"] = group[f"{where}largest_eta_sgd"].mean()
        if row["optimizer"] == "SAM" and row["rates"] == "fixed":
            base = runs[runs["optimizer"] == "SGD"].merge(group[[*KEYS[:3], "seed"]])["fit_rate"]
            gain = estimate(group["fit_rate"].to_numpy() - base.to_numpy())
            row |= {"gain": gain.mean, "gain_half95": gain.half}
        # How much faster than promised: 1 is a tight bound.
        ratio = estimate(np.log10(group["fit_rate"] / group["bound"])[group["bound"].notna()])
        row |= {"log10_over_bound": ratio.mean, "log10_over_bound_half95": ratio.half}
        rows.append(row)
    return pd.DataFrame(rows)


def marks(group: pd.DataFrame) -> dict[str, str]:
    """What the worst seed of a setting allows its fit and its end to be called."""
    straight = (group["fit_r2"] >= STRAIGHT).all()
    near = NEAR if (group["last_share"] <= CLOSE).all() else FAR
    return {
        "slope": LINE if straight else AVERAGE,
        "end": NO_MINIMUM if (group["f_star"] > 0).any() else near,
    }


def trends(runs: pd.DataFrame) -> pd.DataFrame:
    """Per seed, the exponent q of rate ∝ width^q and PL ∝ width^q, over widths that interpolate."""
    rows = []
    arms = by_start(runs).groupby(["problem", "start", "optimizer", "rates"], sort=False)
    for key, group in arms:
        fits = group.groupby("width")["f_star"].max() == 0
        group = group[group["width"].isin(fits[fits].index)]
        for of in ("fit_rate", "alpha"):
            wide = group.pivot_table(index="seed", columns="width", values=of)
            if wide.shape[1] < 3:
                continue
            powers = [-theory.fit_power_law(wide.columns, row).exponent for row in wide.to_numpy()]
            found = estimate(np.array(powers))
            row = dict(zip(["problem", "start", "optimizer", "rates"], key)) | {"of": of}
            row |= {"widths": "+".join(map(str, wide.columns)), "exponent": found.mean}
            rows.append(row | {"exponent_half95": found.half, "p": found.p, "n": found.n})
    return pd.DataFrame(rows)


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """New rows in place of the old ones of their problem and width; ascending widths."""
    rows = new
    if len(old):
        again = set(zip(new["problem"], new["width"]))
        stays = [pair not in again for pair in zip(old["problem"], old["width"])]
        rows = pd.concat([old[stays], new], ignore_index=True)
    names = [problem.name for problem in problems(False)]
    order = rows["problem"].map(names.index)
    return rows.assign(order=order).sort_values(
        ["order", "width"], kind="stable", ignore_index=True
    ).drop(columns="order")  # fmt: skip


def tables(runs: pd.DataFrame, curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A row a run and a row a record, and what they come to."""
    runs = runs.assign(last_share=runs["last_loss"] / runs["first_loss"])
    return {"runs": runs, "curves": curves, "summary": summary(runs), "trends": trends(runs)}


def main() -> None:
    """Trains, fits, writes the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--problem", choices=[p.name for p in problems(False)], help="this alone")
    parser.add_argument("--width", type=int, nargs="+", help="these alone")
    parser.add_argument("--redraw", action="store_true", help="train nothing")
    parser.add_argument("--smoke", action="store_true", help="a tenth of the steps, two seeds")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = {"runs": pd.DataFrame(), "curves": pd.DataFrame()}
    if args.problem or args.width or args.redraw:
        there = {name: args.out / f"{name}.csv" for name in found}
        found |= {name: pd.read_csv(file) for name, file in there.items() if file.exists()}
    for problem in [] if args.redraw else problems(args.smoke):
        if args.problem not in (None, problem.name):
            continue
        for width in problem.widths:
            if args.width and width not in args.width:
                continue
            compiled = programs(problem, width)
            rows, curves = [], []
            for start in starts_of(problem, width):
                more = measure(problem, width, start, 2 if args.smoke else 6, *compiled)
                rows, curves = rows + more[0], curves + more[1]
                print(f"{problem.name}, {start}, width {width}", flush=True)
            found = {
                "runs": merged(found["runs"], pd.DataFrame(rows)),
                "curves": merged(found["curves"], pd.DataFrame(curves)),
            }
            write(args.out, tables(**found))
    done = tables(**found)
    write(args.out, done, convergence(done["curves"], done["summary"]))
    print(markdown([shown(row) for row in done["summary"].to_dict("records")]))


def shown(row: dict[str, Any]) -> dict[str, object]:
    """A row of `summary` as it is read: what matters most."""
    keys = {key: row[key] for key in KEYS if key != "parameters"}
    digits = 4 if row["problem"] == "matrix factorisation" else 6
    return keys | {
        "rate": f"{row['fit_rate']:.3g} ± {row['fit_rate_half95']:.2g}",
        "gain": gain(row, digits), "alpha": f"{row['alpha']:.3g}",
        "kappa": f"{row['kappa_min']:.3g} to {row['kappa_max']:.3g}",
        "proved": f"{row['bound_holds']} of {row['n']}",
        "log10 over it": gain(row, 2, "log10_over_bound"),
        "slope": row["slope"], "end": row["end"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
