"""A state whose large arrays lie in parts on the devices that share a run's batches."""

import copy

import jax
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from samop import checkpoint, groups, layouts, loop, sharding, sweep
from samop import config as configs
from samop.errors import UserError

TEN_STEPS = {"train__epochs": 1, "data__train_size": 160, "train__batch_size": 16}
WIDE = {"model__hidden": (64, 64), **TEN_STEPS}
CASES = {
    "SAM": WIDE,
    "ASAM": {"optimizer__name": "asam", "optimizer__rho": 0.5, **WIDE},
    "Adam": {"optimizer__base": "adam", "optimizer__lr": 0.01, **WIDE},
    "BatchNorm": {"model__norm": "batch", **WIDE},
    "masks": {"sparsity__method": "magnitude", "sparsity__level": 0.5, **WIDE},
}


def both(fields, devices=8, cells=({},), seeds=(0,)):
    """The same group on one device and with its state divided among several."""
    rows = small.grid(small.point(**fields), cells, seeds)
    divided = small.grid(small.point(run__shard_parameters=True, **fields), cells, seeds)
    return small.prepared(rows), small.prepared(divided, devices, batch=16)


def trained(ready):
    """State and metrics after an epoch."""
    number = ready.program.place("every", np.int32(0))
    return ready.epoch(loop.start(ready), *loop.feed(ready), number)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def share(tree):
    """Bytes on the first device over bytes of all there is."""
    leaves = jax.tree.leaves(tree)
    return sum(x.addressable_shards[0].data.nbytes for x in leaves) / sum(x.nbytes for x in leaves)


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_are_those_of_one_device(case, x64):
    whole, divided = both(CASES[case])
    assert divided.group.layout.divided
    states = [trained(ready) for ready in (whole, divided)]
    close(*states)
    # Between steps too: 8,192 of 8,970 parameters are in layers that are divided.
    assert share(states[1][0].params) < 0.22
    assert share(states[1][0].opt_state) < 0.22
    for found, wanted in zip(*map(jax.tree.leaves, (states[1][0], divided.program.state))):
        assert found.sharding == wanted.sharding


def test_several_runs_beside_each_other_and_above_each_other(x64):
    """Two cells on two columns of four devices; three seeds in one vmap."""
    cells = [{"optimizer__rho": r} for r in (0.1, 0.2)]
    whole, divided = both(WIDE, cells=cells)
    assert (divided.group.layout.columns, divided.group.layout.batch) == (2, 4)
    close(*map(small.first_epochs, (whole, divided)))
    config = small.point(run__shard_parameters=True, **WIDE)
    rows = small.grid(config, [{}], [0, 1])
    layout = layouts.Layout(2, 1, 1, 1, 4, divided=True)
    together = groups.make(rows, 1)._replace(layout=layout)
    found = small.first_epochs(loop.prepare(together, jax.devices()))
    close(small.first_epochs(small.prepared(rows)), found)


def test_an_eighth_of_a_wide_state_is_on_each_device():
    whole, divided = both({**WIDE, "model__hidden": (512, 512)})
    assert share(trained(divided)[0]) == pytest.approx(1 / 8, abs=0.01)
    assert share(loop.start(divided)) == pytest.approx(1 / 8, abs=0.01)
    assert share(loop.start(whole)) == 1
    # Of all devices together the state is the one of one device; the labels are on each.
    assert divided.footprint.state < 1.2 * whole.footprint.state


def test_the_longest_axis_that_they_divide():
    part = lambda *shape: tuple(sharding.part(shape, 8))  # noqa: E731
    assert part(3, 3, 64, 128) == (None, None, None, "batch")
    assert part(64, 128) == (None, "batch")
    assert part(512, 10) == ("batch",)
    assert part(64, 64) == (None, "batch")
    assert part(8191, 3) == part(63, 65) == part(8, 8) == ()
    assert sharding.part((64, 64), 1) == PartitionSpec()


def test_checkpoints_know_nothing_of_it(tmp_path):
    """Saved in parts and restored whole, and the reverse; what goes on agrees."""
    whole, divided = both(WIDE)
    for first, second in ((whole, divided), (divided, whole)):
        state, _ = trained(first)
        host = jax.device_get(state)
        writer = checkpoint.Writer(tmp_path / f"{first.program.mesh.size}")
        writer.save(1, state)
        writer.close()
        path = tmp_path / f"{first.program.mesh.size}" / "1"
        back = checkpoint.restore(path, second.program.state)
        jax.tree.map(np.testing.assert_array_equal, host, jax.device_get(back))
        for found, wanted in zip(*map(jax.tree.leaves, (back, second.program.state))):
            assert found.sharding == wanted.sharding
        number = second.program.place("every", np.int32(1))
        second.epoch(back, *loop.feed(second), number)


def test_a_sweep_with_a_divided_state(tmp_path):
    fields = {**WIDE, "run__share_batches": "always", "run__shard_parameters": True}
    point = small.point(**fields)
    point["curvature"]["every"] = "end"
    point["curvature"]["what"], point["curvature"]["examples"] = ("trace",), 50
    plan = sweep.plan(point, {"seed": (0,)}, "test")
    sweep.run(plan, tmp_path)
    (name,) = plan.points
    group, *_ = groups.frozen(tmp_path, plan.points)
    assert group.layout.divided
    assert "params" in checkpoint.load(tmp_path / "points" / name)
    assert configs.point_name(point) == configs.point_name({**point, "run": {}})  # no identity


def test_without_devices_to_divide_over_it_has_no_effect():
    rows = small.grid(small.point(run__shard_parameters=True, **WIDE), [{}], [0])
    ready = small.prepared(rows)
    assert not ready.group.layout.divided
    assert ready.program.mesh.size == 1
    bad = copy.deepcopy(rows[0][0])
    bad["run"]["shard_parameters"] = 1
    with pytest.raises(UserError, match="type bool"):
        sweep.plan(bad, {"seed": (0,)}, "test")
