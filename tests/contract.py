"""What every transform of samop promises, as functions; `test_contract.py` runs them.

python tests/contract.py      prints the table, transform × property
"""

import functools
import inspect
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import conftest  # noqa: F401  the tests' strict settings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import contrib

import samop
from samop import ascents, checkpoint, precision, trees, variants

LATE = samop.window(3, 6)


class Case(NamedTuple):
    """A transform under test.

    Attributes:
      make: `make(base, rho, **options) -> transform`.
      fields: as a config would say it, for its cost.
      traced: a hyperparameter of its own that may be traced, and another value for it.
    """

    make: Callable[..., Any]
    fields: dict[str, Any]
    traced: tuple[str, float] | None = None


CASES = {
    "sam": Case(samop.sam, {"name": "sam"}),
    "sam, 3 ascents": Case(
        functools.partial(samop.sam, ascent_steps=3), {"name": "sam", "ascent_steps": 3}
    ),
    "sam, in a window": Case(
        functools.partial(samop.sam, active=LATE), {"name": "sam", "start": 0.3, "end": 0.6}
    ),
    "asam": Case(samop.asam, {"name": "asam"}, ("eta", 0.1)),
    "gsam": Case(samop.gsam, {"name": "gsam"}, ("alpha", 0.2)),
    "looksam": Case(samop.looksam, {"name": "looksam"}, ("alpha", 0.2)),
    "fsam": Case(samop.fsam, {"name": "fsam"}, ("sigma", 0.5)),
    "vasso": Case(samop.vasso, {"name": "vasso"}, ("theta", 0.7)),
    "msam": Case(samop.msam, {"name": "msam"}),
    "esam": Case(samop.esam, {"name": "esam"}, ("beta", 0.9)),
    "wsam": Case(samop.wsam, {"name": "wsam"}, ("gamma", 0.6)),
    "wsam, decoupled": Case(
        functools.partial(samop.wsam, learning_rate=0.05), {"name": "wsam"}, ("gamma", 0.6)
    ),
    "gnp": Case(samop.gnp, {"name": "gnp"}, ("alpha", 0.2)),
    "stablesam": Case(samop.stablesam, {"name": "stablesam"}),
    "stablesam, reversed": Case(
        functools.partial(samop.stablesam, reverse=True), {"name": "stablesam"}
    ),
}
SKIPPING = ("looksam", "sam, in a window")
ONE_GRADIENT = ("msam",)


class NotApplicable(Exception):
    """A property that a transform cannot have; the text says why."""


# ---- a small regression network with every kind of leaf that masks tell apart

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 8, 3)).astype(np.float32)
Y = np.tanh(X @ np.array([1.0, -2.0, 0.5], np.float32))
PARAMS = {
    "hidden": {"kernel": RNG.normal(size=(3, 4)), "bias": RNG.normal(size=4)},
    "norm": {"scale": 1 + 0.1 * RNG.normal(size=4), "bias": 0.1 * RNG.normal(size=4)},
    "out": {"kernel": RNG.normal(size=(4, 1)), "bias": np.zeros(1)},
}
PARAMS = jax.tree.map(lambda x: np.asarray(x, np.float32), PARAMS)
SGD = optax.sgd(0.05, momentum=0.9)
BASES = {
    "sgd": SGD,
    "adamw": optax.adamw(0.01),
    "lion": optax.lion(0.003),
    "muon": contrib.muon(0.02),
}


def bases_of(name):
    """All of them for SAM; what a transform does with a base shows with two."""
    return BASES.values() if name == "sam" else (BASES["sgd"], BASES["adamw"])


def loss(params, x, y):
    z = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    z = z * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    out = z @ params["out"]["kernel"] + params["out"]["bias"][None]
    return jnp.mean((out[:, 0] - y) ** 2)


grad = jax.grad(loss)


def update(tx, params, state, i, x=X, y=Y, **extra):
    """One step on mini-batch i."""
    grad_fn = lambda p: grad(p, x[i], y[i])  # noqa: E731
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, **extra)
    return optax.apply_updates(params, updates), state


