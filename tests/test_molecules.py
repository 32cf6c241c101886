"""Molecules packed into rows, the graph network and the workload, on planted ones."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import grid, prepared

from samop import config as configs
from samop import loop, trees, validation
from samop.data import molecule_rows, molecules
from samop.data.dataset import collection
from samop.data.registry import ENTRIES, Entry
from samop.errors import UserError
from samop.models import MODELS, gcn
from samop.workloads import build
from samop.workloads import molecules as workload_of

LADDER = {128: 184_192, 256: 695_936, 512: 2_702_464}


def planted(count=90, tasks=3, seed=0):
    """Random connected graphs; a label says what most of its atoms are."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        size = int(rng.integers(1, 9))
        atom = rng.integers(0, 2, (size, 9)).astype(np.float32)
        ends = [(int(rng.integers(i)), i) for i in range(1, size)]
        bond = np.zeros((len(ends), 3), np.float32)
        label = (atom[:, :tasks].mean(0) > 0.5).astype(np.float32)
        label[rng.random(tasks) < 0.3] = np.nan
        ends = np.array(ends, np.int64).reshape(-1, 2)
        examples.append({"node_feat": atom, "edge_feat": bond, "edge_index": ends, "labels": label})
    cut = count * 2 // 3, count * 5 // 6
    splits = {"train": examples[: cut[0]], "validation": examples[cut[0] : cut[1]]}
    return {**splits, "test": examples[cut[1] :]}


@pytest.fixture
def data(monkeypatch):
    """The planted molecules under a name of their own."""

    def load(name, directory):
        return collection(name, *molecules.ready_graphs(planted()), {"origin": "planted"})

    monkeypatch.setitem(ENTRIES, "planted", Entry("", splits=("train", "validation", "test")))
    monkeypatch.setattr(workload_of.data, "load", load)
    workload_of._load.cache_clear()
    yield
    workload_of._load.cache_clear()


def small_point(**fields):
    """A run on the planted molecules; `section__key=value` sets a field."""
    config = configs.defaults("gcn", "molecules").to_dict()
    config["experiment"] = "test"
    config["data"].update(name="planted", validation=10, normalize="none")
    config["model"].update(latent=8)
    config["optimizer"].update(base="adam", lr=1e-2, weight_decay=0.0, schedule="constant")
    config["train"].update(epochs=3, batch_size=4, eval_batch_size=3, diagnostics_every=0)
    config["run"].update(compilation_cache=False, tensorboard=False)
    for name, value in fields.items():
        section, key = name.split("__")
        config[section][key] = value
    validation.validate(config)
    return config


# Packing


@pytest.fixture(scope="module")
def arrays():
    return molecules.ready_graphs(planted())[0]


def test_every_molecule_is_packed_once_and_whole(arrays):
    shape = molecule_rows.shape(arrays, 16)
    index = np.arange(0, 90, 2)
    split = molecule_rows.split(arrays, index, shape)
    again = molecule_rows.split(arrays, index, shape)
    np.testing.assert_array_equal(split.x["neighbour"], again.x["neighbour"])
    start, found = arrays["atom_start"], []
    for row in range(len(split)):
        begin = 0
        for place, size in enumerate(split.x["atoms"][row]):
            if not size:
                assert (split.y[row, place] == -1).all()
                continue
            atom = split.x["atom"][row, begin : begin + size]
            near = split.x["neighbour"][row, begin : begin + size]
            bonds = {
                (i, int(j) - begin)
                for i in range(size)
                for j in near[i]
                if j >= 0 and j - begin > i
            }
            assert ((near < 0) | ((near >= begin) & (near < begin + size))).all()
            found.append((atom.tobytes(), tuple(split.y[row, place]), tuple(sorted(bonds))))
            begin += size
        assert begin <= shape.atoms
        assert (split.x["neighbour"][row, begin:] == -1).all()
    expected = []
    for i in index:
        ends = arrays["bond_ends"][arrays["bond_start"][i] : arrays["bond_start"][i + 1]]
        atom = arrays["atom"][start[i] : start[i + 1]]
        bonds = tuple(sorted((int(a), int(b)) for a, b in ends))
        expected.append((atom.tobytes(), tuple(arrays["label"][i]), bonds))
    assert sorted(found) == sorted(expected)


