"""Sentences with a sentiment: decoding, the LSTM, and training it with SAM."""

import collections
import functools
import io
import itertools
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from samop import config as configs
from samop import optim, step, train, trees, validation, workloads
from samop.data import sentiment, sources, strings
from samop.data.dataset import collection
from samop.errors import UserError
from samop.models import MODELS, lstm
from samop.workloads.sentiment import vocabulary

GOOD, BAD = "a great warm film", "such a dull mess"


def archive(text, name=sentiment.RATINGS):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return {f"package/{sentiment.ARCHIVE}": data.getvalue()}


def texts(arrays):
    words = strings.unpack(arrays["words"])
    start = arrays["start"]
    return [[words[w] for w in arrays["word"][a:b]] for a, b in itertools.pairwise(start)]


def test_words_are_the_same_in_both_spellings():
    written = "It isn't Almodóvar's; they'd can't-miss 'it's... (1999) $5_0"
    apart = "it is n't almodóvar 's ; they 'd ca n't - miss ' it 's ... ( 1999 ) $ 5 _ 0"
    assert sentiment.tokens(written) == apart.split()
    assert sentiment.tokens(apart) == apart.split()
    assert sentiment.tokens(" \t") == []


def test_snippets_become_labelled_words_and_neutral_ones_are_counted():
    lines = f"1\t2.5\t{GOOD}!\r\n2\t0.0\tneither\r\n3\t-0.1\t{BAD}\r\n"
    arrays, about = sentiment.movie_snippets(archive(lines.encode()))
    assert about == {"num_classes": 2, "rated_zero": 1}
    assert texts(arrays) == [[*GOOD.split(), "!"], BAD.split()]
    assert arrays["label"].tolist() == [1, 0]
    assert (arrays["word"].dtype, arrays["start"].dtype) == (np.int32, np.int64)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "tar.gz: is not among"),
        (archive(b"1\t2\tgood\n", "other.txt"), "has no member"),
        ({n: d[:40] for n, d in archive(b"1\t2\tgood\n").items()}, "truncated"),
        (archive(b"1\t2\tgood\n2\tgood\n"), r"line 2: '2\\tgood' should be"),
        (archive(b"1\tnan\tgood\n"), "line 1: rating nan"),
        (archive(b"1\t7\tgood\n"), "line 1: rating 7"),
        (archive(b"1\t2\t \n"), "sentence 1 has no words"),
        (archive(b"\xff"), "no UTF-8"),
        (archive(b"1\t0\tgood\n"), "no rated text"),
    ],
)
def test_damaged_snippets_say_what_is_wrong(files, words):
    with pytest.raises(UserError, match=words):
        sentiment.movie_snippets(files)


def rows(*given):
    return [{"sentence": s.encode(), "label": y, "idx": i} for s, y, i in given]


def test_sst2_comes_in_its_own_order_and_its_validation_split_tests():
    examples = {
        "train": rows((BAD, 0, 1), (GOOD, 1, 0)),
        "validation": rows(("it 's fine", 1, 0)),
    }
    arrays, about = sentiment.sst2(examples)
    assert about == {"num_classes": 2}
    assert texts(arrays) == [GOOD.split(), BAD.split(), ["it", "'s", "fine"]]
    assert arrays["label"].tolist() == [1, 0, 1]
    assert arrays["part"].tolist() == [0, 0, 2]
    for wrong, words in (((GOOD, -1, 2), "labels"), ((GOOD, 1, 0), "idx twice")):
        bad = {**examples, "train": [*examples["train"], *rows(wrong)]}
        with pytest.raises(UserError, match=words):
            sentiment.sst2(bad)


