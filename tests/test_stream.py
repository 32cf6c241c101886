"""Streams: what their batches hold, and that training on them is training."""

import dataclasses
import json
import sys
import threading

import jax
import numpy as np
import pytest
from small import first_epochs, grid, point, prepared

from samop import chunks, streaming, sweep, workloads
from samop.data import sampling, stream
from samop.errors import UserError
from samop.workloads import classification


def served(workload, **how):
    """The same workload with its arrays in memory served as a stream."""
    parts = {name: getattr(workload.splits, name) for name in ("train", "validation", "test")}

    def load(split, i, draw):
        return {"x": parts[split].x[i], "y": np.int32(parts[split].y[i])}

    counts = {name: len(part) for name, part in parts.items()}
    example = tuple(
        np.zeros((1, *a.shape[1:]), a.dtype) for a in (parts["train"].x, parts["train"].y)
    )
    return dataclasses.replace(
        workload, splits=None, stream=stream.make(counts, example, load, **how)
    )


@pytest.fixture
def streamed(monkeypatch):
    """Call it, and classification reads its data as a stream from then on."""
    build = classification.build

    def switch(**how):
        monkeypatch.setattr(classification, "build", lambda config: served(build(config), **how))
        workloads._build.cache_clear()

    yield switch
    workloads._build.cache_clear()


@pytest.mark.parametrize(("name", "noise"), [("base", 0.0), ("sam", 0.4)])
def test_a_streamed_run_is_the_run_in_memory(x64, streamed, monkeypatch, name, noise):
    monkeypatch.setattr(chunks, "BYTES", 3 * 32 * (64 + 4) + 7)  # three batches a chunk, of six
    cell = {"optimizer__name": name, "data__label_noise": noise, "train__eval_batch_size": 20}
    run = lambda: first_epochs(prepared(grid(point(train__diagnostics_every=2), [cell], [3])), 2)  # noqa: E731
    params, values = run()
    streamed()
    streamed_params, streamed_values = run()
    assert streamed_values.keys() == values.keys()
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(streamed_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    for key in values:
        np.testing.assert_allclose(values[key], streamed_values[key], rtol=1e-9, atol=1e-9)
    assert np.isfinite(streamed_values["validation_loss"]).all()


def test_chunks_need_not_divide_an_epoch_or_a_split(streamed, monkeypatch):
    """One batch a chunk, or all of them: the same numbers."""
    streamed()
    rows = lambda: grid(point(train__eval_batch_size=30), [{}], [0])  # noqa: E731
    _, few = first_epochs(prepared(rows()))
    monkeypatch.setattr(chunks, "BYTES", 1)
    _, many = first_epochs(prepared(rows()))
    for key in few:
        np.testing.assert_allclose(few[key], many[key], rtol=1e-5, atol=1e-6)


def numbers(examples=11, **how):
    """A stream whose i-th example is i, and random numbers where those are wanted."""

    def load(split, i, draw):
        drawn = 0 if draw is None else np.random.default_rng([*draw, i]).integers(1000)
        return {"x": np.array([i, drawn], np.int64), "y": np.int32(i)}

    counts = {"train": examples, "validation": 7, "test": 4}
    return stream.make(counts, (np.zeros((1, 2), np.int64), np.zeros(1, np.int32)), load, **how)


def taken(batches):
    try:
        return list(batches)
    finally:
        batches.close()


def test_an_epoch_is_the_order_of_training_in_memory():
    for epoch in (0, 1):
        seen = taken(numbers().train(5, epoch, 3))
        order = np.asarray(sampling.epoch_order(11, 3, 5, epoch))
        np.testing.assert_array_equal([batch["index"] for batch in seen], order)
        np.testing.assert_array_equal([batch["x"][:, 0] for batch in seen], order)


def test_batches_do_not_depend_on_threads_or_hosts():
    one = taken(numbers(threads=1).train(2, 3, 4))
    many = taken(numbers(threads=7).train(2, 3, 4))
    hosts = [taken(numbers(host=stream.Host(i, 2)).train(2, 3, 4)) for i in range(2)]
    for a, b, *parts in zip(one, many, *hosts, strict=True):
        for key in ("x", "y", "index"):
            np.testing.assert_array_equal(a[key], b[key])
            np.testing.assert_array_equal(a[key], np.concatenate([part[key] for part in parts]))
    assert not all(
        np.array_equal(a["x"], b["x"]) for a, b in zip(one, taken(numbers().train(3, 3, 4)))
    )
    with pytest.raises(UserError, match="batches of 4 cannot be divided among 3 hosts"):
        numbers(host=stream.Host(0, 3)).train(0, 0, 4)


def test_evaluation_covers_every_example_once():
    for split, count in (("validation", 7), ("test", 4)):
        for hosts in (1, 2):
            parts = [numbers(host=stream.Host(i, hosts)) for i in range(hosts)]
            found = [batch for part in parts for batch in taken(part.evaluation(split, 4))]
            y = np.concatenate([batch["y"][batch["weight"] > 0] for batch in found])
            assert sorted(y) == list(range(count))
            assert all(len(batch["y"]) == 4 // hosts for batch in found)
            padding = np.concatenate([batch["x"][batch["weight"] == 0] for batch in found])
            assert not padding.any()


def test_a_place_can_be_kept_and_gone_back_to():
    batches = numbers(40).train(0, 0, 3)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.state()))
    rest = taken(batches)
    again = numbers(40, threads=3).train(0, 0, 3)
    again.restore(state)
    for a, b in zip(rest, taken(again), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_what_fails_in_a_thread_fails_where_it_is_used_and_leaves_no_thread():
    def broken():
        yield 1
        raise UserError("record 3 is damaged")

    running = lambda: [t.name for t in threading.enumerate() if t.name == chunks.THREAD]  # noqa: E731
    items = chunks.ahead(broken)
    assert next(items) == 1
    with pytest.raises(UserError, match="record 3 is damaged"):
        next(items)
    assert not running()

    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = chunks.ahead(endless)
    next(items)
    items.close()
    assert closed.is_set()
    assert not running()


def test_without_grain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match=r"need grain: pip install 'samop\[imagenet\]'"):
        numbers()


def test_runs_are_one_a_group_and_a_killed_one_goes_on_where_it_was(
    streamed, tmp_path, monkeypatch
):
    streamed()
    config = point(run__checkpoint_seconds=0.0, train__epochs=4)
    plan = sweep.plan(config, {"optimizer.name": ("base", "sam"), "seed": (0, 1)}, "command")
    assert [len(group.names) for group in sweep.pending_groups(plan, tmp_path / "a")] == [1] * 4
    sweep.run(plan, tmp_path / "a")

    whole = streaming.epoch

    def dying(*args):
        run = whole(*args)

        def until(*inputs):
            if int(inputs[-1]) == 2 and "killed" not in told:
                told.add("killed")
                raise KeyboardInterrupt
            return run(*inputs)

        return until

    told: set[str] = set()
    monkeypatch.setattr(streaming, "epoch", dying)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(plan, tmp_path / "b")
    sweep.run(plan, tmp_path / "b")
    for name in plan.points:
        files = [tmp_path / way / "points" / name / "metrics.jsonl" for way in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_curvature_of_a_stream_is_refused(streamed, tmp_path):
    streamed()
    plan = sweep.plan(point(curvature__every="end"), {"seed": (0,)}, "command")
    with pytest.raises(UserError, match="has no fixed examples in memory to measure on"):
        sweep.run(plan, tmp_path)
