"""Exact parameter counts of the paper's networks."""

import jax
import jax.numpy as jnp
import pytest

from samop import trees
from samop.models import MLP, ResNet18, ResNet50


def count(module, shape):
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape))))
    return trees.size(variables["params"])


@pytest.mark.parametrize(
    ("hidden", "parameters"), [((300, 100), 266_610), ((75, 25), 61_035), ((3000, 1000), 5_366_010)]
)
def test_mlp(hidden, parameters):
    assert count(MLP(hidden, 10), (28, 28, 1)) == parameters


@pytest.mark.parametrize(
    ("filters", "parameters"),
    [(4, 44_622), (8, 176_402), (16, 701_466), (32, 2_797_610), (64, 11_173_962)],
)
def test_resnet18(filters, parameters):
    assert count(ResNet18(filters, 10), (32, 32, 3)) == parameters


def test_synthetic_students():
    assert count(MLP((1000,), 1), (98,)) == 100_001


@pytest.mark.parametrize(
    ("filters", "parameters"),
    [
        (16, 1_993_976),
        (32, 6_917_640),
        (48, 14_771_992),
        (56, 19_798_176),
        (64, 25_557_032),
    ],
)
def test_resnet50(filters, parameters):
    assert count(ResNet50(filters, 1000), (64, 64, 3)) == parameters
