"""Top Hessian eigenvalues by samop against curvlinops (with SciPy's eigsh) and PyHessian.

python experiments/benchmarks/curvature.py --turns=9 --json=curvature.json

All sides run in this process and take turns; what counts is the median of the ratios within a turn.
Beside it is the ratio of CPU time, which other work disturbs less; where others use the machine,
taskset -c 0 gives each side one thread, and none waits for another.
They get the same weights, examples and number of threads, and batches of the size that suits them;
the networks are rebuilt in PyTorch with samop's weights, and the losses must agree to 1e-5. Each
turn starts from new random vectors, on all sides.

mlp: the five largest to a tolerance of 1e-3, MLP 784-300-100-10 after three epochs of MNIST, 10,000
training examples. A samop turn is the whole `top_eigenvalues`, with the test that the loss is a
mean; curvlinops's operator is built, and tested in its way, outside of the time. ARPACK's tolerance
is of each eigenvalue's own size, samop's of the largest, so a second samop row asks for what
ARPACK does. The first call, which compiles, is in a column of its own. The residuals come from
PyTorch's double backward in float64, which neither side uses. --pyhessian adds PyHessian.
product: a product as Lanczos makes it (`op(v)`) against the gradient of the same loss over the same
batches, both compiled.
memory: see curvature_memory.py; 10⁷ parameters, ten eigenvalues.
resnet: as mlp with ResNet-18, 16 filters, 1,024 images of CIFAR-10, its BatchNorm in evaluation
mode after three short epochs on these images. Residuals in float32.

Needs the extra samop[bench] and MNIST and CIFAR-10 (python -m samop.data prepare mnist cifar10).
Hardware: CPUs. On two cores about a minute for mlp and product with nine turns, more with
PyHessian; --only takes several parts joined by +. Nothing here fails because of a time.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import curvature_memory
import curvature_torch as peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from timing import summary, take_turns

from samop import data, environment, hessian, trees
from samop.models import MODELS

PyTree = Any
TOL = 1e-3
BATCH = 2500  # MLP: what curvlinops is fastest with; samop is as fast with 1,000
RESNET_BATCH = (32, 128)  # what samop and curvlinops are fastest with
PARTS = ("mlp", "product", "memory", "resnet")
OURS, STRICT, PEER, POWER = "samop", "samop, ARPACK's tolerance", "curvlinops + eigsh", "PyHessian"


class Problem(NamedTuple):
    """A network with weights, and the examples of the loss whose Hessian is wanted.

    Attributes:
      variables: "params" and, where there are any, BatchNorm statistics.
      loss: `loss(params, batch) -> scalar`, in evaluation mode.
      batch: "x" [n, ...] and "y" [n].
    """

    variables: Mapping[str, PyTree]
    loss: Callable[[PyTree, PyTree], jax.Array]
    batch: dict[str, jax.Array]


def problem(
    kind: str, fields: Mapping[str, Any], name: str, examples: int, trained_on: int
) -> Problem:
    """Trains a network for three epochs: momentum .9, batches of 128.

    Args:
      kind: of `samop.models`.
      fields: its fields.
      name: of the data set.
      examples: how many of the training part the loss is of: the first.
      trained_on: how many it is trained on; 0: all.
    """
    dataset = data.load(name)
    x = np.asarray(dataset.train_x[: trained_on or None], np.float32) / dataset.scale
    if kind != "mlp":
        x = (x - np.float32(dataset.mean)) / np.float32(dataset.std)
    y = np.asarray(dataset.train_y[: len(x)])
    module = MODELS[kind].build(fields, dataset.num_classes)
    variables = train(module, jnp.asarray(x), jnp.asarray(y))
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params, batch):
        logits = module.apply({"params": params, **rest}, batch["x"])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(losses)

    some = {"x": jnp.asarray(x[:examples]), "y": jnp.asarray(y[:examples])}
    return Problem(variables, loss, some)


def train(module: Any, x: jax.Array, y: jax.Array, epochs=3, size=128, rate=0.05) -> PyTree:
    """Variables after some epochs."""
    variables = dict(jax.jit(module.init)(jax.random.key(0), x[:1]))
    params = variables.pop("params")
    tx = optax.sgd(rate, momentum=0.9)

    def step(state, index):
        params, stats, opt_state = state

        def loss(params):
            logits, new = module.apply(
                {"params": params, **stats}, x[index], train=True, mutable=list(stats)
            )
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y[index])
            return jnp.mean(losses), new

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), None

    steps = len(x) // size
    orders = [jax.random.permutation(jax.random.key(e), len(x)) for e in range(epochs)]
    order = jnp.concatenate([o[: steps * size].reshape(steps, size) for o in orders])
    run = jax.jit(lambda state, order: jax.lax.scan(step, state, order)[0])
    params, stats, _ = run((params, variables, tx.init(params)), order)
    return {"params": params, **stats}


def samop_side(this: Problem, k: int, size: int, tol: float) -> Callable[[], peers.Answer]:
    """k eigenvalues by samop, a new key for each call; their vectors still samop's pytree."""
    stack = hessian.stack(this.batch, size)
    params, seeds = this.variables["params"], itertools.count()

    def solve() -> peers.Answer:
        found = hessian.top_eigenvalues(
            this.loss, params, stack, k, key=jax.random.key(next(seeds)), tol=tol, vectors=True
        )
        if not found.converged:
            print(f"not converged: residuals {found.residuals}")
        vectors = jax.block_until_ready(found.vectors)
        return peers.Answer(np.asarray(found.values), vectors, int(found.num_matvecs))

    return solve