def train(tx, params=PARAMS, steps=8, start=0, state=None):
    """Steps as one compiled scan; returns parameters and state."""

    def run(params, state):
        x, y = jnp.asarray(X), jnp.asarray(Y)
        body = lambda carry, i: (update(tx, *carry, i, x, y), None)  # noqa: E731
        return jax.lax.scan(body, (params, state), jnp.arange(start, start + steps) % len(X))[0]

    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(run)(params, tx.init(params) if state is None else state)


def close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def differ(a, b, by=1e-5):
    gaps = [
        np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in zip(*map(jax.tree.leaves, (a, b)))
    ]
    assert max(gaps) > by, "the two should differ"


@functools.cache
def trained(name):
    """Parameters and state after eight steps at ρ = .1."""
    return train(CASES[name].make(SGD, 0.1))


@functools.cache
def plain(steps):
    """Parameters after some steps of the base alone."""
    return train(SGD, steps=steps)[0]


def stepper(make):
    """A jitted `step(params, state, i, rho)`; the transform is `make(rho)`."""

    @jax.jit
    def step(params, state, i, rho):
        return update(make(rho), params, state, i, jnp.asarray(X), jnp.asarray(Y))

    return step


# ---- properties


def rho_0_is_the_base(name, case):
    for base in bases_of(name):
        tx, params = case.make(base, 0.0), jax.tree.map(jnp.asarray, PARAMS)
        base_state, state = base.init(params), tx.init(params)
        # Operation by operation: what XLA fuses, and so rounds once, is another matter.
        with jax.disable_jit():
            for i in range(2):
                g = grad(params, X[i], Y[i])
                wanted, base_state = base.update(g, base_state, params)
                fn = lambda p, i=i: grad(p, X[i], Y[i])  # noqa: E731
                updates, state = tx.update(g, state, params, grad_fn=fn)
                equal(updates, wanted)
                params = optax.apply_updates(params, updates)
    differ(trained(name)[0], plain(8))


