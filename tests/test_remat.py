"""Blocks computed again in the backward pass: the same numbers, in less memory."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from samop import config as configs
from samop import memory, validation
from samop.errors import UserError
from samop.models import ResNet18, ResNet50, Transformer, ViT

PHOTOS = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float64)
WORDS = {name: jax.ShapeDtypeStruct((4, 6), jnp.int32) for name in ("token", "segment", "position")}
CASES = {
    "resnet18": (ResNet18(2, 3), PHOTOS),
    "transformer": (Transformer(8, 2, 2, 0.3, 11, 3), WORDS),
    "vit": (ViT(8, 2, 2, 4, 0.3, 3), PHOTOS),
}


def example(shapes):
    rng = np.random.default_rng(0)
    real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) if real(x) else rng.integers(0, 3, x.shape)),
        shapes,
    )


def readings(module, x, variables):
    """Loss, outputs, statistics and gradient, in one program."""
    key = jax.random.key(1)
    others = {name: value for name, value in variables.items() if name != "params"}

    @jax.jit
    def one(params):
        def loss(params):
            out, new = module.apply(
                {"params": params, **others},
                x,
                train=True,
                mutable=list(others),
                rngs={"dropout": key},
            )
            return jnp.mean(jnp.sin(out) ** 2), (out, new)

        (value, seen), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, seen, grads

    return one(variables["params"])


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_the_same(name, x64):
    """First values and names, loss, outputs under dropout, statistics, gradient."""
    plain, shapes = CASES[name]
    again = plain.clone(remat=True)
    x = example(shapes)
    variables = [jax.jit(m.init)(jax.random.key(0), x) for m in (plain, again)]
    assert jax.tree.structure(variables[0]) == jax.tree.structure(variables[1])
    jax.tree.map(np.testing.assert_array_equal, *variables)
    double = jax.tree.map(lambda v: v.astype(float), variables[0])
    found = [readings(m, x, double) for m in (plain, again)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    outputs = [m.apply(double, x) for m in (plain, again)]
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "block", "count"), [(ResNet18, "Block", 8), (ResNet50, "Bottleneck", 16)]
)
def test_names_are_those_of_earlier_versions(network, block, count):
    trees = []
    for remat in (False, True):
        module = network(2, 3, remat=remat)
        trees.append(jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 32, 32, 3))))
    assert trees[0] == trees[1]
    blocks = {name for name in trees[1]["params"] if name.startswith(block)}
    assert blocks == {f"{block}_{i}" for i in range(count)}
    assert set(trees[1]["params"]) - blocks == {"Conv_0", "BatchNorm_0", "Dense_0"}


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_less_is_kept_and_less_memory_taken(name):
    module = {"resnet18": ResNet18(4, 10), "vit": ViT(16, 6, 4, 4, 0.1, 10)}[name]
    x = jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32)
    taken = []
    for m in (module, module.clone(remat=True)):
        variables = jax.eval_shape(m.init, jax.random.key(0), x)
        others = [key for key in variables if key != "params"]

        def loss(params, state, x, m=m, others=others):
            out, _ = m.apply(
                {"params": params, **state},
                x,
                train=True,
                mutable=others,
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.mean(out**2)

        params = variables.pop("params")
        options = memory.compiler_options({"train": {"remat": m.remat}})
        compiled = jax.jit(jax.grad(loss)).lower(params, variables, x).compile(options)
        taken.append(compiled.memory_analysis().temp_size_in_bytes)
    assert taken[1] < 0.7 * taken[0]


def run(model="vit", **fields):
    config = configs.defaults(model).to_dict()
    base = small.point(train__epochs=1, data__train_size=160, train__batch_size=16)
    size = {"filters": 2} if model == "resnet18" else {"size": 8, "layers": 2, "heads": 2}
    config = {**base, "model": {**config["model"], **size}}
    config["train"] = {**config["train"], **fields}
    validation.validate(config)
    return config


@pytest.mark.parametrize("model", ["vit", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_run_of_a_sweep_is_the_same(model, x64):
    """Ten steps of SAM, statistics and all; of the ViT also two radii vmapped, in less memory."""
    # A vmap over kernels takes long to compile: of the ViT alone.
    cells = [{"optimizer__rho": r} for r in ((0.05, 0.1) if model == "vit" else (0.1,))]
    found, taken = [], []
    for remat in (False, True):
        ready = small.prepared(small.grid(run(model, remat=remat), cells, [0]))
        found.append(small.first_epochs(ready))
        taken.append(ready.footprint.workspace)
    if model == "vit":  # of so small a ResNet evaluation takes more than training
        assert taken[1] < 0.8 * taken[0]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    if len(cells) == 1:
        return
    # vmapped = one by one
    alone = small.first_epochs(small.prepared(small.grid(run(model, remat=True), cells[1:], [0])))
    for a, b in zip(*map(jax.tree.leaves, (alone, found[1])), strict=True):
        np.testing.assert_allclose(a[0], b[-1], rtol=0, atol=1e-9)


def test_it_is_a_field_that_earlier_runs_lack():
    plain, again = run(), run(remat=True)
    earlier = copy.deepcopy(plain)
    del earlier["train"]["remat"]
    assert "remat" not in configs.canonical(plain)["train"]
    assert configs.canonical(earlier) == configs.canonical(plain)
    assert configs.static(again)["train"]["remat"]
    assert configs.point_name(plain) != configs.point_name(again)
    assert configs.from_json(configs.to_json(again)).train.remat


def test_networks_without_blocks_say_which_have_them():
    with pytest.raises(UserError, match=r"train.remat: .*'mlp'.*: resnet18, .*transformer, vit"):
        small.point(train__remat=True)
    with pytest.raises(UserError, match="type bool"):
        run(remat=1)
