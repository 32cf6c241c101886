"""ResNet-50 and its stem."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from samop.models import MODELS, ResNet50, stem
from samop.models.resnet50 import Bottleneck

CONFIG = str(Path(__file__).parent.parent / "configs" / "imagenet_width.py")


def both(ours, theirs, *args):
    """Value and all gradients of two functions of the same arguments."""

    def readings(fn):
        loss = lambda *args: jnp.sum(jnp.sin(fn(*args)))  # noqa: E731
        return jax.jit(lambda *args: (fn(*args), jax.grad(loss, range(len(args)))(*args)))(*args)

    for a, b in zip(*map(jax.tree.leaves, (readings(ours), readings(theirs))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 12), (7, 12)], ids=["even", "odd"])
def test_the_stem_is_a_convolution(x64, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 3, 5))
    where = ((2, 2), [(3, 3), (3, 3)])
    how = {
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "dimension_numbers": lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
        "feature_group_count": 1,
        "precision": None,
    }
    both(
        lambda x, k: stem.stem_conv(x, k, *where, **how),
        lambda x, k: lax.conv_general_dilated(x, k, *where, **how),
        x,
        kernel,
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_pooling_is_flax_s(x64, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    both(stem.max_pool, lambda x: nn.max_pool(x, (3, 3), (2, 2), padding="SAME"), x)


def test_a_new_block_is_the_identity():
    block = Bottleneck(2, 1, functools.partial(nn.BatchNorm, use_running_average=True))
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    assert not variables["params"]["BatchNorm_2"]["scale"].any()
    np.testing.assert_array_equal(jax.jit(block.apply)(variables, x), x)


def test_strides_lie_in_the_middle_and_end_at_32():
    def outputs(key, x):
        return ResNet50(2, 7).init_with_output(key, x, capture_intermediates=True)

    x = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    out, variables = jax.eval_shape(outputs, jax.eval_shape(jax.random.key, 0), x)
    assert out.shape == (2, 7)
    seen = variables["intermediates"]
    assert seen["Bottleneck_15"]["__call__"][0].shape == (2, 2, 1, 64)
    assert "Bottleneck_16" not in seen
    halved = seen["Bottleneck_3"]
    shapes = [halved[f"Conv_{i}"]["__call__"][0].shape[1] for i in range(3)]
    assert shapes == [16, 8, 8]


def test_the_registry_builds_it():
    assert MODELS["resnet50"].build({"filters": 2}, 3) == ResNet50(2, 3)
