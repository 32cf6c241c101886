"""What SAM's solutions look like beside gradient descent's as a network outgrows its data.

python experiments/solution_space.py [--smoke] [--out=experiments/results/solution_space]

A two-layer ReLU network of one input and 12 points, in the setting of arXiv 2206.06232's code: loss
½Σ(f(x) − y)², full batch, constant rate 5·10⁻⁵, 4·10⁵ steps, float64; input weights ±2.5, biases
2.5·N(0, 1), output weights 4·N(0, 1), no output bias. Of each width and seed one initialisation,
from which gradient descent (GD) and SAM (normalised, ρ = .1 and .3) go as many steps. At a constant
ρ SAM hovers around what it found, so that part of a difference could be a fit that is less exact:
a further arm continues SAM's with half as many steps of GD.

Measured, on the interval that the points span where not said otherwise:

- train_loss, r2; interpolates: r2 of .99 or more;
- pieces, visible_pieces (of a polyline within .1 of f), total_variation (of the slope), path_norm;
- lambda_max of the Hessian of the loss, from all its entries;
- seed_variance: mean over x of the squared distance from the other seeds' mean function, scaled so
  that its mean over seeds is their sample variance; log_seed_variance: jackknife pseudo-values of
  that variance's logarithm, by which arms are compared;
- travel from the initialisation; distance_gd from GD's solution, of parameters, and function_
  distance_gd, root mean square over x;
- barrier_gd: rise of the loss above both ends on the straight way to GD's solution; way_barrier_gd:
  on a way that is not straight, along SAM's own trajectory back to where it was recorded nearest to
  GD's solution, and straight on from there: no more than that separates the two;
- plane_share, plane_share_gd: of the distance that SAM, and GD, is from the initialisation the part
  in the plane of initialisation and both solutions, mean over what was recorded along the way.

Writes solutions.csv (a row for each width, arm and seed), summary.csv (means, t intervals over
seeds, and against GD of the same seed: differences, and ratios of geometric means), trends.csv (the
factor by which SAM/GD changes as the width doubles), functions.csv (narrowest and widest network),
and three figures; prints the summary. Hardware: CPUs; 26 minutes on two cores that were shared with
several other runs, less where they are free; --smoke 1 minute.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import samop
from samop import environment, piecewise, planes
from samop.figures import solutions as drawing
from samop.figures.layout import save
from samop.statistics import estimate
from samop.trajectory import trajectory

RATE, TOLERANCE = 5e-5, 0.1
X = (np.arange(12) - 5.5) / 4 + 0.07
Y = 0.345 + np.array([-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1.0])
LOW, HIGH = float(X[0]), float(X[-1])
INSIDE = np.linspace(LOW, HIGH, 1101)
DRAWN = np.round(np.linspace(-1.75, 1.9, 147), 3)
WIDTHS, RHOS = (10, 18, 32, 56, 100), (0.1, 0.3)
# Measures that are positive, so that arms are compared by their ratio.
RATIOS = (
    "total_variation", "path_norm", "lambda_max", "seed_variance", "pieces", "visible_pieces",
    "travel",
)  # fmt: skip
DIFFERENCES = ("train_loss", "r2", "interpolates")
ALONE = (
    "function_distance_gd", "barrier_gd", "way_barrier_gd", "plane_share", "plane_share_gd",
)  # fmt: skip


def initial(seed: int, width: int) -> np.ndarray:
    """Parameters [3, width] of a seed."""
    rng = np.random.default_rng([seed, width])
    return np.stack([
        2.5 * rng.choice([-1.0, 1.0], width),
        2.5 * rng.standard_normal(width),
        4.0 * rng.standard_normal(width),
    ])  # fmt: skip


def loss(params: jax.Array, _: Any = ()) -> jax.Array:
    """½Σ(f(x) − y)² of params [3, n]."""
    return 0.5 * jnp.sum((piecewise.evaluate(params, jnp.asarray(X)) - jnp.asarray(Y)) ** 2)


@jax.jit
def flat_losses(points: jax.Array) -> jax.Array:
    """Losses [k] of parameters that are flat, [k, 3n]."""
    return jax.vmap(lambda point: loss(point.reshape(3, -1)))(points)


@jax.jit
def top_curvatures(params: jax.Array) -> jax.Array:
    """λ_max of the Hessian of each of [seeds, 3, n]."""

    def top(one):
        size = one.size
        return jnp.linalg.eigvalsh(jax.hessian(loss)(one).reshape(size, size))[-1]

    return jax.lax.map(top, params)


@functools.partial(jax.jit, static_argnums=(0, 2))
def descend(rho: float, params: jax.Array, steps: int) -> jax.Array:
    """SAM from params [seeds, 3, n]; ρ = 0 is GD. What it passes, [seeds, records, 3, n].

    The first hundredth of the steps is recorded as densely as all the others: the loss falls there.
    """
    tx = samop.sam(optax.sgd(RATE), rho)

    def some(start, steps, records):
        every = steps // records
        return trajectory(tx, loss, start, lambda _: (), steps, every=every, record=lambda p: p)

    def one(start):
        middle, first = some(start, steps // 100, 100)
        _, second = some(middle, steps - steps // 100, 99)
        return jnp.concatenate([first, second[1:]])

    return jax.vmap(one)(params)


def seed_variance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of functions [seeds, x]: each seed's part of the variance, pseudo-values of its logarithm."""
    n = len(values)
    others = ~np.eye(n, dtype=bool)
    parts = np.mean((values - values.mean(0)) ** 2, axis=1) * n / (n - 1)
    without = [np.log(values[rest].var(0, ddof=1).mean()) for rest in others]
    return parts, n * np.log(parts.mean()) - (n - 1) * np.array(without)


