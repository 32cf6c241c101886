"""How both parts of a noisy training set are fitted, against NumPy; noise of known rates."""

import numpy as np
import pytest
import small

from samop import plans, records, results, sweep
from samop.errors import UserError
from samop.parts import NAMES
from samop.train import make_run
from samop.workloads import build


def predicted(ready, params, number=0):
    """Classes that a two-layer ReLU network tells of the training images, in NumPy."""
    x = ready.workload.splits.train.x.reshape(len(ready.workload.splits.train), -1) / 16.0
    for name in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ params[name]["kernel"][number] + params[name]["bias"][number], 0)
    return np.argmax(x @ params["Dense_2"]["kernel"][number] + params["Dense_2"]["bias"][number], 1)


@pytest.mark.parametrize("size", [1000, 64])  # in one batch, and in several with a rest
def test_parts_agree_with_numpy(size):
    point = small.point(train__label_parts=True, train__eval_batch_size=size, train__epochs=4)
    cells = [{"data__label_noise": rate} for rate in (0.0, 0.25, 0.6)]
    ready = small.prepared(small.grid(point, cells, [3]))
    params, values = small.first_epochs(ready, 4)
    true = ready.workload.splits.train.y
    for number, rate in enumerate((0.0, 0.25, 0.6)):
        given = np.asarray(ready.run.labels(np.uint32(3), rate))
        told, flipped = predicted(ready, params, number), given != true
        assert flipped.sum() == round(rate * len(true))
        want = [(told == given)[~flipped], (told == given)[flipped], (told == true)[flipped]]
        for name, hits in zip(NAMES, want):
            got = values[name][number]
            assert np.isnan(got) if not len(hits) else got == pytest.approx(hits.mean(), abs=0.011)


def test_noise_touches_training_labels_alone_and_none_stays():
    workload = build(small.point())
    run = make_run(small.point(), workload)
    true = workload.splits.train.y
    for rate in (0.25, 0.5, 0.75):
        given = np.asarray(run.labels(np.uint32(0), rate))
        assert (given != true).sum() == round(rate * len(true))
        # The same seed flips the same examples, more of them at a higher rate.
        more = np.asarray(run.labels(np.uint32(0), rate + 0.2))
        assert ((given != true) <= (more != true)).all()
    counts = np.bincount(np.asarray(run.labels(np.uint32(0), 0.75)), minlength=10)
    assert counts.min() > 0


def test_a_sweep_records_and_loads_them(tmp_path):
    axes = {
        "optimizer.name": ("base", "sam"),
        "data.label_noise": (0.0, 0.5),
        "seed": (0, 1),
    }
    plan = sweep.plan(small.point(train__label_parts=True), axes, "test")
    sweep.run(plan, tmp_path)
    runs = results.load(tmp_path)
    assert set(runs["status"]) == {
        "done"
    }  # that clean labels have no flipped part is no divergence
    noisy = runs["label_noise"] > 0
    assert runs.loc[~noisy, "last_train_noisy_accuracy"].isna().all()
    assert runs.loc[noisy, "last_train_noisy_accuracy"].between(0, 1).all()
    assert (runs["last_weight_norm"] > 0).all()
    rows = records.read_rows(tmp_path / "points" / runs["point"][0] / "metrics.jsonl")
    assert set(NAMES) <= set(rows[-1])


def test_the_norm_of_the_weights_is_recorded():
    ready = small.prepared(small.grid(small.point(), [{}], [0]))
    params, values = small.first_epochs(ready, 1)
    import jax

    size = np.sqrt(sum(float((np.asarray(w)[0] ** 2).sum()) for w in jax.tree.leaves(params)))
    assert values["weight_norm"][0] == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(UserError, match=r"data.label_noise=.* is not allowed: .* in \[0, 1\)"):
        small.point(data__label_noise=rate)


def test_parts_are_of_classes():
    fields = {"workload": "regression", "data__name": "synthetic", "data__normalize": "none"}
    with pytest.raises(UserError, match=r"train.label_parts is not defined for workload='regr"):
        small.point(train__label_parts=True, **fields)


def test_noise_that_drowns_the_labels_is_warned_of(tmp_path):
    for rate, warned in ((0.9, True), (0.85, False)):
        plan = sweep.plan(small.point(data__label_noise=rate), {"seed": (0,)}, "test")
        assert ("no more frequent than each wrong one" in plans.describe(plan, tmp_path)) is warned
