"""Examples that weigh differently, metrics of whole splits, and examples that are trees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import point
from test_train import small_workload

from samop import feeding, measures, optim, scores, step, train
from samop.data import Split, Splits
from samop.workloads import Metric, Workload

N, STEPS = 13, 4


def sequences(weighted=True, score=None):
    """Linear regression a step on masked sequences; the mean is over real steps."""
    rng = np.random.default_rng(0)
    x = {
        "value": rng.standard_normal((N, STEPS, 3)).astype(np.float32),
        "length": (np.arange(N) % (STEPS + 1)).astype(np.int32),  # some have none
    }
    y = rng.standard_normal((N, STEPS)).astype(np.float32)

    def weight(batch):
        return batch["x"]["length"].astype(float)

    def examples(outputs, batch):
        real = jnp.arange(STEPS)[None] < batch["x"]["length"][:, None]
        loss = jnp.where(real, 0.5 * jnp.square(outputs - batch["y"]), 0)
        return {"loss": loss.sum(1) / jnp.maximum(real.sum(1), 1)}

    def apply(params, state, batch, key, train):
        return batch["x"]["value"] @ params, state

    split = Split(x, y)
    return Workload(
        metric=Metric("loss", False, 1.0, ""),
        splits=Splits(split, split, split),
        num_classes=0,
        init=lambda seed: (jnp.array([0.3, -0.2, 0.1]), {}),
        batch=lambda x, y, key, index: {"x": x, "y": y},
        apply=apply,
        examples=examples,
        source={},
        weight=weight if weighted else None,
        score=score,
    )


def token_mean(params):
    """The mean over real steps, step by step."""
    split = sequences().splits.train
    found = [
        0.5 * (split.x["value"][i, t] @ np.asarray(params) - split.y[i, t]) ** 2
        for i in range(N)
        for t in range(split.x["length"][i])
    ]
    return np.mean(found)


def test_a_training_loss_is_the_mean_over_tokens():
    workload = sequences()
    params, _ = workload.init(0)
    split = workload.splits.train
    batch = workload.batch(jax.tree.map(jnp.asarray, split.x), jnp.asarray(split.y), None, None)
    loss = step.loss_function(workload, {}, None)
    value, (means, _) = loss(params, {"batch": batch, "key": jax.random.key(0)})
    np.testing.assert_allclose(value, token_mean(params), rtol=1e-6)
    np.testing.assert_allclose(means["loss"], value)


def test_a_batch_in_which_nothing_weighs_has_loss_and_gradient_zero():
    workload = sequences()
    params, _ = workload.init(0)
    x = {"value": jnp.ones((2, STEPS, 3)), "length": jnp.zeros(2, jnp.int32)}
    batch = {"batch": {"x": x, "y": jnp.ones((2, STEPS))}, "key": jax.random.key(0)}
    loss = step.loss_function(workload, {}, None)
    value, grads = jax.value_and_grad(lambda p: loss(p, batch)[0])(params)
    assert value == 0
    np.testing.assert_array_equal(grads, np.zeros(3))


@pytest.mark.parametrize("most", [2, 5, 100])
def test_an_evaluation_is_the_mean_over_tokens(most):
    workload = sequences()
    params, _ = workload.init(0)
    padded = feeding.padded(workload.splits.test, most)
    means, outputs = train.evaluate(params, {}, padded, workload)
    np.testing.assert_allclose(means["loss"], token_mean(params), rtol=1e-5)
    assert outputs == ()


@pytest.mark.parametrize("by", ["scan", "vmap"])
def test_groups_of_unequal_weight_at_radius_zero_are_the_batch(by, x64):
    workload = sequences()
    config = point(optimizer__rho=0.0, optimizer__m=4, optimizer__m_by=by, train__batch_size=12)
    traced = {"optimizer.rho": 0.0, "optimizer.lr": 0.5, "optimizer.weight_decay": 0.0}
    split = workload.splits.train
    raw = jax.tree.map(lambda a: jnp.asarray(a[:12]), (split.x, split.y))
    batch = workload.batch(*raw, None, None)

    def updated(name):
        config["optimizer"].update(name=name, m=0 if name == "base" else 4)
        opt = optim.optimizer(config, 10, traced, jax.random.key(0))
        params = jnp.array([0.3, -0.2, 0.1])
        state = step.TrainState(jnp.zeros((), jnp.int32), params, {}, opt.tx.init(params))
        state, metrics = step.train_step(state, batch, jax.random.key(1), workload, opt)
        return state.params, metrics["loss"]

    for one, other in zip(updated("sam"), updated("base")):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_an_epochs_training_loss_weighs_batches(x64):
    """At a rate of zero it is the loss of what was seen, here everything."""
    workload = sequences()
    config = point(optimizer__name="base", optimizer__lr=0.0, train__batch_size=1)
    config["workload"] = "regression"
    run = train.make_run(config, workload)
    params, model_state = workload.init(np.uint32(0))
    traced = dict.fromkeys(("optimizer.rho", "optimizer.lr", "optimizer.weight_decay"), 0.0)
    data = {"train": {"x": workload.splits.train.x}}
    data |= dict.fromkeys(("validation", "test"), feeding.padded(workload.splits.test, 5))
    labels = jnp.asarray(workload.splits.train.y)
    start = run.start(params, model_state)
    _, metrics = jax.jit(run.epoch)(start, np.uint32(0), traced, labels, data, 0)
    np.testing.assert_allclose(metrics["train_loss"], token_mean(params), rtol=1e-6)
    np.testing.assert_allclose(metrics["test_loss"], token_mean(params), rtol=1e-6)


def test_curvature_is_that_of_the_mean_over_tokens(x64):
    workload = sequences()
    params = jnp.array([0.3, -0.2, 0.1])
    config = point()
    config["curvature"].update(examples=0, k=3, what=("eigenvalues", "trace"), what_end=("ggn",))
    batch = measures.batch_of(config, workload, workload.splits.train.y)
    key = measures.key_of(0, 0)
    row = measures.measure(config, workload, params, {}, batch, key, True)
    split = workload.splits.train
    rows = np.concatenate([split.x["value"][i, : split.x["length"][i]] for i in range(N)])
    hessian = rows.T.astype(float) @ rows / len(rows)
    np.testing.assert_allclose(row["loss"], token_mean(params), rtol=1e-6)
    np.testing.assert_allclose(row["eigenvalues"], np.linalg.eigvalsh(hessian)[::-1], rtol=1e-4)
    np.testing.assert_allclose(row["ggn_lambda_max"], np.linalg.eigvalsh(hessian)[-1], rtol=1e-4)


def test_outputs_are_scored_without_what_filled_their_last_batch():
    seen = []

    def score(outputs, y):
        seen.append(outputs.shape)
        return {"far": float(np.abs(outputs - y).max())}

    workload = sequences(score=score)
    padded = feeding.padded(workload.splits.test, 5)
    values = []
    for params in (jnp.zeros(3), jnp.ones(3)):
        means, outputs = train.evaluate(params, {}, padded, workload)
        values.append({"test_loss": means["loss"], f"test_{train.OUTPUTS}": outputs})
    stacked = jax.tree.map(lambda *x: np.stack(x), *values)
    stacked[f"validation_{train.OUTPUTS}"] = stacked[f"test_{train.OUTPUTS}"]
    found = scores.scored(workload, stacked)
    assert set(found) == {"test_loss", "test_far", "validation_far"}
    assert seen == [(N, STEPS)] * 4
    split = workload.splits.test
    expected = [np.abs(split.x["value"] @ w - split.y).max() for w in (np.zeros(3), np.ones(3))]
    np.testing.assert_allclose(found["test_far"], expected, rtol=1e-6)


def test_what_has_no_examples_in_memory_is_not_measured():
    from samop.errors import UserError

    config = point()
    config["curvature"]["every"] = "end"
    with pytest.raises(UserError, match=r"curvature.every='end': data.name='digits'"):
        measures.check(config, dataclasses.replace(small_workload(), splits=None), 10)


SCHEDULE = {"warmup": 0.25, "schedule": "linear", "milestones": (), "factor": 0.1}


def test_linear_and_inverse_square_root_schedules():
    linear = optim.unit_schedule(SCHEDULE, 8)
    np.testing.assert_allclose(
        [linear(i) for i in range(9)], [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0], rtol=1e-6
    )
    rsqrt = optim.unit_schedule({**SCHEDULE, "schedule": "rsqrt"}, 8)
    np.testing.assert_allclose(rsqrt(0), 0.5)
    np.testing.assert_allclose(
        [rsqrt(i) for i in range(1, 8)], np.sqrt(2 / np.arange(2, 9)), rtol=1e-6
    )


def test_clipping_and_adam_follow_their_fields():
    fields = point(optimizer__base="adam")["optimizer"]
    fields.update(clip=0.5, b1=0.0, b2=0.0, eps=1e-3, schedule="constant")
    tx = optim.base_optimizer(fields, 10, 0.1, 0.0)
    grads = jnp.array([3.0, 4.0])
    updates, _ = tx.update(grads, tx.init(grads), jnp.zeros(2))
    clipped = np.array([0.3, 0.4])
    np.testing.assert_allclose(updates, -0.1 * clipped / (clipped + 1e-3), rtol=1e-5)
