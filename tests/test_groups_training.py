"""Groups as one program: equal to runs one by one, to other device counts, to the base at ρ = 0."""

import jax
import numpy as np
import pytest
from small import first_epochs, grid, point, prepared

CELLS = [
    {"optimizer__rho": 0.05, "data__label_noise": 0.0},
    {"optimizer__rho": 0.2, "data__label_noise": 0.4},
    {"optimizer__rho": 0.5, "data__label_noise": 0.4, "optimizer__lr": 0.05},
]


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_rho_zero_is_the_base_optimiser_bit_for_bit(model):
    fields = {"optimizer__weight_decay": 5e-4, "data__train_size": 96}
    base, sam = point(optimizer__name="base", **fields), point(optimizer__rho=0.0, **fields)
    if model == "resnet18":
        base["model"] = sam["model"] = {"name": "resnet18", "filters": 2}
    plain, plain_metrics = first_epochs(prepared([[base]]), 2)
    ours, our_metrics = first_epochs(prepared([[sam]]), 2)
    for a, b in zip(leaves(plain), leaves(ours), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(our_metrics["grad_evals"], 2 * plain_metrics["grad_evals"])


def test_vmapped_equals_one_by_one(x64):
    rows = grid(point(), CELLS, seeds=[0, 3])
    together, metrics = first_epochs(prepared(rows))
    for i, config in enumerate(p for row in rows for p in row):
        alone, own = first_epochs(prepared([[config]]))
        for a, b in zip(leaves(together), leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=0, atol=1e-9)
        for name in own:
            np.testing.assert_allclose(metrics[name][i], own[name][0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seeds", [[0, 1, 2], list(range(8))])
def test_devices_do_not_change_a_group(x64, seeds):
    rows = grid(point(), CELLS, seeds)
    one, _ = first_epochs(prepared(rows, devices=1))
    eight, _ = first_epochs(prepared(rows, devices=8))
    for a, b in zip(leaves(one), leaves(eight), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
