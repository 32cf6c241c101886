"""Losses that are no mean over examples, and bad arguments, are refused in words that help."""

import itertools
import re

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from samop import hessian
from samop.errors import UserError

RNG = np.random.default_rng(0)
N, D = 15, 4
PARAMS = {"w": RNG.normal(size=(D,)), "b": RNG.normal(size=())}
BATCH = {"x": RNG.normal(size=(N, D)), "y": RNG.normal(size=N)}
KEY = jax.random.key(0)


def each(params, batch):
    """One loss an example."""
    return (jnp.tanh(batch["x"] @ params["w"]) + params["b"] - batch["y"]) ** 2


def mean(params, batch):
    return jnp.mean(each(params, batch))


def batch_norm(params, batch):
    """A network whose statistics are those of the batch."""
    x = batch["x"] * params["w"][None]
    x = (x - x.mean(0, keepdims=True)) / (x.std(0, keepdims=True) + 1e-3)
    return jnp.mean((x.sum(1) + params["b"] - batch["y"]) ** 2)


def dropout(params, batch):
    """The same key each time: but the mask belongs to places in the batch, not to examples."""
    keep = jax.random.bernoulli(jax.random.key(1), 0.5, batch["x"].shape)
    return mean(params, {**batch, "x": batch["x"] * keep})


def random_while_tracing(params, batch):
    return mean(params, batch) * np.random.random()  # noqa: NPY002


def random_while_running(params, batch):
    shape = jax.ShapeDtypeStruct((), jnp.result_type(float))
    noise = io_callback(lambda: np.asarray(np.random.random(), shape.dtype), shape)  # noqa: NPY002
    return mean(params, batch) * (1 + noise)


def drifting(_calls=itertools.count()):  # noqa: B008
    """A loss that changes with each trace, by so little that only its sign is odd."""
    return lambda params, batch: mean(params, batch) + 1e-2 * next(_calls)


MEANS = {
    "mean": mean,
    "decay": lambda params, batch: mean(params, batch) + 0.1 * jnp.sum(params["w"] ** 2),
    "constant": lambda params, batch: 0.0 * mean(params, batch) + 3.0,
    "zero": lambda params, batch: 0.0 * mean(params, batch),
    "huge": lambda params, batch: 1e12 * mean(params, batch),
    "tiny": lambda params, batch: 1e-9 * mean(params, batch),
    "pruned": lambda params, batch: mean(
        {**params, "w": params["w"] * jnp.array([1.0, 0.0, 1.0, 0.0])}, batch
    ),
    "relu": lambda params, batch: jnp.mean(jax.nn.relu(each(params, batch) - 1)),
}
BAD = {
    "batch norm": (batch_norm, "no mean over examples.*BatchNorm in training mode"),
    "sum": (lambda p, b: jnp.sum(each(p, b)), "is a sum over examples.*should be a mean"),
    "dropout": (dropout, "depends on the order of the examples.*dropout"),
    "random while tracing": (random_while_tracing, "is not deterministic"),
    "random while running": (random_while_running, "is not deterministic"),
    "drifting": (drifting(), "is not deterministic"),
    "the first example alone": (lambda p, b: each(p, b)[0], "order|no mean"),
    "weights by place": (
        lambda p, b: jnp.mean(each(p, b) * jnp.cos(jnp.arange(len(b["y"])))),
        "depends on the order",
    ),
    "the largest": (lambda p, b: jnp.max(each(p, b)), "no mean over examples"),
    "root mean square": (lambda p, b: jnp.sqrt(jnp.mean(each(p, b))), "no mean over examples"),
    "not scalar": (each, r"returned shape \(15,\): it should return a scalar"),
    "with aux": (lambda p, b: (mean(p, b), {}), "returned a tuple: it should return a scalar"),
    "integer": (lambda p, b: jnp.sum(b["y"] > 0), "returned int.*floating-point"),
    "nan": (lambda p, b: mean(p, b) * jnp.nan, "returned nan.*finite"),
    "infinite": (lambda p, b: mean(p, b) / 0.0, "returned inf.*finite"),
}


@pytest.mark.parametrize(
    ("name", "double"), [*((name, False) for name in MEANS), ("mean", True), ("tiny", True)]
)
def test_means_over_examples_pass(name, double):
    with jax.enable_x64(double):
        hessian.check_separable(MEANS[name], PARAMS, BATCH)


@pytest.mark.parametrize(
    ("name", "double"),
    [*((name, True) for name in BAD), ("batch norm", False), ("sum", False), ("dropout", False)],
)
def test_anything_else_is_named(name, double):
    loss_fn, words = BAD[name]
    with jax.enable_x64(double), pytest.raises(UserError, match=words):
        hessian.check_separable(loss_fn, PARAMS, BATCH)


def test_every_way_in_checks_unless_told_not_to(x64):
    whole = lambda outputs, batch: jnp.sum((outputs - batch["y"]) ** 2)  # noqa: E731
    model_fn = lambda params, batch: batch["x"] @ params["w"] + params["b"]  # noqa: E731
    loss_fn = lambda params, batch: whole(model_fn(params, batch), batch)  # noqa: E731
    ways = (
        lambda **options: hessian.hessian(loss_fn, PARAMS, BATCH, **options),
        lambda **options: hessian.ggn(model_fn, whole, PARAMS, BATCH, **options),
        lambda **options: hessian.top_eigenvalues(loss_fn, PARAMS, BATCH, key=KEY, **options),
        lambda **options: hessian.trace(loss_fn, PARAMS, hm.cut(BATCH, 7), key=KEY, **options),
    )
    for way in ways:
        with pytest.raises(UserError, match="is a sum over examples"):
            way()
        way(check=False)


