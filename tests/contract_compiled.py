"""What every transform promises under JAX: compiled, mapped, traced, divided, saved."""

import functools
import inspect
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_setting import (
    ONE_GRADIENT,
    PARAMS,
    SGD,
    SKIPPING,
    NotApplicable,
    X,
    Y,
    close,
    differ,
    equal,
    grad,
    plain,
    stepper,
    train,
    trained,
    update,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import checkpoint


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
