"""What a group takes of memory: counted, taken once, and what is said where it is too much."""

import jax
import numpy as np
import pytest
from small import grid, point, prepared

from samop import loop, memory, sweep, trees
from samop.data import splits
from samop.errors import UserError


@pytest.mark.parametrize("devices", [1, 2])
def test_a_footprint_is_what_the_arrays_are(devices):
    rows = grid(point(), [{"optimizer__rho": r} for r in (0.1, 0.2)], [0, 1])
    ready = prepared(rows, devices)
    state, (_, _, labels, data) = loop.start(ready), loop.feed(ready)
    bytes_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    needs = ready.footprint
    assert needs.data == bytes_of(data)
    held = bytes_of((state, labels))
    assert held <= needs.state <= held + 100 * devices  # counts, seeds, the epoch's number
    # Gradients, perturbed parameters and activations of a batch at least.
    assert needs.workspace > 4 * trees.size(state.params)
    assert needs.total == needs.state + needs.data + needs.workspace


def test_replicates_add_up():
    def needs(seeds):
        return prepared(grid(point(), [{}], range(seeds))).footprint

    one, four = needs(1), needs(4)
    assert four.data == one.data
    assert four.state == pytest.approx(4 * one.state, rel=0.01)


def test_the_data_set_is_in_memory_once():
    ready = prepared(grid(point(), [{}], [0, 1]), devices=2)
    x = loop.feed(ready)[3]["train"]["x"]
    assert x.dtype == np.uint8
    where = {shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards}
    assert where == {ready.workload.splits.train.x.ctypes.data}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_aligned(dtype):
    array = splits.aligned((3, 5), np.dtype(dtype))
    assert array.shape == (3, 5)
    assert array.dtype == dtype
    assert array.ctypes.data % splits.ALIGNMENT == 0
    array[:] = 7
    assert (array == 7).all()


def test_what_would_fit():
    needs = memory.Footprint(state=100, data=50, workspace=800)
    assert needs.total == 950
    text = memory.what_would_fit(needs, 550, batch_size=64)
    assert "--config.train.batch_size=32 or less" in text
    text = memory.what_would_fit(needs, 120, batch_size=64)
    assert "no batch size fits" in text
    assert "narrower network" in text


def test_a_group_is_halved_down_to_single_runs_which_say_what_would_fit(
    tmp_path, monkeypatch, caplog
):
    plan = sweep.plan(point(run__devices=2), {"seed": (0, 1, 2)}, "command")
    used = sweep.devices(plan.run)
    (group,) = sweep.pending_groups(plan, tmp_path)
    ready = loop.prepare(group, used)
    needs = ready.footprint.total
    free = {"bytes": 10 * needs}
    monkeypatch.setattr(sweep.environment, "free_bytes", lambda used: free["bytes"])
    assert sweep._smaller(ready, tmp_path, used) == []
    free["bytes"] = 1.2 * needs
    halves = sweep._smaller(ready, tmp_path, used)
    assert [len(g.names) for g in halves] == [1, 1, 1]
    one = loop.prepare(halves[0], used)
    assert one.program.mesh.size == 1
    free["bytes"] = 1.2 * one.footprint.total
    assert sweep._smaller(one, tmp_path, used) == []
    assert "trying all the same" in caplog.text
    free["bytes"] = 0.5 * one.footprint.total
    with pytest.raises(UserError, match=r"seed0.* needs .* GiB are free: .*batch"):
        sweep.run(plan, tmp_path)
