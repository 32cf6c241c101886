"""What a group takes of memory: counted, taken once, and what is said where it is too much."""

import math
import re

import jax
import numpy as np
import pytest
from small import grid, point, prepared

from samop import environment, loop, memory, sweep, trees
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
    assert needs.more == needs.state + needs.workspace


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
    # 100 of state, 200 of gradients, 600 that grow with the batch.
    needs, half = memory.Footprint(100, 50, 800), memory.Footprint(100, 50, 500)
    sizes = {"batch_size": 64, "eval_batch_size": 1000}
    text = memory.what_would_fit(needs, half, 600, sizes)
    assert "--config.train.batch_size=32 --config.train.eval_batch_size=500" in text
    for hopeless in (300, 120):
        text = memory.what_would_fit(needs, half, hopeless, sizes)
        assert "none fits" in text
        assert "narrower network" in text
    assert "none fits" in memory.what_would_fit(needs, needs, 600, sizes)


def test_what_is_said_to_fit_fits():
    wide = {"model__hidden": (64, 64), "data__train_size": 1000, "train__batch_size": 800}
    config = point(**wide, train__eval_batch_size=70)
    needs = prepared([[config]]).footprint
    half = prepared([[point(**{**wide, "train__batch_size": 400}, train__eval_batch_size=35)]])
    room = 0.7 * needs.more
    sizes = {"batch_size": 800, "eval_batch_size": 70}
    text = memory.what_would_fit(needs, half.footprint, room, sizes)
    batch, evaluated = map(int, re.findall(r"batch_size=(\d+)", text))
    assert 1 < batch < 800
    smaller = point(**{**wide, "train__batch_size": batch}, train__eval_batch_size=evaluated)
    assert prepared([[smaller]]).footprint.more <= 1.05 * room


def test_memory_of_a_container(tmp_path):
    assert environment.container_free_bytes(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("max\n")
    assert environment.container_free_bytes(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 400\n")
    assert environment.container_free_bytes(tmp_path) == 700


def test_a_group_is_halved_down_to_single_runs_which_say_what_would_fit(
    tmp_path, monkeypatch, caplog
):
    plan = sweep.plan(point(run__devices=2), {"seed": (0, 1, 2)}, "command")
    used = sweep.devices(plan.run)
    (group,) = sweep.pending_groups(plan, tmp_path)
    ready = loop.prepare(group, used)
    needs = ready.footprint.more
    free = {"bytes": 10 * needs}
    monkeypatch.setattr(sweep.environment, "free_bytes", lambda used: free["bytes"])
    assert sweep.smaller(ready, tmp_path, used, free["bytes"]) == []
    free["bytes"] = 1.2 * needs
    halves = sweep.smaller(ready, tmp_path, used, free["bytes"])
    assert [len(g.names) for g in halves] == [1, 1, 1]
    one = loop.prepare(halves[0], used)
    assert one.program.mesh.size == 1
    free["bytes"] = 1.2 * one.footprint.more
    assert sweep.smaller(one, tmp_path, used, free["bytes"]) == []
    assert "trying all the same" in caplog.text
    free["bytes"] = 0.5 * one.footprint.more
    with pytest.raises(UserError, match=r"seed0.* needs .* GiB are free: .*batch"):
        sweep.run(plan, tmp_path)
