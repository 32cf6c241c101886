"""The tagger: what it counts, what its sentences see, and SAM on it."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samop import config as configs
from samop import feeding, optim, step, train, trees, validation, workloads
from samop.data import cache, packing, registry, strings
from samop.data.dataset import collection
from samop.errors import UserError
from samop.models.dropout import Dropout
from samop.models.transformer import Transformer, positions
from samop.workloads import tagging

ROW, TAGS, WORDS = 12, 5, 30
RARE = WORDS - 1  # a word that only the last sentence, a test sentence, has
ODD_TAG = TAGS - 1  # likewise a tag


def language(seed=0, sentences=90):
    """Sentences whose tags follow from a word and, after some words, from the one before it."""
    rng = np.random.default_rng(seed)
    lengths = np.append(rng.integers(1, 16, sentences - 1), 4)
    start = np.concatenate([[0], np.cumsum(lengths)])
    word = rng.integers(0, RARE, start[-1]).astype(np.int32)
    tag = (word + (np.append(9, word[:-1]) < 3)) % ODD_TAG
    word[-2:], tag[-2:] = RARE, ODD_TAG
    part = (np.arange(sentences) // 70 + np.arange(sentences) // 80).astype(np.uint8)
    return {
        "words": strings.pack([f"w{i}" for i in range(WORDS)]),
        "word": word,
        "tag": tag.astype(np.int16),
        "start": start,
        "part": part,
    }


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A cache that holds the language as the data set "tiny"."""
    place = tmp_path_factory.mktemp("data")
    about = {"tags": [f"t{i}" for i in range(TAGS)], "untagged_words": 0}
    cache.write(place, collection("tiny", language(), about, {"kind": "package", "origin": "x"}))
    registry.ENTRIES["tiny"] = registry.Entry(content="")
    yield str(place)
    del registry.ENTRIES["tiny"]


def point(folder, **fields):
    config = configs.defaults("transformer", "tagging").to_dict()
    config["experiment"] = "test"
    config["data"].update(name="tiny", dir=folder, validation=10, normalize="none")
    config["model"].update(size=8, layers=1, heads=2, dropout=0.1)
    config["task"].update(min_frequency=1, max_length=10, row=ROW, word_dropout=0.0)
    config["optimizer"].update(base="adamw", lr=0.01, schedule="constant")
    config["train"].update(epochs=2, batch_size=8, eval_batch_size=16, diagnostics_every=0)
    for name, value in fields.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    validation.validate(config)
    return config


def parameters(size, layers, vocabulary, tags):
    module = Transformer(size, layers, 8, 0.1, vocabulary, tags)
    x = dict.fromkeys(("token", "segment", "position"), jnp.zeros((1, 16), jnp.int32))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return trees.size(variables["params"])


LADDER = (128, 256, 384, 512, 640)
# What the training splits of configs/pos_width.py give: see test_real_vocabularies.
BROWN, TURKISH_WEB = (52_006, 472), (18_565, 14)


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (BROWN, (7_904_472, 18_167_768, 30_790_360, 45_772_248, 63_113_432)),
        (TURKISH_WEB, (3_564_942, 9_489_166, 17_772_686, 28_415_502, 41_417_614)),
    ],
)
def test_the_ladder_s_parameters(data, counts):
    assert tuple(parameters(size, 6, *data) for size in LADDER) == counts


def test_parameters_by_hand():
    size, layers, vocabulary, tags = 24, 3, 100, 7
    attention, block = 4 * size**2, 8 * size**2 + 5 * size
    layer = attention + block + 2 * 2 * size
    total = vocabulary * size + layers * layer + 2 * size + (size + 1) * tags
    assert parameters(size, layers, vocabulary, tags) == total