def test_rows_are_filled_well():
    sizes = np.random.default_rng(0).integers(10, 60, 2000)
    shape = molecule_rows.Shape(300, 13, 4)
    rows = molecule_rows.packed(sizes, shape)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert max(sizes[row].sum() for row in rows) <= 300
    assert max(map(len, rows)) <= 13
    assert sizes.sum() / (len(rows) * 300) > 0.95


def test_a_row_too_short_is_refused(arrays):
    with pytest.raises(UserError, match=r"task\.row=4 is too short: the largest molecule has 8"):
        molecule_rows.shape(arrays, 4)


# The network


def inputs(split, dtype=float):
    return {**jax.tree.map(jnp.asarray, split.x), "atom": jnp.asarray(split.x["atom"], dtype)}


def reference(params, atom, bonds):
    """The logits of one molecule, atom by atom."""
    norm = lambda h: (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)  # noqa: E731
    dense = lambda h, name: h @ params[name]["kernel"] + params[name]["bias"]  # noqa: E731
    n = len(atom)
    a = np.zeros((n, n))
    for i, j in bonds:
        a[i, j] = a[j, i] = 1
    a += gcn.SELF_LOOPS * np.eye(n)
    a /= np.sqrt(np.outer(a.sum(0), a.sum(0)))
    h = dense(atom.astype(float), "Dense_0")
    for step in range(5):
        z = h
        for layer in range(2):
            z = np.maximum(dense(z, f"Dense_{1 + 2 * step + layer}"), 0)
        scale = params[f"LayerNorm_{step}"]
        h = norm(h + a @ z) * scale["scale"] + scale["bias"]
    return dense(h.mean(0), "Dense_11")


@pytest.fixture
def network(x64, arrays):
    module = gcn.GraphConvNet(6, 3)
    shape = molecule_rows.shape(arrays, 16)
    split = molecule_rows.split(arrays, np.arange(len(arrays["label"])), shape)
    params = jax.eval_shape(module.init, jax.random.key(0), inputs(split))["params"]
    rng = np.random.default_rng(0)
    # No bias zero and no scale one, as they are at first.
    params = jax.tree.map(lambda p: jnp.asarray(0.4 * rng.standard_normal(p.shape)), params)
    return module, params, split


def test_logits_are_those_of_each_molecule_alone(network, arrays):
    """Whatever shares its row, and however much of the row is padding."""
    module, params, split = network
    logits = np.asarray(module.apply({"params": params}, inputs(split)))
    plain = jax.tree.map(np.asarray, params)
    found = {}
    for row in range(len(split)):
        begin = 0
        for place, size in enumerate(split.x["atoms"][row]):
            key = split.x["atom"][row, begin : begin + size].tobytes()
            near = split.x["neighbour"][row, begin : begin + size]
            bonds = [(i, int(j) - begin) for i in range(size) for j in near[i] if j >= 0]
            if size:
                found.setdefault((key, tuple(sorted(bonds))), logits[row, place])
            begin += size
    assert len(found) > 60
    for i in range(len(arrays["label"])):
        atom = arrays["atom"][arrays["atom_start"][i] : arrays["atom_start"][i + 1]]
        ends = arrays["bond_ends"][arrays["bond_start"][i] : arrays["bond_start"][i + 1]]
        bonds = [(int(a), int(b)) for a, b in ends]
        key = (atom.tobytes(), tuple(sorted([*bonds, *((b, a) for a, b in bonds)])))
        np.testing.assert_allclose(found[key], reference(plain, atom, bonds), atol=1e-9)


def test_the_order_of_atoms_does_not_matter(network, arrays):
    module, params, _ = network
    rng = np.random.default_rng(0)
    turned = {**arrays, "atom": arrays["atom"].copy(), "bond_ends": arrays["bond_ends"].copy()}
    for i in range(len(arrays["label"])):
        atoms = slice(arrays["atom_start"][i], arrays["atom_start"][i + 1])
        bonds = slice(arrays["bond_start"][i], arrays["bond_start"][i + 1])
        order = rng.permutation(atoms.stop - atoms.start)
        turned["atom"][atoms][order] = arrays["atom"][atoms]
        turned["bond_ends"][bonds] = order[arrays["bond_ends"][bonds]]
    shape = molecule_rows.shape(arrays)
    index = np.arange(len(arrays["label"]))
    logits = [
        module.apply({"params": params}, inputs(molecule_rows.split(a, index, shape)))
        for a in (arrays, turned)
    ]
    np.testing.assert_allclose(*logits, atol=1e-9)