def test_means_of_masked_terms_need_their_weight(x64):
    keep = (np.arange(N) % 4 < np.linspace(1, 4, N)).astype(float)
    batch = {**BATCH, "keep": keep}

    def loss_fn(params, batch):
        return jnp.sum(each(params, batch) * batch["keep"]) / jnp.sum(batch["keep"])

    with pytest.raises(UserError, match="needs batch_weight"):
        hessian.check_separable(loss_fn, PARAMS, batch)
    hessian.check_separable(loss_fn, PARAMS, batch, lambda batch: batch["keep"].sum())


def test_whatever_is_no_example_stays_whole(x64):
    """Scalars in a batch, such as a temperature."""
    batch = {**BATCH, "scale": np.float64(2.0)}
    loss_fn = lambda params, batch: mean(params, batch) * batch["scale"]  # noqa: E731
    hessian.check_separable(loss_fn, PARAMS, batch)


@pytest.mark.parametrize("examples", [1, 2])
def test_small_batches(examples, x64):
    hessian.check_separable(mean, PARAMS, jax.tree.map(lambda x: x[:examples], BATCH))


# ---- batches


def products(batches, **options):
    op = hessian.hessian(mean, PARAMS, batches, **options)
    return op(PARAMS)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (lambda: (BATCH for _ in range(3)), "an iterator, which can be read only once"),
        (lambda: iter([BATCH]), "an iterator, which can be read only once"),
        (list, "batches is empty"),
        (lambda: hm.Stream([]), "batches is empty"),
        (lambda: lambda: iter(()), "batches is empty"),
        (lambda: [BATCH, (BATCH["x"], BATCH["y"])], "different structure: batch 1 is"),
        (lambda: hm.Stream([BATCH, {"x": BATCH["x"]}]), "different structure: batch 1 is"),
        (dict, "no arrays"),
        (lambda: 3, "int"),
    ],
)
def test_batches_that_cannot_be_read(batches, words, x64):
    with pytest.raises(UserError, match=words):
        products(batches())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wheer": None}, "unknown option 'wheer'; allowed: .*where"),
        ({"where": lambda names, leaf: False}, "where selects no parameters"),
        ({"linearize": "maybe"}, "linearize='maybe'"),
        ({"batch_weight": lambda batch: -1.0}, "batch_weight returned -1.0"),
        ({"batch_weight": lambda batch: np.nan}, "batch_weight returned nan"),
        ({"batch_weight": lambda batch: 0.0}, "zero"),
    ],
)
def test_bad_options(options, words, x64):
    with pytest.raises(UserError, match=words):
        products(hm.cut(BATCH, 7), **options)


def test_integer_parameters_are_named(x64):
    params = {**PARAMS, "steps": {"count": np.arange(3)}}
    with pytest.raises(UserError, match="params/steps/count is int64"):
        hessian.hessian(mean, params, BATCH)


@pytest.mark.parametrize("size", [0, -3])
def test_stacks_of_no_examples(size):
    with pytest.raises(UserError, match=f"size={size}"):
        hessian.stack(BATCH, size)


def test_unequal_leaves_have_no_number_of_examples(x64):
    batch = {**BATCH, "table": np.ones((3, 2))}
    products(batch)  # of one batch the weight does not matter
    with pytest.raises(UserError, match="give batch_weight"):
        products([batch, batch])
    products([batch, batch], batch_weight=lambda batch: len(batch["y"]))


# ---- eigenvalues

MATRIX, _ = hm.with_spectrum(np.arange(1.0, 6.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 6}, "k=6"),
        ({"k": 0}, "k=0"),
        ({"k": -1}, "k=-1"),
        ({"which": "LR"}, "which='LR'.*LA.*SA.*LM.*BE"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"tol": -1e-3}, "tol=-0.001"),
        ({"tol": np.nan}, "tol=nan"),
        ({"max_matvecs": 0}, "max_matvecs=0"),
        ({"k": 3, "max_vectors": 2}, "max_vectors=2"),
    ],
)
def test_bad_arguments_of_top_eigenvalues(options, words, x64):
    like = jax.ShapeDtypeStruct((5,), jnp.float64)
    op = hessian.linear(hm.matvec_of(MATRIX, like), like)
    with pytest.raises(UserError, match=words):
        hessian.top_eigenvalues(op, **{"key": KEY, **options})


@pytest.mark.parametrize("measure", ["trace", "frobenius_norm"])
def test_bad_numbers_of_samples(measure, x64):
    like = jax.ShapeDtypeStruct((5,), jnp.float64)
    op = hessian.linear(hm.matvec_of(MATRIX, like), like)
    with pytest.raises(UserError, match="num_samples=0"):
        getattr(hessian, measure)(op, key=KEY, num_samples=0)
    with pytest.raises(UserError, match=re.escape("method='exact'")):
        hessian.trace(op, key=KEY, method="exact")


def test_an_operator_stands_alone(x64):
    op = hessian.hessian(mean, PARAMS, BATCH)
    with pytest.raises(UserError, match="an operator stands alone"):
        hessian.top_eigenvalues(op, PARAMS, BATCH, key=KEY)
    with pytest.raises(UserError, match="an operator stands alone"):
        hessian.top_eigenvalues(op, key=KEY, check=False)
    with pytest.raises(UserError, match="needs params and batches"):
        hessian.top_eigenvalues(mean, PARAMS, key=KEY)