def test_what_the_paper_s_figure_says_of_its_vocabulary():
    """One number of words and tags explains all five readings to within 2 %."""
    readings = np.array([5.5, 13.5, 23.7, 36.3, 51.3]) * 1e6
    sizes = np.array(LADDER)
    # What is left without any word or tag; each of them brings `size` parameters, a tag one more.
    rest = np.array([parameters(size, 6, 1, 1) - 2 * size - 1 for size in LADDER])
    both = np.sum((readings - rest) * sizes / readings**2) / np.sum((sizes / readings) ** 2)
    assert round(both, -3) == 34_000
    np.testing.assert_allclose(rest + both * sizes, readings, rtol=0.02)


def test_positions():
    table = positions(50, 6)
    assert table.shape == (50, 6)
    for place in (0, 1, 49):
        for i in range(3):
            angle = place / 10_000 ** (2 * i / 6)
            assert table[place, 2 * i] == pytest.approx(np.sin(angle))
            assert table[place, 2 * i + 1] == pytest.approx(np.cos(angle))
    assert positions(4, 5).shape == (4, 5)


def doubled(params):
    return jax.tree.map(lambda p: p.astype(float), params)


def packed_inputs(start, chosen, row):
    packed = packing.pack(start, np.array(chosen), row, row)
    token = np.where(packed.token >= 0, packed.token % 20, 0).astype(np.int32)
    return packed, {"token": token, "segment": packed.segment, "position": packed.position}


def test_a_sentence_does_not_depend_on_its_neighbours_nor_on_padding(x64):
    module = Transformer(16, 2, 4, 0.1, 20, 7)
    apply = jax.jit(module.apply)
    start = np.array([0, 5, 8, 17, 18])
    whole, x = packed_inputs(start, [0, 1, 2, 3], 20)
    assert len(whole.token) == 1
    params = doubled(module.init(jax.random.key(0), x))
    together = np.asarray(apply(params, x))
    assert together.dtype == np.float64
    # Alone in a row, and one alone without any padding.
    for sentence, row in [(0, 20), (1, 20), (2, 20), (3, 20), (0, 33), (2, 9)]:
        alone, x = packed_inputs(start, [sentence], row)
        logits = np.asarray(apply(params, x))
        for token in range(start[sentence], start[sentence + 1]):
            np.testing.assert_allclose(
                logits[alone.token == token], together[whole.token == token], atol=1e-13
            )


def test_words_of_a_sentence_see_each_other_and_where_they_are(x64):
    module = Transformer(16, 1, 4, 0.0, 20, 7)
    _, x = packed_inputs(np.array([0, 6]), [0], 8)
    params, apply = doubled(module.init(jax.random.key(0), x)), jax.jit(module.apply)
    base = apply(params, x)[0, :6]
    for name in ("token", "position"):
        other = {**x, name: x[name].copy()}
        other[name][0, 5] = 15
        moved = np.abs(apply(params, other)[0, :6] - base).max(1)
        assert (moved > 1e-6).all()


def test_loss_and_accuracy_are_means_over_real_tokens():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, ROW, TAGS)).astype(np.float32)
    y = rng.integers(0, TAGS, (4, ROW)).astype(np.int16)
    segment = np.sort(rng.integers(0, 3, (4, ROW)), axis=1)[:, ::-1].astype(np.int32)
    segment[3] = 0
    batch = {"x": {"segment": jnp.asarray(segment)}, "y": jnp.asarray(y)}
    found = tagging.examples(jnp.asarray(logits), batch)
    weight = np.asarray(tagging.tokens(batch))
    losses, right = [], []
    for row in range(4):
        for t in range(ROW):
            if segment[row, t]:
                z = logits[row, t].astype(float)
                losses.append(np.log(np.exp(z).sum()) - z[y[row, t]])
                right.append(z.argmax() == y[row, t])
    assert weight.tolist() == (segment > 0).sum(1).tolist()
    for name, values in (("loss", losses), ("accuracy", right)):
        mean = np.sum(np.asarray(found[name]) * weight) / weight.sum()
        np.testing.assert_allclose(mean, np.mean(values), rtol=1e-5)
        assert found[name][3] == 0


