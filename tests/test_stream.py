"""Streams: what their batches hold, and that training on them is training."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
from small import first_epochs, grid, point, prepared

from samop import chunks, loop, streaming, workloads
from samop.data import sampling, stream
from samop.errors import UserError
from samop.workloads import classification


def served(workload, **how):
    """The same workload with its arrays in memory served as a stream."""
    parts = {name: getattr(workload.splits, name) for name in ("train", "validation", "test")}

    def load(split, i, draw):
        return {"x": parts[split].x[i], "y": np.int32(parts[split].y[i])}

    counts = {name: len(part) for name, part in parts.items()}
    example = tuple(np.zeros((1, *a.shape[1:]), a.dtype) for a in (parts["train"].x, parts["train"].y))
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


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("name", ["base", "sam"])
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