def zero_gradient(name, case):
    tx, params = case.make(SGD, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    none, seen = jax.tree.map(jnp.zeros_like, params), []
    state = tx.init(params)
    for _ in range(5):

        def grad_fn(p):
            return none

        updates, state = tx.update(none, state, params, grad_fn=grad_fn)
        w, epsilon = tx.perturbation(none, state, params)
        seen += [updates, epsilon]
        equal(w, params)
    for tree in seen:
        equal(tree, none)


def jit_and_scan(name, case):
    tx, params = case.make(SGD, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    for i in range(8):
        params, state = update(tx, params, state, i)  # neither jit nor scan
    close((params, state), trained(name))


def donated_state(name, case):
    tx = case.make(SGD, 0.1)
    step = jax.jit(functools.partial(update, tx), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)
    for i in range(8):
        params, state = step(params, state, i, jnp.asarray(X), jnp.asarray(Y))
    close(params, trained(name)[0])
    assert step._cache_size() == 1, "a step is traced once"


def vmap_over_rho(name, case):
    radii = jnp.array([0.0, 0.1, 0.3])
    one = jax.jit(lambda rho: train(case.make(SGD, rho), steps=6)[0])
    together = jax.vmap(one)(radii)
    for i, rho in enumerate(radii):
        alone = jax.tree.map(lambda x, i=i: x[i], together)
        close(alone, one(rho), rtol=2e-3, atol=2e-5)
    close(one(0.0), plain(6), rtol=1e-4)


def traced_hyperparameters(name, case):
    if case.traced is None:
        raise NotApplicable("it has no number of its own")
    key, value = case.traced
    concrete = train(case.make(SGD, 0.1, **{key: value}))[0]
    traced = jax.jit(lambda v: train(case.make(SGD, 0.1, **{key: v}))[0])(value)
    close(traced, concrete)
    differ(concrete, trained(name)[0])


def injected_hyperparameters(name, case):
    static = [key for key in inspect.signature(case.make).parameters if key != "rho"]
    tx = optax.inject_hyperparams(case.make, static_args=static)(base=SGD, rho=0.1)
    step = stepper(lambda rho: tx)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    for i in range(8):
        if i == 4:
            hyperparams = {**state.hyperparams, "rho": jnp.zeros_like(state.hyperparams["rho"])}
            off = step(params, state._replace(hyperparams=hyperparams), i, 0.0)[0]
        params, state = step(params, state, i, 0.0)
        if i == 4:
            differ(off, params, by=1e-6)
    close((params, state.inner_state), trained(name))


def schedule_advances(name, case):
    sure = {"beta": 1.0} if name == "esam" else {}  # else its lengths are random
    tx = case.make(SGD, lambda count: 0.01 * (count + 1), **sure)
    params, sizes = jax.tree.map(jnp.asarray, PARAMS), []
    state = tx.init(params)
    for i in range(6):
        g = grad(params, X[i], Y[i])
        if name not in ONE_GRADIENT:
            sizes.append(trees.norm(tx.perturbation(g, state, params)[1]))
        params, state = update(tx, params, state, i)
        if name in ONE_GRADIENT:
            sizes.append(trees.norm(tx.perturbation(g, state, params)[1]))
    ratios = np.diff(np.log(sizes))
    wanted = np.diff(np.log(np.arange(1, 7)))
    # ASAM's lengths depend on the weights besides.
    np.testing.assert_allclose(ratios, wanted, atol=0.5 if name == "asam" else 1e-3)
    assert state.count == 6


def cond_survives_vmap(name, case):
    if name not in SKIPPING:
        raise NotApplicable("it skips no gradient")

    def step(rho, params, state):
        return update(case.make(SGD, rho), params, state, 0)

    tx, params = case.make(SGD, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    axes = jax.tree.map(lambda x: 0 if x.ndim else None, state)
    many = jax.tree.map(lambda x: jnp.stack([x, x]) if x.ndim else x, (params, state))
    mapped = jax.vmap(step, (0, 0, axes), (0, axes))
    jaxpr = jax.make_jaxpr(mapped)(jnp.array([0.1, 0.2]), *many)
    (cond,) = [e for e in jaxpr.eqns if e.primitive.name == "cond"]
    heavy = [str(branch).count("dot_general") for branch in cond.params["branches"]]
    assert min(heavy) == 0 < max(heavy), "one branch takes a gradient, the other does not"


def low_precision(name, case):
    for dtype in (jnp.bfloat16, jnp.float16):
        params = precision.cast(jax.tree.map(jnp.asarray, PARAMS), dtype)
        tx = case.make(SGD, 1e-4)
        if name in ONE_GRADIENT:
            with pytest.raises(ValueError, match="cannot hold their perturbation"):
                tx.init(params)
            continue
        seen = []

        def grad_fn(p, seen=seen):
            seen.append(p)
            return grad(p, X[0], Y[0])

        state = tx.init(params)
        for _ in range(5):
            g = precision.cast(grad_fn(params), dtype)
            updates, new = tx.update(g, state, params, grad_fn=grad_fn)
            same = jax.tree.map(lambda a, b: a.dtype == b.dtype, (updates, new), (params, state))
            assert all(jax.tree.leaves(same)), "dtypes are kept"
            params, state = optax.apply_updates(params, updates), new
        perturbed = [p for p in seen if p["hidden"]["kernel"].dtype == jnp.float32]
        assert perturbed, "the second pass sees float32 parameters"


def sharding(name, case):
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    every, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "data")))
    tx = case.make(SGD, 0.1)
    params = jax.device_put(PARAMS, every)
    x, y = jax.device_put((X, Y), rows)  # examples over devices
    state = tx.init(params)
    step = jax.jit(functools.partial(update, tx))
    for i in range(8):
        params, state = step(params, state, i, x, y)
    close(params, trained(name)[0])
    split = NamedSharding(mesh, PartitionSpec("data"))
    wide = jax.device_put({"w": np.ones((16, 3), np.float32)}, split)
    slope = jax.grad(lambda p: jnp.sum(p["w"] ** 4))
    step = jax.jit(lambda p, s: tx.update(slope(p), s, p, grad_fn=slope))
    updates, state = step(wide, jax.jit(tx.init)(wide))
    kept = [x for x in jax.tree.leaves((updates, state)) if x.ndim]
    assert all(x.sharding.is_equivalent_to(split, x.ndim) for x in kept), "sharding is kept"


