"""Hessian- and Gauss–Newton-vector products against dense matrices, however the data come."""

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_models import flat, unflat
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop import hessian
from samop.errors import UserError

# Values are compared, not programs.
RNG = np.random.default_rng(0)
TIGHT = 1e-9
MLP = hm.network("mlp")
V = RNG.normal(size=57)
WAYS = {
    "list": lambda batch: hm.cut(batch, 4, 12),
    "runs of equal shape": lambda batch: hm.cut(batch, 5, 10, 15),
    "stream": lambda batch: hm.Stream(hm.cut(batch, 4, 8, 12)),
    "callable": lambda batch: lambda: iter(hm.cut(batch, 7, 14)),
    "stack": lambda batch: hessian.stack(batch, 4),
    "stack of one": lambda batch: hessian.stack(batch, 1),
}


def of(batches, at=MLP, **options):
    return hessian.hessian(at.loss_fn, at.params, batches, **{"check": False, **options})


def ggn_of(batches, at=MLP, **options):
    return hessian.ggn(at.model_fn, at.criterion, at.params, batches, **{"check": False, **options})


def times(op, vector):
    return flat(op(unflat(vector, op.like)))


def to_dense(op):
    return np.stack([times(op, e) for e in np.eye(op.size)], 1)


def assert_close(got, expected, atol=TIGHT):
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def mlp():
    """One operator of the MLP for the tests that only look at it."""
    with jax.enable_x64(True):
        return of(MLP.batch)


@pytest.mark.parametrize(
    ("name", "criterion"),
    [*((name, hm.cross_entropy) for name in hm.MODULES), ("mlp", hm.squared)],
)
def test_products_equal_those_with_dense_matrices(name, criterion, x64):
    at, exact = hm.network(name, criterion), hm.hessian_of(name, criterion)
    v = RNG.normal(size=len(exact))
    gauss_newton = hm.ggns_of(name, criterion).mean(0)

    @jax.jit
    def pure(params, batch, v):
        return (
            hessian.hvp(at.loss_fn, params, batch, v),
            hessian.ggn_vp(at.model_fn, at.criterion, params, batch, v),
        )

    first, second = pure(at.params, at.batch, unflat(v, at.params))
    assert_close(flat(first), exact @ v)
    assert_close(flat(second), gauss_newton @ v)
    assert jax.tree.structure(second) == jax.tree.structure(at.params)
    assert_close(times(of(at.batch, at), v), exact @ v)
    assert_close(times(ggn_of(at.batch, at), v), gauss_newton @ v)


def test_the_pure_products_can_be_jitted_vmapped_and_differentiated(x64):
    exact = hm.hessian_of("mlp")
    product = lambda v: hessian.hvp(MLP.loss_fn, MLP.params, MLP.batch, v)  # noqa: E731
    many = RNG.normal(size=(3, 57))
    trees = jax.vmap(lambda v: unflat(v, MLP.params))(jnp.asarray(many))
    assert_close(hm.rows(jax.jit(jax.vmap(product))(trees)), many @ exact)
    v = unflat(V, jax.tree.map(jnp.asarray, MLP.params))

    def half(v):
        pairs = zip(jax.tree.leaves(v), jax.tree.leaves(product(v)))
        return 0.5 * sum(jnp.sum(a * b) for a, b in pairs)

    assert_close(flat(jax.jit(jax.grad(half))(v)), exact @ V)


def test_an_operator_says_what_it_acts_on(mlp, x64):
    assert mlp.size == 57
    assert jax.tree.structure(mlp.like) == jax.tree.structure(MLP.params)
    assert jax.tree.map(lambda s: s.shape, mlp.like) == jax.tree.map(np.shape, MLP.params)
    assert {str(s.dtype) for s in jax.tree.leaves(mlp.like)} == {"float64"}


def test_an_operator_is_linear_and_symmetric(mlp, x64):
    u, v = RNG.normal(size=(2, 57))
    assert_close(u @ times(mlp, v), v @ times(mlp, u))
    assert_close(times(mlp, 2 * u - 3 * v), 2 * times(mlp, u) - 3 * times(mlp, v))
    assert_close(to_dense(mlp), hm.hessian_of("mlp"))


