"""Counted operations against closed forms and an independent sum over a network's layers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from small import point

from samop import flops
from samop.models import MLP, ResNet18, conv
from samop.workloads import build, flops_of_example


def shaped(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def forward(module, *shape):
    """The module in training mode, and its arguments' shapes."""
    x = shaped(*shape)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    fn = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    return fn, variables, x


SIZES = (784, 300, 100, 10)
PAIRS = tuple(itertools.pairwise(SIZES))


def test_mlp():
    fn, variables, x = forward(MLP(SIZES[1:-1], SIZES[-1]), 7, 28, 28, 1)
    assert flops.count(fn, variables, x) == 7 * sum(2 * a * b for a, b in PAIRS)


def test_backward_costs_twice_the_forward_but_for_the_first_layers_input():
    fn, variables, x = forward(MLP(SIZES[1:-1], SIZES[-1]), 7, 28, 28, 1)
    gradient = jax.grad(lambda v, x: jnp.sum(fn(v, x)[0]))
    expected = flops.OF_A_GRADIENT * sum(2 * a * b for a, b in PAIRS) - 2 * 784 * 300
    assert flops.count(gradient, variables, x) == 7 * expected


def resnet18(filters, size, channels, outputs):
    """Sum over the layers of ResNet-18 as its paper lists them, one image."""
    total, side = 2 * size**2 * 9 * channels * filters, size
    wide = filters
    for stage in range(4):
        for block in range(2):
            narrow, wide = wide, filters * 2**stage
            side = -(-side // 2) if stage and not block else side
            places = side * side
            total += 2 * places * 9 * narrow * wide + 2 * places * 9 * wide * wide
            total += 2 * places * narrow * wide if narrow != wide else 0
    return total + 2 * wide * outputs


@pytest.mark.parametrize(("filters", "size", "channels"), [(4, 32, 3), (2, 8, 1)])
def test_resnet(filters, size, channels):
    fn, variables, x = forward(ResNet18(filters, 10), 2, size, size, channels)
    assert flops.count(fn, variables, x) == 2 * resnet18(filters, size, channels, 10)


def test_resnet18_of_the_paper_has_its_known_cost():
    # 0.56 billion multiply-adds on CIFAR: twice that many operations.
    assert resnet18(64, 32, 3, 10) == pytest.approx(2 * 0.556e9, rel=2e-3)


def test_own_convolution_counts_as_the_stock_one():
    x, kernel = shaped(2, 9, 8, 3), shaped(3, 2, 3, 5)
    where = {"strides": (2, 1), "pads": ((1, 1), (0, 1))}
    own = functools.partial(conv.conv, **where)
    stock = functools.partial(
        lax.conv_general_dilated,
        window_strides=(2, 1),
        padding=where["pads"],
        dimension_numbers=conv.DIMENSIONS,
    )
    out = np.prod(jax.eval_shape(own, x, kernel).shape)
    assert flops.count(own, x, kernel) == 2 * out * 3 * 2 * 3 == flops.count(stock, x, kernel)


def test_feature_groups():
    module = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False)
    x = shaped(2, 6, 6, 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert flops.count(module.apply, variables, x) == 2 * (2 * 6 * 6 * 8) * 3 * 3 * 1


def test_batched_dot():
    fn = functools.partial(jnp.einsum, "bhik,bhjk->bhij")
    assert flops.count(fn, shaped(2, 3, 5, 7), shaped(2, 3, 11, 7)) == 2 * (2 * 3) * 5 * 11 * 7


def product(w, x):
    return jnp.tanh(w @ x)


own_jvp = jax.custom_jvp(product)
own_jvp.defjvp(lambda primals, tangents: (product(*primals), product(*tangents)))
own_vjp = jax.custom_vjp(product)
own_vjp.defvjp(lambda w, x: (product(w, x), w), lambda w, ct: (w, product(w, ct)))
W, X = shaped(4, 4), shaped(4)
ONE = 2 * 4 * 4


@pytest.mark.parametrize(
    ("fn", "times"),
    [
        (lambda w, x: lax.scan(lambda x, _: (product(w, x), None), x, length=6)[0], 6),
        (lambda w, x: lax.fori_loop(2, 7, lambda _, x: product(w, x), x), 5),
        (lambda w, x: lax.map(lambda r: r * product(w, x), jnp.ones(3)), 3),
        (lambda w, x: jax.vmap(product, (None, 0))(w, jnp.ones((9, 4))), 9),
        (lambda w, x: jax.vmap(product)(jnp.ones((9, 4, 4)), jnp.ones((9, 4))), 9),
        (lambda w, x: jax.jit(product)(w, jax.jit(product)(w, x)), 2),
        (lambda w, x: jax.checkpoint(product)(w, x), 1),
        (lambda w, x: own_jvp(w, x), 1),
        (lambda w, x: own_vjp(w, x), 1),
        (lambda w, x: lax.custom_linear_solve(lambda x: w @ x, x, lambda mv, b: mv(mv(b))), 2),
        (lambda w, x: lax.cond(x[0] > 0, lambda: product(w, product(w, x)), lambda: x), 2),
        (lambda w, x: lax.switch(0, [lambda: x, lambda: product(w, x)]), 1),
        (lambda w, x: lax.while_loop(lambda x: x[0] > 0, lambda x: x - 1, product(w, x)), 1),
        (lambda w, x: jax.random.permutation(jax.random.key(0), x), 0),
        (lambda w, x: x + 1, 0),
    ],
)
def test_what_runs_how_often(fn, times):
    assert flops.count(fn, W, X) == times * ONE


def test_recomputation_is_counted_where_the_function_asks_for_it():
    plain, again = (
        jax.grad(lambda w, x, f=f: jnp.sum(f(w, f(w, x)))) for f in (product, jax.remat(product))
    )
    assert flops.count(again, W, X) == flops.count(plain, W, X) + 2 * ONE


def test_all_devices_together():
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",))
    rows, every = PartitionSpec("rows"), PartitionSpec()
    fn = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, every), out_specs=rows)
    assert flops.count(fn, shaped(8, 4), shaped(4, 4)) == 8 * ONE


@pytest.mark.parametrize("where", ["body", "condition"])
def test_an_unknown_number_of_times_is_refused(where):
    def fn(w, x):
        body = functools.partial(product, w) if where == "body" else lambda x: x - 1
        over = (lambda x: x[0] > 0) if where == "body" else lambda x: product(w, x)[0] > 0
        return lax.while_loop(over, body, x)

    with pytest.raises(ValueError, match=r"flops of a while_loop cannot be counted: how often"):
        flops.count(fn, W, X)


def test_flops_of_an_example():
    assert flops_of_example(build(point())) == 2 * (64 * 8 + 8 * 8 + 8 * 10)
    config = point()
    config["model"] = {"name": "resnet18", "filters": 2}
    assert flops_of_example(build(config)) == resnet18(2, 8, 1, 10)