def masks(name, case):
    for mask in (
        ascents.norm_layers,
        ascents.no_biases,
        {"hidden": False, "norm": True, "out": True},
    ):
        flags = mask(PARAMS) if callable(mask) else mask
        tx, params = case.make(SGD, 0.1, mask=mask), jax.tree.map(jnp.asarray, PARAMS)
        state = tx.init(params)
        for i in range(4):
            params, state = update(tx, params, state, i)
        _, epsilon = tx.perturbation(grad(params, X[4], Y[4]), state, params)
        outside = trees.masked(epsilon, jax.tree.map(lambda f: not f, flags))
        equal(outside, jax.tree.map(jnp.zeros_like, outside))
        if name not in ("asam", "esam"):  # whose length is another
            size = 0.1 / case.fields.get("ascent_steps", 1)
            np.testing.assert_allclose(trees.norm(epsilon), size, rtol=1e-4)
            inside = trees.masked(epsilon, flags)
            np.testing.assert_allclose(trees.norm(inside), size, rtol=1e-4)
    keep = jax.tree.map(lambda x: np.abs(x) > 0.5, PARAMS)
    tx, sparse = case.make(SGD, 0.1, mask=keep), trees.masked(PARAMS, keep)
    state = tx.init(sparse)
    seen = []

    def grad_fn(p):
        seen.append(p)
        return trees.masked(grad(p, X[0], Y[0]), keep)

    with jax.disable_jit():  # cond runs one branch, with values that can be kept
        for _ in range(5):
            updates, state = tx.update(grad_fn(sparse), state, sparse, grad_fn=grad_fn)
            sparse = optax.apply_updates(sparse, updates)
            seen.append(sparse)
    for tree in seen:
        pruned = trees.masked(tree, jax.tree.map(np.logical_not, keep))
        equal(pruned, jax.tree.map(jnp.zeros_like, pruned))
    with pytest.raises(ValueError, match="nothing would be perturbed"):
        case.make(SGD, 0.1, mask=lambda p: jax.tree.map(lambda x: False, p)).init(PARAMS)


def any_pytree(name, case):
    trees_ = [
        jnp.arange(3.0),
        [jnp.ones(()), (jnp.ones((2, 1)), None), {}],
        {"w": jnp.ones(2), "none": (), "empty": jnp.zeros((0, 3))},
    ]
    slope = jax.grad(lambda p: sum(jnp.sum(x**4) for x in jax.tree.leaves(p)))
    for params in trees_:
        tx = case.make(optax.sgd(0.01, 0.9), 0.1)
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(slope(params), state, params, grad_fn=slope)
            assert jax.tree.structure(updates) == jax.tree.structure(params)
            new = optax.apply_updates(params, updates)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
            params = new


def clipping(name, case):
    tx = case.make(optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0, 0.0)), 0.3)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, before = tx.init(params), params
    for i in range(3):
        params, state = update(tx, params, state, i)
        after = samop.eval_params(state, params)
        moved = trees.norm(trees.subtract(after, samop.eval_params(state, before)))
        if name not in ("wsam, decoupled", "msam"):  # what moves beside the base
            np.testing.assert_allclose(moved, 0.01, rtol=1e-3)
        before = params
    halved = optax.chain(case.make(SGD, 0.1), optax.scale(0.5))
    g = lambda p: grad(p, X[0], Y[0])  # noqa: E731
    params = jax.tree.map(jnp.asarray, PARAMS)
    half, _ = halved.update(g(params), halved.init(params), params, grad_fn=g)
    full, _ = case.make(SGD, 0.1).update(
        g(params), case.make(SGD, 0.1).init(params), params, grad_fn=g
    )
    close(half, jax.tree.map(lambda u: u / 2, full))


def bases(name, case):
    for base in bases_of(name):
        tx = case.make(base, 0.02)
        params, state = train(tx, steps=40)
        end = samop.eval_params(state, params)
        before, after = (loss(p, X.reshape(-1, 3), Y.reshape(-1)) for p in (PARAMS, end))
        assert after < 0.6 * before, (before, after)


