"""Curvature during training: it changes nothing, is measured when due, and survives a kill."""

import jax
import numpy as np
import pytest
import small

from samop import checkpoint, groups, loop, measures, records, watch
from samop import config as configs
from samop.errors import UserError

WHAT = {"what": ("eigenvalues", "trace"), "examples": 60, "k": 2, "probes": 24}


def group(every, seeds=(0,), devices=1, **fields):
    settings = {f"curvature__{k}": v for k, v in {"every": every, **WHAT, **fields}.items()}
    base = small.point(model__hidden=(4, 4), **settings)
    cells = [{"optimizer__rho": 0.05}, {"optimizer__rho": 0.2, "data__label_noise": 0.3}]
    return small.prepared(small.grid(base, cells, seeds), devices)


def folders(ready, workdir):
    points = [workdir / "points" / name for name in ready.group.names]
    for point in points:
        point.mkdir(parents=True)
    groups.freeze(ready.group, workdir / "groups" / ready.group.name, {"mode": "vmap"})
    return points


def rows(point):
    return records.read_rows(point / watch.FILE)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A group of four runs measured within and between epochs of six steps."""
    ready, workdir = group("4steps", seeds=(0, 1), devices=2), tmp_path_factory.mktemp("measured")
    points = folders(ready, workdir)
    loop.train(ready, workdir)
    return ready, workdir, points


def test_training_is_bitwise_the_same_with_and_without(measured, tmp_path):
    ready, workdir, points = measured
    without = group("", seeds=(0, 1), devices=2)
    others = folders(without, tmp_path)
    loop.train(without, tmp_path)
    for point, other in zip(points, others):
        assert (point / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        assert not (other / watch.FILE).exists()
    final = checkpoint.restore_arrays(workdir / "groups" / ready.group.name / "final")
    plain = checkpoint.restore_arrays(tmp_path / "groups" / without.group.name / "final")
    assert final.keys() == plain.keys()
    assert all(np.array_equal(final[name], plain[name]) for name in final)


def test_rows_are_those_that_are_due(measured):
    ready, _, points = measured
    assert ready.run.steps_per_epoch == 6
    for point in points:
        found = rows(point)
        assert [row["step"] for row in found] == [0, 4, 8, 12]
        assert [row["epoch"] for row in found] == [0, 4 / 6, 8 / 6, 2]
        assert all(row["lambda_max_converged"] and row["examples"] == 60 for row in found)


def test_a_row_is_the_curvature_of_that_runs_network_on_its_own_labels(measured):
    ready, _, points = measured
    for point, config in zip(points, ready.group.points):
        variables = checkpoint.load(point)
        labels = ready.run.labels(np.uint32(config["seed"]), config["data"]["label_noise"])
        batch = measures.batch_of(config, ready.workload, labels)
        loss = measures.losses(ready.workload).loss
        dense = jax.hessian(lambda x, f=loss, b=batch, v=variables: f(unravel(x, v), b))
        values = np.linalg.eigvalsh(dense(ravel(variables)))
        last = rows(point)[-1]
        np.testing.assert_allclose(last["eigenvalues"], values[::-1][:2], rtol=1e-3)
        assert abs(last["trace"] - values.sum()) < 5 * last["trace_se"]
    assert len({rows(point)[-1]["loss"] for point in points}) == len(points)


def ravel(variables):
    return jax.flatten_util.ravel_pytree(variables["params"])[0]


def unravel(x, variables):
    own = jax.flatten_util.ravel_pytree(variables["params"])[1]
    return {"params": own(x), "state": {}}


def test_the_replay_is_what_training_does():
    ready = group("end", seeds=(0, 1), devices=2)
    inputs, place = loop.feed(ready), ready.program.place
    state = loop.start(ready)
    for number, begin, count in ((0, 0, 2), (0, 2, 4), (1, 0, 6)):
        where = (place("every", np.int32(x)) for x in (number, begin, count))
        state = ready.program.advance(state, *inputs, *where)
    expected, _ = small.first_epochs(ready, 2)
    found = jax.tree.map(lambda x: loop.real(ready.group, np.asarray(x)), state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert int(state.step) == 12


def test_killed_and_resumed_leaves_the_same_rows(measured, tmp_path):
    ready, _, points = measured
    again = folders(ready, tmp_path)

    def dies(epochs):
        if epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(ready, tmp_path, checkpoint_seconds=0, report=dies)
    # Rows of the first epoch are there; what lies beyond the checkpoint must not survive.
    records.append_rows(again[0] / watch.FILE, [{"step": 11, "epoch": 1.8, "loss": 9.0}])
    loop.train(ready, tmp_path, checkpoint_seconds=0)
    for point, other in zip(points, again):
        assert (point / watch.FILE).read_bytes() == (other / watch.FILE).read_bytes()


def test_a_lost_row_sends_a_group_back(measured, tmp_path):
    ready, _, points = measured
    folders(ready, tmp_path)
    for point in points:
        (tmp_path / "points" / point.name / watch.FILE).write_bytes(
            (point / watch.FILE).read_bytes()
        )
    one = tmp_path / "points" / points[0].name
    due = watch.due(ready.group.points[0], 6, 2)
    assert watch.recorded(one, due, 6, 2) == 2
    records.rewrite_rows(one / watch.FILE, rows(one)[:2])
    assert watch.recorded(one, due, 6, 2) == 1
    records.rewrite_rows(one / watch.FILE, [])
    assert watch.recorded(one, due, 6, 2) == 0


def test_a_diverged_network_has_a_row_without_values():
    ready = group("end")
    config = ready.group.points[0]
    params, state = jax.device_get(ready.workload.init(np.uint32(0)))
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    batch = measures.batch_of(config, ready.workload, ready.workload.splits.train.y)
    args = (config, ready.workload, params, state, batch, measures.key_of(0, 0))
    row = measures.measure(*args, last=True)
    assert np.isnan(row["loss"])
    assert row["lambda_max"] is None
    assert row["eigenvalues"] is None
    read = records.decode(records.encode({"step": 1, **row}))
    assert np.isnan(read["trace"])


def test_every_word_records_the_names_that_a_diverged_network_lacks():
    ready = group("end", what=measures.WORDS, examples=40, density_steps=3, density_probes=1)
    config = ready.group.points[0]
    params, state = jax.device_get(ready.workload.init(np.uint32(0)))
    batch = measures.batch_of(config, ready.workload, ready.workload.splits.train.y)
    key = measures.key_of(0, 0)
    row = measures.measure(config, ready.workload, params, state, batch, key, last=True)
    expected = {n for word in measures.WORDS for n in measures.names(word, config["curvature"])}
    layers = {name for name in row if ":" in name}
    assert set(row) - layers == expected | {"examples", "parameters", "loss"}
    assert layers == {
        f"lambda_max:Dense_{i}{s}" for i in range(3) for s in ("", "_residual", "_converged")
    }
    # Each layer's by the dense Hessian of that layer's parameters alone.
    loss = measures.losses(ready.workload).loss
    for layer in params:

        def of_layer(x, layer=layer):
            own = jax.flatten_util.ravel_pytree(params[layer])[1](x)
            return loss({"params": {**params, layer: own}, "state": state}, batch)

        flat = jax.flatten_util.ravel_pytree(params[layer])[0]
        expected = np.linalg.eigvalsh(jax.hessian(of_layer)(flat))[-1]
        np.testing.assert_allclose(row[f"lambda_max:{layer}"], expected, rtol=1e-3)


def test_measuring_is_part_of_a_run_only_where_it_is_asked_for():
    plain, asked = small.point(), small.point(curvature__every="end")
    other = small.point(curvature__k=3)
    assert configs.point_name(plain) == configs.point_name(other)
    assert configs.point_name(plain) != configs.point_name(asked)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("every", "often", "curvature.every='often'"),
        ("what", ("lambda",), "curvature.what=.*'lambda'"),
        ("what", ("traces",), "did you mean 'trace'"),
        ("k", 0, "curvature.k=0"),
        ("max_matvecs", 2, "curvature.max_matvecs=2 should be at least curvature.k=5"),
        ("orders", (1,), "curvature.orders="),
        ("tol", 0.0, "curvature.tol=0"),
    ],
)
def test_bad_fields_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        small.point(**{f"curvature__{field}": value})


def test_what_cannot_be_measured_is_refused_before_the_first_step(tmp_path):
    ready = group("end", examples=100_000)
    points = folders(ready, tmp_path)
    with pytest.raises(UserError, match=r"curvature.examples=100000 is more than the 200"):
        loop.train(ready, tmp_path)
    assert not (points[0] / "metrics.jsonl").exists()
