"""A run whose batches lie on several devices is the run on one: losses, weights, statistics.

The cases are those of experiments/benchmarks/equality.py; ten steps in float64 each.
"""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from samop import checkpoint, division, groups, hessian, layouts, loop, modes, sweep, workloads
from samop import config as configs
from samop.data import sampling
from samop.errors import UserError
from samop.meanings import PARALLEL
from samop.models import MLP
from samop.validation import validate

TEN_STEPS = {"train__epochs": 1, "data__train_size": 160, "train__batch_size": 16}
WAYS = {"train__statistics": "replica", "model__norm": "batch", "parallel": "shard_map"}
BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"
NAMES = (
    "SAM",
    "BatchNorm",
    "ResNet-18, crop and flip",
    "LookSAM",
    "m-SAM by scan, BatchNorm",
    "m-SAM by vmap, dropout",
    "dropout (ViT)",
    "dropout of words (LSTM)",
    "weights (tagging)",
    "scores (GCN)",
    "masks",
    "expansion",
    "parts of the labels",
    "stream",
)
# What is not here takes longer than it tells, and is `slow`: partitioning is XLA's own with jit,
# and with pmap the functions of a device are those of shard_map.
QUICK = {
    ("jit", 2): ("BatchNorm", "m-SAM by vmap, dropout", "stream"),
    ("shard_map", 2): (
        "BatchNorm",
        "m-SAM by scan, BatchNorm",
        "dropout (ViT)",
        "masks",
        "stream",
    ),
    ("pmap", 2): ("BatchNorm", "m-SAM by scan, BatchNorm"),
    ("jit", 8): ("BatchNorm",),
    ("shard_map", 8): ("BatchNorm",),
    ("shard_map", 1): ("BatchNorm",),
}
EVERY = [(way, devices, case) for way in PARALLEL for devices in (1, 2, 8) for case in NAMES]


@pytest.fixture(scope="module")
def equality():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("equality")


def test_every_case_is_tested(equality):
    assert tuple(equality.CASES) == NAMES


@pytest.mark.parametrize(
    ("parallel", "devices", "case"),
    [
        pytest.param(*each, marks=() if each[2] in QUICK.get(each[:2], ()) else pytest.mark.slow)
        for each in EVERY
    ],
)
def test_one_device_is_several(equality, parallel, devices, case, x64):
    assert equality.difference(case, parallel, devices) < 1e-9


def test_the_cases_differ_where_something_is_wrong(equality, x64):
    """Statistics of replicas are not the batch's: what is compared here would show it."""
    config = equality.CASES["BatchNorm"].config()
    config["train"]["statistics"] = "replica"
    alone, own = equality.whole("BatchNorm"), equality.trained(config, "shard_map", 2)
    for part in ("weights", "statistics"):
        pairs = zip(jax.tree.leaves(alone[part]), jax.tree.leaves(own[part]))
        assert max(np.max(np.abs(a - b)) for a, b in pairs) > 1e-3


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_statistics_of_replicas_are_those_of_their_own_rows(equality, parallel, x64):
    """Computed here by halves, with nothing of the program's but its data and order."""
    config = equality.point(
        model__norm="batch",
        optimizer__momentum=0.0,
        optimizer__weight_decay=0.0,
        train__statistics="batch",
    )
    config["train"]["statistics"] = "replica"
    found = equality.trained(config, parallel, 2)
    workload = workloads.build(config)
    params, state = workload.init(np.uint32(0))
    module, split = MLP((8, 8), 10, norm="batch"), workload.splits.train
    x, y = jnp.asarray(split.x), jnp.asarray(split.y)
    tree, loss_of = jax.tree, []

    @jax.jit
    def halves(params, state, index):
        def loss(params, rows):
            images = workload.batch(x[rows], y[rows], None, rows)["x"]
            variables = {"params": params, **state}
            logits, new = module.apply(variables, images, train=True, mutable=["batch_stats"])
            right = jnp.take_along_axis(logits, y[rows][:, None], 1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(logits, 1) - right), new

        found = [jax.value_and_grad(loss, has_aux=True)(params, half) for half in index]
        return tree.map(lambda a, b: (a + b) / 2, *found)

    for index in sampling.epoch_order(160, 16, 0, 0):
        index = index.reshape(2, 8)
        (value, new), g = halves(params, state, index)
        norm = jnp.sqrt(sum(jnp.sum(a**2) for a in tree.leaves(g)))
        there = tree.map(lambda w, a: w + 0.1 * a / norm, params, g)  # noqa: B023
        _, g = halves(there, state, index)
        rate = config["optimizer"]["lr"]
        params, state = tree.map(lambda w, a: w - rate * a, params, g), new  # noqa: B023
        loss_of.append(float(value))
    for a, b in (
        *zip(tree.leaves(found["weights"]), tree.leaves(params)),
        *zip(tree.leaves(found["statistics"]), tree.leaves(state)),
        (found["metrics"]["train_loss"], np.mean(loss_of)),
    ):
        np.testing.assert_allclose(a[0], b, rtol=0, atol=1e-9)


