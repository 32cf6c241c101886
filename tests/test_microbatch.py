"""m-SAM by scan: by hand, over devices, through aux values; accumulation; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import samop
from samop import ascents
from samop.transforms import finished

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(16, 3)), RNG.normal(size=16)
W = {"w": RNG.normal(size=3), "b": RNG.normal(size=())}


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) + params["b"] - batch["y"]) ** 2)


BATCH = {"x": X, "y": Y}


def assert_close(a, b, atol=1e-9):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def by_hand(m, rho=0.3):
    """Mean over groups of the gradient at each group's own perturbed point."""
    gradients = []
    for j in range(0, 16, m):
        group = {"x": X[j : j + m], "y": Y[j : j + m]}
        g = jax.grad(loss)(W, group)
        size = np.sqrt(sum(np.sum(np.square(v)) for v in g.values()))
        at = {k: W[k] + rho * np.array(g[k]) / size for k in W}
        gradients.append(jax.grad(loss)(at, group))
    return {k: np.mean([g[k] for g in gradients], 0) for k in W}


@pytest.mark.parametrize("m", [1, 2, 8, 16])
def test_equals_the_mean_over_groups_by_hand(m, x64):
    g, clean = samop.sam_gradient(loss, rho=0.3, m=m)(W, BATCH)
    assert_close(g, by_hand(m))
    assert_close(clean.value, loss(W, BATCH))
    assert_close(clean.grads, jax.grad(loss)(W, BATCH))
    assert_close(samop.sam_gradient(loss, rho=0.3, m=m, unroll=True)(W, BATCH)[0], g)


def test_m_of_the_whole_batch_is_sam(x64):
    tx = samop.sam(optax.sgd(1.0), 0.3)
    grad_fn = lambda p: jax.grad(loss)(p, BATCH)  # noqa: E731
    w = jax.tree.map(jnp.asarray, W)
    updates, _ = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
    g, _ = samop.sam_gradient(loss, ascents.normalized(), 0.3, m=16)(W, BATCH)
    assert_close(updates, jax.tree.map(jnp.negative, g))


@pytest.mark.parametrize("m", [1, 4, 16])
def test_one_and_eight_devices_agree(m, x64):
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(W, NamedSharding(mesh, PartitionSpec()))
    gradient = jax.jit(samop.sam_gradient(loss, rho=0.3, m=m))
    assert_close(gradient(params, spread), gradient(W, BATCH))


def test_aux_values_and_extra_arguments(x64):
    def with_aux(params, batch, shift):
        value = loss(params, batch) + shift
        first = batch["x"][:, 0] > 0
        return value, {"count": jnp.sum(first), "all": jnp.all(first)}

    g, clean = samop.sam_gradient(with_aux, rho=0.3, m=4, has_aux=True)(W, BATCH, 2.0)
    assert_close(g, by_hand(4))
    value, aux = clean.value
    assert_close(value, loss(W, BATCH) + 2)
    first = (X[:, 0] > 0).reshape(4, 4)  # four groups, over which the mean is taken
    assert_close(aux, {"count": first.sum() / 4, "all": first.all(1).mean()})


def test_low_precision_parameters_are_seen_in_float32():
    seen = set()

    def spy(params, batch):
        seen.update(str(x.dtype) for x in jax.tree.leaves(params))
        return loss(params, batch)

    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), W)
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), BATCH)
    g, _ = samop.sam_gradient(spy, rho=0.3, m=4)(low, batch)
    assert seen == {"float32"}
    assert {str(x.dtype) for x in jax.tree.leaves(g)} == {"float32"}


def test_finished_gradients_are_counted_and_can_be_diagnosed(x64):
    rule = ascents.adaptive(0.1)
    tx = finished(optax.sgd(0.1), lambda count: 0.1 * (count + 1), rule)
    state = tx.init(W)
    for _ in range(2):
        g, _ = samop.sam_gradient(loss, rule, 0.1, m=4)(W, BATCH)
        updates, state = tx.update(g, state, W)
        assert_close(updates, jax.tree.map(lambda x: -0.1 * x, g))
    assert (state.count, state.grad_evals) == (2, 4)
    at = samop.diagnose(tx, state, W, lambda p: loss(p, BATCH))
    other = samop.asam(optax.sgd(0.1), 0.3, eta=0.1)
    assert_close(at, samop.diagnose(other, other.init(W), W, lambda p: loss(p, BATCH)))


def test_accumulation_belongs_into_the_base(x64):
    """sam(MultiSteps(base)) is m-SAM over the micro-batches; MultiSteps(sam(base)) is not."""
    micro = [{"x": X[j : j + 4], "y": Y[j : j + 4]} for j in range(0, 16, 4)]

    def end(tx):
        w = jax.tree.map(jnp.asarray, W)
        state = tx.init(w)
        for batch in micro:
            grad_fn = lambda p, b=batch: jax.grad(loss)(p, b)  # noqa: E731
            updates, state = tx.update(grad_fn(w), state, w, grad_fn=grad_fn)
            w = optax.apply_updates(w, updates)
        return jax.tree.map(lambda a, b: a - b, W, w)

    right = end(samop.sam(optax.MultiSteps(optax.sgd(1.0), 4), 0.3))
    assert_close(right, by_hand(4), atol=1e-6)  # MultiSteps adds up in float32
    multi = optax.MultiSteps(samop.sam(optax.sgd(1.0), 0.3), 4)
    wrong = end(multi.gradient_transformation())
    # Its second gradient is that of the last micro-batch alone.
    g = jax.grad(loss)(W, BATCH)
    size = np.sqrt(sum(np.sum(np.square(v)) for v in g.values()))
    at = {k: W[k] + 0.3 * np.array(g[k]) / size for k in W}
    assert_close(wrong, jax.grad(loss)(at, micro[-1]), atol=1e-6)
    assert max(np.abs(np.array(wrong[k]) - by_hand(4)[k]).max() for k in W) > 1e-2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: samop.sam_gradient(loss, m=3)(W, BATCH), "m=3 does not divide the batch of 16"),
        (lambda: samop.sam_gradient(loss, m=0), "m=0 is not allowed"),
        (lambda: samop.sam_gradient(loss, rho=-1.0, m=4), "rho=-1.0"),
        (lambda: samop.sam_gradient(loss, rho=lambda c: 0.1, m=4), "not a schedule"),
        (
            lambda: samop.sam_gradient(loss, ascents.friendly(), m=4)(W, BATCH),
            "use sam(..., groups=G)",
        ),
        (
            lambda: samop.sam_gradient(loss, m=4)(W, {"x": X, "y": Y[:8]}),
            "should have its length first",
        ),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        make()
