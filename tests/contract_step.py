"""What every transform promises of its steps: of their values, their input, their gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_setting import (
    ONE_GRADIENT,
    PARAMS,
    SGD,
    SKIPPING,
    NotApplicable,
    X,
    Y,
    bases_of,
    close,
    differ,
    equal,
    grad,
    loss,
    plain,
    train,
    trained,
    update,
)

import samop
from samop import ascents, precision, trees, variants


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
