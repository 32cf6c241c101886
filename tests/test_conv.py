"""The CPU's convolution against XLA's own: value, jvp, gradients, Hessian products, vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from samop.models import conv

CASES = [
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((1, 1), (2, 2), ((0, 0), (0, 0))),
    ((2, 3), (1, 2), ((0, 1), (2, 0))),
]


def stock(x, kernel, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=conv.DIMENSIONS)


def draw(size, seed):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, 7, 6, 3))),
        jnp.asarray(rng.normal(size=(*size, 3, 4))),
    )


@pytest.mark.parametrize(("size", "strides", "pads"), CASES)
def test_equals_the_stock_convolution_in_every_derivative(x64, size, strides, pads):
    at, along = draw(size, 0), draw(size, 1)

    def loss(function):
        return lambda x, k: jnp.sum(jnp.sin(function(x, k, strides, pads)))

    def everything(function):
        grad = jax.grad(loss(function), (0, 1))
        value, tangent = jax.jvp(lambda *a: function(*a, strides, pads), at, along)
        _, curvature = jax.jvp(grad, at, along)
        return value, tangent, grad(*at), curvature

    ours, theirs = everything(conv.conv), everything(stock)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_vmap_over_kernels(x64):
    (x, kernel), (_, other) = draw((3, 3), 0), draw((3, 3), 1)
    kernels = jnp.stack([kernel, other])

    def gradient(k):
        return jax.grad(lambda k: jnp.sum(conv.conv(x, k, (1, 1), ((1, 1), (1, 1))) ** 2))(k)

    together = jax.vmap(gradient)(kernels)
    for i in range(2):
        np.testing.assert_allclose(together[i], gradient(kernels[i]), rtol=1e-10)


@pytest.mark.parametrize(
    "fields",
    [
        {"padding": "SAME"},
        {"padding": "VALID"},
        {"padding": 1, "strides": 2},
        {"feature_group_count": 3, "padding": 1},
        {"kernel_dilation": 2, "padding": "SAME"},
    ],
    ids=str,
)
def test_in_a_linen_layer(fields):
    x = draw((3, 3), 0)[0].astype(jnp.float32)
    plain = nn.Conv(6, (3, 3), **fields)
    ours = nn.Conv(6, (3, 3), conv_general_dilated=conv.conv_general_dilated, **fields)
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), atol=1e-5)
