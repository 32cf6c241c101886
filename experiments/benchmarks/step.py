"""What a training step of each SAM transform costs, as a ratio to a step of its base optimiser.

python experiments/benchmarks/step.py --pairs=40 --json=step.json

First: time. The sides of a ratio run in this process and take turns, and the ratio is taken within
a turn; the tables have its median and the median's 95 % order-statistic interval, and beside them
the ratio of CPU time, which other work on the machine disturbs less. The base is SGD with momentum
.9. Each side is one compiled loop over batches that lie on the device, its state (parameters,
BatchNorm statistics, optimiser state) donated; the statistics are carried and come from the clean
pass, as in training. Two networks on random data: an MLP 784-300-100-10, 20 steps a turn, and a
ResNet-18 with 16 filters on 32×32×3, five. What a call costs however many steps it has is taken
off, by a second call of one step (its median share of the first): on a CPU fresh memory for the
activations is as dear as a step of the ResNet, and an epoch takes it once. Each call begins at step
0, so that all turns have as many second gradients. m-SAM is compared with SAM as well.

Second: the work of a transform beside its gradients and its base, counted and not timed. The update
and its addition to the parameters are compiled with calls of the host in the place of gradients:
XLA neither looks into such a call nor counts it, and does not fuse across it. So what its cost
analysis finds, less the same of the base alone, is exactly what the transform adds. Of a `cond` it
counts the dearer branch; steps with and without a second gradient are therefore compiled apart too,
with the step count a constant. Integer operations, as of random masks, count like the others.
Beside it are the gradient evaluations a step: what `samop.variants.cost` declares, what the state
says after ten steps, and how many gradients of the batch the host was really asked for in them.

Hardware: CPUs or a GPU. On two cores two minutes for the MLP, twenty for the ResNet, and half a
minute for the counts; --only takes mlp, resnet, counts, or several joined by +; --all times every
transform on the ResNet. Nothing here fails because of a time.
"""

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import summary, take_turns

import samop
from samop import environment, trees, variants
from samop.config import parse_widths
from samop.models import MODELS

PyTree = Any
RATE, RHO = 0.01, 0.05
PERIOD = 5  # LookSAM's k; and one step in five is in the window
GROUPS = 4  # of m-SAM: m is a quarter of the batch
COUNTED = 10  # steps over which gradient evaluations are counted
SCAN, VMAP = "m-SAM by scan", "m-SAM by vmap"
UNROLLED = "m-SAM by scan, unrolled"
FEW = ("sam", "looksam", "msam", SCAN)  # what is timed on the ResNet by default


class Row(NamedTuple):
    """One transform of the tables.

    Attributes:
      make: `make(base)`: the transform; of m-SAM by scan, which makes a finished gradient, `base`.
      fields: what `samop.variants.cost` is told.
      uneven: whether only one step in PERIOD has a second gradient.
    """

    make: Callable[[optax.GradientTransformation], optax.GradientTransformation]
    fields: Mapping[str, Any]
    uneven: bool = False


