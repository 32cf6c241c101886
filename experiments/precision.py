"""What low precision leaves of SAM as a network grows: of its step, and of what it adds.

python experiments/precision.py --output=experiments/results/precision

MLPs n-n on the 8×8 digits with 10⁴ to 10⁷ parameters, ten steps of SGD with momentum from their
initialisation, so that it is no special point; then one SAM step of ρ = .05 on a fresh batch of
128, in each precision. It is compared with the same step in float32 from the same weights (those
of low-precision parameters are rounded first: that is not SAM's doing). With g the gradient, ε the
perturbation and g_ε the gradient at w + ε:

- moved: of the coordinates with ε ≠ 0 the share that differs in the second pass (samop.diagnose);
- step: cosine between the perturbation as the second pass sees it and ε;
- gradient: cosine between g_ε and float32's;
- added: cosine between g_ε − g, g of the same arm, and float32's: what SAM adds to its base;
- error: ‖g_ε − float32's‖ as a share of what SAM adds, ‖g_ε − g‖ in float32.

Naive arms perturb in the parameters' own precision, or compute both passes in bfloat16; the norm
of g they take in float32. The arms of samop are `samop.sam`: perturbation and second pass in
float32. No loss is scaled. The control has no gradient in it but a Gaussian direction of length ρ,
which is what an estimate by ρ/√parameters stands for.

Each seed has an initialisation and batches of its own; ± and bands are 95 % t intervals over
seeds. Writes precision.csv (a row for each arm, size and seed), .png and .pdf, and prints the
tables. Hardware: CPUs or a GPU; two to three minutes on two cores.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

import samop
from samop import environment, trees
from samop.data import load
from samop.diagnostics import cosine
from samop.figures import save
from samop.figures.layout import STYLE, count_label
from samop.figures.looks import AMBER, BLUE, FAINT, INK
from samop.models import MODELS
from samop.precision import cast
from samop.statistics import estimate

PyTree = Any
BATCH, RATE, MOMENTUM = 128, 0.01, 0.9
SIZES = (1e4, 10**4.5, 1e5, 10**5.5, 1e6, 10**6.5, 1e7)
BFLOAT16, FLOAT16 = jnp.bfloat16, jnp.float16
GREY = {"color": FAINT, "marker": "x", "ls": (0, (4, 1.5, 1, 1.5))}
KEYS = ("parameters", "hidden", "seed", "arm", "params", "first", "second")
GEOMETRIC = ("error", "added_error")
COLUMNS = (
    "moved",
    "step",
    "step_length",
    "gradient",
    "added",
    "added_error",
    "added_share",
    "error",
)
# Title and panel titles: of what was found, where a run finds it again, and else of what is asked.
FOUND = (
    "In bfloat16 most coordinates miss SAM's step, yet what it adds keeps its direction",
    (
        "Fewer and fewer coordinates move …",
        "… so the step is turned …",
        "… but what SAM adds is hardly turned",
        "A float32 second pass errs less",
    ),
)
NEUTRAL = (
    "What 16 bits leave of a SAM step as networks grow",
    ("Coordinates that move", "The step", "What SAM adds: direction", "What SAM adds: error"),
)
CONTROL = "control: Gaussian, bfloat16 parameters"
# By default XLA may leave out a rounding to 16 bits between two operations, and on CPUs it does.
rounding_jit = functools.partial(jax.jit, compiler_options={"xla_allow_excess_precision": False})


class Arm(NamedTuple):
    """One way to take a SAM step.

    Attributes:
      params, first, second: dtypes of the parameters and of the two passes; None: float32.
      ours: by `samop.sam`; else the perturbation is made in the parameters' dtype.
      style: of its line.
    """

    params: Any
    first: Any
    second: Any
    ours: bool
    style: Mapping[str, Any]


ARMS = {
    "naive, bfloat16 parameters": Arm(
        BFLOAT16, BFLOAT16, BFLOAT16, False, {"color": AMBER, "marker": "o", "ls": "-"}
    ),
    "naive, both passes bfloat16": Arm(
        None, BFLOAT16, BFLOAT16, False, {"color": AMBER, "marker": "D", "ls": (0, (1, 1.2))}
    ),
    "naive, float16 parameters": Arm(
        FLOAT16, FLOAT16, FLOAT16, False, {"color": AMBER, "marker": "s", "ls": (0, (6, 2))}
    ),
    "samop, bfloat16 parameters": Arm(
        BFLOAT16, BFLOAT16, None, True, {"color": BLUE, "marker": "^", "ls": "-"}
    ),
    "samop, first pass bfloat16": Arm(
        None, BFLOAT16, None, True, {"color": BLUE, "marker": "P", "ls": (0, (1, 1.2))}
    ),
    "samop, float16 parameters": Arm(
        FLOAT16, FLOAT16, None, True, {"color": BLUE, "marker": "v", "ls": (0, (6, 2))}
    ),
}


class Gradients(NamedTuple):
    """A SAM step: g, g_ε, the perturbation as the second pass sees it, the share that moves."""

    clean: PyTree
    sam: PyTree
    step: PyTree
    moved: jax.Array


def hidden_width(parameters: float) -> int:
    """n for which an MLP 64-n-n-10 has about so many parameters, n² + 76 n + 10."""
    return round(math.sqrt(38**2 + parameters - 10) - 38)


def loss_of(n: int) -> tuple[Any, Callable[..., jax.Array]]:
    """The network, and `loss(params, batch, dtype)`: computed in dtype but for the softmax."""
    module = MODELS["mlp"].build({"hidden": (n, n)}, 10)

    def loss(params, batch, dtype=None):
        logits = module.apply({"params": cast(params, dtype)}, cast(batch["x"], dtype))
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            trees.wide(logits), batch["y"]
        )
        return jnp.mean(losses)

    return module, loss


def sam_step(loss: Callable[..., jax.Array], arm: Arm, rho: float) -> Callable[..., Gradients]:
    """`step(params, batch) -> Gradients` of an arm; params have its dtype."""
    tx = samop.sam(optax.identity(), rho)  # what the base would receive is the update
    grad = jax.grad(loss)

    def step(params, batch):
        state = tx.init(params)
        g = grad(params, batch, arm.first)
        if arm.ours:
            there = trees.add(params, tx.perturbation(g, state, params)[1])
            g_sam, _ = tx.update(g, state, params, grad_fn=lambda p: grad(p, batch, arm.second))
        else:
            epsilon = trees.like(trees.scale(rho / trees.norm(g), g), params)
            there = jax.tree.map(jnp.add, params, epsilon)
            g_sam = grad(there, batch, arm.second)
        seen = trees.subtract(cast(there, arm.second), cast(params, arm.second))
        here = lambda p: loss(p, batch, arm.second)  # noqa: E731
        found = samop.diagnose(tx, state, params, here, dtype=arm.second)
        return Gradients(g, g_sam, seen, found.moved)

    return rounding_jit(step)


@rounding_jit
def compare(arm: Gradients, exact: Gradients) -> dict[str, jax.Array]:
    """The columns of the CSV, of an arm's step against float32's."""
    added, wanted = (trees.subtract(step.sam, step.clean) for step in (arm, exact))
    return {
        "moved": arm.moved,
        "step": cosine(arm.step, exact.step),
        "step_length": trees.norm(arm.step) / trees.norm(exact.step),
        "gradient": cosine(arm.sam, exact.sam),
        "added": cosine(added, wanted),
        "added_error": trees.norm(trees.subtract(added, wanted)) / trees.norm(wanted),
        "error": trees.norm(trees.subtract(arm.sam, exact.sam)) / trees.norm(wanted),
        "added_share": trees.norm(wanted) / trees.norm(exact.clean),
    }


def gaussian(params: PyTree, rng: np.random.Generator, rho: float) -> dict[str, jax.Array]:
    """Of parameters that a Gaussian direction of length ρ is added to, in their dtype."""
    noise = jax.tree.map(lambda w: rng.standard_normal(w.shape, np.float32), params)
    return added_to(params, noise, rho)


@rounding_jit
def added_to(params: PyTree, direction: PyTree, rho: float) -> dict[str, jax.Array]:
    """Moved and step, where a direction of length ρ is added to parameters in their dtype."""
    wanted = trees.scale(rho / trees.norm(direction), direction)
    step = trees.subtract(jax.tree.map(jnp.add, params, trees.like(wanted, params)), params)
    moved = sum(jnp.sum(x != 0) for x in jax.tree.leaves(step)) / trees.size(params)
    return {"moved": moved, "step": cosine(step, wanted)}


def measure(parameters: float, seeds: int, steps: int, rho: float) -> list[dict[str, Any]]:
    """The rows of one size: each seed a network, trained a little, and a step in every arm."""
    digits, n = load("digits"), hidden_width(parameters)
    x, y = digits.train_x.astype(np.float32) / digits.scale, digits.train_y
    module, loss = loss_of(n)
    names = {None: "float32", BFLOAT16: "bfloat16", FLOAT16: "float16"}
    exact = sam_step(loss, Arm(None, None, None, False, {}), rho)
    takes = {name: sam_step(loss, arm, rho) for name, arm in ARMS.items()}
    sgd, init = optax.sgd(RATE, momentum=MOMENTUM), jax.jit(module.init)

    @jax.jit
    def train(params, batches):
        def body(carry, batch):
            params, state = carry
            updates, state = sgd.update(jax.grad(loss)(params, batch), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, sgd.init(params)), batches)[0][0]

    rows = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(x))
        index = np.resize(order[BATCH:], (steps, BATCH))
        before = {"x": jnp.asarray(x[index]), "y": jnp.asarray(y[index])}
        batch = {"x": jnp.asarray(x[order[:BATCH]]), "y": jnp.asarray(y[order[:BATCH]])}
        params = init(jax.random.key(seed), batch["x"][:1])["params"]
        params = train(params, before)
        size = trees.size(params)
        where = {"parameters": size, "hidden": n, "seed": seed}
        exact_at = {}
        for name, arm in ARMS.items():
            mine = cast(params, arm.params)
            if arm.params not in exact_at:
                exact_at[arm.params] = exact(trees.wide(mine), batch)
            values = compare(takes[name](mine, batch), exact_at[arm.params])
            dtypes = {k: names[getattr(arm, k)] for k in ("params", "first", "second")}
            rows.append({**where, "arm": name, **dtypes, **jax.tree.map(float, values)})
        values = gaussian(cast(params, BFLOAT16), np.random.default_rng(seed), rho)
        rows.append({**where, "arm": CONTROL, "params": "bfloat16", **jax.tree.map(float, values)})
    return rows


def middle(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean over seeds and ends of its 95 % t interval; of errors on a log scale."""
    values = rows[column].to_numpy(float)
    if column in GEOMETRIC:
        found = estimate(np.log(values))
        return tuple(math.exp(found.mean + sign * found.half) for sign in (0, -1, 1))
    found = estimate(values)
    return tuple(found.mean + sign * found.half for sign in (0, -1, 1))