def measure(params: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of solutions.csv that one arm alone has, each [seeds]."""
    values = np.stack([piecewise.evaluate(p, INSIDE) for p in params])
    errors = np.asarray(flat_losses(params.reshape(len(params), -1)))
    r2 = 1 - errors / (0.5 * np.sum((Y - Y.mean()) ** 2))
    parts, logarithms = seed_variance(values)
    return {
        "train_loss": errors,
        "r2": r2,
        "interpolates": (r2 >= 0.99).astype(int),
        "pieces": np.array([piecewise.pieces(p, LOW, HIGH) for p in params]),
        "visible_pieces": np.array(
            [piecewise.visible_pieces(p, LOW, HIGH, TOLERANCE) for p in params]
        ),
        "total_variation": np.array([piecewise.total_variation(p, LOW, HIGH) for p in params]),
        "path_norm": np.array([piecewise.path_norm(p) for p in params]),
        "lambda_max": np.asarray(top_curvatures(params)),
        "seed_variance": parts,
        "log_seed_variance": logarithms,
        "travel": np.linalg.norm((params - start).reshape(len(params), -1), axis=1),
    }


def against_gd(path: np.ndarray, gd: np.ndarray) -> dict[str, float]:
    """Distances of one seed's SAM from its GD: paths [records, 3, n] from the same start."""
    flat, flat_gd = (p.reshape(len(p), -1) for p in (path, gd))
    plane = planes.through(flat[0], flat[-1], flat_gd[-1])
    nearest = int(np.argmin(np.linalg.norm(flat - flat_gd[-1], axis=1)))
    t = np.linspace(0, 1, 101)[:, None]
    straight = np.asarray(flat_losses((1 - t) * flat_gd[-1] + t * flat[nearest]))
    along = np.asarray(flat_losses(flat))[nearest:]
    highest = max(straight.max(), along.max())
    apart = piecewise.evaluate(path[-1], INSIDE) - piecewise.evaluate(gd[-1], INSIDE)
    return {
        "distance_gd": float(np.linalg.norm(flat[-1] - flat_gd[-1])),
        "function_distance_gd": float(np.sqrt(np.mean(apart**2))),
        "barrier_gd": planes.barrier(flat_losses, flat_gd[-1], flat[-1]),
        "way_barrier_gd": float(highest - max(straight[0], along[-1])),
        "plane_share": float(plane.share(flat[1:]).mean()),
        "plane_share_gd": float(plane.share(flat_gd[1:]).mean()),
    }


def rows_of(width: int, arm: str, rho: float, columns: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({"width": width, "arm": arm, "rho": rho, **columns})


def one_width(width: int, seeds: int, steps: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows of a width, and each arm's path [seeds, records, 3, n]."""
    start = np.stack([initial(seed, width) for seed in range(seeds)])
    paths = {drawing.GD: np.asarray(descend(0.0, start, steps))}
    number = {"seed": np.arange(seeds)}
    tables = [
        rows_of(width, drawing.START, 0.0, {**number, **measure(start, start)}),
        rows_of(width, drawing.GD, 0.0, {**number, **measure(paths[drawing.GD][:, -1], start)}),
    ]
    for rho in RHOS:
        arm = drawing.sam(rho)
        paths[arm] = np.asarray(descend(rho, start, steps))
        continued = descend(0.0, paths[arm][:, -1], steps // 2)
        paths[drawing.then_gd(rho)] = np.concatenate([paths[arm], continued[:, 1:]], axis=1)
        for name in (arm, drawing.then_gd(rho)):
            pairs = [against_gd(*pair) for pair in zip(paths[name], paths[drawing.GD])]
            columns = {**number, **measure(paths[name][:, -1], start)}
            tables.append(
                pd.concat([rows_of(width, name, rho, columns), pd.DataFrame(pairs)], axis=1)
            )
    return pd.concat(tables, ignore_index=True), paths


def logarithms(rows: pd.DataFrame, name: str) -> pd.Series:
    """The logarithm by which a positive measure is compared; index: width, seed."""
    rows = rows.set_index(["width", "seed"])
    return rows["log_seed_variance"] if name == "seed_variance" else np.log(rows[name])


def relative(rows: pd.DataFrame, arm: str, name: str) -> pd.Series:
    """Logarithm of a measure over GD's of the same width and seed; of the distance, over GD's
    travel."""
    base = "travel" if name == "distance_gd" else name
    return logarithms(rows[rows["arm"] == arm], name) - logarithms(
        rows[rows["arm"] == drawing.GD], base
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each width, arm and measure: mean and interval, and the comparison with GD."""
    lines = []
    gd = rows[rows["arm"] == drawing.GD].set_index(["width", "seed"])
    for (width, arm, rho), mine in rows.groupby(["width", "arm", "rho"], sort=False):
        mine = mine.set_index(["width", "seed"])
        for name in (*DIFFERENCES, *RATIOS, "distance_gd", *ALONE):
            values = mine[name]
            if values.isna().all() or (arm == drawing.START and name == "travel"):
                continue
            found = estimate(values)
            line = {"width": width, "arm": arm, "rho": rho, "measure": name}
            line |= {"mean": found.mean, "half95": found.half, "n": found.n}
            if arm != drawing.GD and name in (*DIFFERENCES, *RATIOS):
                gap = estimate((values - gd[name]).loc[values.index])
                line |= {"difference": gap.mean, "difference_half95": gap.half}
            if arm != drawing.GD and name in (*RATIOS, "distance_gd"):
                ratio = estimate(relative(rows, arm, name).loc[width])
                line |= dict(zip(("ratio", "ratio_low", "ratio_high"), factors(ratio)))
                line |= {"ratio_p": ratio.p}
            lines.append(line)
    return pd.DataFrame(lines)


def factors(found: Any) -> tuple[float, float, float]:
    """A mean of logarithms and the ends of its interval, as factors."""
    return tuple(float(np.exp(found.mean + sign * found.half)) for sign in (0, -1, 1))


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """The factor by which a ratio to GD changes as the width doubles: a slope of each seed."""
    lines = []
    for arm in rows["arm"].unique():
        if arm in (drawing.GD, drawing.START):
            continue
        for name in (*RATIOS, "distance_gd"):
            table = relative(rows, arm, name).unstack("seed")
            slopes = np.polyfit(np.log2(table.index.to_numpy(float)), table.to_numpy(), 1)[0]
            found = estimate(slopes)
            named = zip(("per_doubling", "low", "high"), factors(found))
            lines.append({"arm": arm, "measure": name, **dict(named), "p": found.p, "n": found.n})
    return pd.DataFrame(lines)


def chosen(rows: pd.DataFrame, width: int, arm: str) -> int:
    """The seed whose distance from GD is the median of all, the lower of two."""
    mine = rows[(rows["width"] == width) & (rows["arm"] == arm)].sort_values("distance_gd")
    return int(mine["seed"].iloc[(len(mine) - 1) // 2])


def view(width: int, seed: int, arm: str, paths: dict[str, np.ndarray]) -> drawing.View:
    """The plane of one seed's initialisation and solutions."""
    flat = {name: paths[name][seed].reshape(paths[name].shape[1], -1) for name in (drawing.GD, arm)}
    plane = planes.through(flat[arm][0], flat[arm][-1], flat[drawing.GD][-1])
    along = {name: plane.coordinates(path) for name, path in flat.items()}
    everything = np.concatenate(list(along.values()))
    middle = (everything.min(0) + everything.max(0)) / 2
    reach = 0.62 * float(np.ptp(everything, axis=0).max())
    c1, c2 = (np.linspace(m - reach, m + reach, 151) for m in middle)
    shares = {name: float(plane.share(path[1:]).mean()) for name, path in flat.items()}
    grid = planes.loss_grid(flat_losses, plane, c1, c2)
    return drawing.View(width, seed, c1, c2, grid, along, shares)


def functions(width: int, paths: dict[str, np.ndarray]) -> pd.DataFrame:
    """f of each arm and seed on the x that are drawn, one a column."""
    return pd.concat(
        [
            pd.DataFrame(
                [piecewise.evaluate(p, DRAWN) for p in path[:, -1]], columns=DRAWN
            ).rename_axis("seed").reset_index().assign(width=width, arm=arm)
            for arm, path in paths.items()
            if arm == drawing.GD or arm in map(drawing.sam, RHOS)
        ]
    ).set_index(["width", "arm", "seed"])  # fmt: skip


def cell(row: pd.Series) -> str:
    """Mean and interval, and the ratio to GD in brackets."""
    text = f"{row['mean']:.3g} ± {row['half95']:.2g}"
    if np.isfinite(row.get("ratio", np.nan)):
        text += f" (×{row['ratio']:.2g} [{row['ratio_low']:.2g}, {row['ratio_high']:.2g}])"
    return text


def table(found: pd.DataFrame, names: Sequence[str]) -> str:
    """Markdown: a row for each width and arm."""
    lines = [f"| width | arm | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for (width, arm), mine in found.groupby(["width", "arm"], sort=False):
        mine = mine.set_index("measure")
        cells = [cell(mine.loc[name]) if name in mine.index else "–" for name in names]
        lines.append(f"| {width} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(out: Path, widths: Sequence[int], seeds: int, steps: int, say: Callable) -> None:
    """Trains, measures, writes the tables and figures to a folder, and says the summary."""
    tables, drawn, views = [], [], []
    shown = drawing.sam(max(RHOS))
    for width in widths:
        begin = time.perf_counter()
        rows, paths = one_width(width, seeds, steps)
        tables.append(rows)
        if width in (min(widths), max(widths)):
            drawn.append(functions(width, paths))
            views.append(view(width, chosen(rows, width, shown), shown, paths))
        say(f"width {width}: {time.perf_counter() - begin:.0f} s")
    rows, curves = pd.concat(tables, ignore_index=True), pd.concat(drawn)
    found, slopes = summary(rows), trends(rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in {"solutions": rows, "summary": found, "trends": slopes}.items():
        frame.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    curves.reset_index().to_csv(out / "functions.csv", index=False, float_format="%.3f")
    say(f"\nMean ± 95 % t interval, n = {seeds} seeds; in brackets the ratio to GD (distance_gd: to"
        " GD's travel) with its interval\n")  # fmt: skip
    for names in (
        ("train_loss", "interpolates", "pieces", "visible_pieces"),
        ("total_variation", "path_norm", "lambda_max", "seed_variance"),
        ("travel", "distance_gd", "function_distance_gd", "barrier_gd", "way_barrier_gd"),
    ):
        say(table(found, names) + "\n")
    say("SAM/GD changes, as the width doubles, by a factor of\n")
    for row in slopes.itertuples():
        say(f"{row.arm}, {row.measure}: {row.per_doubling:.3g} [{row.low:.3g}, {row.high:.3g}]")
    points = np.stack([X, Y], axis=1)
    what = (
        f"two-layer ReLU network of one input, {len(X)} points, loss ½Σ(f(x) − y)², "
        f"{steps:,} full-batch steps"
    )
    shown_arms = [drawing.GD, *map(drawing.sam, RHOS), drawing.then_gd(max(RHOS))]
    for name, figure in {
        "functions": drawing.functions(curves, points, [drawing.GD, shown], what),
        "measures": drawing.measures(rows, shown_arms, what),
        "planes": drawing.planes(views, shown, what),
    }.items():
        for path in save(figure, out / name):
            say(f"wrote {path}")


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "solution_space", help="folder")
    parser.add_argument("--seeds", type=int, default=20, help="at least three (default: 20)")
    parser.add_argument("--steps", type=int, default=400_000, help="a multiple of 20,000")
    parser.add_argument("--smoke", action="store_true", help="two widths, 3 seeds, 20,000 steps")
    options = parser.parse_args()
    if options.seeds < 3:
        parser.error(
            f"--seeds={options.seeds} should be at least 3: a variance without one of them"
        )
    if options.steps < 20_000 or options.steps % 20_000:
        parser.error(f"--steps={options.steps} should be a positive multiple of 20,000")
    jax.config.update("jax_enable_x64", True)
    print(", ".join(f"{name} {value}" for name, value in environment.describe().items()))
    size = ((10, 100), 3, 20_000) if options.smoke else (WIDTHS, options.seeds, options.steps)
    run(options.out, *size, say=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
