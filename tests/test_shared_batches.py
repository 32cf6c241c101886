"""A run whose batches lie on several devices is the run on one: losses, weights, statistics."""

import jax
import numpy as np
import pytest
import small

from samop import checkpoint, groups, loop, modes, sharding, sweep
from samop import config as configs

TEN_STEPS = {"train__epochs": 1, "data__train_size": 160, "train__batch_size": 16}


def resnet():
    config = configs.defaults("resnet18").to_dict()
    base = small.point(**TEN_STEPS)
    return {**base, "model": {**config["model"], "filters": 2}}


CASES = {
    "SAM": lambda: small.point(**TEN_STEPS),
    "BatchNorm": lambda: small.point(model__norm="batch", **TEN_STEPS),
    "ResNet-18": resnet,
    "m-SAM by scan": lambda: small.point(optimizer__m=4, **TEN_STEPS),
    "m-SAM by vmap": lambda: small.point(optimizer__m=4, optimizer__m_by="vmap", **TEN_STEPS),
    "masks": lambda: small.point(sparsity__method="snip", sparsity__level=0.5, **TEN_STEPS),
    "expansion": lambda: small.point(linearized__mode="jvp", **TEN_STEPS),
    "parts of the labels": lambda: small.point(
        train__label_parts=True, data__label_noise=0.4, **TEN_STEPS
    ),
}


def vit():
    config = configs.defaults("vit").to_dict()
    model = {**config["model"], "size": 8, "layers": 1, "heads": 2, "patch": 4, "dropout": 0.3}
    return {**small.point(**TEN_STEPS), "model": model}


CASES["dropout"] = vit


@pytest.mark.parametrize(
    ("case", "devices"), [*((case, 2) for case in CASES), ("BatchNorm", 8), ("dropout", 8)]
)
def test_one_device_is_several(case, devices, x64):
    """Ten steps in float64: BatchNorm's statistics and dropout's masks are the whole batch's."""
    rows = small.grid(CASES[case](), [{"optimizer__rho": 0.1}], [0])
    alone, shared = small.prepared(rows), small.prepared(rows, devices, batch=16)
    assert shared.group.layout.batch == shared.program.mesh.shape[sharding.BATCH] == devices
    one, several = small.first_epochs(alone), small.first_epochs(shared)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_devices_are_runs_first_and_share_batches_after():
    layout = sharding.layout(2, 1, 8, batch=16)
    assert (layout.rows, layout.columns, layout.batch) == (2, 1, 4)
    assert layout.devices == 8
    assert sharding.layout(8, 1, 8, batch=16).batch == 1  # a run each
    assert sharding.layout(1, 1, 8, batch=12).batch == 6  # what divides the batch
    assert sharding.layout(1, 1, 8).batch == 1


def test_several_runs_beside_each_other_share_what_is_left(x64):
    rows = small.grid(small.point(**TEN_STEPS), [{"optimizer__rho": r} for r in (0.1, 0.2)], [0])
    alone, shared = small.prepared(rows), small.prepared(rows, 8, batch=16)
    assert (shared.group.layout.columns, shared.group.layout.batch) == (2, 4)
    for a, b in zip(*(jax.tree.leaves(small.first_epochs(r)) for r in (alone, shared))):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_what_began_on_more_devices_goes_on_with_fewer():
    layout = sharding.Layout(1, 1, 1, 1, 8)
    assert sharding.fitted(layout, 8) == layout
    assert sharding.fitted(layout, 3).batch == 2  # a divisor of 8, and so of the batch
    rows = small.grid(small.point(**TEN_STEPS), [{}], [0])
    group = groups.make(rows, 8, 16)
    one = loop.prepare(group, jax.devices()[:1])
    assert one.program.mesh.size == 1
    few, many = small.first_epochs(one), small.first_epochs(loop.prepare(group, jax.devices()))
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_a_sweep_shares_batches_where_it_is_told_to(tmp_path):
    """And a frozen group without the field, as earlier versions wrote it, shares none."""
    axes = {"seed": (0,)}
    point = small.point(run__share_batches="always", **TEN_STEPS)
    plan = sweep.plan(point, axes, "test")
    sweep.run(plan, tmp_path)
    (name,) = plan.points
    group, *_ = groups.frozen(tmp_path, plan.points)
    assert group.layout.batch == 8
    assert "params" in checkpoint.load(tmp_path / "points" / name)
    used = jax.devices()
    assert modes.shared_batch(point, point["run"], used) == 16
    assert modes.shared_batch(point, {**point["run"], "share_batches": "auto"}, used) == 1
    assert modes.shared_batch(point, {**point["run"], "share_batches": "never"}, used) == 1
    old = {k: v for k, v in group.layout._asdict().items() if k != "batch"}
    assert sharding.Layout(**old).batch == 1