def test_words_are_forgotten_by_place_in_the_data_set():
    token = np.arange(2, 8002).reshape(200, 40).astype(np.int32)
    token[:, 30:] = tagging.PADDING
    key, index = jax.random.key(0), np.arange(200)
    lost = np.asarray(tagging.forgotten(jnp.asarray(token), 0.2, key, jnp.asarray(index)))
    assert (lost[:, 30:] == tagging.PADDING).all()
    assert set(np.unique(lost[:, :30] - token[:, :30] == 0)) == {True, False}
    share = np.mean(lost[:, :30] == tagging.UNKNOWN)
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 6000)
    some = np.array([150, 3])
    again = tagging.forgotten(jnp.asarray(token[some]), 0.2, key, jnp.asarray(some))
    np.testing.assert_array_equal(again, lost[some])


def test_the_vocabulary_is_of_training_alone():
    word = np.array([4, 4, 4, 2, 2, 7, 7, 1])
    token, size = tagging.vocabulary(word, 9, least=2)
    assert token.tolist() == [1, 1, 3, 1, 2, 1, 1, 4, 1]
    assert size == 5
    assert tagging.vocabulary(word, 9, least=1)[1] == 6


def test_splits_and_source(folder):
    workload = workloads.build(point(folder))
    given, source = language(), workload.source
    longer = np.sum(np.diff(given["start"]) > 10)
    assert source["sentences"] == "70 + 10 + 10"
    assert source["unseen_tags"].startswith("2 validation and test tokens have one of the 1 tags")
    assert source["cut"] == f"{longer} sentences longer than 10 tokens were cut"
    assert source["untagged_words"] == "0"
    own = np.repeat(given["part"], np.diff(given["start"]))
    for part, split in enumerate(("train", "validation", "test")):
        rows = getattr(workload.splits, split)
        real = rows.x["segment"] > 0
        found, expected = (np.bincount(t, minlength=TAGS) for t in (
            rows.y[real], given["tag"][own == part]
        ))  # fmt: skip
        np.testing.assert_array_equal(found, expected)
        assert not rows.x["token"][~real].any()
        assert (rows.x["token"][real] > 0).all()
    test = workload.splits.test
    assert np.sum(test.x["token"] == tagging.UNKNOWN) == 2
    assert (test.y[test.x["token"] == tagging.UNKNOWN] == ODD_TAG).all()


@pytest.fixture(scope="module")
def trained(folder):
    """`trained(name, rho, lr, epochs) -> (parameters, one row of metrics an epoch)`."""
    programs = {}

    def of(name, rho=0.0, lr=0.01, epochs=2):
        config = point(folder, optimizer__name=name)
        workload = workloads.build(config)
        run = train.make_run(config, workload)
        compiled = programs.setdefault(name, jax.jit(run.epoch))
        splits = workload.splits
        data = {
            "train": {"x": jax.tree.map(jnp.asarray, splits.train.x)},
            "validation": feeding.padded(splits.validation, 16),
            "test": feeding.padded(splits.test, 16),
        }
        traced = {field: configs.get(config, field) for field in configs.TRACED}
        traced |= {"optimizer.rho": rho, "optimizer.lr": lr}
        state, labels, rows = run.start(*run.init(0)), run.labels(0, 0.0), []
        for number in range(epochs):
            state, metrics = compiled(state, np.uint32(0), traced, labels, data, np.int32(number))
            rows.append({name: float(value) for name, value in metrics.items()})
        return state.params, rows

    return of


def test_it_learns_with_and_without_sam(trained):
    for name in ("base", "sam"):
        _, rows = trained(name, rho=0.02, lr=0.03, epochs=20)
        assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
        assert np.isfinite(list(rows[-1].values())).all()


def test_rho_zero_is_the_base_optimiser(trained):
    base, _ = trained("base")
    sam, _ = trained("sam", rho=0.0)
    jax.tree.map(np.testing.assert_array_equal, base, sam)
    other, _ = trained("sam", rho=0.1)
    assert not np.array_equal(base["tags"]["kernel"], other["tags"]["kernel"])