def test_the_sum_over_neighbours_is_the_adjacency_matrix_to_every_order(x64, arrays):
    split = molecule_rows.split(arrays, np.arange(20), molecule_rows.shape(arrays, 16))
    near = jnp.asarray(split.x["neighbour"])
    rows, atoms, _ = near.shape
    a = np.zeros((rows, atoms, atoms))
    for r, i, k in zip(*np.nonzero(split.x["neighbour"] >= 0)):
        a[r, i, split.x["neighbour"][r, i, k]] += 1
    np.testing.assert_array_equal(a, a.swapaxes(1, 2))
    h, v = (jax.random.normal(jax.random.key(i), (rows, atoms, 2)) for i in range(2))
    own, dense = (lambda h: jnp.sin(gcn.summed(h, near))), (lambda h: jnp.sin(a @ h))
    scalar = lambda f: lambda h: jnp.sum(f(h) ** 2)  # noqa: E731
    np.testing.assert_allclose(own(h), dense(h), atol=1e-12)
    for f in (
        jax.grad,
        lambda s: lambda h: jax.jvp(jax.grad(s), (h,), (v,))[1],
        lambda s: jax.grad(lambda h: jnp.sum(jax.grad(s)(h) * v)),
    ):
        np.testing.assert_allclose(f(scalar(own))(h), f(scalar(dense))(h), atol=1e-10)
    stacked = jnp.stack([h, v]), jnp.stack([near, near[::-1]])
    each = [gcn.summed(*pair) for pair in zip(*stacked)]
    np.testing.assert_allclose(jax.vmap(gcn.summed)(*stacked), jnp.stack(each), atol=1e-12)


@pytest.mark.parametrize("latent", LADDER)
def test_the_ladder_has_these_parameters(latent):
    module = MODELS["gcn"].build({"latent": latent, "dropout": 0.1}, 128)
    x = {
        "atom": jax.ShapeDtypeStruct((1, 40, 9), jnp.float32),
        "neighbour": jax.ShapeDtypeStruct((1, 40, 4), jnp.int16),
        "atoms": jax.ShapeDtypeStruct((1, 3), jnp.int16),
    }
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert trees.size(variables) == LADDER[latent]


# The workload


def test_the_loss_is_the_mean_over_measured_labels(data):
    workload = build(small_point())
    split = workload.splits.train
    batch = workload.batch(jax.tree.map(jnp.asarray, split.x), jnp.asarray(split.y), None, None)
    params, state = workload.init(0)
    outputs, _ = workload.apply(params, state, batch, None, False)
    there = split.y >= 0
    z, y = np.asarray(outputs, float)[there], split.y[there]
    probability = 1 / (1 + np.exp(-z))
    expected = -np.mean(np.where(y == 1, np.log(probability), np.log(1 - probability)))
    np.testing.assert_allclose(workload.means(outputs, batch)["loss"], expected, rtol=1e-5)
    assert workload.weight(batch).sum() == there.sum()
    assert set(workload.examples(outputs, batch)) == {"loss"}
    nothing = workload.examples(outputs, {**batch, "y": jnp.full_like(batch["y"], -1)})
    np.testing.assert_array_equal(nothing["loss"], 0)


def average_precision(z, y):
    """Mean precision at the rank of each positive, no ties."""
    order = np.argsort(-z)
    hits = y[order] == 1
    return np.mean((np.cumsum(hits) / np.arange(1, len(y) + 1))[hits])