def rows(steps: int) -> dict[str, Row]:
    """All transforms with their own defaults; the window is a fifth of so many steps, from 1 on."""

    def plain(name: str, uneven: bool = False, **arguments: Any) -> Row:
        transform = getattr(samop, name)
        return Row(lambda base: transform(base, **arguments), {"name": name}, uneven)

    window = samop.window(1, 1 + steps // PERIOD)
    return {
        "sam": plain("sam"),
        "asam": plain("asam"),
        "gsam": plain("gsam"),
        "looksam": plain("looksam", True, k=PERIOD),
        "fsam": plain("fsam"),
        "vasso": plain("vasso"),
        "msam": plain("msam"),
        "esam": plain("esam"),
        "wsam": plain("wsam"),
        "wsam, decoupled": plain("wsam", learning_rate=RATE),
        "gnp": plain("gnp"),
        "stablesam": plain("stablesam"),
        "sam, window of 20 %": Row(
            lambda base: samop.sam(base, active=window), {"name": "sam", "end": 0.2}, True
        ),
        SCAN: Row(lambda base: base, {"name": "sam", "m": 1}),
        UNROLLED: Row(lambda base: base, {"name": "sam", "m": 1}),
        VMAP: Row(lambda base: samop.sam(base, groups=GROUPS), {"name": "sam", "m": 1}),
    }


class Network(NamedTuple):
    """A network with data.

    Attributes:
      variables: "params" and, where there are any, BatchNorm statistics.
      loss: `loss(params, batch, stats) -> (mean cross-entropy, stats)` in training mode.
      batches: "x" [steps, batch, ...] and "y" [steps, batch].
    """

    variables: dict[str, PyTree]
    loss: Callable[[PyTree, PyTree, PyTree], tuple[jax.Array, PyTree]]
    batches: dict[str, jax.Array]


def network(kind: str, fields: Mapping[str, Any], shape: Sequence[int]) -> Network:
    """A network of samop on Gaussian inputs and random labels; shape: [steps, batch, ...]."""
    module = MODELS[kind].build(fields, 10)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape, np.float32))
    y = jnp.asarray(rng.integers(0, 10, shape[:2]))
    variables = dict(jax.jit(module.init)(jax.random.key(0), x[0, :1]))

    def loss(params, batch, stats):
        logits, stats = module.apply(
            {"params": params, **stats}, batch["x"], train=True, mutable=list(stats)
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(losses), stats

    return Network(variables, loss, {"x": x, "y": y})


def gradients(loss: Callable[..., Any], row: str | None, batch: PyTree, stats: PyTree) -> Callable:
    """`both(params) -> (grads, stats, grad_fn)`, as the row's transform wants them."""
    grad = jax.grad(loss, has_aux=True)

    def both(params):
        if row in (SCAN, UNROLLED):
            made = samop.sam_gradient(
                loss,
                rho=RHO,
                m=len(batch["y"]) // GROUPS,
                has_aux=True,
                unroll=row == UNROLLED,
            )(params, batch, stats)
            return made[0], made[1].value[1], None
        if row == VMAP:
            groups = jax.tree.map(lambda a: a.reshape(GROUPS, -1, *a.shape[1:]), batch)
            grads, new = jax.vmap(grad, (None, 0, None))(params, groups, stats)
            second = jax.vmap(grad, (0, 0, None))
            new = jax.tree.map(lambda s: jnp.mean(s, 0), new)
            return grads, new, lambda moved: second(moved, groups, stats)[0]
        return *grad(params, batch, stats), lambda moved: grad(moved, batch, stats)[0]

    return both


def side(net: Network, name: str | None, row: Row | None) -> Callable[[int], None]:
    """`train(steps)`: trains, and waits; name and row None: the base alone."""
    base = optax.sgd(RATE, momentum=0.9)
    tx = optax.with_extra_args_support(row.make(base) if row else base)

    def step(state, batch):
        params, stats, opt_state = state
        grads, stats, grad_fn = gradients(net.loss, name, batch, stats)(params)
        updates, opt_state = tx.update(grads, opt_state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), stats, opt_state

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, batches, steps):
        params, stats, opt_state = state
        if hasattr(opt_state, "grad_evals"):  # a state of samop, not of optax
            opt_state = opt_state._replace(count=jnp.zeros_like(opt_state.count))
        here = lambda i: jax.tree.map(lambda a: a[i % len(a)], batches)  # noqa: E731
        # The number of steps is traced: one program for all.
        body = lambda i, state: step(state, here(i))  # noqa: E731
        return jax.lax.fori_loop(0, steps, body, (params, stats, opt_state))

    params, stats = split(net.variables)
    # Buffers of its own for every leaf: they are donated.
    state = jax.tree.map(jnp.copy, (params, stats, tx.init(params)))

    def train(steps: int) -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, net.batches, steps))
        if not np.isfinite(jax.tree.leaves(state[0])[0]).all():
            raise SystemExit(f"{name or 'base'} diverged")

    return train