@pytest.mark.parametrize("way", WAYS)
def test_however_the_examples_are_cut_it_is_the_mean_over_all(way, x64):
    op = of(WAYS[way](MLP.batch))
    assert_close(times(op, V), hm.hessian_of("mlp") @ V)
    assert_close(times(op, -V), -hm.hessian_of("mlp") @ V)  # streams can be read again


@pytest.mark.parametrize("way", ["list", "callable"])
def test_so_it_is_for_gauss_newton(way, x64):
    op = ggn_of(WAYS[way](MLP.batch))
    assert_close(times(op, V), hm.ggns_of("mlp").mean(0) @ V)


def test_a_stack_is_as_many_batches(x64):
    tree = jax.tree.map(lambda x: x[:18].reshape(3, 6, *x.shape[1:]), MLP.batch)
    op = of(hessian.Stack(tree))
    assert_close(times(op, V), hm.hessians_of("mlp")[:18].mean(0) @ V)


def masked(params, batch):
    """A mean over the words that are kept, as of text: not over the sequences."""
    logits = hm.MODULES["mlp"][0].apply({"params": params}, batch["x"])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][..., None], -1)[..., 0]
    return -jnp.sum(chosen * batch["keep"]) / jnp.sum(batch["keep"])


def test_batches_of_masked_words_are_weighted_by_their_words(x64):
    rng = np.random.default_rng(3)
    keep = (rng.random((12, 7)) < rng.random((12, 1))).astype(float)
    keep[:, 0] = 1
    text = {
        "x": rng.normal(size=(12, 7, 5)),
        "y": rng.integers(0, hm.CLASSES, (12, 7)),
        "keep": keep,
    }
    at = hm.Problem(MLP.params, text, None, None, masked)
    exact = hm.dense(at)
    options = {"batch_weight": lambda batch: jnp.sum(batch["keep"])}
    assert_close(times(of(hm.Stream(hm.cut(text, 4, 8)), at, **options), V), exact @ V)
    for batches, devices in ((text, jax.devices()[:8]), (hm.cut(text, 3, 9), None)):
        op = of(batches, at, devices=devices, **options)
        assert_close(times(op, V), exact @ V)


def test_some_of_the_parameters(x64):
    chosen = jax.tree.map(lambda x: False, MLP.params)
    chosen["Dense_0"]["kernel"] = chosen["Dense_1"]["bias"] = True
    spread = jax.tree.map(lambda keep, x: np.full(x.shape, keep), chosen, MLP.params)
    index = np.flatnonzero(flat(spread))
    block = hm.hessian_of("mlp")[np.ix_(index, index)]
    gauss_newton = hm.ggns_of("mlp").mean(0)[np.ix_(index, index)]
    names = lambda names, leaf: names in (("Dense_0", "kernel"), ("Dense_1", "bias"))  # noqa: E731
    for where in (chosen, names):
        op = of(MLP.batch, where=where)
        assert op.size == len(index)
        assert op.like["Dense_0"]["bias"] is None
        assert_close(to_dense(op), block)
        op = ggn_of(MLP.batch, where=where)
        assert_close(to_dense(op), gauss_newton)


def test_a_prefix_of_bools_chooses_whole_layers(x64):
    op = hessian.hessian(
        MLP.loss_fn, MLP.params, MLP.batch, where={"Dense_0": False, "Dense_1": True}
    )
    assert op.size == 21
    assert_close(to_dense(op), hm.hessian_of("mlp")[-21:, -21:])


def test_linearising_once_changes_nothing(x64):
    batches = hm.cut(MLP.batch, 6, 12)
    for linearize in (True, False, "auto"):
        op = of(batches, linearize=linearize)
        assert_close(times(op, V), hm.hessian_of("mlp") @ V)
        op = ggn_of(batches, linearize=linearize)
        assert_close(times(op, V), hm.ggns_of("mlp").mean(0) @ V)


@pytest.mark.parametrize(("devices", "way"), [(1, "list"), (8, "list"), (3, "stack")])
def test_one_and_more_devices_agree(devices, way, x64):
    options = {"devices": jax.devices()[:devices]}
    op = of(WAYS[way](MLP.batch), **options)
    assert_close(times(op, V), hm.hessian_of("mlp") @ V)
    assert_close(times(ggn_of(MLP.batch, **options), V), hm.ggns_of("mlp").mean(0) @ V)


