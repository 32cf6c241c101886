"""`samop.sam` against closed forms, an independent NumPy step, optax's own SAM, and bad input."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import samop
from samop import ascents, diagnostics, precision, trees
from samop.transforms import cheaper, combined, microbatch, momentum, perturbed

MODULES = (perturbed, combined, cheaper, momentum, microbatch, precision, diagnostics)

CURVATURE = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([[0.5]])}
START = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([[2.0]])}


def quadratic(w):
    """½ Σ h w², whose gradient is h w."""
    return 0.5 * sum(
        jnp.sum(h * x**2) for h, x in zip(jax.tree.leaves(CURVATURE), jax.tree.leaves(w))
    )


GRAD = jax.grad(quadratic)


def step(tx, params, state=None, grad_fn=GRAD):
    state = tx.init(params) if state is None else state
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return optax.apply_updates(params, updates), state


def run(tx, params, steps):
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(tx, params, state)
    return params


def assert_trees_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_closed_form_on_a_quadratic(x64):
    w = {k: jnp.asarray(np.array(v), float) for k, v in START.items()}
    h = {k: np.array(v, float) for k, v in CURVATURE.items()}
    new, _ = step(samop.sam(optax.sgd(0.1), rho=0.3), w)
    g = {k: h[k] * np.array(w[k]) for k in h}
    size = np.sqrt(sum((x**2).sum() for x in g.values()))
    for k in h:
        at = np.array(w[k]) + 0.3 * g[k] / size
        np.testing.assert_allclose(new[k], np.array(w[k]) - 0.1 * h[k] * at, rtol=1e-10)


def test_agrees_with_optax_contrib_sam(x64):
    w = {k: jnp.asarray(np.array(v), float) for k, v in START.items()}
    ascent = optax.chain(contrib.normalize(), optax.sgd(0.2))
    opt = contrib.sam(optax.sgd(0.05, 0.9), ascent, sync_period=2, opaque_mode=True)
    theirs, state = w, opt.init(w)
    for _ in range(20):
        updates, state = opt.update(GRAD(theirs), state, theirs, grad_fn=lambda p, _: GRAD(p))
        theirs = optax.apply_updates(theirs, updates)
    ours = run(samop.sam(optax.sgd(0.05, 0.9), rho=0.2), w, 20)
    assert_trees_close(ours, theirs, rtol=1e-9)


def mlp_numpy_step(params, x, y, rho, lr, decay):
    """One SAM step of a one-hidden-layer ReLU classifier, written out in NumPy."""

    def gradient(p):
        z = x @ p["w1"] + p["b1"]
        a = np.maximum(z, 0)
        logits = a @ p["w2"] + p["b2"]
        e = np.exp(logits - logits.max(1, keepdims=True))
        d = (e / e.sum(1, keepdims=True) - np.eye(logits.shape[1])[y]) / len(y)
        back = (d @ p["w2"].T) * (z > 0)
        return {"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)}

    g = gradient(params)
    size = np.sqrt(sum((v**2).sum() for v in g.values()))
    there = gradient({k: params[k] + rho * g[k] / size for k in params})
    return {k: params[k] - lr * (there[k] + decay * params[k]) for k in params}


def test_one_step_of_an_mlp_equals_numpy(x64):
    rng = np.random.default_rng(0)
    shapes = {"w1": (12, 7), "b1": (7,), "w2": (7, 4), "b2": (4,)}
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    x, y = rng.normal(size=(16, 12)), rng.integers(0, 4, 16)

    def loss(p):
        a = jax.nn.relu(x @ p["w1"] + p["b1"][None])
        logits = a @ p["w2"] + p["b2"][None]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    tx = samop.sam(optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9)), rho=0.05)
    ours, _ = step(tx, jax.tree.map(jnp.asarray, params), grad_fn=jax.grad(loss))
    theirs = mlp_numpy_step(params, x, y, 0.05, 0.1, 5e-4)
    for k in params:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "base", [optax.sgd(0.1, 0.9), optax.adamw(1e-2), optax.lion(1e-3)], ids=["sgd", "adamw", "lion"]
)
def test_rho_zero_is_the_base_bit_for_bit(base):
    plain, plain_state = START, base.init(START)
    ours, state = START, samop.sam(base, 0.0).init(START)
    for _ in range(5):
        updates, plain_state = base.update(GRAD(plain), plain_state, plain)
        plain = optax.apply_updates(plain, updates)
        ours, state = step(samop.sam(base, 0.0), ours, state)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(ours)):
        np.testing.assert_array_equal(a, b)


def test_zero_gradient_gives_zero_perturbation_not_nan():
    zero = jax.tree.map(jnp.zeros_like, START)
    epsilon, _ = ascents.normalized().perturb(zero, (), zero, 0.1)
    assert all(not np.any(x) for x in jax.tree.leaves(epsilon))
    new, _ = step(samop.sam(optax.sgd(0.1)), zero)
    assert_trees_close(new, zero, rtol=0)


def test_perturbation_has_length_rho():
    epsilon, _ = ascents.normalized().perturb(GRAD(START), (), START, 0.37)
    np.testing.assert_allclose(trees.norm(epsilon), 0.37, rtol=1e-6)


def test_a_schedule_advances():
    radii = []

    def rho(count):
        return 0.1 * (count + 1)

    def spy(params):
        radii.append(float(trees.norm(jax.tree.map(jnp.subtract, params, current))))
        return GRAD(params)

    tx, current = samop.sam(optax.sgd(0.01), rho), START
    state = tx.init(current)
    for _ in range(3):
        updates, state = tx.update(GRAD(current), state, current, grad_fn=spy)
        current = optax.apply_updates(current, updates)
    np.testing.assert_allclose(radii, [0.1, 0.2, 0.3], rtol=1e-5)
    assert int(state.count) == 3


def test_traced_radius_vmaps_and_matches_one_by_one():
    radii = jnp.array([0.0, 0.1, 0.4])
    together = jax.vmap(lambda r: run(samop.sam(optax.sgd(0.1, 0.9), r), START, 3))(radii)
    for i, r in enumerate(radii):
        alone = run(samop.sam(optax.sgd(0.1, 0.9), float(r)), START, 3)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-5)


def test_mask_limits_perturbation_and_norm():
    seen = {}

    def spy(params):
        seen.update(jax.tree.map(lambda a, b: np.array(a - b), params, START))
        return GRAD(params)

    tx = samop.sam(optax.sgd(0.1), 0.5, mask={"a": False, "b": True})
    tx.update(GRAD(START), tx.init(START), START, grad_fn=spy)
    np.testing.assert_array_equal(seen["a"], 0)
    np.testing.assert_allclose(np.linalg.norm(seen["b"]), 0.5, rtol=1e-6)


def test_clipping_in_the_base_bounds_the_sam_gradient():
    base = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
    new, _ = step(samop.sam(base, 5.0), START)
    moved = trees.norm(jax.tree.map(jnp.subtract, new, START))
    np.testing.assert_allclose(moved, 0.01, rtol=1e-5)


def test_decay_takes_part_in_the_ascent_only_where_asked():
    with_decay = ascents.with_decay(ascents.normalized(), 2.0)
    epsilon, _ = with_decay.perturb(GRAD(START), (), START, 0.1)
    full = {k: np.array(GRAD(START)[k]) + 2.0 * np.array(START[k]) for k in START}
    size = np.sqrt(sum((v**2).sum() for v in full.values()))
    assert_trees_close(epsilon, {k: 0.1 * v / size for k, v in full.items()}, rtol=1e-5)


def test_low_precision_parameters_are_perturbed_in_float32():
    w = jnp.full((1000,), 0.05, jnp.bfloat16)
    seen = []

    def grad_fn(p):
        seen.append(p)
        return jnp.ones(1000, p.dtype)

    tx = samop.sam(optax.sgd(0.1), 0.05)
    updates, _ = tx.update(jnp.ones(1000, jnp.bfloat16), tx.init(w), w, grad_fn=grad_fn)
    assert seen[0].dtype == jnp.float32
    assert np.all(np.array(seen[0]) != np.array(w, np.float32))
    assert optax.apply_updates(w, updates).dtype == jnp.bfloat16


def test_extra_arguments_reach_the_base():
    def update(grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: -value * g, grads), state

    base = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    tx = samop.sam(base, 0.0)
    updates, _ = tx.update(GRAD(START), tx.init(START), START, grad_fn=GRAD, value=2.0)
    assert_trees_close(updates, jax.tree.map(lambda g: -2.0 * g, GRAD(START)), rtol=1e-6)


def test_empty_trees_and_leaves():
    params = {"w": jnp.ones(2), "none": (), "empty": jnp.zeros((0, 3))}
    new, _ = step(
        samop.sam(optax.sgd(0.1)), params, grad_fn=jax.grad(lambda p: jnp.sum(p["w"] ** 2))
    )
    assert new["empty"].shape == (0, 3)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_a_bad_radius_is_refused(rho):
    with pytest.raises(ValueError, match=r"rho=.*finite number ≥ 0"):
        samop.sam(optax.sgd(0.1), rho)


def test_what_an_update_needs_is_asked_for():
    tx = samop.sam(optax.sgd(0.1))
    state = tx.init(START)
    with pytest.raises(ValueError, match="needs grad_fn"):
        tx.update(GRAD(START), state, START)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(GRAD(START), state, grad_fn=GRAD)
    with pytest.raises(ValueError, match="differ in structure"):
        tx.update({"a": START["a"]}, state, START, grad_fn=GRAD)


def test_doctests():
    assert sum(doctest.testmod(m).failed for m in MODULES) == 0


def test_momentum_sam_asks_for_one_momentum():
    for base in (optax.sgd(0.1), optax.rmsprop(0.1)):
        with pytest.raises(ValueError, match="keeps no momentum"):
            samop.msam(base).init(START)
    twice = optax.chain(optax.trace(0.9), optax.adam(0.1))
    with pytest.raises(ValueError, match="keeps 2 momenta"):
        samop.msam(twice).init(START)


def test_momentum_sam_follows_adams_first_moment(x64):
    """w̃ = w − ρ n(m), as the authors' AdamW: against Adam run on gradients at w̃."""
    rho, rate = 0.2, 0.01
    start = {k: np.array(v, float) for k, v in START.items()}
    tx, w = samop.msam(optax.adam(rate), rho), jax.tree.map(jnp.asarray, start)
    state = tx.init(w)
    plain, m, v = dict(start), dict.fromkeys(start, 0.0), dict.fromkeys(start, 0.0)
    at = dict(start)
    for t in range(1, 11):
        updates, state = tx.update(GRAD(w), state, w)
        w = optax.apply_updates(w, updates)
        g = {k: np.array(CURVATURE[k], float) * at[k] for k in at}
        m = {k: 0.9 * m[k] + 0.1 * g[k] for k in g}
        v = {k: 0.999 * v[k] + 0.001 * g[k] ** 2 for k in g}
        for k in plain:
            root = np.sqrt(v[k] / (1 - 0.999**t)) + 1e-8
            plain[k] = plain[k] - rate * m[k] / (1 - 0.9**t) / root
        size = np.sqrt(sum((x**2).sum() for x in m.values()))
        at = {k: plain[k] - rho * m[k] / size for k in plain}
        assert_trees_close(samop.eval_params(state, w), plain, atol=1e-9)
        assert_trees_close(w, at, atol=1e-9)


