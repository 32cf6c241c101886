"""Masks at initialisation: how many weights stay, which, and that pruned ones are 0 for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

import samop
from samop import ascents, optim, sparsity, sweep, trees
from samop import config as configs
from samop.data import sampling
from samop.errors import UserError
from samop.step import TrainState, train_step
from samop.variants import VARIANTS
from samop.workloads import build, parameters

LEVELS = [0.0, 0.3, 0.5, 0.94]


def network():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (7, 5)), "bias": jnp.zeros(5)},
        "conv": {"kernel": jax.random.normal(keys[1], (3, 3, 2, 4))},
        "norm": {"scale": jnp.ones(5)},
        "b": {"kernel": 0.1 * jax.random.normal(keys[2], (5, 10)), "bias": jnp.ones(10)},
    }


def kernels(tree):
    return [tree[name]["kernel"] for name in ("a", "b", "conv")]  # in the order of jax's leaves


@pytest.mark.parametrize("level", LEVELS)
def test_magnitude_keeps_the_largest_of_all_kernels_together(level):
    params = network()
    masks = sparsity.masks(params, "magnitude", level)
    sizes = np.concatenate([np.abs(k).reshape(-1) for k in kernels(params)])
    kept = np.concatenate([np.asarray(m).reshape(-1) for m in kernels(masks)]) > 0
    assert kept.sum() == round((1 - level) * sizes.size)
    assert kept.all() or sizes[kept].min() > sizes[~kept].max()
    assert all(bool((masks[n][leaf] == 1).all()) for n, leaf in (("a", "bias"), ("norm", "scale")))


@pytest.mark.parametrize("level", LEVELS)
def test_random_keeps_a_share_of_each_kernel(level):
    params = network()
    masks = sparsity.masks(params, "random", level, key=jax.random.key(1))
    for mask in kernels(masks):
        assert int(mask.sum()) == round((1 - level) * mask.size)
    other = sparsity.masks(params, "random", level, key=jax.random.key(2))
    assert level == 0 or any(bool((a != b).any()) for a, b in zip(kernels(masks), kernels(other)))


@pytest.mark.parametrize("method", ["random", "magnitude", "snip"])
@pytest.mark.parametrize("level", LEVELS)
def test_as_many_stay_as_kept_says(method, level):
    params = network()
    grads = jax.tree.map(jnp.cos, params)
    masks = sparsity.masks(params, method, level, key=jax.random.key(0), grads=grads)
    assert int(sum(m.sum() for m in jax.tree.leaves(masks))) == sparsity.kept(params, method, level)
    assert set(np.unique(np.concatenate([np.ravel(m) for m in jax.tree.leaves(masks)]))) <= {0, 1}


def test_equal_scores_keep_the_first():
    masks = sparsity.masks({"kernel": jnp.ones((2, 4))}, "magnitude", 0.5)
    np.testing.assert_array_equal(masks["kernel"], [[1, 1, 1, 1], [0, 0, 0, 0]])


def test_snip_takes_its_scores_of_one_batch_of_the_runs_seed():
    """|w·∇w| by hand: another gradient, of the same batch, gives the same mask."""
    point = small.point(sparsity__method="snip", sparsity__level=0.8)
    dense = build(small.point())
    seed = np.uint32(5)
    params, state = dense.init(seed)
    train = dense.splits.train
    order = jax.random.permutation(sampling.stream(seed, sampling.PRUNE), len(train))
    index = np.asarray(order)[: point["train"]["batch_size"]]
    batch = dense.batch(jnp.asarray(train.x)[index], jnp.asarray(train.y)[index], None, index)

    def loss(params):
        logits, _ = dense.apply(params, state, batch, None, False)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(index)), batch["y"]])

    grads = jax.grad(loss)(params)
    names = sorted(name for name in params)
    scores = [np.abs(np.asarray(params[n]["kernel"] * grads[n]["kernel"])) for n in names]
    flat = np.concatenate([s.reshape(-1) for s in scores])
    least = np.sort(flat)[-round(0.2 * flat.size)]
    pruned, state = build(point).init(seed)
    for name, score in zip(names, scores):
        np.testing.assert_array_equal(
            np.asarray(state["masks"][name]["kernel"]) > 0, score >= least
        )
        kept = np.where(score >= least, params[name]["kernel"], 0)
        np.testing.assert_array_equal(pruned[name]["kernel"], kept)


@pytest.mark.parametrize("name", VARIANTS)
def test_pruned_weights_are_zero_after_training_with_every_variant(name):
    """Decay, momentum and every perturbation leave them alone: exactly 0, not nearly."""
    base = "adamw" if list(VARIANTS).index(name) % 2 else "sgd"
    fields = {"optimizer__name": name, "optimizer__base": base, "optimizer__weight_decay": 0.1}
    fields |= {"sparsity__method": "magnitude", "sparsity__level": 0.7, "model__hidden": (6,)}
    if name == "gsam":
        fields["optimizer__ascent"] = "random"
    point = small.point(**fields)
    workload = build(point)
    opt = optim.optimizer(point, 10, dict.fromkeys(configs.TRACED, 0.1), jax.random.key(0))
    params, state = workload.init(np.uint32(0))
    state = TrainState(jnp.zeros((), jnp.int32), params, state, opt.tx.init(params))
    train = workload.splits.train
    batch = workload.batch(jnp.asarray(train.x[:32]), jnp.asarray(train.y[:32]), None, None)

    @jax.jit
    def step(state):
        return train_step(state, batch, jax.random.key(1), workload, opt)[0]

    for _ in range(3):
        state = step(state)
    for layer, mask in state.model_state["masks"].items():
        trained, gone = np.asarray(state.params[layer]["kernel"]), np.asarray(mask["kernel"]) == 0
        assert gone.any()
        assert (trained[gone] == 0).all()
        assert (trained[~gone] != params[layer]["kernel"][~gone]).mean() > 0.5


ASCENTS = {
    "normalized": ascents.normalized,
    "unnormalized": ascents.unnormalized,
    "adaptive": ascents.adaptive,
    "sign": ascents.sign,
    "layerwise": ascents.layerwise,
    "random": lambda: ascents.random(3),
    "friendly": lambda: ascents.friendly(1.0, 0.9),
    "smoothed": lambda: ascents.smoothed(0.4),
    "bernoulli": lambda: ascents.bernoulli(0.6, 3),
}


@pytest.fixture(scope="module")
def pruned():
    """Parameters, masks and gradient of a pruned network on a batch."""
    workload = build(small.point(sparsity__method="random", sparsity__level=0.6))
    params, state = workload.init(np.uint32(0))
    train = workload.splits.train
    batch = workload.batch(jnp.asarray(train.x[:32]), jnp.asarray(train.y[:32]), None, None)

    def loss(params):
        outputs, _ = workload.apply(params, state, batch, None, False)
        return workload.means(outputs, batch)["loss"]

    return params, state["masks"], jax.grad(loss)(params)


@pytest.mark.parametrize("name", ASCENTS)
def test_perturbations_leave_pruned_weights_alone(name, pruned):
    """The point at which SAM takes its second gradient is as sparse as the network."""
    params, masks, grads = pruned
    tx = samop.sam(optax.sgd(0.1), 0.5, ascent=ASCENTS[name]())
    _, epsilon = tx.perturbation(grads, tx.init(params), params)
    assert float(trees.norm(epsilon)) > 0
    for layer, mask in masks.items():
        moved, gone = np.asarray(epsilon[layer]["kernel"]), np.asarray(mask["kernel"]) == 0
        assert (moved[gone] == 0).all()


def test_parameters_are_those_that_train():
    dense, pruned = small.point(), small.point(sparsity__method="random", sparsity__level=0.5)
    sizes = [64 * 8, 8 * 8, 8 * 10]
    assert parameters(dense) == sum(sizes) + 26
    assert parameters(pruned) == sum(sizes) // 2 + 26


def test_density_of_each_layer():
    masks = sparsity.masks(network(), "random", 0.5, key=jax.random.key(0))
    found = sparsity.density(masks)
    assert found == pytest.approx({"a/kernel": 18 / 35, "b/kernel": 0.5, "conv/kernel": 0.5})


def test_a_layer_that_loses_everything_is_refused():
    workload = build(small.point(sparsity__method="magnitude", sparsity__level=0.998))
    with pytest.raises(
        UserError, match=r"sparsity.level=0.998 by 'magnitude', seed 2, empties the"
    ):
        workload.init(np.uint32(2))
    # At random as many stay in each: the shapes say it, before anything is planned.
    with pytest.raises(UserError, match=r"sparsity.level=0.995 by 'random' empties a layer of 64"):
        build(small.point(sparsity__method="random", sparsity__level=0.995))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sparsity__level": 1.0}, r"sparsity.level=1.0 is not allowed: .* in \[0, 1\)"),
        ({"sparsity__method": "l1"}, "sparsity.method='l1' is not allowed"),
        (
            {"sparsity__method": "snip", "sparsity__level": 0.5, "data__label_noise": 0.2},
            "sparsity.method='snip' with data.label_noise=0.2",
        ),
    ],
)
def test_bad_fields_are_refused(fields, text):
    with pytest.raises(UserError, match=text):
        small.point(**fields)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match=r"sparsity.level=-0.1"):
        sparsity.masks(network(), "random", -0.1)
    with pytest.raises(ValueError, match="needs key="):
        sparsity.masks(network(), "random", 0.1)
    with pytest.raises(ValueError, match="needs grads="):
        sparsity.masks(network(), "snip", 0.1)


def test_a_dense_run_is_the_run_that_it_was_before():
    plain = configs.canonical(small.point())
    assert not {"sparsity", "linearized"} & set(plain)
    assert configs.canonical(small.point(sparsity__method="random")) == plain  # of level 0
    names = sweep.expand(
        small.point(optimizer__name="base"), {"sparsity.method": ("none", "random", "snip")}
    )
    assert len(names) == 1


def test_what_says_the_same_has_one_name_and_one_record():
    plain, none = small.point(), small.point(sparsity__method="random", linearized__alpha=3.0)
    assert configs.point_name(none) == configs.point_name(plain)
    assert configs.to_json(none) == configs.to_json(plain)
    lazy = small.point(linearized__mode="lazy", linearized__alpha=3.0)
    assert configs.to_json(lazy)["linearized"]["alpha"] == 3.0
    assert "_lazy_" in configs.point_name(lazy)
    snip = small.point(sparsity__method="snip", sparsity__level=0.5)
    assert "_snip0.5_" in configs.point_name(snip)


def test_initialisation_can_be_vmapped():
    workload = build(small.point(sparsity__method="random", sparsity__level=0.5))
    params, _ = jax.vmap(workload.init)(jnp.arange(2, dtype=jnp.uint32))
    for seed in (0, 1):
        alone, _ = workload.init(np.uint32(seed))
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(alone)):
            np.testing.assert_array_equal(np.asarray(a[seed]) == 0, np.asarray(b) == 0)


def test_vmapped_runs_have_the_masks_of_their_seeds(x64):
    """Pruned runs of two seeds as one program are what they are one by one."""
    point = small.point(sparsity__method="snip", sparsity__level=0.5, train__epochs=1)
    cells = [{"optimizer__rho": rho} for rho in (0.05, 0.2)]
    together, _ = small.first_epochs(small.prepared(small.grid(point, cells, [0, 1])))
    for place, (seed, cell) in enumerate((s, c) for s in (0, 1) for c in cells):
        alone, _ = small.first_epochs(small.prepared(small.grid(point, [cell], [seed])))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
            np.testing.assert_allclose(a[place], b[0], rtol=0, atol=1e-9)
