"""Linearised networks are affine in their parameters; lazy ones come to be as α grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from samop import trees
from samop.errors import UserError
from samop.workloads import build
from samop.workloads.changed import linearized


def parts(**fields):
    workload = build(small.point(**fields))
    params, state = workload.init(np.uint32(0))
    x = workload.splits.train.x[:20]
    batch = workload.batch(jnp.asarray(x), jnp.asarray(workload.splits.train.y[:20]), None, None)
    return params, lambda p: workload.apply(p, state, batch, None, False)[0]


def moved(params, size, seed=1):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda w: w + size * jax.random.normal(next(keys), w.shape), params)


def test_the_expansion_is_the_network_where_it_is_taken(x64):
    params, network = parts()
    _, expansion = parts(linearized__mode="jvp")
    np.testing.assert_allclose(expansion(params), network(params), atol=1e-12)


def test_the_expansion_is_affine_and_has_the_networks_derivative(x64):
    params, network = parts(model__activation="tanh")
    _, expansion = parts(model__activation="tanh", linearized__mode="jvp")
    a, b = moved(params, 0.5), moved(params, 0.5, seed=2)
    middle = trees.mix(0.3, a, 0.7, b)
    want = 0.3 * expansion(a) + 0.7 * expansion(b)
    np.testing.assert_allclose(expansion(middle), want, atol=1e-10)
    # Central differences of the network itself along b − w₀.
    step = trees.subtract(b, params)
    ends = [network(trees.mix(1.0, params, s, step)) for s in (1e-5, -1e-5)]
    slope = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(expansion(b) - network(params), slope, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_the_expansion_does_not_depend_on_where_it_is_taken(x64):
    params, expansion = parts(linearized__mode="jvp")
    grads = [jax.grad(lambda p: jnp.sum(expansion(p)[:, 3]))(moved(params, s)) for s in (0.0, 1.0)]
    for g, h in zip(*map(jax.tree.leaves, grads)):
        np.testing.assert_allclose(g, h, atol=1e-10)


def test_a_lazy_network_begins_at_zero_and_is_alpha_times_the_difference(x64):
    params, network = parts()
    _, lazy = parts(linearized__mode="lazy", linearized__alpha=7.0)
    assert float(jnp.abs(lazy(params)).max()) == 0
    there = moved(params, 0.1)
    np.testing.assert_allclose(lazy(there), 7 * (network(there) - network(params)), atol=1e-12)


def test_lazy_training_nears_its_linearisation_as_alpha_grows(x64):
    """α·(movement of the weights) of SGD with rate η/α²; the limit is the linear model's path."""
    found = {}
    for alpha in (1.0, 10.0, 100.0, 1000.0):
        point = small.point(
            linearized__mode="lazy",
            linearized__alpha=alpha,
            model__activation="tanh",
            optimizer__name="base",
            optimizer__lr=0.1 / alpha**2,
            optimizer__weight_decay=0.0,
        )
        ready = small.prepared(small.grid(point, [{}], [0]))
        params, _ = small.first_epochs(ready, 2)
        start, _ = ready.run.init(np.uint32(0))
        found[alpha] = jax.tree.map(lambda w, s, a=alpha: a * (w[0] - np.asarray(s)), params, start)
    away = [float(trees.norm(trees.subtract(found[a], found[1000.0]))) for a in (1.0, 10.0, 100.0)]
    # The distance to the limit shrinks like 1/α.
    assert away[0] > 3 * away[1] > 9 * away[2]
    assert away[2] < 0.05 * float(trees.norm(found[1000.0]))


def test_a_pruned_network_can_be_linearised():
    params, expansion = parts(
        linearized__mode="jvp", sparsity__method="random", sparsity__level=0.5
    )
    grads = jax.grad(lambda p: jnp.sum(expansion(p)[:, 0]))(params)
    kernel, g = (np.asarray(tree["Dense_0"]["kernel"]) for tree in (params, grads))
    assert (g[kernel == 0] == 0).all()
    assert np.abs(g).max() > 0


def test_what_cannot_be_linearised_is_refused():
    with pytest.raises(UserError, match="the network keeps batch_stats"):
        build(small.point(linearized__mode="jvp", model__norm="batch"))
    with pytest.raises(UserError, match=r"precision.compute='bfloat16' would lose"):
        small.point(linearized__mode="jvp", precision__compute="bfloat16")
    with pytest.raises(UserError, match=r"linearized.alpha=0.0 is not allowed"):
        small.point(linearized__mode="lazy", linearized__alpha=0.0)
    with pytest.raises(UserError, match=r"linearized.mode='ntk' is not allowed"):
        small.point(linearized__mode="ntk")


def test_the_wrapper_takes_any_workload():
    plain = build(small.point())
    wrapped = linearized(plain, "lazy", 2.0)
    assert wrapped.splits is plain.splits
    assert set(wrapped.init(np.uint32(0))[1]) == {"origin"}