def test_replicas_are_another_run():
    plain, own = (
        small.point(parallel="shard_map", train__statistics=s) for s in ("batch", "replica")
    )
    assert configs.point_name(plain) == configs.point_name(small.point())
    assert configs.point_name(own) != configs.point_name(plain)


def test_records_without_the_fields_load():
    config = small.point()
    plain = configs.to_json(config)
    assert plain.pop("parallel") == "jit"
    assert plain["train"].pop("statistics") == "batch"
    again = configs.from_json(json.loads(json.dumps(plain))).to_dict()
    assert (again["parallel"], again["train"]["statistics"]) == ("jit", "batch")
    assert configs.point_name(again) == configs.point_name(config)


def test_how_it_is_divided_is_no_part_of_a_run():
    names = {configs.point_name(small.point(parallel=parallel)) for parallel in PARALLEL}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parallel": "smap"}, "parallel='smap' is not allowed"),
        ({"train__statistics": "rows"}, "train.statistics='rows' is not allowed"),
        ({"train__statistics": "replica"}, "use parallel='shard_map' or 'pmap'"),
        ({**WAYS, "run__share_batches": "never"}, "not run.share_batches='never'"),
    ],
)
def test_what_is_not_allowed_is_refused(fields, words):
    with pytest.raises(UserError, match=words):
        small.point(**fields)


def test_agents_divide_nothing():
    config = configs.defaults("minatar_cnn", "control").to_dict()
    config["parallel"] = "shard_map"
    with pytest.raises(UserError, match="'control' makes its own where it plays: use 'jit'"):
        validate(config)


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_groups_of_m_are_not_cut(parallel):
    config = small.point(parallel=parallel, optimizer__m=4, **TEN_STEPS)
    with pytest.raises(UserError, match=r"m=4 does not divide the 2 examples.*run\.devices=4"):
        groups.make([[config]], 8, 16)
    assert groups.make([[config]], 4, 16).layout.batch == 4
    assert groups.make([[{**config, "parallel": "jit"}]], 8, 16).layout.batch == 8
    config["optimizer"]["name"] = "base"  # which has no groups
    assert groups.make([[config]], 8, 16).layout.batch == 8


def test_pmap_takes_all_devices():
    config = small.point(parallel="pmap", **TEN_STEPS)
    with pytest.raises(UserError, match=r"batch_size=16 cannot be .* 6 devices.*run\.devices=4"):
        groups.make([[config]], 6, 16)
    rows = small.grid(config, [{"optimizer__rho": r} for r in (0.1, 0.2)], [0, 1])
    layout = groups.make(rows, 8, 16).layout
    assert (layout.rows, layout.columns, layout.batch, layout.parallel) == (1, 1, 8, "pmap")


def test_pmap_is_for_one_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"parallel='pmap' is for one process.*use 'jit'"):
        groups.make([[small.point(parallel="pmap", **TEN_STEPS)]], 8, 16)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_the_state_is_donated_and_has_no_axis_of_devices(parallel):
    rows = small.grid(small.point(parallel=parallel, **TEN_STEPS), [{}], [0])
    ready = small.prepared(rows, 2, batch=16)
    state = loop.start(ready)
    before = jax.tree.map(jnp.shape, state)
    number = ready.program.place("every", np.int32(0))
    after, _ = ready.epoch(state, *loop.feed(ready), number)
    assert jax.tree.map(jnp.shape, after) == before
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(after.params))