def test_examples_are_divided_among_the_devices(x64):
    seen = set()

    def loss_fn(params, batch):
        jax.debug.inspect_array_sharding(batch["x"], callback=lambda s: seen.add(s.num_devices))
        return MLP.loss_fn(params, batch)

    batch = jax.tree.map(lambda x: x[:16], MLP.batch)
    times(of(batch, MLP._replace(loss_fn=loss_fn), devices=jax.devices()[:8]), V)
    assert 8 in seen


def test_streams_leave_their_sharding_to_the_caller(x64):
    with pytest.raises(UserError, match="devices is for batches in memory"):
        of(hm.Stream([MLP.batch]), devices=jax.devices()[:8])
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    cut = NamedSharding(mesh, PartitionSpec("data"))
    pieces = [jax.tree.map(lambda x: x[:8], MLP.batch), jax.tree.map(lambda x: x[8:16], MLP.batch)]
    op = of(lambda: (jax.device_put(piece, cut) for piece in pieces))
    assert_close(times(op, V), hm.hessians_of("mlp")[:16].mean(0) @ V)


@pytest.mark.parametrize("stream", [False, True])
def test_more_batches_are_not_traced_more_often(stream, x64):
    def traces(number):
        def loss_fn(params, batch):
            nonlocal count
            count += 1
            return MLP.loss_fn(params, batch)

        count = 0
        batches = [jax.tree.map(lambda x: x[:4], MLP.batch)] * number
        op = of(hm.Stream(batches) if stream else batches, MLP._replace(loss_fn=loss_fn))
        times(op, V)
        once = count
        times(op, -V)
        assert count == once  # nor for a second product
        return count

    assert traces(3) == traces(30) > 0


def test_a_stream_is_read_once_a_product(x64):
    stream = hm.Stream(hm.cut(MLP.batch, 4, 8))
    op = of(stream)
    for _ in range(3):
        before = stream.passes
        times(op, V)
        assert stream.passes == before + 1


def test_float32_and_bfloat16_are_close_and_named():
    params, batch, v = jax.tree.map(
        lambda x: np.asarray(x, np.float32) if x.dtype == float else np.asarray(x, np.int32),
        (MLP.params, MLP.batch, unflat(V, MLP.params)),
    )
    with jax.enable_x64(True):
        exact = hm.hessian_of("mlp") @ V
    for dtype, near in ((None, 1e-6), (jnp.bfloat16, 5e-2)):
        op = of(batch, MLP._replace(params=params), dtype=dtype)
        product = op(v)
        error = np.linalg.norm(flat(product) - exact) / np.linalg.norm(exact)
        assert error < near
        assert {str(x.dtype) for x in jax.tree.leaves(product)} == {"float32"}
    assert error > 1e-5  # bfloat16 was used


def test_of_a_linear_model_with_squared_loss_gauss_newton_is_the_hessian(x64):
    rng = np.random.default_rng(5)
    params = {"w": rng.normal(size=(4, 2)), "b": rng.normal(size=(1, 2))}
    batch = {"x": rng.normal(size=(9, 4)), "y": rng.normal(size=(9, 2))}
    model_fn = lambda p, batch: batch["x"] @ p["w"] + p["b"]  # noqa: E731
    at = hm.problem(model_fn, hm.squared, params, batch)
    full = to_dense(of(batch, at))
    assert_close(full, to_dense(ggn_of(batch, at)))
    # By hand: 1/n XᵀX for each output, X with a column of ones for b, which comes first.
    X = np.concatenate([np.ones((9, 1)), batch["x"]], 1)
    assert_close(full, np.kron(X.T @ X / 9, np.eye(2)))


def test_gauss_newton_is_positive_where_the_hessian_is_not(x64):
    assert np.linalg.eigvalsh(hm.hessian_of("mlp"))[0] < -0.1
    op = ggn_of(MLP.batch)
    assert np.linalg.eigvalsh(to_dense(op))[0] > -TIGHT


def test_any_symmetric_map(x64):
    matrix, _ = hm.with_spectrum(RNG.normal(size=11))
    like = hm.tree_like()
    op = hessian.linear(hm.matvec_of(matrix, like), like)
    assert op.size == 11
    assert_close(to_dense(op), matrix)
