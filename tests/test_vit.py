"""The small vision Transformer: its size, what patches see, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samop import trees
from samop.errors import UserError
from samop.models import MODELS
from samop.models.vit import ViT


def count(size, layers, patch, pixels, channels, outputs):
    """Numbers by hand: patches, positions, layers (two norms, qkv, out, two dense), norm, head."""
    tokens = (pixels // patch) ** 2
    layer = 2 * 2 * size + 4 * size**2 + 2 * 4 * size**2 + 5 * size
    ends = size * (channels * patch**2 + 1) + tokens * size + 2 * size + outputs * (size + 1)
    return layers * layer + ends


@pytest.mark.parametrize(("size", "patch", "pixels"), [(16, 7, 28), (32, 4, 32)])
def test_parameters(size, patch, pixels):
    x = jnp.zeros((2, pixels, pixels, 3))
    model = ViT(size, 3, 4, patch, 0.0, 10)
    params = model.init(jax.random.key(0), x)["params"]
    assert trees.size(params) == count(size, 3, patch, pixels, 3, 10)
    assert model.apply({"params": params}, x).shape == (2, 10)


def test_without_positions_patches_have_no_order():
    model = ViT(16, 2, 4, 2, 0.0, 10)
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    params = model.init(jax.random.key(1), x)["params"]
    blind = {**params, "position": jnp.zeros_like(params["position"])}
    turned = x[:, [2, 3, 0, 1]]  # the upper patches below the lower ones
    outputs = [
        np.asarray(model.apply({"params": p}, y)) for p in (params, blind) for y in (x, turned)
    ]
    np.testing.assert_allclose(outputs[2], outputs[3], atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_what_does_not_fit_is_said():
    x = jnp.zeros((1, 28, 28, 1))
    with pytest.raises(UserError, match=r"model.patch=5 should divide .* 28 and 28"):
        ViT(16, 1, 4, 5, 0.0, 10).init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"model.heads=3 should divide model.size=16"):
        ViT(16, 1, 3, 7, 0.0, 10).init(jax.random.key(0), x)


def test_batch_norm_of_an_mlp_is_an_option():
    model = MODELS["mlp"]
    module = model.build({"hidden": (8,), "activation": "relu", "norm": "batch"}, 3)
    x = jax.random.normal(jax.random.key(0), (50, 4))
    variables = module.init(jax.random.key(1), x)
    # kernel, scale and bias of the norm, no bias of its own; then the outputs.
    assert trees.size(variables["params"]) == 4 * 8 + 2 * 8 + 8 * 3 + 3
    _, moved = module.apply(variables, x, train=True, mutable=["batch_stats"])
    mean = 0.1 * (x @ variables["params"]["Dense_0"]["kernel"]).mean(0)
    np.testing.assert_allclose(moved["batch_stats"]["BatchNorm_0"]["mean"], mean, atol=1e-5)
    assert model.norm_layers({"norm": "batch"})
    assert not model.norm_layers({"norm": "none"})