def converted(answer: peers.Answer, model: torch.nn.Module) -> peers.Answer:
    """samop's answer, a pytree with a leading axis, as the peers give theirs."""
    if isinstance(answer.vectors, list):
        return answer
    each = [jax.tree.map(lambda x, i=i: x[i], answer.vectors) for i in range(len(answer.values))]
    return answer._replace(vectors=[peers.in_torch_order(model, v) for v in each])


def eigenvalues(
    this: Problem,
    model: torch.nn.Module,
    k: int,
    sizes: tuple[int, int],
    turns: int,
    more: bool,
    power: bool = False,
) -> dict[str, Any]:
    """Times all sides on one problem; prints and returns the tables.

    Args:
      this: the problem.
      model: its network in PyTorch, weights not yet copied.
      k: number of eigenvalues.
      sizes: examples a batch, for samop and for the peers.
      turns: counted ones.
      more: residuals in float64, and samop with ARPACK's tolerance.
      power: PyHessian too.
    """
    twin = peers.twin(model, this.variables, this.batch, sizes[1])
    losses = float(jax.jit(this.loss)(this.variables["params"], this.batch)), twin.loss()
    print(f"loss: samop {losses[0]:.7f}, PyTorch {losses[1]:.7f}; batches of {sizes}")
    if abs(losses[0] - losses[1]) > 1e-5:
        raise SystemExit("the networks differ")
    sides = {
        OURS: samop_side(this, k, sizes[0], TOL),
        PEER: peers.curvlinops(twin, k, TOL),
    }
    if power:
        sides[POWER] = peers.pyhessian(twin, k)
    answers: dict[str, list[peers.Answer]] = {name: [] for name in sides}
    first, counted = {}, {}

    def call(name: str) -> None:
        answers[name].append(sides[name]())

    for name in list(sides):
        first[name] = timed(lambda name=name: call(name))
        counted[name] = lambda name=name: call(name)
    if more:
        # ARPACK wants a residual below tol · θ of each, samop one below tol · θ₁.
        values = answers[PEER][0].values
        sides[STRICT] = samop_side(this, k, sizes[0], TOL * values[-1] / values[0])
        answers[STRICT] = []
        counted[STRICT] = lambda: call(STRICT)  # the first row's programs
    times = take_turns(counted, turns)
    dtype = torch.float64 if more else torch.float32
    result: dict[str, Any] = {"losses": losses, "sides": {}, "ratios": {}}
    print(
        "\n| side | seconds: median | min | max | first call | products | residual / θ₁ | values |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in counted:
        found = [answer.products for answer in answers[name]]
        last = converted(answers[name][-1], model)
        residual = peers.residuals(twin, last, dtype)
        row = summary(times[name][0]) | {
            "first": first.get(name),
            "raw": times[name][0].tolist(),
            "products": found,
            "values": last.values.tolist(),
            "residuals": residual.tolist(),
        }
        result["sides"][name] = row
        span = f"{min(found)}–{max(found)}" if min(found) < max(found) else str(found[0])
        print(
            "| {} | {median:.2f} | {min:.2f} | {max:.2f} ".format(name, **row)
            + f"| {format(first[name], '.2f') if name in first else '–'} | {span} "
            + f"| {max(residual):.1e} "
            + f"| {', '.join(f'{v:.5f}' for v in last.values)} |"
        )
    pairs = [(OURS, PEER), (STRICT, PEER), (OURS, POWER)]
    compared = [(a, b) for a, b in pairs if a in times and b in times]
    result["ratios"] = ratios(compared, times)
    return result


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratios(
    pairs: Sequence[tuple[str, str]], times: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Prints and returns the medians of ratios within a turn, with intervals, and of CPU time."""
    print("\n| ratio | median | interval | coverage | min | max | CPU time |")
    print("|---|---|---|---|---|---|---|")
    rows = {}
    for above, below in pairs:
        wall, cpu = times[above] / times[below]
        row = rows[f"{above} / {below}"] = summary(wall) | {"cpu": float(np.median(cpu))}
        low, high = row["interval"]
        print(
            f"| {above} / {below} | {row['median']:.3f} | [{low:.3f}, {high:.3f}] "
            f"| {row['coverage']:.1%} | {row['min']:.3f} | {row['max']:.3f} | {row['cpu']:.3f} |"
        )
    return rows


def product(this: Problem, turns: int) -> dict[str, Any]:
    """A product of the operator against a gradient over the same batches."""
    n, params = len(this.batch["y"]), this.variables["params"]
    stack = hessian.stack(this.batch, BATCH)

    @jax.jit
    def gradient(params, batches):
        def add(total, batch):
            return trees.add(total, jax.grad(this.loss)(params, batch)), None

        zero = jax.tree.map(jnp.zeros_like, params)
        return trees.scale(BATCH / n, jax.lax.scan(add, zero, batches)[0])

    v = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape, x.dtype), params)
    sides = {"gradient": lambda: jax.block_until_ready(gradient(params, stack.batches))}
    # By default what a product needs of the two passes is kept, where it fits; else made anew.
    for name, keep in (("product", "auto"), ("product, linearize=False", False)):
        op = hessian.hessian(this.loss, params, stack, linearize=keep)
        sides[name] = lambda op=op: jax.block_until_ready(op(v))
    for call in sides.values():
        call()
    times = take_turns(sides, 5 * turns)
    print(f"\none product and one gradient, {n} examples by {BATCH}, {5 * turns} turns")
    for name, (wall, _) in times.items():
        print(f"{name}: median {np.median(wall) * 1e3:.1f} ms")
    found = ratios([(name, "gradient") for name in sides if name != "gradient"], times)
    return {"ratios": found, "raw": {name: wall.tolist() for name, (wall, _) in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="mlp+product+memory+resnet", help="parts, joined by +")
    parser.add_argument("--turns", type=int, default=9, help="counted turns (default: 9)")
    parser.add_argument("--resnet_turns", type=int, default=3, help="of resnet (default: 3)")
    parser.add_argument("--pyhessian", action="store_true", help="time PyHessian too, on the MLP")
    parser.add_argument("--k", type=int, default=5, help="eigenvalues (default: 5)")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    parts = options.only.split("+")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    torch.set_num_threads(environment.cores())
    torch.manual_seed(0)  # PyHessian's starts
    machine = environment.describe() | {
        name: metadata.version(name)
        for name in ("torch", "curvlinops-for-pytorch", "PyHessian", "scipy")
    }
    machine |= {"threads of torch": torch.get_num_threads(), "load before": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    result: dict[str, Any] = {"machine": machine, "options": vars(options)}
    if {"mlp", "product"} & {*parts}:
        mlp = problem("mlp", {"hidden": (300, 100)}, "mnist", 10_000, 0)
        print("\nMLP 784-300-100-10 on MNIST, three epochs")
        if "mlp" in parts:
            model = peers.MLP((784, 300, 100, 10))
            sizes, power = (BATCH, BATCH), options.pyhessian
            result["mlp"] = eigenvalues(mlp, model, options.k, sizes, options.turns, True, power)
        if "product" in parts:
            result["product"] = product(mlp, options.turns)
    if "memory" in parts:
        result["memory"] = curvature_memory.table()
    if "resnet" in parts:
        net = problem("resnet18", {"filters": 16}, "cifar10", 1024, 1024)
        print("\nResNet-18, 16 filters, on 1,024 images of CIFAR-10")
        model, turns = peers.ResNet18(16, 10), options.resnet_turns
        result["resnet"] = eigenvalues(net, model, options.k, RESNET_BATCH, turns, False)
    result["load after"] = os.getloadavg()[0]
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
