"""One SAM run on all cores of a CPU: threads inside operations, or its batch over devices?

python experiments/benchmarks/parallel.py --turns=7 --json=parallel.json

Threads: one device, whose operations use all cores; what `samop.main` does with a single run. Data
parallelism: one simulated device a core, each with its part of the batch; gradients (in one buffer)
and BatchNorm's statistics are averaged over devices, so that both compute the same. Random data of
MNIST's and CIFAR-10's shapes, 128 a batch, SGD with momentum inside of SAM; one compiled scan over
the steps of a turn, state donated. Sides take turns. Hardware: CPUs; three minutes on two cores.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sides as ours
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import summary, take_turns

import samop
from samop import config as configs
from samop.models import MLP, ResNet18

BATCH, AXIS = 128, "batch"
CASES = {"mlp": ("10-10", "50-50", "300-100"), "resnet18": ("16",)}
STEPS = {"mlp": 200, "resnet18": 4}


def network(kind: str, size: str, axis: str | None) -> Any:
    """A network of samop; axis: over which BatchNorm averages."""
    (hidden,) = configs.parse_widths(size)
    return MLP(hidden, 10) if kind == "mlp" else ResNet18(hidden[0], 10, axis)


def side(kind: str, size: str, devices: int) -> Callable[[], float]:
    """Trains the steps of a turn, waits, and returns their mean loss."""
    axis = AXIS if devices > 1 else None
    module, tx = network(kind, size, axis), samop.sam(optax.sgd(0.01, 0.9), rho=0.05)
    shape = (28, 28, 1) if kind == "mlp" else (32, 32, 3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS[kind], BATCH, *shape), np.float32)
    y = rng.integers(0, 10, (STEPS[kind], BATCH))
    variables = dict(network(kind, size, None).init(jax.random.key(0), x[0, :1]))
    params = variables.pop("params")

    def loss(params, stats, batch):
        logits, stats = module.apply(
            {"params": params, **stats}, batch[0], train=True, mutable=list(stats)
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return jnp.mean(losses), stats

    def gradient(params, stats, batch):
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, batch)
        if axis:
            whole, back = ravel_pytree((grads, value))
            grads, value = back(jax.lax.pmean(whole, axis))
        return grads, (value, stats)

    def step(state, batch):
        params, stats, opt_state = state
        grads, (value, new) = gradient(params, stats, batch)
        second = lambda p: gradient(p, stats, batch)[0]  # noqa: E731
        updates, opt_state = tx.update(grads, opt_state, params, grad_fn=second)
        return (optax.apply_updates(params, updates), new, opt_state), value

    def turn(state, batches):
        state, losses = jax.lax.scan(step, state, batches)
        return state, jnp.mean(losses)

    mesh = Mesh(np.array(jax.devices()[:devices]), (AXIS,))
    everywhere, parts = PartitionSpec(), PartitionSpec(None, AXIS)
    if axis:
        turn = jax.shard_map(
            turn, mesh=mesh, in_specs=(everywhere, parts), out_specs=everywhere, check_vma=False
        )
    run = jax.jit(turn, donate_argnums=0)
    put = lambda value, spec: jax.device_put(value, NamedSharding(mesh, spec))  # noqa: E731
    state = put(jax.tree.map(jnp.copy, (params, variables, tx.init(params))), everywhere)
    batches = put((x, y), parts)

    def trained() -> float:
        nonlocal state
        state, value = jax.block_until_ready(run(state, batches))
        return float(value)

    return trained


def compare(kind: str, size: str, turns: int) -> dict[str, Any]:
    """Times both; prints a row of the table."""
    counts = {"threads": 1, "data parallel": len(jax.devices())}
    sides = {name: side(kind, size, devices) for name, devices in counts.items()}
    losses = {name: train() for name, train in sides.items()}
    times = {name: wall / STEPS[kind] for name, (wall, _) in take_turns(sides, turns).items()}
    found = summary(times["data parallel"] / times["threads"])
    low, high = found["interval"]
    cells = [f"{1e3 * np.median(wall):.3g}" for wall in times.values()]
    cells += [f"**{found['median']:.2f}**", f"[{low:.2f}, {high:.2f}]"]
    ours.row(f"{kind} {size}", *cells, ", ".join(f"{value:.5f}" for value in losses.values()))
    return {"seconds": {k: v.tolist() for k, v in times.items()}, "ratio": found, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="counted turns (default: 7)")
    parser.add_argument("--json", default="", help="file to write everything to")
    options = parser.parse_args()
    ours.start_devices()
    result: dict[str, Any] = {"machine": ours.machine(), "options": vars(options)}
    ours.head("network", "threads, ms a step", "data parallel", "ratio", "interval", "mean losses")
    one = functools.partial(compare, turns=options.turns)
    cases = [(kind, size) for kind, sizes in CASES.items() for size in sizes]
    result["cases"] = {f"{kind} {size}": one(kind, size) for kind, size in cases}
    ours.save(options.json, result)


if __name__ == "__main__":
    main()