def orbax_round_trip(name, case):
    step, params = stepper(lambda rho: case.make(SGD, rho)), jax.tree.map(jnp.asarray, PARAMS)
    state = case.make(SGD, 0.1).init(params)
    for i in range(4):
        params, state = step(params, state, i, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "saved"
        checkpoint.save(path, {"params": params, "state": state})
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, state))
        back = checkpoint.restore(path, {"params": shapes[0], "state": shapes[1]})
    equal((back["params"], back["state"]), (params, state))
    equal(step(back["params"], back["state"], 4, 0.1), step(params, state, 4, 0.1))


def extra_arguments(name, case):
    seen = []

    def base_update(grads, state, params=None, *, value, **extra):
        seen.append(value)
        assert "grad_fn" not in extra
        return jax.tree.map(lambda g: -0.1 * g, grads), state

    base = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), base_update)
    base = optax.chain(optax.trace(0.9), base)
    tx, params = case.make(base, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    update(tx, params, tx.init(params), 0, value=2.0)
    assert seen == [2.0]


def counts_gradients(name, case):
    tx, calls = case.make(SGD, 0.1), []
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)

    @jax.jit
    def step(params, state, i):
        def grad_fn(p):
            jax.debug.callback(lambda: calls.append(1))
            return grad(p, jnp.asarray(X)[i], jnp.asarray(Y)[i])

        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    for i in range(10):
        params, state = step(params, state, i)
    jax.block_until_ready(params)
    jax.effects_barrier()
    wanted = 10 * variants.cost({**variants.FIELDS, **case.fields})
    assert len(calls) == samop.grad_evals(state, 10) == round(wanted), (len(calls), wanted)


def perturbs_as_it_says(name, case):
    tx, params = case.make(SGD, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    state, points = tx.init(params), []

    def grad_fn(p, i=0):
        points.append(p)
        return grad(p, X[i], Y[i])

    for i in range(4):  # to a step that looks ahead: 3 is in the window
        params, state = update(tx, params, state, i)
    if name in ONE_GRADIENT:
        w, epsilon = tx.perturbation(grad_fn(params), state, params)
        close(trees.add(w, epsilon), params)
        np.testing.assert_allclose(trees.norm(epsilon), 0.1, rtol=1e-5)
        return
    state = state._replace(count=jnp.full_like(state.count, 5))
    if name in SKIPPING:
        assert name != "looksam" or state.count % 5 == 0
    g = grad_fn(params)
    w, epsilon = tx.perturbation(g, state, params)
    tx.update(g, state, params, grad_fn=lambda p: jax.tree.map(jnp.zeros_like, p))
    with jax.disable_jit():  # cond runs its branch alone, with concrete values
        tx.update(g, state, params, grad_fn=grad_fn)
    close(points[1], trees.add(w, epsilon))


def groups(name, case):
    if name in ONE_GRADIENT:
        raise NotApplicable("there is one gradient, at shared weights")
    x, y = jnp.asarray(X), jnp.asarray(Y)

    def runner(count):
        """A run of four steps, with `count` groups, as a function of ρ and the batches."""

        @jax.jit
        def step(params, state, x, y, rho):
            each = lambda axis: jax.vmap(grad, in_axes=(axis, 0, 0))  # noqa: E731
            tx = case.make(SGD, rho, groups=count)
            grad_fn = lambda p: each(0)(p, x, y)  # noqa: E731
            updates, state = tx.update(each(None)(params, x, y), state, params, grad_fn=grad_fn)
            return optax.apply_updates(params, updates), state

        def run(rho, place=lambda batch: batch):
            params = jax.tree.map(jnp.asarray, PARAMS)
            state = case.make(SGD, 0.1, groups=count).init(params)
            for i in range(4):
                batch = (a[i].reshape(count, -1, *a.shape[2:]) for a in (x, y))
                params, state = step(params, state, *map(place, batch), rho)
            return params

        return run

    one, four = runner(1), runner(4)
    step, params = stepper(lambda rho: case.make(SGD, rho)), jax.tree.map(jnp.asarray, PARAMS)
    state = case.make(SGD, 0.1).init(params)
    for i in range(4):
        params, state = step(params, state, i, 0.1)
    close(one(0.1), params)
    here = four(0.1)
    differ(here, params, by=1e-6)
    close(four(0.0), plain(4))
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("groups", "examples"))
    spread = NamedSharding(mesh, PartitionSpec("groups", "examples"))
    close(four(0.1, lambda batch: jax.device_put(batch, spread)), here)


