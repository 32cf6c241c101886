"""The CPU's convolution against XLA's own: value, every derivative, vmap, pieces, HLO."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from samop.models import ResNet18, conv

# (rows, columns) of the kernel, strides, pads; the last has pads larger than a kernel's reach.
CASES = [
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((1, 1), (1, 1), ((0, 0), (0, 0))),
    ((1, 1), (2, 2), ((0, 0), (0, 0))),
    ((2, 3), (1, 2), ((0, 1), (2, 0))),
    ((3, 2), (1, 1), ((2, 0), (0, 1))),
    ((2, 2), (1, 1), ((2, 3), (0, 2))),
    ((3, 3), (1, 2), ((-1, 0), (1, -2))),
]
FEW, MANY = conv.FEW_CHANNELS - 1, conv.FEW_CHANNELS + 2


def stock(x, kernel, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=conv.DIMENSIONS)


def draw(size, seed, channels=FEW, images=5):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(images, 7, 6, channels))),
        jnp.asarray(rng.normal(size=(*size, channels, 4))),
    )


def both(test):
    """Calls `test`, compiled, with ours and with XLA's and compares all it returns."""
    ours, theirs = (jax.jit(functools.partial(test, function))() for function in (conv.conv, stock))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=[False, True], ids=["whole", "pieces"])
def pieces(request, monkeypatch):
    """Products of two images each, and one that remains; or of all images at once."""
    if request.param:
        monkeypatch.setattr(conv, "ROWS", 2 * 7 * 6)
        jax.clear_caches()  # what was traced for these shapes knows the other size
    yield request.param
    if request.param:
        jax.clear_caches()


@pytest.mark.parametrize("channels", [FEW, MANY])
@pytest.mark.parametrize(("size", "strides", "pads"), CASES)
def test_equals_the_stock_convolution_in_every_derivative(
    x64, pieces, size, strides, pads, channels
):
    at, along = draw(size, 0, channels), draw(size, 1, channels)

    def everything(function):
        loss = lambda x, k: jnp.sum(jnp.sin(function(x, k, strides, pads)))  # noqa: E731
        grad = jax.grad(loss, (0, 1))
        value, tangent = jax.jvp(lambda *a: function(*a, strides, pads), at, along)
        _, product = jax.jvp(grad, at, along)  # forward over reverse
        turned = jax.grad(  # reverse over reverse
            lambda a: sum(jnp.vdot(g, v) for g, v in zip(grad(*a), along))
        )(at)
        return value, tangent, grad(*at), product, turned

    both(everything)


@pytest.mark.parametrize(("size", "strides", "pads"), CASES)
def test_gauss_newton_products(x64, size, strides, pads):
    at, along = draw(size, 0, MANY), draw(size, 1, MANY)

    def product(function):
        model = lambda a: jnp.tanh(function(*a, strides, pads))  # noqa: E731
        loss = lambda f: jnp.sum(jnp.cosh(f))  # noqa: E731
        outputs, moved = jax.jvp(model, (at,), (along,))
        curved = jax.jvp(jax.grad(loss), (outputs,), (moved,))[1]
        return jax.vjp(model, at)[1](curved)

    both(product)


@pytest.mark.parametrize("over", [(0, None), (None, 0), (0, 0), (2, 1)], ids=str)
@pytest.mark.parametrize(("size", "strides", "pads"), CASES[:2])
def test_vmap(x64, size, strides, pads, over):
    two = [draw(size, seed, MANY) for seed in (0, 1)]
    args = [
        two[0][i] if axis is None else jnp.stack([pair[i] for pair in two], axis)
        for i, axis in enumerate(over)
    ]

    def everything(function):
        def loss(x, k):
            return jnp.sum(jnp.sin(function(x, k, strides, pads)))

        grads = jax.vmap(jax.grad(loss, (0, 1)), over)(*args)
        of_sum = jax.grad(lambda *a: jnp.sum(jax.vmap(loss, over)(*a)), (0, 1))(*args)
        product = jax.vmap(
            lambda x, k: jax.jvp(jax.grad(loss, (0, 1)), (x, k), (jnp.cos(x), k))[1], over
        )(*args)
        return grads, of_sum, product

    both(everything)


def test_each_transpose_is_the_adjoint(x64):
    (x, kernel), (strides, pads) = draw((3, 3), 0, MANY), CASES[0][1:]
    for function, arg in (
        (lambda x: conv.conv(x, kernel, strides, pads), x),
        (lambda k: conv.conv(x, k, strides, pads), kernel),
    ):
        out = function(arg)
        ct = jnp.cos(jnp.arange(out.size).reshape(out.shape))
        back = jax.linear_transpose(function, arg)
        np.testing.assert_allclose(jnp.vdot(out, ct), jnp.vdot(arg, back(ct)[0]), rtol=1e-12)
        # The transpose of the transpose is the function.
        again = jax.linear_transpose(lambda ct, back=back: back(ct)[0], ct)(arg)[0]
        np.testing.assert_allclose(again, out, rtol=1e-10, atol=1e-12)


def test_under_shard_map(x64):
    x, kernel = draw((3, 3), 0, MANY, images=8)
    mesh, parts = Mesh(np.array(jax.devices()), ("n",)), PartitionSpec("n")

    def loss(x, kernel):
        own = jnp.sum(jnp.sin(conv.conv(x, kernel, *CASES[0][1:])))
        return lax.psum(own, "n")

    sharded = jax.shard_map(
        loss, mesh=mesh, in_specs=(parts, PartitionSpec()), out_specs=PartitionSpec()
    )
    whole = lambda x, k: jnp.sum(jnp.sin(stock(x, k, *CASES[0][1:])))  # noqa: E731
    ours, theirs = (jax.grad(function, (0, 1))(x, kernel) for function in (sharded, whole))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("optimized")