def test_both_passes_drop_out_the_same(folder):
    """SAM's step is that of two gradients with one key, computed here one after the other."""
    config = point(folder, optimizer__name="sam", optimizer__rho=0.1, model__dropout=0.5)
    config["optimizer"].update(base="sgd", momentum=0.0, weight_decay=0.0, lr=0.1)
    workload = workloads.build(config)
    key = jax.random.key(5)
    traced = {field: configs.get(config, field) for field in configs.TRACED}
    opt = optim.optimizer(config, 10, traced, key)
    params, _ = workload.init(0)
    split = workload.splits.train
    x, y = jax.tree.map(lambda a: jnp.asarray(a[:8]), (split.x, split.y))
    batch = workload.batch(x, y, None, None)
    state = step.TrainState(jnp.zeros((), jnp.int32), params, {}, opt.tx.init(params))
    moved, _ = jax.jit(lambda state: step.train_step(state, batch, key, workload, opt))(state)

    def loss(params, key):
        logits, _ = workload.apply(params, {}, batch, key, True)
        values = tagging.examples(logits, batch)["loss"]
        weight = tagging.tokens(batch)
        return jnp.sum(values * weight) / jnp.sum(weight)

    gradient = jax.jit(jax.grad(loss))
    g = gradient(params, key)
    there = trees.add(params, trees.scale(0.1 / trees.norm(g), g))
    same, another = (gradient(there, k) for k in (key, jax.random.key(6)))
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, same)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), moved.params, expected)
    assert float(trees.norm(trees.subtract(same, another))) > 0.1 * float(trees.norm(same))


def test_dropout():
    x = jnp.ones((300, 333))
    out = lambda rate, key=0, train=True: np.asarray(  # noqa: E731
        Dropout(rate).apply({}, x, train, rngs={"dropout": jax.random.key(key)})
    )
    for rate in (0.1, 0.3, 0.5):
        dropped = np.mean(out(rate) == 0)
        assert abs(dropped - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
        np.testing.assert_allclose(out(rate)[out(rate) != 0], 1 / (1 - rate), rtol=1e-4)
    np.testing.assert_array_equal(out(0.3), out(0.3))
    assert abs(np.corrcoef(out(0.5).ravel(), out(0.5, key=1).ravel())[0, 1]) < 0.02
    neighbours = out(0.5).ravel()[: x.size // 2 * 2]  # halves of one word
    assert abs(np.corrcoef(neighbours[::2], neighbours[1::2])[0, 1]) < 0.02
    assert (out(0.0) == 1).all()
    assert (out(0.5, train=False) == 1).all()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model__heads", 3, "model.heads=3 should divide model.size=8"),
        ("task__row", 9, "task.row=9 should be at least task.max_length=10"),
        ("task__max_length", 0, "task.max_length=0 should be a whole number ≥ 1"),
        ("task__min_frequency", 0, "task.min_frequency=0 should be a whole number ≥ 1"),
        ("task__word_dropout", 1.0, "task.word_dropout=1.0 should be a number in"),
        ("task__row", 9.5, "task.row=9.5 should be of type int"),
        ("data__normalize", "unit", "data.normalize='unit' is for images"),
        ("data__augment", "crop_flip", "data.augment='crop_flip' is for images"),
        ("data__label_noise", 0.1, "data.label_noise=0.1 is not defined for workload='tagging'"),
        ("model__dropout", 1.0, "model.dropout=1.0 is not allowed"),
    ],
)
def test_fields_that_do_not_fit(folder, field, value, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        point(folder, **{field: value})


def test_networks_and_data_that_do_not_fit(folder):
    config = configs.defaults("mlp", "tagging").to_dict()
    config["data"]["normalize"] = "none"
    with pytest.raises(UserError, match=r"model\.name='mlp' does not take .* allowed: transformer"):
        validation.validate(config)
    config = copy.deepcopy(point(folder))
    config["data"]["name"] = "digits"
    with pytest.raises(UserError, match="'digits' has no tagged words"):
        workloads.build(config)
    with pytest.raises(UserError, match=r"validation is 11, allowed: 0 to 10"):
        workloads.build(point(folder, data__validation=11))
