"""Casts, loss scaling, and SAM in low precision: what a naive port loses and ours keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import first_epochs, grid, point, prepared

import samop
from samop import diagnostics, optim, precision, step, trees
from samop.workloads import build

RHO = 0.002  # a coordinate then moves as far as at .05 in a network of 10⁷ parameters or more


def quartic(w, scale=1.0):
    return scale * jnp.sum(w**4)


def test_float32_is_no_cast():
    tree = {"x": jnp.ones(3), "n": jnp.arange(2)}
    assert precision.cast(tree, None) is tree
    low = precision.cast(tree, jnp.bfloat16)
    assert (low["x"].dtype, low["n"].dtype) == (jnp.bfloat16, jnp.int32)


@pytest.mark.parametrize("name", ["sam", "looksam", "fsam"])
def test_loss_scaling_changes_no_update(name):
    inner = getattr(samop, name)(optax.adam(0.01), 0.05)
    tx = samop.loss_scaled(inner, 2.0**10, growth_interval=3)
    w = jnp.array([1.0, -0.5, 0.25])
    state, plain_state, plain = tx.init(w), inner.init(w), w
    scales = []
    for _ in range(8):
        slope = jax.grad(lambda w, s=state.scale: quartic(w, s))
        updates, state = tx.update(slope(w), state, w, grad_fn=slope)
        w = optax.apply_updates(w, updates)
        updates, plain_state = inner.update(
            jax.grad(quartic)(plain), plain_state, plain, grad_fn=jax.grad(quartic)
        )
        plain = optax.apply_updates(plain, updates)
        scales.append(float(state.scale))
    np.testing.assert_array_equal(w, plain)  # powers of two scale without rounding
    assert scales == [2.0**n for n in (10, 10, 11, 11, 11, 12, 12, 12)]
    assert samop.grad_evals(state, 8) == plain_state.grad_evals


@pytest.mark.parametrize("bad_pass", ["first", "second"])
def test_an_overflow_in_either_pass_skips_the_step_and_halves_the_scale(bad_pass):
    # Clipping by value would turn an infinite gradient into an ordinary one.
    base = optax.chain(optax.clip(0.1), optax.sgd(0.1, momentum=0.9))
    tx = samop.loss_scaled(samop.fsam(base, 0.05), 8.0)
    w = jnp.array([1.0, -0.5])
    state = tx.init(w)
    good = lambda p: jax.grad(quartic)(p) * state.scale  # noqa: E731
    bad = lambda p: good(p).at[0].set(jnp.inf)  # noqa: E731
    first, second = (bad, good) if bad_pass == "first" else (good, bad)
    updates, new = jax.jit(lambda s: tx.update(first(w), s, w, grad_fn=second))(state)
    assert not np.any(updates)
    assert (new.scale, new.skipped, new.good) == (4.0, 1.0, 0.0)
    ascent, momentum = new.inner.ascent[1], new.inner.base[1][0].trace
    assert not np.any(ascent)
    assert not np.any(momentum)
    assert new.inner.count == 1  # schedules go on
    half = lambda p: good(p) / 2  # noqa: E731  at the new scale
    updates, after = tx.update(half(w), new, w, grad_fn=half)
    assert np.all(updates != 0)
    # F-SAM's first good step is its first: m = g.
    np.testing.assert_allclose(after.inner.ascent[1], jax.grad(quartic)(w), rtol=1e-6)


@pytest.mark.parametrize(
    "base",
    [
        optax.apply_if_finite(optax.sgd(0.1), 5),
        optax.chain(optax.zero_nans(), optax.sgd(0.1)),
        optax.MultiSteps(optax.sgd(0.1), 2),
    ],
)
def test_a_base_that_hides_overflows_is_refused(base):
    with pytest.raises(ValueError, match="would hide an overflow"):
        samop.loss_scaled(samop.sam(base)).init(jnp.ones(2))


def test_float16_underflows_without_a_scale_and_learns_with_one():
    def loss(w):
        return jnp.sum((w.astype(jnp.float16) * jnp.float16(1e-4)) ** 2)

    assert not np.any(jax.grad(loss)(jnp.full(4, 0.01)))
    scaled = jax.grad(lambda w: loss(w).astype(jnp.float32) * 2.0**14)
    tx = samop.loss_scaled(samop.sam(optax.sgd(1.0), 0.01), 2.0**14)
    # The scale has to act inside of float16: the derivative of the cast is where it does.
    w = jnp.full(4, 0.01)
    updates, _ = tx.update(scaled(w), tx.init(w), w, grad_fn=scaled)
    assert np.all(updates != 0)


@pytest.mark.parametrize("kwargs", [{"initial": 0.5}, {"growth_interval": 0}, {"factor": 1.0}])
def test_bad_loss_scaling_is_refused(kwargs):
    with pytest.raises(ValueError, match="should be ≥ 1"):
        samop.loss_scaled(optax.sgd(0.1), **kwargs)


def base_gradient(name="sam", **fields):
    """What the base receives in one step from initialisation."""
    config = point(
        model__hidden=(256, 256),
        optimizer__name=name,
        optimizer__momentum=0.0,
        optimizer__schedule="constant",
        **fields,
    )
    workload = build(config)
    params, model_state = workload.init(0)
    params = precision.cast(params, precision.DTYPES[config["precision"]["params"]])
    # At rate 1 and without decay the update is minus the gradient.
    traced = {"optimizer.lr": 1.0, "optimizer.rho": RHO, "optimizer.weight_decay": 0.0}
    opt, found = optim.optimizer(config, 10, traced, jax.random.key(0)), []

    def update(*args, **kwargs):
        updates, state = opt.tx.update(*args, **kwargs)
        found.append(updates)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(opt.tx.init, update)
    opt_state = tx.init(trees.wide(params))
    state = step.TrainState(jnp.int32(0), params, model_state, opt_state)
    rows = workload.splits.train
    batch = workload.batch(jnp.asarray(rows.x[:64]), jnp.asarray(rows.y[:64]), None, None)
    key, passes = jax.random.key(0), step.passes_of(config)
    step.train_step(state, batch, key, workload, opt._replace(tx=tx), passes)
    return found[0]


def test_what_sam_adds_survives_bf16_only_with_a_float32_second_pass():
    full, base = base_gradient(), base_gradient("base")
    wanted = trees.subtract(full, base)
    cosines = {}
    for second in ("float32", "compute"):
        fields = {"precision__compute": "bfloat16", "precision__second_pass": second}
        added = trees.subtract(base_gradient(**fields), base)
        cosines[second] = diagnostics.cosine(added, wanted)
    assert cosines["float32"] > 0.95
    assert cosines["compute"] < 0.7


@pytest.mark.parametrize("params", ["bfloat16", "float16"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_low_precision_parameters_give_the_float32_gradient_of_their_values(params, compute):
    # Rounded parameters are another point, so it is compared with SAM and with the base.
    fields = {"precision__params": params, "precision__compute": compute}
    ours, full, base = base_gradient(**fields), base_gradient(), base_gradient("base")
    assert diagnostics.cosine(ours, full) > 0.999
    assert trees.norm(trees.subtract(full, base)) > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"precision__params": "bfloat16"},
        {"precision__compute": "float16", "precision__loss_scale": 1024.0},
        {"precision__compute": "bfloat16", "precision__second_pass": "compute"},
        {"precision__params": "float16", "optimizer__m": 8, "optimizer__m_by": "vmap"},
        {"precision__compute": "bfloat16", "optimizer__m": 8},
    ],
    ids=str,
)
def test_low_precision_trains_and_is_measured(fields):
    config = point(train__epochs=3, train__diagnostics_every=1, **fields)
    rows = grid(config, [{"optimizer__rho": r} for r in (0.05, 0.2)], (0, 1))
    params, metrics = first_epochs(prepared(rows, devices=2), 3)
    wanted = precision.DTYPES[config["precision"]["params"]] or jnp.float32
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(wanted)}
    assert np.all(metrics["validation_accuracy"] > 0.15)
    assert np.all(np.isfinite(metrics["train_loss"]))
    assert ("sam_cosine_float32" in metrics) == ("precision__second_pass" in fields)
    if "precision__loss_scale" in fields:
        assert np.all(metrics["loss_scale"] == 1024.0)
        assert not np.any(metrics["skipped_steps"])
    assert np.all((metrics["sam_moved"] >= 0) & (metrics["sam_moved"] <= 1))