def split(variables: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
    """Parameters, and the rest."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def time_steps(net: Network, names: Sequence[str], turns: int) -> dict[str, Any]:
    """Times rows against the base over as many steps as there are batches; prints the ratios.

    Args:
      net: the network.
      names: of `rows`.
      turns: counted ones, after an untimed one.
    """
    print("\n| transform | against | ratio | 95 % interval of the median | min | max | CPU time |")
    print("|---|---|---|---|---|---|---|")
    steps = len(net.batches["y"])
    table, found = rows(steps), dict[str, Any]()
    for name in names:
        sides = {"base": side(net, None, None)}
        for one in ("sam", name) if name in (SCAN, UNROLLED, VMAP) else (name,):
            sides[one] = side(net, one, table[one])
        calls = {
            (one, count): functools.partial(train, count)
            for one, train in sides.items()
            for count in (1 + steps, 1)
        }
        for call in calls.values():
            call()
        # Wall and CPU seconds, [2, turns].
        times = take_turns(calls, turns)
        seconds = {}
        for one in sides:
            whole, short = times[one, 1 + steps], times[one, 1]
            # A median, because single short calls are too easily disturbed.
            share = np.median(short / whole, axis=1, keepdims=True)
            seconds[one] = whole * (1 - share) / steps
        result: dict[str, Any] = {"seconds": {k: v.tolist() for k, v in seconds.items()}}
        for below in list(sides)[:-1]:
            wall, cpu = (summary(r) for r in seconds[name] / seconds[below])
            result[f"/ {below}"] = {"wall": wall, "cpu": cpu}
            low, high = wall["interval"]
            print(
                f"| {name} | {below} | **{wall['median']:.3f}** | [{low:.3f}, {high:.3f}] "
                f"| {wall['min']:.3f} | {wall['max']:.3f} | {cpu['median']:.3f} |",
                flush=True,
            )
        found[name] = result
    every = np.concatenate([result["seconds"]["base"][0] for result in found.values()])
    low, middle, high = 1e3 * np.quantile(every, (0.05, 0.5, 0.95))
    print(f"\nA step of the base took {middle:.2f} ms (90 % of turns: {low:.2f} to {high:.2f}).")
    return found


class Host:
    """A gradient that the host computes, w of ½‖w‖²; it counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def grad(self, params: PyTree, batch: PyTree = ()) -> PyTree:
        """Of a batch it only sees that it is another one: XLA may not merge the calls."""
        return jax.pure_callback(self._answer, jax.eval_shape(lambda p: p, params), params, batch)

    def loss(self, params: PyTree, batch: PyTree) -> jax.Array:
        """A loss of value 0 with that gradient."""
        value = jax.custom_vjp(lambda params, batch: jnp.zeros(()))
        value.defvjp(lambda *args: (jnp.zeros(()), args), lambda args, _: (self.grad(*args), None))
        return value(params, batch)

    def _answer(self, params: PyTree, batch: PyTree) -> PyTree:
        self.calls += 1
        return params


def whole_update(name: str, tx: optax.GradientTransformationExtraArgs, groups: int) -> Callable:
    """`update(params, opt_state, grads, host) -> (params, opt_state)`; grads None: the host's."""

    def update(params, opt_state, grads, host):
        if name == SCAN:
            gradient = samop.sam_gradient(host.loss, rho=RHO, m=1)
            grads, _ = gradient(params, jnp.arange(groups))
        elif grads is None:
            stack = lambda w: jnp.broadcast_to(w, (groups, *w.shape))  # noqa: E731
            grads = host.grad(jax.tree.map(stack, params) if name == VMAP else params)
        updates, opt_state = tx.update(grads, opt_state, params, grad_fn=host.grad)
        return optax.apply_updates(params, updates), opt_state

    return update


def work(
    name: str, tx: optax.GradientTransformation, params: PyTree, groups: int = 1, count=None
) -> np.ndarray:
    """(flops, bytes accessed) of an update as XLA counts them; count: the step, None: traced."""
    tx = optax.with_extra_args_support(tx)
    update, host = whole_update(name, tx, groups), Host()

    def program(params, opt_state, grads):
        if count is not None:
            opt_state = opt_state._replace(count=np.int32(count))
        return update(params, opt_state, grads, host)

    lead = (groups,) if name == VMAP else ()
    grads = jax.tree.map(lambda w: jax.ShapeDtypeStruct((*lead, *w.shape), w.dtype), params)
    donated = jax.jit(program, donate_argnums=(0, 1))
    lowered = donated.lower(params, jax.eval_shape(tx.init, params), grads)
    found = lowered.compile().cost_analysis()
    return np.array([found["flops"], found["bytes accessed"]])


def own_work(name: str, row: Row, params: PyTree) -> dict[str, list[float]]:
    """(flops, bytes) a parameter beside gradients and base: of each kind of step that there is."""
    base, size = optax.sgd(RATE, momentum=0.9), trees.size(params)
    tx = row.make(base)
    if name == SCAN:
        # The first group is outside of the loop, whose body XLA counts once; then the sum is
        # divided, inside the base's kernels, by another number than one.
        first, total = (work(name, tx, params, groups) for groups in (1, GROUPS))
        division = np.array([size, 0.0])
        cost = {"": first + (GROUPS - 1) * (total - division - first) + division}
    elif row.uneven:
        steps = (0, 1) if name == "looksam" else (1, 0)
        kinds = {"with 2nd gradient": steps[0], "without": steps[1], "either, by cond": None}
        cost = {kind: work(name, tx, params, count=step) for kind, step in kinds.items()}
    else:
        cost = {"": work(name, tx, params, GROUPS)}
    alone = work("base", base, params)
    return {kind: ((total - alone) / size).tolist() for kind, total in cost.items()}


def evaluations(name: str, row: Row) -> dict[str, float]:
    """Gradient evaluations a step over ten steps: declared, in the state, and seen by the host."""
    host, params = Host(), {"w": jnp.ones(3)}
    tx = optax.with_extra_args_support(row.make(optax.sgd(RATE, momentum=0.9)))
    update = jax.jit(functools.partial(whole_update(name, tx, GROUPS), grads=None, host=host))
    opt_state = tx.init(params)
    for _ in range(COUNTED):
        params, opt_state = jax.block_until_ready(update(params, opt_state))
    seen = host.calls / COUNTED / (GROUPS if name == SCAN else 1)
    result = {"declared": variants.cost(row.fields), "seen": seen}
    if hasattr(opt_state, "grad_evals"):
        result["state"] = int(opt_state.grad_evals) / COUNTED
    return result


def count_work(params: PyTree) -> dict[str, Any]:
    """Counts the work of every transform; prints and returns it."""
    alone = work("base", optax.sgd(RATE, momentum=0.9), params) / trees.size(params)
    print(
        "\nA parameter and step, beside the gradients and the base "
        f"(which has {alone[0]:.2f} flops and {alone[1]:.1f} bytes):\n"
    )
    print("| transform | step | flops | bytes | gradients: declared | state | made |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for name, row in rows(COUNTED).items():
        if name == UNROLLED:
            continue  # the same work as by a loop
        cost, evals = own_work(name, row, params), evaluations(name, row)
        state = f"{evals['state']:.1f}" if "state" in evals else "–"
        for kind, (flops, size) in cost.items():
            print(
                f"| {name} | {kind} | {flops:.2f} | {size:.1f} | {evals['declared']:.1f} "
                f"| {state} | {evals['seen']:.1f} |",
                flush=True,
            )
        found[name] = {"own": cost, "gradients": evals}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="mlp+resnet+counts", help="parts, joined by +")
    parser.add_argument("--pairs", type=int, default=40, help="counted turns (default: 40)")
    parser.add_argument("--width", default="300-100", help="hidden sizes of the MLP")
    parser.add_argument("--filters", type=int, default=16, help="of the ResNet's first stage")
    parser.add_argument("--batch", type=int, default=128, help=f"a multiple of {GROUPS}")
    parser.add_argument("--transforms", default="", help="those to time, joined by +")
    parser.add_argument("--all", action="store_true", help="all transforms on the ResNet too")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    parts, names = options.only.split("+"), list(rows(PERIOD))
    chosen = options.transforms.split("+") if options.transforms else names
    if unknown := {*parts} - {"mlp", "resnet", "counts"} | {*chosen} - {*names}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; transforms: {', '.join(names)}")
    if options.batch % GROUPS or options.batch < GROUPS:
        parser.error(f"--batch={options.batch}: m-SAM takes a multiple of {GROUPS}")
    machine = environment.describe() | {"load before": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    (hidden,) = parse_widths(options.width)
    mlp = network("mlp", {"hidden": hidden}, (4 * PERIOD, options.batch, 28, 28, 1))
    if "mlp" in parts:
        print(f"\nMLP 784-{options.width}-10, batch {options.batch}, {options.pairs} turns")
        result["mlp"] = time_steps(mlp, chosen, options.pairs)
    if "resnet" in parts:
        fields = {"filters": options.filters}
        net = network("resnet18", fields, (PERIOD, options.batch, 32, 32, 3))
        some = chosen if options.all or options.transforms else FEW
        print(f"\nResNet-18, filters {options.filters}, batch {options.batch}, ", end="")
        print(f"{options.pairs} turns")
        result["resnet"] = time_steps(net, some, options.pairs)
    if "counts" in parts:
        result["counts"] = count_work(mlp.variables["params"])
    result["load after"] = os.getloadavg()[0]
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