def accumulation_in_the_base(name, case):
    """Four micro-steps in MultiSteps are one step on the mean of what the base receives."""
    if name == "wsam, decoupled":
        raise NotApplicable("its correction moves the weights at every micro-step, as documented")
    tx = case.make(optax.MultiSteps(optax.sgd(0.05, 0.9), 4), 0.1)
    # A base that moves nothing and keeps what it is given; its momentum is for Momentum-SAM.
    received = optax.GradientTransformation(
        lambda p: jax.tree.map(jnp.zeros_like, p),
        lambda g, state, p=None: (jax.tree.map(jnp.zeros_like, g), g),
    )
    probe = case.make(optax.chain(received, optax.trace(0.9)), 0.1)
    start = params = still = jax.tree.map(jnp.asarray, PARAMS)
    state, probe_state = tx.init(params), probe.init(params)
    total = jax.tree.map(jnp.zeros_like, params)
    for i in range(4):
        close(params, start)
        params, state = update(tx, params, state, i)
        still, probe_state = update(probe, still, probe_state, i)
        total = jax.tree.map(jnp.add, total, probe_state.base[0])
    wanted = jax.tree.map(lambda w, g: w - 0.05 * g / 4, start, total)
    close(samop.eval_params(state, params), wanted)
    differ(wanted, start)


def bad_input(name, case):
    for rho in (-0.1, float("nan"), float("inf")):
        _raises("finite number ≥ 0", case.make, SGD, rho)
    tx, params = case.make(SGD, 0.1), jax.tree.map(jnp.asarray, PARAMS)
    state, g = tx.init(params), grad(params, X[0], Y[0])
    fn = lambda p: g  # noqa: E731
    _raises("needs params", tx.update, g, state, grad_fn=fn)
    _raises("differ in structure", tx.update, {"hidden": g["hidden"]}, state, params, grad_fn=fn)
    if name not in ONE_GRADIENT:
        _raises("needs grad_fn", tx.update, g, state, params)
        turned = jax.tree.map(lambda x: x.T[None], g)
        _raises("should have theirs", tx.update, turned, state, params, grad_fn=fn)
        if name not in ("sam, in a window",):  # which asks for none at step 0
            made = "what grad_fn returns"
            _raises(made, tx.update, g, state, params, grad_fn=lambda p: turned)
            _raises(made, tx.update, g, state, params, grad_fn=lambda p: (0.0, g))
        grouped = case.make(SGD, 0.1, groups=4)
        _raises("leading axis of groups=4", grouped.update, g, state, params, grad_fn=fn)
        _raises("whole number ≥ 1", functools.partial(case.make, SGD, 0.1, groups=0))


def _raises(text, fn, *args, **kwargs):
    with pytest.raises(ValueError, match=re.escape(text)):
        fn(*args, **kwargs)


PROPERTIES = {
    f.__name__: f
    for f in (
        rho_0_is_the_base,
        zero_gradient,
        jit_and_scan,
        vmap_over_rho,
        donated_state,
        traced_hyperparameters,
        injected_hyperparameters,
        schedule_advances,
        cond_survives_vmap,
        low_precision,
        sharding,
        masks,
        any_pytree,
        clipping,
        bases,
        orbax_round_trip,
        extra_arguments,
        counts_gradients,
        perturbs_as_it_says,
        groups,
        accumulation_in_the_base,
        bad_input,
    )
}


def table() -> str:
    """Markdown: a row a property, a column a transform; ✓, – where it cannot apply, ✗."""
    names = list(CASES)
    rows = ["| property | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    notes = []
    for title, check in PROPERTIES.items():
        cells = []
        for name in names:
            try:
                check(name, CASES[name])
                cells.append("✓")
            except NotApplicable as reason:
                cells.append("–")
                notes.append(f"{title}, {name}: {reason}")
            except Exception as error:  # the table shows what fails, whatever it is
                cells.append("✗")
                notes.append(f"{title}, {name}: {type(error).__name__} {str(error)[:300]}")
        rows.append(f"| {title.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *notes])


if __name__ == "__main__":
    shown = table()
    print(shown)
    sys.exit("✗" in shown)