def test_the_score_is_the_mean_average_precision_of_tasks_that_count():
    rng = np.random.default_rng(0)
    y = rng.integers(-1, 2, (9, 4, 5)).astype(np.int8)
    y[..., 1] = np.where(y[..., 1] == 0, -1, y[..., 1])  # no negative
    y[..., 3] = np.where(y[..., 3] == 1, 0, y[..., 3])  # no positive
    y[2] = -1
    z = rng.standard_normal(y.shape).astype(np.float32)
    z[2] = np.nan  # of nothing measured
    some = [0, 2, 4]
    expected = [
        average_precision(z[..., t][y[..., t] >= 0], y[..., t][y[..., t] >= 0]) for t in some
    ]
    assert workload_of.counting(y).tolist() == some
    found = workload_of.score(z, y)
    np.testing.assert_allclose(found["average_precision"], np.mean(expected), rtol=1e-12)
    z[y >= 0] = np.where(y == 1, 1, 0)[y >= 0]
    assert workload_of.score(z, y)["average_precision"] == 1
    z[0] = np.inf
    assert np.isnan(workload_of.score(z, y)["average_precision"])


def test_what_a_config_may_say(data, monkeypatch):
    for fields, message in (
        ({"data__label_noise": 0.1}, "data.label_noise=0.1 is not defined"),
        ({"task__row": -1}, "task.row=-1 is not allowed"),
        ({"data__augment": "crop_flip"}, "data.augment='crop_flip' is for images"),
        ({"model__dropout": 1.0}, "model.dropout=1.0 is not allowed"),
    ):
        with pytest.raises(UserError, match=message):
            small_point(**fields)
    with pytest.raises(UserError, match=r"none of its tasks has labels of both kinds"):
        build(small_point(data__test_size=1))
    source = build(small_point()).source
    assert source["test"].startswith("15 molecules in ")
    assert source["test"].endswith("3 of 3 tasks count")


def test_properties_are_standardised_over_the_atoms_that_there_are(data):
    workload = build(small_point(data__normalize="standardize"))
    split = workload.splits.train
    batch = workload.batch(split.x, split.y, None, None)["x"]
    real = np.arange(batch["atom"].shape[1])[None] < split.x["atoms"].sum(1)[:, None]
    atoms = np.asarray(batch["atom"])[real]
    np.testing.assert_allclose(atoms.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(atoms.std(0), 1, rtol=1e-5)
    constant = split.x | {"atom": np.ones_like(split.x["atom"])}
    gain, offset = workload_of.normalization(type(split)(constant, split.y), "standardize")
    np.testing.assert_array_equal(gain, 1)
    np.testing.assert_array_equal(offset, -1)


def test_images_are_no_molecules(monkeypatch):
    workload_of._load.cache_clear()
    config = small_point(data__name="digits")
    with pytest.raises(UserError, match=r"data\.name='digits' holds no molecules"):
        build(config)


def test_training_learns_and_sam_with_radius_zero_is_its_base(data):
    """With dropout: a second pass with other masks would have another gradient."""
    sam = [{"optimizer__name": "sam", "optimizer__rho": rho} for rho in (0.0, 0.1)]
    states, losses = [], []
    for cells in ([{"optimizer__name": "base"}], sam):
        ready = prepared(grid(small_point(), cells, (0,)))
        state, feed = loop.start(ready), loop.feed(ready)
        for number in range(3):
            place = ready.program.place("every", np.int32(number))
            state, values = ready.epoch(state, *feed, place)
            losses.append(loop.real(ready.group, np.asarray(values["train_loss"])))
        kept = [loop.real(ready.group, np.asarray(x)) for x in jax.tree.leaves(state.params)]
        states.append(kept)
    for base, both in zip(*states):
        np.testing.assert_allclose(base[0], both[0], atol=1e-5)
    assert any((both[0] != both[1]).any() for both in states[1])
    assert (losses[2] < losses[0]).all()
    assert (losses[5] < losses[3]).all()


@pytest.mark.parametrize("arg", ["", "data=moleculeace", "cpu", "smoke"])
def test_the_config_is_valid(arg):
    file = Path(__file__).parent.parent / "configs" / "molpcba_width.py"
    spec = importlib.util.spec_from_file_location("molpcba_width", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    axes = module.sweep(config)
    assert set(axes) == {"model.latent", "optimizer.name", "optimizer.rho", "seed"}
    assert config.data.name in config.experiment or not arg
    plain = config.to_dict()
    plain.pop("sweep")
    validation.validate({**plain, "sweep": {}})