def test_weights_without_their_perturbation_of_stacked_runs():
    radii = jnp.array([0.1, 0.4])

    def end(rho):
        tx, w = samop.msam(optax.sgd(0.01, 0.9), rho), START
        state = tx.init(w)
        for _ in range(3):
            updates, state = tx.update(GRAD(w), state, w)
            w = optax.apply_updates(w, updates)
        return w, state, samop.eval_params(state, w)

    w, state, wanted = jax.vmap(end)(radii)
    assert_trees_close(samop.eval_params(state, w), wanted, rtol=1e-6)


def test_a_mask_holds_for_rules_that_perturb_elsewhere_too():
    everywhere = ascents.stateless(lambda g, w, rho: jax.tree.map(lambda x: rho + 0 * x, g))
    mask = {"a": False, "b": True}
    epsilon, _ = ascents.masked(everywhere, mask).perturb(GRAD(START), (), START, 0.1)
    assert_trees_close(epsilon, {"a": np.zeros(2), "b": np.full((1, 1), 0.1)}, rtol=1e-6)
    decayed = ascents.masked(ascents.with_decay(ascents.normalized(), 2.0), mask)
    epsilon, _ = decayed.perturb(GRAD(START), (), START, 0.1)
    np.testing.assert_allclose(trees.norm(epsilon), 0.1, rtol=1e-6)
    np.testing.assert_array_equal(epsilon["a"], 0)


