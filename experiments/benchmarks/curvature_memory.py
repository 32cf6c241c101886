"""Memory of samop's Lanczos at 10⁷ parameters: the `memory` part of curvature.py.

python experiments/benchmarks/curvature_memory.py   # one run alone, prints its peak as JSON

What counts is what the compiler says of its own programs: arguments, results and temporaries,
less what shares memory, plus the vectors that the host loop holds beside them; in units of one
vector. The workspace of a product (parameters, examples, activations) is the loss's affair and
apart. For information a run in a process of its own follows, whose resident memory is looked at:
it has allocator and compiler in it.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samop import hessian
from samop.hessian import basis, krylov
from samop.models import MODELS

HIDDEN = (3000, 2540)  # 10,002,950 parameters with 784 inputs and 10 classes
EXAMPLES, SIZE = 500, 250
K = 10


def operator() -> hessian.Operator:
    """The Hessian of an MLP with random weights, inputs and labels."""
    module = MODELS["mlp"].build({"hidden": HIDDEN}, 10)
    rng = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(rng.standard_normal((EXAMPLES, 784), np.float32)),
        "y": jnp.asarray(rng.integers(0, 10, EXAMPLES)),
    }
    params = jax.jit(module.init)(jax.random.key(0), batch["x"][:1])["params"]

    def loss(params, batch):
        logits = module.apply({"params": params}, batch["x"])
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    return hessian.hessian(loss, params, hessian.stack(batch, SIZE))


def held(lowered: Any) -> tuple[int, int]:
    """(bytes of a program with its arguments and results, bytes of its temporaries alone)."""
    found = lowered.compile().memory_analysis()
    whole = found.argument_size_in_bytes + found.output_size_in_bytes
    return (
        whole + found.temp_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )


def at_the_end(blocks: Any) -> int:
    """Most bytes while the first blocks of a basis become K vectors of the operator."""
    first = blocks[: -(-K // len(blocks[0]))]
    rows, _ = held(basis.first_rows.lower(first, K))
    one = blocks[0].shape[1] * blocks[0].dtype.itemsize
    return max(rows, 2 * K * one)  # then a copy of each row, leaf by leaf


def table() -> dict[str, Any]:
    """Prints and returns memory by phase of a run, in vectors."""
    op = operator()
    vector = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(op.like))
    room = krylov._room(op, K, None)
    blocks = jax.eval_shape(lambda: basis.zeros(room, op.size, np.float32))
    flat = jax.ShapeDtypeStruct((op.size,), np.float32)
    # Beside a program the host loop holds: in a rotation the next vector; in a product the basis
    # and the next vector, flat.
    step, _ = held(krylov._step.lower(blocks, flat, 0))
    rotation, _ = held(basis.rotate.lower(blocks, np.zeros((room, room), np.float32)))
    _, workspace = held(jax.jit(op.fn).lower(op.arguments, op.like))
    saved = sum(x.nbytes for x in jax.tree.leaves(op.arguments))
    phases = {
        "step": step,
        "restart": rotation + vector,
        "vectors, at the end": vector + at_the_end(blocks),
        "product, without its workspace": (room + 3) * vector,
    }
    found: dict[str, Any] = {name: size / vector for name, size in phases.items()}
    print(f"\nmemory at {op.size:,} parameters, k = {K}; a vector is {vector / 2**20:.1f} MiB")
    print(f"\n| phase | vectors (bound: {K + 20}) |\n|---|---|")
    for name, count in found.items():
        print(f"| {name} | {count:.2f} |")
    found["workspace"], found["saved"] = workspace / vector, saved / vector
    print(
        f"\na product's own, {EXAMPLES} examples by {SIZE}: temporaries {workspace / vector:.2f} "
        f"vectors, kept from product to product (parameters, activations) {saved / vector:.2f}"
    )
    out = subprocess.run(
        [sys.executable, __file__], check=True, capture_output=True, text=True, timeout=3600
    )
    found["run"] = run = json.loads(out.stdout.splitlines()[-1])
    print(
        f"a run alone, {run['products']} products: resident memory grew by "
        f"{run['growth'] * 2**20 / vector:.1f} vectors at its peak, from {run['before']:.0f} MiB "
        "with the operator built and a product made"
    )
    return found


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def alone() -> dict[str, Any]:
    """One run; MiB before it, and by how much its peak is above."""
    op = operator()
    # The product's workspace and its compiling are not of the run's memory.
    jax.block_until_ready(op(jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), op.like)))
    before = resident()
    found = hessian.top_eigenvalues(op, k=K, key=jax.random.key(0), vectors=True)
    jax.block_until_ready(found.vectors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "before": before,
        "growth": peak - before,
        "products": int(found.num_matvecs),
        "converged": bool(found.converged),
        "values": found.values.tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(alone()))