@pytest.mark.parametrize("parallel", PARALLEL)
def test_several_runs_beside_each_other_share_what_is_left(parallel, x64):
    cells = [{"optimizer__rho": r} for r in (0.1, 0.2)]
    rows = small.grid(small.point(parallel=parallel, **TEN_STEPS), cells, [0])
    alone, shared = small.prepared(rows), small.prepared(rows, 8, batch=16)
    columns = 1 if parallel == "pmap" else 2
    assert (shared.group.layout.columns, shared.group.layout.batch) == (columns, 8 // columns)
    for a, b in zip(*(jax.tree.leaves(small.first_epochs(r)) for r in (alone, shared))):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_devices_are_runs_first_and_share_batches_after():
    layout = layouts.layout(2, 1, 8, batch=16)
    assert (layout.rows, layout.columns, layout.batch) == (2, 1, 4)
    assert layout.devices == 8
    assert layouts.layout(8, 1, 8, batch=16).batch == 1  # a run each
    assert layouts.layout(1, 1, 8, batch=12).batch == 6  # what divides the batch
    assert layouts.layout(1, 1, 8).batch == 1


@pytest.mark.parametrize("parallel", PARALLEL)
def test_what_began_on_more_devices_goes_on_with_fewer(parallel):
    layout = layouts.Layout(1, 1, 1, 1, 8)
    assert layouts.fitted(layout, 8) == layout
    assert layouts.fitted(layout, 3).batch == 2  # a divisor of 8, and so of the batch
    rows = small.grid(small.point(parallel=parallel, **TEN_STEPS), [{}], [0])
    group = groups.make(rows, 8, 16)
    one = loop.prepare(group, jax.devices()[:1])
    assert one.program.mesh.size == 1
    few, many = small.first_epochs(one), small.first_epochs(loop.prepare(group, jax.devices()))
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_replicas_do_not_go_on_with_fewer_devices():
    group = groups.make([[small.point(**WAYS, **TEN_STEPS)]], 8, 16)
    with pytest.raises(UserError, match="began with its batches on 8 devices, and 1"):
        loop.uncompiled(group, jax.devices()[:1])


def test_a_sweep_shares_batches_where_it_is_told_to(tmp_path):
    """And a frozen group without the fields, as earlier versions wrote it, shares none."""
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
    for parallel in ("shard_map", "pmap"):  # which is being told to
        asked = small.point(parallel=parallel, **TEN_STEPS)
        assert modes.shared_batch(asked, asked["run"], used) == 16
        never = {**asked["run"], "share_batches": "never"}
        assert modes.shared_batch(asked, never, used) == 1
    old = {k: v for k, v in group.layout._asdict().items() if k not in ("batch", "parallel")}
    assert (layouts.Layout(**old).batch, layouts.Layout(**old).parallel) == (1, "jit")


def test_curvature_and_records_do_not_depend_on_the_devices(tmp_path, x64):
    """Measured while training, ten steps, on one device and on those of each way."""
    fields = {"every": "end", "what": ("eigenvalues",), "k": 2, "tol": 1e-6, "examples": 40}
    measured = {f"curvature__{name}": value for name, value in fields.items()}
    measured |= {"model__norm": "batch", "model__activation": "tanh", "curvature__max_matvecs": 400}
    found = {}
    for way in ("alone", *PARALLEL):
        point = small.point(**TEN_STEPS, **measured)
        point["parallel"] = "jit" if way == "alone" else way
        group = groups.make([[point]], 1 if way == "alone" else 2, 1 if way == "alone" else 16)
        folder = tmp_path / way / "points" / group.names[0]
        folder.mkdir(parents=True)
        # Not by a sweep, whose threads compile in single precision.
        loop.train(loop.prepare(group, jax.devices()), tmp_path / way)
        rows = [(folder / f"{kind}.jsonl").read_text() for kind in ("metrics", "curvature")]
        found[way] = [configs.flatten(json.loads(text.splitlines()[-1])) for text in rows]
    for way in PARALLEL:
        for alone, several in zip(found["alone"], found[way], strict=True):
            assert alone.keys() == several.keys()
            for key, value in alone.items():
                if isinstance(value, (int, float, list)):
                    close = {"rtol": 1e-7, "atol": 1e-8, "err_msg": f"{way} {key}"}
                    np.testing.assert_allclose(np.array(several[key]), np.array(value), **close)


def test_eigenvalues_over_devices_are_those_of_one(x64):
    config = small.point(**TEN_STEPS)
    workload = workloads.build(config)
    params, state = workload.init(np.uint32(0))
    split = workload.splits.train
    batch = workload.batch(jnp.asarray(split.x[:32]), jnp.asarray(split.y[:32]), None, None)

    def loss(params, batch):
        outputs, _ = workload.apply(params, state, batch, None, False)
        return workload.means(outputs, batch)["loss"]

    one, several = (
        hessian.top_eigenvalues(
            loss, params, batch, k=2, key=jax.random.key(0), tol=1e-9, devices=devices
        )
        for devices in (None, jax.devices()[:4])
    )
    np.testing.assert_allclose(one.values, several.values, rtol=1e-9)


def test_whole_is_one_device_s():
    x = jnp.arange(4.0)
    for fn in division.WHOLE[1:6]:
        assert fn(x) is x