def table(rows: pd.DataFrame, column: str, scale: float) -> str:
    """Markdown: arms against sizes, mean and interval."""
    rows = rows[rows[column].notna()]
    sizes = sorted(rows["parameters"].unique())
    lines = ["| | " + " | ".join(map(count_label, sizes)) + " |", "|---|" + "---|" * len(sizes)]
    for arm, mine in rows.groupby("arm", sort=False):
        cells = []
        for size in sizes:
            mean, low, high = (scale * x for x in middle(mine[mine["parameters"] == size], column))
            plain = (
                f"{mean:.1f} ± {high - mean:.1f}"
                if scale > 1
                else f"{mean:.4f} ± {high - mean:.4f}"
            )
            cells.append(f"{mean:.2g} [{low:.2g}, {high:.2g}]" if column in GEOMETRIC else plain)
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, rho: float, steps: int) -> Figure:
    """Four panels against the number of parameters, a line for each arm."""
    labels = {
        "moved": "perturbed coordinates that move (%)",
        "step": "cosine of the step with the intended one",
        "added": "cosine of g(w+ε) − g(w) with float32's",
        "error": "error of g(w+ε), % of what SAM adds",
    }
    title, titles = NEUTRAL
    bfloat16 = rows[(rows["second"] == "bfloat16")]
    means = bfloat16.groupby(["parameters", "arm"])[["moved", "added"]].mean()
    if means.loc[rows["parameters"].max(), "moved"].max() < 0.5 and means["added"].min() > 0.9:
        title, titles = FOUND
    widths = f"n = {rows['hidden'].min()} … {rows['hidden'].max()}"
    lines = [
        f"One SAM step, ρ = {rho:g}, after {steps} steps of SGD, compared with the same step in "
        f"float32. MLPs n-n on the 8×8 digits, {widths}, batch {BATCH}.",
        "naive: perturbation made, or both passes computed, in 16 bits. samop: perturbation and "
        "second pass in float32. Parameters are float32",
        "where a pass is named. Control: a Gaussian direction of length ρ in the gradient's place. "
        "What SAM adds: g(w+ε) − g(w).",
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.8, 8.7))
        figure.text(0.02, 0.984, title, size=13, weight="bold", va="top", color=INK)
        text = "\n".join(lines)
        figure.text(0.02, 0.951, text, size=9, va="top", color=FAINT, linespacing=1.4)
        for place, (column, label) in enumerate(labels.items()):
            down, across = divmod(place, 2)
            axes = figure.add_axes((0.085 + 0.5 * across, 0.545 - 0.395 * down, 0.4, 0.29))
            _lines(axes, rows, column, 100 if "%" in label else 1)
            axes.set_title(titles[place], color=INK, pad=8)
            axes.set(xlabel="parameters of the network", ylabel=label)
            if column == "error":
                axes.set(yscale="log", ylim=(0.04, max(50, 150 * rows[column].max())))
                ticks = (0.1, 0.3, 1, 3, 10, 30, 100)[: 6 + (rows[column].max() > 0.5)]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.yaxis.set_minor_locator(NullLocator())
            else:
                low = min(0.5, rows[["step", "added"]].min(axis=None) - 0.02)
                axes.set_ylim((0, 105) if column == "moved" else (low, 1.025))
        handles, _ = figure.axes[0].get_legend_handles_labels()
        band = f"and bars: 95 % t interval, {rows['seed'].nunique()} seeds"
        handles += [Patch(color="0.85", label=band), Line2D([], [], ls="", label=" ")]
        place = {"loc": "lower left", "bbox_to_anchor": (0.015, 0.0)}
        figure.legend(handles=handles, ncols=3, handlelength=3.4, **place)
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, column: str, scale: float) -> None:
    """Mean and interval of every arm that has the column, on a log axis of parameters."""
    styles = {**{name: arm.style for name, arm in ARMS.items()}, CONTROL: GREY}
    for place, (name, style) in enumerate(styles.items()):
        mine = rows[(rows["arm"] == name) & rows[column].notna()]
        found = {x: middle(of, column) for x, of in mine.groupby("parameters")}
        if not found:
            continue
        x, (mean, low, high) = np.array(list(found)), scale * np.array(list(found.values())).T
        color = style["color"]
        if column in GEOMETRIC:  # wide intervals: beside each other rather than over each other
            x = x * 1.06 ** (place - 2.5)
            axes.vlines(x, low, high, color=color, lw=1.1, alpha=0.55)
        else:
            axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
        axes.plot(x, mean, lw=1.6, ms=6, mfc="white", mew=1.4, label=name, **style)
    least, most = rows["parameters"].min(), rows["parameters"].max()
    axes.set_xscale("log")
    axes.set_xlim(least / 1.5, most * 1.5)
    ticks = [10.0**k for k in range(3, 10) if least / 1.5 < 10**k < most * 1.5]
    axes.set_xticks(ticks, [f"{count_label(tick)}".replace(".0", "") for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="experiments/results/precision", help="folder")
    parser.add_argument("--seeds", type=int, default=5, help="at least two (default: 5)")
    parser.add_argument("--steps", type=int, default=10, help="of SGD before (default: 10)")
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--largest", type=float, default=1e7, help="number of parameters")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 in float32 arms
    print(", ".join(f"{name} {value}" for name, value in environment.describe().items()))
    rows: list[dict[str, Any]] = []
    for parameters in SIZES:
        if parameters <= options.largest:
            begin = time.perf_counter()
            rows += measure(parameters, options.seeds, options.steps, options.rho)
            seconds = time.perf_counter() - begin
            print(f"{rows[-1]['parameters']:,} parameters: {seconds:.0f} s", flush=True)
    frame = pd.DataFrame(rows)[[*KEYS, *COLUMNS]]
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "precision.csv", index=False, float_format="%.6g")
    for column, head in (
        ("moved", "Perturbed coordinates that move, %"),
        ("step", "Cosine of the step with the intended one"),
        ("gradient", "Cosine of g_ε with float32's"),
        ("added", "Cosine of g_ε − g with float32's"),
        ("error", "Error of g_ε as a share of what SAM adds, % (geometric mean)"),
    ):
        print(f"\n{head}:\n\n{table(frame, column, 100 if '%' in head else 1)}")
    paths = save(draw(frame, options.rho, options.steps), folder / "precision")
    print("\nwrote", ", ".join(map(str, [folder / "precision.csv", *paths])))


if __name__ == "__main__":
    main()
