"""The train step, label noise, batch order, evaluation and augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from small import point

import samop
from samop import feeding, optim, step, train
from samop.data import augment, sampling
from samop.data.splits import Split
from samop.workloads import Metric, Workload, build, classification


class Small(nn.Module):
    """A convolution with BatchNorm and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x.mean((1, 2)))


def small_workload():
    module = Small()

    def init(seed):
        variables = dict(module.init(jax.random.key(seed), jnp.zeros((1, 6, 6, 1))))
        return variables.pop("params"), variables

    def apply(params, model_state, batch, key, train):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, batch["x"]), model_state
        return module.apply(
            variables, batch["x"], True, mutable=["batch_stats"], rngs={"dropout": key}
        )

    return Workload(
        metric=Metric("accuracy", True, 100.0, "points"),
        splits=None,
        num_classes=3,
        init=init,
        batch=lambda x, y, key, index: {"x": x, "y": y},
        apply=apply,
        examples=classification.examples,
        source={},
    )


def batch(seed=0, n=8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6, 6, 1)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(rng.integers(0, 3, n))}


def one_step(tx, key=0):
    workload = small_workload()
    params, model_state = workload.init(0)
    state = step.TrainState(jnp.int32(0), params, model_state, tx.init(params))
    opt = optim.Optimizer(tx)
    return state, step.train_step(state, batch(), jax.random.key(key), workload, opt), workload


def test_statistics_and_metrics_come_from_the_clean_pass():
    _, (plain, plain_metrics), _ = one_step(optax.with_extra_args_support(optax.sgd(0.1)))
    _, (sam, sam_metrics), _ = one_step(samop.sam(optax.sgd(0.1), rho=2.0))
    for a, b in zip(jax.tree.leaves(plain.model_state), jax.tree.leaves(sam.model_state)):
        np.testing.assert_array_equal(a, b)
    assert plain_metrics == sam_metrics
    different = [
        np.any(a != b) for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(sam.params))
    ]
    assert any(different)


def test_both_passes_see_the_same_dropout_mask():
    rho = 0.3
    state, (after, _), workload = one_step(samop.sam(optax.sgd(1.0), rho))

    def loss(params):
        logits, _ = workload.apply(params, state.model_state, batch(), jax.random.key(0), True)
        return classification.examples(logits, batch())["loss"].mean()

    g = jax.grad(loss)(state.params)
    size = optax.tree.norm(g)
    there = jax.grad(loss)(jax.tree.map(lambda p, d: p + rho * d / size, state.params, g))
    for before, new, slope in zip(*map(jax.tree.leaves, (state.params, after.params, there))):
        np.testing.assert_allclose(new, before - slope, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.75])
def test_label_noise_flips_exactly_its_share_to_other_classes(rate):
    y = jnp.asarray(np.random.default_rng(0).integers(0, 10, 1000), jnp.int32)
    noisy = np.array(sampling.noisy_labels(y, 10, round(rate * 1000), 7))
    flipped = noisy != np.array(y)
    assert flipped.sum() == round(rate * 1000)
    assert noisy.min() >= 0
    assert noisy.max() < 10
    if rate:
        # uniform over the nine other classes: χ² with 8 degrees of freedom, 99.99 % below 31.8
        shifts = (noisy - np.array(y))[flipped] % 10
        counts = np.bincount(shifts, minlength=10)[1:]
        expected = flipped.sum() / 9
        assert ((counts - expected) ** 2 / expected).sum() < 31.8
        other = np.array(sampling.noisy_labels(y, 10, round(rate * 1000), 8))
        assert np.any(other != noisy)


@pytest.mark.parametrize(("n", "rate"), [(95, 0.3), (200, 0.35), (130, 0.15), (200, 0.4)])
def test_a_run_flips_the_rounded_share(n, rate):
    config = point(data__train_size=n)
    workload = build(config)
    labels = np.array(train.make_run(config, workload).labels(np.uint32(0), rate))
    assert (labels != workload.splits.train.y).sum() == round(rate * n)


def test_label_noise_is_nested_in_its_rate():
    y = jnp.zeros(500, jnp.int32)
    low, high = (np.array(sampling.noisy_labels(y, 10, k, 1)) for k in (100, 300))
    assert np.all(high[low != 0] == low[low != 0])


def test_epoch_order_is_a_pure_permutation():
    order = np.array(sampling.epoch_order(103, 10, 5, 2))
    assert order.shape == (10, 10)
    assert len(set(order.reshape(-1))) == 100
    np.testing.assert_array_equal(order, sampling.epoch_order(103, 10, jnp.uint32(5), jnp.int32(2)))
    for seed, epoch in ((5, 3), (6, 2)):
        assert np.any(order != np.array(sampling.epoch_order(103, 10, seed, epoch)))