def test_a_loop_holds_no_convolution_that_the_cpu_is_slow_at():
    """XLA:CPU's fast kernel takes plain ones: channels last, nothing dilated or reversed.

    Of a Hessian product, which computes the gradient on its way.
    """
    model = ResNet18(8, 10)
    x = jnp.ones((4, 32, 32, 3))
    variables = model.init(jax.random.key(0), x)
    rest = {"batch_stats": variables["batch_stats"]}
    loss = lambda p: jnp.mean(model.apply({"params": p, **rest}, x) ** 2)  # noqa: E731
    product = lambda p: jax.jvp(jax.grad(loss), (p,), (p,))[1]  # noqa: E731

    @jax.jit
    def descend(params):
        step = lambda i, p: jax.tree.map(lambda w, g: w - g, p, product(p))  # noqa: E731
        return lax.fori_loop(0, 3, step, params)

    text = descend.lower(variables["params"]).compile().as_text()
    found = re.findall(r"= \S+ convolution\(.*?window={(.*?)}, dim_labels=(\S+?)[,\s]", text)
    assert len(found) > 20
    assert {labels for _, labels in found} == {"b01f_01io->b01f"}
    assert not any("dilate" in window or "reversal" in window for window, _ in found)


@pytest.mark.parametrize(
    "fields",
    [
        {"padding": "SAME"},
        {"padding": "VALID"},
        {"padding": 1, "strides": 2},
        {"feature_group_count": 3, "padding": 1},
        {"kernel_dilation": 2, "padding": "SAME"},
        {"padding": "SAME", "dtype": jnp.bfloat16},
    ],
    ids=str,
)
def test_in_a_linen_layer(fields):
    x = draw((3, 3), 0)[0].astype(jnp.float32)
    plain = nn.Conv(6, (3, 3), **fields)
    ours = nn.Conv(6, (3, 3), conv_general_dilated=conv.conv_general_dilated, **fields)
    variables = plain.init(jax.random.key(0), x)
    one, other = ours.apply(variables, x), plain.apply(variables, x)
    assert one.dtype == other.dtype
    tolerance = 0.05 if one.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(*(a.astype(np.float32) for a in (one, other)), atol=tolerance)


def test_pieces_are_pieces(pieces):
    x, kernel = (a.astype(jnp.float32) for a in draw((3, 3), 0))
    gradient = jax.grad(lambda k: jnp.sum(conv.conv(x, k, *CASES[0][1:]) ** 2))
    loops = str(jax.make_jaxpr(gradient)(kernel)).count("scan[")
    assert loops == (1 if pieces else 0)
    text = jax.jit(lambda x: conv.conv(x, kernel, *CASES[0][1:])).lower(x).as_text()
    assert ("while" in text) == pieces


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("size", "strides", "pads"), CASES[:2])
def test_low_precision_gradients_are_as_exact_as_xla_s(monkeypatch, dtype, size, strides, pads):
    monkeypatch.setattr(conv, "ROWS", 4 * 7 * 6)
    exact = [a.astype(jnp.float32) for a in draw(size, 0, MANY, images=160)]
    low = [a.astype(dtype) for a in exact]

    def error(function):
        grads = jax.grad(lambda *a: jnp.sum(function(*a, strides, pads)), (0, 1))
        # Of the rounded numbers, so that only the arithmetic differs.
        wide = grads(*(a.astype(jnp.float32) for a in low))
        assert [g.dtype for g in grads(*low)] == [dtype, dtype]
        return [
            float(jnp.linalg.norm(g.astype(jnp.float32) - w) / jnp.linalg.norm(w))
            for g, w in zip(grads(*low), wide)
        ]

    for ours, theirs in zip(error(conv.conv), error(stock)):
        assert ours < 1.5 * theirs + 1e-6


def test_a_precision_is_left_to_xla():
    x, kernel = (a.astype(jnp.float32) for a in draw((3, 3), 0))
    layer = functools.partial(
        nn.Conv, 4, (3, 3), conv_general_dilated=conv.conv_general_dilated, use_bias=False
    )
    for precision, own in ((None, True), ("highest", False)):
        apply = lambda k, p=precision: layer(precision=p).apply({"params": {"kernel": k}}, x)  # noqa: E731
        assert ("samop_conv" in str(jax.make_jaxpr(apply)(kernel))) == own


def test_no_images():
    out = jax.grad(lambda k: jnp.sum(conv.conv(jnp.ones((0, 7, 6, FEW)), k, *CASES[0][1:])))(
        jnp.ones((3, 3, FEW, 4))
    )
    assert not out.any()


@pytest.mark.parametrize("channels", [FEW, MANY])
def test_a_kernel_larger_than_the_image(channels):
    x, kernel = jnp.ones((2, 1, 4, channels)), jnp.ones((3, 3, channels, 5))
    where = (1, 1), ((0, 0), (0, 0))
    assert conv.conv(x, kernel, *where).shape == stock(x, kernel, *where).shape == (2, 0, 2, 5)
    assert not jax.grad(lambda k: jnp.sum(conv.conv(x, k, *where)))(kernel).any()


def test_mismatched_channels_are_refused():
    function = functools.partial(conv.conv, strides=(1, 1), pads=((0, 0), (0, 0)))
    with pytest.raises(TypeError, match="same channels"):
        function(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 4, 2)))
