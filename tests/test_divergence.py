"""A run that diverges is recorded so, leaves its neighbours alone, and keeps what it was before."""

import jax
import numpy as np
import pytest
from small import small_plan

from samop import checkpoint, divergence, records, sweep

# Without a nonlinearity each step multiplies the weights: some epochs on they overflow.
WILD = {
    "model__hidden": (8,),
    "model__activation": "identity",
    "optimizer__momentum": 0.0,
    "optimizer__weight_decay": 0.0,
    "optimizer__schedule": "constant",
    "train__epochs": 8,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("diverged")
    axes = {"optimizer.lr": (0.05, 2.0), "seed": (0, 1)}
    fields = {**WILD, "run__checkpoint_seconds": 0.0}
    plan = small_plan(axes, **fields)
    sweep.run(plan, workdir)
    return workdir, plan


def losses(folder):
    rows = records.read_rows(folder / "metrics.jsonl")
    return [row["train_loss"] + row["validation_loss"] for row in rows]


def test_a_diverged_run_goes_on_in_the_records_and_keeps_its_last_good_network(trained):
    workdir, plan = trained
    for name, point in plan.points.items():
        folder = workdir / "points" / name
        found = losses(folder)
        assert len(found) == 8
        assert (folder / "DONE").exists()
        variables, epoch = divergence.load(folder)
        if point["optimizer"]["lr"] < 1:
            assert np.isfinite(found).all()
            assert (variables, epoch) == ({}, 0)
            continue
        first = next(i for i, loss in enumerate(found) if not np.isfinite(loss))
        assert first > 0
        assert epoch == first  # so many epochs were finite, and a checkpoint was made of each
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))
        final = checkpoint.load(folder)
        assert jax.tree.structure(variables) == jax.tree.structure(final)
        assert not all(np.isfinite(x).all() for x in jax.tree.leaves(final))


def test_what_is_kept_is_what_training_so_far_gives(trained, tmp_path):
    """The same run, ended by hand at that epoch: its loss is that of the row."""
    workdir, plan = trained
    name = next(n for n, p in plan.points.items() if p["optimizer"]["lr"] > 1)
    folder = workdir / "points" / name
    variables, epoch = divergence.load(folder)
    from samop.workloads import build

    workload = build(plan.points[name])
    split = workload.splits.test
    batch = workload.batch(split.x, split.y, None, None)
    outputs, _ = workload.apply(variables["params"], {}, batch, None, False)
    loss = float(np.mean(workload.examples(outputs, batch)["loss"]))
    row = records.read_rows(folder / "metrics.jsonl")[epoch - 1]
    np.testing.assert_allclose(loss, row["test_loss"], rtol=1e-4)


def test_without_a_checkpoint_there_is_nothing_to_keep(tmp_path, caplog):
    axes = {"optimizer.lr": (1e12,), "seed": (0,)}
    plan = small_plan(axes, **{**WILD, "train__epochs": 2})
    sweep.run(plan, tmp_path)
    (name,) = plan.points
    assert divergence.load(tmp_path / "points" / name) == ({}, 0)
    assert "has diverged in epoch 1; no checkpoint of it was made before" in caplog.text