def test_norm_layers_are_found_by_what_lies_beside_a_scale():
    one = jnp.ones(1)
    params = {
        "Dense_0": {"kernel": one, "bias": one},
        "block": {"BatchNorm_0": {"scale": one, "bias": one}, "Conv_0": {"kernel": one}},
        "LayerNorm_0": {"scale": one},
    }
    assert ascents.norm_layers(params) == {
        "Dense_0": {"kernel": False, "bias": False},
        "block": {"BatchNorm_0": {"scale": True, "bias": True}, "Conv_0": {"kernel": False}},
        "LayerNorm_0": {"scale": True},
    }
    assert ascents.norm_layers({"scale": one, "bias": one}) == {"scale": True, "bias": True}
    assert ascents.no_biases({"kernel": one, "bias": one}) == {"kernel": True, "bias": False}


def test_norms_of_low_precision_are_added_up_in_float32():
    # 4,096 ones: bfloat16 stops counting at 256, and float16's squares overflow.
    assert trees.norm(jnp.ones(4096, jnp.bfloat16)) == 64
    assert trees.norm(jnp.full(4, 300.0, jnp.float16)) == 600


@pytest.mark.parametrize("rule", [ascents.friendly(1.0, 0.9), ascents.smoothed(0.4)])
def test_groups_share_the_mean_of_a_rules_state(rule, x64):
    """m and d are of the whole batch's gradient, whichever group a gradient came from."""
    grads = [np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0.5, 0.0], [0.1, 4.0]])]
    tx = samop.sam(optax.sgd(0.0), 0.1, ascent=rule, groups=2)
    w = jnp.zeros(2, float)
    state = tx.init(w)
    kept = np.zeros(2)
    for step, g in enumerate(grads):
        _, state = tx.update(jnp.asarray(g), state, w, grad_fn=lambda p: p)
        mean = g.mean(0)
        if isinstance(state.ascent, tuple):
            kept = mean if step == 0 else 0.9 * kept + 0.1 * mean
        else:
            kept = 0.6 * kept + 0.4 * mean
    found = state.ascent[1] if isinstance(state.ascent, tuple) else state.ascent
    np.testing.assert_allclose(found, kept, atol=1e-12)


@pytest.mark.parametrize("bounds", [(0.2, 0.6), (-1, 3), (3, 3)])
def test_a_window_is_of_whole_updates(bounds):
    with pytest.raises(ValueError, match="whole numbers of updates"):
        samop.window(*bounds)