@pytest.mark.parametrize("n", [1, 2, 100, 2500, 70_000])
def test_the_fast_permutation_is_jax_s(n):
    keys = jax.random.split(jax.random.key(3), 3)
    expected = [jax.random.permutation(key, n) for key in keys]
    together = jax.jit(jax.vmap(lambda key: sampling.permutation(key, n)))(keys)
    assert together.dtype == expected[0].dtype
    np.testing.assert_array_equal(together, np.stack(expected))
    np.testing.assert_array_equal(sampling.permutation(keys[0], n), expected[0])


def test_the_fast_permutation_in_double_precision(x64):
    key = jax.random.key(3)
    np.testing.assert_array_equal(sampling.permutation(key, 99), jax.random.permutation(key, 99))


@pytest.mark.parametrize("most", [7, 20, 70, 1000])
def test_evaluation_counts_every_example_once(most):
    workload = build(point())
    params, model_state = workload.init(np.uint32(0))
    split = workload.splits.test
    padded = feeding.padded(split, most)
    assert padded["weight"].sum() == len(split.x) == 70
    means, _ = train.evaluate(params, model_state, padded, workload)
    whole = workload.batch(jnp.asarray(split.x), jnp.asarray(split.y), None, None)
    logits, _ = workload.apply(params, model_state, whole, None, False)
    values = workload.examples(logits, whole)
    for name in means:
        np.testing.assert_allclose(means[name], values[name].mean(), rtol=1e-5)


def test_padding_cannot_poison_an_evaluation():
    split = Split(np.ones((3, 2), np.float32), np.ones(3, np.float32))
    padded = feeding.padded(split, 2)
    workload = small_workload()
    bad = Workload(
        **{
            **vars(workload),
            "batch": lambda x, y, key, index: {"x": x, "y": y},
            "apply": lambda params, state, batch, key, train: (1 / batch["x"][:, :1], state),
            "examples": lambda out, batch: {"loss": out[:, 0]},
        }
    )
    np.testing.assert_allclose(train.evaluate({}, {}, padded, bad)[0]["loss"], 1.0)


def test_decay_is_added_to_the_sam_gradient():
    config = point(optimizer__momentum=0.0, optimizer__schedule="constant")
    traced = {"optimizer.rho": 0.1, "optimizer.lr": 0.5, "optimizer.weight_decay": 0.01}
    tx = optim.optimizer(config, 10, traced, jax.random.key(0)).tx
    w = jnp.array([1.0, -2.0])
    slope = jnp.array([0.3, 0.1])  # a linear loss: the gradient does not depend on where
    updates, _ = tx.update(slope, tx.init(w), w, grad_fn=lambda p: slope)
    np.testing.assert_allclose(updates, -0.5 * (slope + 0.01 * w), rtol=1e-6)


def test_schedules():
    fields = point()["optimizer"]
    rate = optim.unit_schedule(fields, 100)
    values = [float(rate(s)) for s in (0, 49, 50, 74, 75, 99)]
    np.testing.assert_allclose(values, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    cosine = optim.unit_schedule({**fields, "schedule": "cosine", "warmup": 0.1}, 100)
    np.testing.assert_allclose(cosine(4), 0.5, rtol=1e-6)
    np.testing.assert_allclose(cosine(55), 0.5, rtol=1e-6)
    assert float(cosine(100)) < 1e-6


def test_crop_and_flip_belong_to_the_example_not_to_its_place_in_the_batch():
    images = jnp.asarray(np.random.default_rng(0).integers(1, 255, (6, 8, 8, 3)), jnp.uint8)
    key, index = jax.random.key(1), jnp.array([40, 3, 17, 99, 5, 8])
    out = np.array(augment.crop_flip(images, key, index))
    shuffled = np.array(augment.crop_flip(images[::-1], key, index[::-1]))
    np.testing.assert_array_equal(out, shuffled[::-1])
    assert out.dtype == np.uint8
    assert np.any(out != np.array(augment.crop_flip(images, jax.random.key(2), index)))


def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror():
    image = jnp.asarray(np.random.default_rng(0).integers(1, 255, (8, 8, 1)), jnp.uint8)
    n = 400
    out = np.array(
        augment.crop_flip(jnp.broadcast_to(image, (n, 8, 8, 1)), jax.random.key(0), jnp.arange(n))
    )
    padded = np.pad(np.array(image), ((4, 4), (4, 4), (0, 0)))
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + 8, left : left + 8]
            windows[window.tobytes()] = (top, left, 0)
            windows[window[:, ::-1].tobytes()] = (top, left, 1)
    places = np.array([windows[o.tobytes()] for o in out])
    assert set(places[:, 0]) == set(places[:, 1]) == set(range(9))
    assert 0.4 < places[:, 2].mean() < 0.6