def made(n=90):
    """Sentences whose label is which of two words they hold."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, n)
    filler = [[f"w{k}" for k in rng.integers(0, 12, rng.integers(2, 9))] for _ in range(n)]
    said = [" ".join([*f, ("awful", "superb")[y]]) for f, y in zip(filler, label)]
    return sentiment.sentences(said, label, "made")


@pytest.fixture
def sentences(monkeypatch):
    source = {"kind": "generated", "origin": "made"}
    held = collection("made", made(), {"num_classes": 2}, source)
    monkeypatch.setitem(sources.LOCAL, "made", lambda: held)
    return held


def small(**fields):
    config = configs.defaults("lstm", "sentiment").to_dict()
    config["data"].update(name="made", validation=12, normalize="none")
    config["model"].update(embed=6, hidden=5)
    config["optimizer"].update(lr=0.3, schedule="constant", weight_decay=3e-6)
    config["train"].update(batch_size=16, epochs=1, diagnostics_every=0)
    for name, value in fields.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    validation.validate(config)
    return config


def test_the_vocabulary_is_that_of_the_training_part(sentences):
    arrays = sentences.arrays
    places = np.arange(0, 90, 2)
    number, size = vocabulary(arrays["word"], arrays["start"], places, 19)
    said = texts(arrays)
    count = collections.Counter(word for place in places for word in said[place])
    words = strings.unpack(arrays["words"])
    kept = [word for word in words if count[word] >= 19]
    assert size == len(kept) + 2
    assert 2 < len(kept) < len(words)
    for word, found in zip(words, number):
        assert found == (kept.index(word) + 2 if word in kept else lstm.UNKNOWN)


def test_sentences_are_padded_and_cut_and_the_cut_ones_counted(sentences):
    whole = workloads.build(small())
    length = np.diff(sentences.arrays["start"])
    split = whole.splits.train
    assert split.x.shape == (90 - 9 - 12, length.max())
    assert whole.source["sentences_cut"] == "0"
    assert set((split.x > 0).sum(1)) <= set(length.tolist())
    assert np.all(np.diff((split.x > 0).astype(int), axis=1) <= 0)  # padding comes last
    cut = workloads.build(small(task__max_length=4))
    assert cut.source["sentences_cut"] == str((length > 4).sum())
    np.testing.assert_array_equal(cut.splits.train.x, split.x[:, :4])
    assert (whole.num_classes, split.y.dtype) == (2, np.int32)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task__max_length": 0}, "max_length"),
        ({"task__min_frequency": 0}, "min_frequency"),
        ({"data__normalize": "unit"}, "for images"),
        ({"data__label_noise": 1.0}, r"in \[0, 1\)"),
        ({"model__dropout": 1.0}, "dropout"),
    ],
)
def test_what_a_config_may_not_say(fields, words):
    with pytest.raises(UserError, match=words):
        small(**fields)


def test_other_data_are_refused():
    with pytest.raises(UserError, match="sentences with labels"):
        workloads.build(small(data__name="digits"))


@pytest.mark.parametrize("words", [6_159, 13_400])
def test_parameters_of_the_ladder(words):
    """u = ⅛ … 2, for the vocabulary of movie_snippets and for one about as large as SST-2's."""
    counts = {
        6_159: (255_707, 572_925, 1_370_850, 3_632_124, 6_783_822, 10_825_944),
        13_400: (523_624, 1_116_000, 2_457_000, 5_804_424, 10_042_272, 15_170_544),
    }
    sizes = ((37, 37), (75, 74), (150, 149), (300, 298), (450, 447), (600, 596))
    for (embed, hidden), expected in zip(sizes, counts[words]):
        fields = {"embed": embed, "hidden": hidden, "dropout": 0.5}
        module = MODELS["lstm"].build(fields, 2, vocabulary=words)
        variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4), jnp.int32))
        assert trees.size(variables["params"]) == expected


def network(embed=4, hidden=3, seed=0, **fields):
    module = lstm.LSTMClassifier(20, embed, hidden, 2, **fields)
    x = np.random.default_rng(seed).integers(2, 20, (6, 9)).astype(np.int32)
    length = np.array([9, 1, 4, 7, 2, 9])
    x[np.arange(9) >= length[:, None]] = 0
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.asarray(x))
    # Biases are zero at first: these are not.
    noise = np.random.default_rng(1)
    real = jnp.result_type(float)
    variables = jax.tree.map(
        lambda a: a.astype(real) + 0.1 * noise.standard_normal(a.shape), variables
    )
    return module, variables, jnp.asarray(x), length


def plain(params, sentence):
    """The logits of one sentence, word by word."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    words = params["embedding"][sentence]
    states = []
    for name, order in (("forward", 1), ("backward", -1)):
        kernel, bias = (params["BiLSTM_0"][f"{name}_{kind}"] for kind in ("kernel", "bias"))
        h = c = np.zeros(len(bias) // 4)
        found = []
        for word in words[::order]:
            i, f, g, o = np.split(np.concatenate([word, h]) @ kernel + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            found.append(h)
        states.append(np.array(found)[::order])
    states = np.concatenate(states, 1)
    energy = (np.tanh(states @ params["keys"]["kernel"]) @ params["energy"]["kernel"])[:, 0]
    share = np.exp(energy) / np.exp(energy).sum()
    hidden = np.tanh(share @ states @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["logits"]["kernel"]


def test_the_network_is_that_of_a_loop_over_words(x64):
    module, variables, x, length = network()
    params = jax.tree.map(np.asarray, variables["params"])
    expected = [plain(params, np.asarray(row)[:n]) for row, n in zip(x, length)]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-12)


def test_padding_changes_nothing(x64):
    module, variables, x, _ = network()
    longer = jnp.pad(x, ((0, 0), (0, 5)))

    def loss(variables, x):
        outputs = module.apply(variables, x)
        return jnp.sum(jnp.square(outputs)), outputs

    grad = jax.jit(jax.grad(loss, has_aux=True))
    found = (grad(variables, given) for given in (x, longer))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), *found)
    nothing = grad(variables, jnp.zeros_like(x))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(nothing))


def test_hessian_products_go_through(x64):
    module, variables, x, _ = network()
    loss = jax.jit(lambda v: jnp.mean(jnp.square(module.apply(v, x) - 1)))
    grad = jax.jit(jax.grad(loss))
    rng = np.random.default_rng(2)
    u, v = (
        jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), variables) for _ in "uv"
    )
    product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (variables,), (v,))[1])
    inner = lambda a, b: sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)))  # noqa: E731
    np.testing.assert_allclose(inner(u, product(v)), inner(v, product(u)), rtol=1e-11)
    eps = 1e-5
    moved = lambda size: jax.tree.map(lambda a, d: a + size * d, variables, v)  # noqa: E731
    there, back = grad(moved(eps)), grad(moved(-eps))
    apart = jax.tree.map(lambda a, b: (a - b) / (2 * eps), there, back)
    np.testing.assert_allclose(inner(u, product(v)), inner(u, apart), rtol=1e-6)


def test_dropout_belongs_to_its_key_and_leaves_padding_alone():
    module, variables, x, _ = network(dropout=0.0)
    run = jax.jit(lambda key, x: module.apply(variables, x, train=True, rngs={"dropout": key}))
    keys = jax.random.split(jax.random.key(3), 20)
    found = jax.vmap(run, (0, None))(keys, x)
    np.testing.assert_array_equal(run(keys[0], x), run(keys[0], x))
    # Without other dropout, a sentence either keeps its words or hears an unknown one.
    same = np.isclose(found, module.apply(variables, x), atol=1e-5).all(-1)
    assert 0 < same.mean() < 1
    assert same[:, 1].mean() > same[:, 0].mean()  # one word against nine
    half = lstm.LSTMClassifier(20, 4, 3, 2, dropout=0.5)
    run = jax.jit(lambda key: half.apply(variables, x, train=True, rngs={"dropout": key}))
    assert not np.allclose(run(keys[0]), run(keys[1]))


@functools.cache
def trainer(name):
    """A workload, its initial parameters and `one(state, batch, rho)`, compiled once."""
    config = small(optimizer__name=name, model__dropout=0.1)
    workload = workloads.build(config)

    def optimizer(rho):
        traced = {"optimizer.rho": rho, "optimizer.lr": 0.3, "optimizer.weight_decay": 3e-6}
        return optim.optimizer(config, 100, traced, jax.random.key(0))

    def one(state, batch, rho):
        return step.train_step(state, batch, jax.random.key(7), workload, optimizer(rho))

    params, model_state = workload.init(jnp.uint32(0))
    opt_state = optimizer(0.0).tx.init(params)
    start = step.TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state)
    return workload, start, jax.jit(one)


def states(name, rho, steps=3):
    """The parameters after a few steps, and the losses."""
    workload, state, one = trainer(name)
    split, losses = workload.splits.train, []
    for number in range(steps):
        at = np.arange(16) + 16 * (number % 3)
        batch = workload.batch(jnp.asarray(split.x[at]), jnp.asarray(split.y[at]), None, at)
        state, metrics = one(state, batch, rho)
        losses.append(float(metrics["loss"]))
    return state.params, losses


def test_with_radius_zero_sam_is_its_base_masks_included(sentences):
    without, zero, some = (states(*of)[0] for of in (("base", 0.0), ("sam", 0.0), ("sam", 0.05)))
    jax.tree.map(np.testing.assert_array_equal, without, zero)
    assert not np.allclose(some["embedding"], zero["embedding"])


def test_a_short_run_learns(sentences):
    _, losses = states("sam", 0.02, steps=60)
    assert np.mean(losses[-6:]) < 0.6 * np.mean(losses[:6])


def test_decay_shrinks_weights_that_have_no_gradient(sentences):
    config = small(optimizer__name="base")
    traced = {"optimizer.rho": 0.0, "optimizer.lr": 0.1, "optimizer.weight_decay": 3e-6}
    tx = optim.optimizer(config, 10, traced, jax.random.key(0)).tx
    params = {"w": jnp.array([2.0, -2.0])}
    grads = {"w": jnp.zeros(2)}
    updates, _ = tx.update(grads, tx.init(params), params, grad_fn=lambda p: grads)
    moved = optax.apply_updates(params, updates)
    assert np.all(np.abs(moved["w"]) < 2)
    np.testing.assert_allclose(moved["w"] / params["w"], 1 - 3e-7, rtol=1e-6)


def test_label_noise_flips_its_share(sentences):
    config = small(data__label_noise=0.25)
    workload = workloads.build(config)
    run = train.make_run(config, workload)
    flipped = np.asarray(run.labels(np.uint32(0), 0.25)) != workload.splits.train.y
    assert flipped.sum() == round(0.25 * len(workload.splits.train))
