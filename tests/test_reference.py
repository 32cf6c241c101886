"""Every variant over 20 steps against `reference`: float64 NumPy written from the papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref

import samop
from samop import ascents

START, BATCHES = ref.problem()
TOLERANCE, APART = 1e-9, 1e-4
RATE, DECAY = 0.1, 5e-4


def l2(base):
    return optax.chain(optax.add_decayed_weights(DECAY), base)


# Name → optax's base, and the reference's.
BASES = {
    "sgd": (l2(optax.sgd(RATE, 0.9)), lambda: ref.sgd(RATE, 0.9, DECAY)),
    "adam": (l2(optax.adam(1e-2)), lambda: ref.adam(1e-2, DECAY)),
}


def falling(t):
    return 0.2 - 0.008 * t


def rate_falling(t):
    return RATE / (1 + 0.2 * t)


# Transforms are made in the test, not at import: importing must not start a backend.
# Name → how samop is called on a base, the rule, and the bases.
VARIANTS = {
    "base": (lambda b: b, lambda: ref.plain, "sgd adam"),
    "sam": (lambda b: samop.sam(b, 0.1), lambda: ref.sam(0.1), "sgd adam"),
    "sam scheduled": (lambda b: samop.sam(b, falling), lambda: ref.sam(falling), "sgd"),
    "sam 2 ascents": (
        lambda b: samop.sam(b, 0.1, ascent_steps=2),
        lambda: ref.sam(0.1, ascent_steps=2),
        "sgd",
    ),
    "sam 3 ascents scheduled": (
        lambda b: samop.sam(b, falling, ascent_steps=3),
        lambda: ref.sam(falling, ascent_steps=3),
        "sgd",
    ),
    "window 5 to 12": (
        lambda b: samop.sam(b, 0.1, active=samop.window(5, 12)),
        lambda: ref.window(ref.sam(0.1), 5, 12),
        "sgd adam",
    ),
    "window 10 to 20": (
        lambda b: samop.sam(b, 0.1, active=samop.window(10, 20)),
        lambda: ref.window(ref.sam(0.1), 10, 20),
        "sgd",
    ),
    "unnormalized": (
        lambda b: samop.sam(b, 0.1, ascent=ascents.unnormalized()),
        lambda: ref.sam(0.1, ref.unnormalized),
        "sgd",
    ),
    "sign": (
        lambda b: samop.sam(b, 0.01, ascent=ascents.sign()),
        lambda: ref.sam(0.01, ref.sign),
        "sgd",
    ),
    "layerwise": (
        lambda b: samop.sam(b, 0.1, ascent=ascents.layerwise()),
        lambda: ref.sam(0.1, ref.layerwise),
        "sgd",
    ),
    "biases only": (
        lambda b: samop.sam(b, 0.1, mask=_mask(lambda layer, name: name == "bias")),
        lambda: ref.sam(
            0.1, ref.masked(ref.normalized, ref.where(lambda layer, name: name == "bias"))
        ),
        "sgd",
    ),
    "asam": (
        lambda b: samop.asam(b, 0.5),
        lambda: ref.sam(0.5, ref.adaptive(0.01)),
        "sgd adam",
    ),
    "asam eta .3": (
        lambda b: samop.sam(b, 0.5, ascent=ascents.adaptive(0.3)),
        lambda: ref.sam(0.5, ref.adaptive(0.3)),
        "sgd",
    ),
    "asam layer2": (
        lambda b: samop.asam(b, 0.5, mask=_mask(lambda layer, name: layer == "layer2")),
        lambda: ref.sam(
            0.5, ref.masked(ref.adaptive(0.01), ref.where(lambda layer, name: layer == "layer2"))
        ),
        "sgd",
    ),
    "gsam": (lambda b: samop.gsam(b, 0.1), lambda: ref.gsam(0.1, 0.4), "sgd adam"),
    "gsam scheduled": (
        lambda b: samop.gsam(b, falling, alpha=0.6),
        lambda: ref.gsam(falling, 0.6),
        "sgd",
    ),
    "looksam": (lambda b: samop.looksam(b, 0.1), lambda: ref.looksam(0.1, 5, 0.7), "sgd adam"),
    "looksam k 3": (
        lambda b: samop.looksam(b, 0.1, k=3, alpha=0.4),
        lambda: ref.looksam(0.1, 3, 0.4),
        "sgd",
    ),
    "fsam": (lambda b: samop.fsam(b, 0.1), lambda: ref.fsam(0.1, 1.0, 0.9), "sgd adam"),
    "fsam sigma .5": (
        lambda b: samop.fsam(b, 0.1, sigma=0.5, lam=0.6),
        lambda: ref.fsam(0.1, 0.5, 0.6),
        "sgd",
    ),
    "vasso": (lambda b: samop.vasso(b, 0.1), lambda: ref.vasso(0.1, 0.4), "sgd adam"),
    "wsam": (lambda b: samop.wsam(b, 0.1), lambda: ref.wsam(0.1, 0.9), "sgd"),
    "wsam gamma .7": (
        lambda b: samop.wsam(b, 0.1, gamma=0.7),
        lambda: ref.wsam(0.1, 0.7),
        "sgd adam",
    ),
    "wsam decoupled": (
        lambda b: samop.wsam(b, 0.1, learning_rate=RATE),
        lambda: ref.wsam(0.1, 0.9, RATE),
        "sgd",
    ),
    "wsam decoupled scheduled": (
        lambda b: samop.wsam(b, 0.1, gamma=0.8, learning_rate=rate_falling),
        lambda: ref.wsam(0.1, 0.8, rate_falling),
        "sgd adam",
    ),
    "gnp": (lambda b: samop.gnp(b, 0.1), lambda: ref.gnp(0.1, 0.8), "sgd adam"),
    "stablesam": (lambda b: samop.stablesam(b, 0.1), lambda: ref.stablesam(0.1), "sgd adam"),
    "stablesam reversed": (
        lambda b: samop.stablesam(b, 0.1, reverse=True),
        lambda: ref.stablesam(0.1, reverse=True),
        "sgd",
    ),
}
CASES = [(name, base) for name, (*_, bases) in VARIANTS.items() for base in bases.split()]


def _mask(chosen):
    return {
        layer: {name: chosen(layer, name) for name in ("kernel", "bias")}
        for layer in ("layer1", "layer2")
    }


def loss(p, batch):
    x, y = batch
    hidden = jnp.tanh(x @ p["layer1"]["kernel"] + p["layer1"]["bias"][None])
    logits = hidden @ p["layer2"]["kernel"] + p["layer2"]["bias"][None]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


GRAD = jax.grad(loss)


def run(tx, grad=GRAD, at=lambda params: params, view=None):
    """samop's run on the problem, each step compiled; also every point where it took a gradient."""
    tx = optax.with_extra_args_support(tx)
    points = []

    def note(bits):
        doubles = jax.tree.map(lambda b: np.asarray(b).view(np.float64)[..., 0], bits)
        points.append(ref.flatten(doubles))

    @jax.jit
    def step(params, state, batch):
        def grad_fn(p):
            # As bits: a callback's thread does not know of x64 and may round doubles to float32.
            bits = jax.tree.map(lambda a: jax.lax.bitcast_convert_type(a, jnp.uint32), p)
            jax.debug.callback(note, bits, ordered=True)
            return grad(p, batch)

        updates, state = tx.update(grad_fn(at(params)), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, ref.unflatten(START))
    state = tx.init(params)
    path, clean = [params], [params]
    for batch in BATCHES:
        params, state = step(params, state, batch)
        path.append(params)
        if view is not None:
            clean.append(view(state, params))
    jax.effects_barrier()
    return ref.Run(
        np.array([ref.flatten(p) for p in path]),
        np.concatenate([np.atleast_2d(q) for q in points]),
        np.array([ref.flatten(p) for p in clean]),
    )


def assert_same(ours, theirs):
    assert np.isfinite(theirs.path).all()
    np.testing.assert_allclose(ours.path, theirs.path, rtol=0, atol=TOLERANCE)
    # The points too: how many gradients a variant takes is part of its definition.
    assert ours.points.shape == theirs.points.shape
    np.testing.assert_allclose(ours.points, theirs.points, rtol=0, atol=TOLERANCE)


def distance(a, b):
    return np.abs(a.path[-1] - b.path[-1]).max()


def expected(name, base="sgd"):
    return ref.train(VARIANTS[name][1](), BASES[base][1](), START, BATCHES)


def assert_apart(ours, name, base="sgd"):
    """Not the base alone, and not plain SAM, whatever the reference says."""
    for other in {"base", "sam"} - {name}:
        assert distance(ours, expected(other, base)) > APART, f"{name} is {other}"


def test_the_reference_gradient_is_the_loss_s_slope():
    x, y = BATCHES[0]
    step = 1e-5 * np.eye(ref.SIZE)
    slope = [(ref.loss(START + h, x, y) - ref.loss(START - h, x, y)) / 2e-5 for h in step]
    np.testing.assert_allclose(ref.gradient(START, x, y), slope, rtol=0, atol=1e-9)


def test_no_two_variants_are_the_same():
    for base in BASES:
        runs = {name: expected(name, base) for name, on in CASES if on == base}
        for a, b in itertools.combinations(runs, 2):
            assert distance(runs[a], runs[b]) > APART, f"{a} is {b} on {base}"


@pytest.mark.parametrize(("name", "base"), CASES, ids=[f"{n}, {b}" for n, b in CASES])
def test_variant_equals_numpy(x64, name, base):
    ours = run(VARIANTS[name][0](BASES[base][0]))
    assert_same(ours, expected(name, base))
    assert_apart(ours, name, base)


def test_msam_equals_numpy(x64):
    ours = run(samop.msam(BASES["sgd"][0], 0.3), view=samop.eval_params)
    theirs = ref.train_msam(0.3, RATE, 0.9, DECAY, START, BATCHES)
    assert_same(ours, theirs)
    np.testing.assert_allclose(ours.clean, theirs.clean, rtol=0, atol=TOLERANCE)
    # ‖w̃ − w‖ = ρ at every step but the start, where the momentum is nought.
    lengths = np.linalg.norm(ours.path - ours.clean, axis=1)
    np.testing.assert_allclose(lengths, [0] + [0.3] * ref.STEPS, rtol=0, atol=TOLERANCE)
    assert_apart(ours, "msam")
    assert_apart(ours._replace(path=ours.clean), "msam")


@pytest.mark.parametrize("groups", [2, 4, 16])
def test_m_sam_by_groups_equals_numpy(x64, groups):
    def grad(params, batch):
        parts = jax.tree.map(lambda a: a.reshape(groups, -1, *a.shape[1:]), batch)
        return jax.vmap(GRAD)(params, parts)

    def repeat(params):
        return jax.tree.map(lambda p: jnp.broadcast_to(p, (groups, *p.shape)), params)

    ours = run(samop.sam(BASES["sgd"][0], 0.1, groups=groups), grad, repeat)
    assert_same(ours, ref.train(ref.m_sam(0.1, groups), BASES["sgd"][1](), START, BATCHES))
    assert_apart(ours, "m-SAM")


@pytest.mark.parametrize("m", [1, 4, 8])
def test_m_sam_by_scan_equals_numpy(x64, m):
    sam_gradient = samop.sam_gradient(loss, ascents.normalized(), 0.1, m=m)
    base = BASES["sgd"][0]

    @jax.jit
    def step(params, state, batch):
        g, clean = sam_gradient(params, batch)
        updates, state = base.update(g, state, params)
        return optax.apply_updates(params, updates), state, clean

    params = jax.tree.map(jnp.asarray, ref.unflatten(START))
    state, path = base.init(params), [START]
    for batch in BATCHES:
        params, state, clean = step(params, state, batch)
        at = path[-1]
        assert abs(clean.value - ref.loss(at, *batch)) < TOLERANCE
        whole = ref.gradient(at, *batch)
        np.testing.assert_allclose(ref.flatten(clean.grads), whole, rtol=0, atol=TOLERANCE)
        path.append(ref.flatten(params))
    theirs = ref.train(ref.m_sam(0.1, ref.BATCH // m), BASES["sgd"][1](), START, BATCHES)
    np.testing.assert_allclose(path, theirs.path, rtol=0, atol=TOLERANCE)


def perturbations(ours):
    """ε of each step, from the points of a variant with one ascent."""
    return ours.points[1::2] - ours.points[::2]


def test_esam_equals_numpy_given_its_masks(x64):
    rho, beta = 0.1, 0.6
    ours = run(samop.esam(BASES["sgd"][0], rho, beta=beta))
    masks = perturbations(ours) != 0
    theirs = ref.train(ref.esam(rho, beta, masks), BASES["sgd"][1](), START, BATCHES)
    assert_same(ours, theirs)
    assert_apart(ours, "esam")

    # Bernoulli: over 2,460 draws the mean is within 4 standard deviations of β; over one leaf, one
    # step or one coordinate (at least 20 draws) within 5; and steps are uncorrelated.
    def near(share, draws, deviations):
        return abs(share - beta) < deviations * np.sqrt(beta * (1 - beta) / draws)

    assert near(masks.mean(), masks.size, 4)
    assert all(near(masks[:, span].mean(), masks[:, span].size, 5) for span in ref.SPANS.values())
    assert all(near(share, ref.SIZE, 5) for share in masks.mean(1))
    assert all(near(share, ref.STEPS, 5) for share in masks.mean(0))
    between = np.corrcoef(masks)[np.triu_indices(ref.STEPS, 1)]
    assert np.abs(between).max() < 5 / np.sqrt(ref.SIZE)

    again = run(samop.esam(BASES["sgd"][0], rho, beta=beta, key=jax.random.key(0)))
    np.testing.assert_array_equal(again.path, ours.path)
    other = run(samop.esam(BASES["sgd"][0], rho, beta=beta, key=jax.random.key(1)))
    assert abs(np.corrcoef((perturbations(other) != 0)[0], masks[0])[0, 1]) < 0.5


def test_esam_at_share_one_is_sam(x64):
    assert_same(run(samop.esam(BASES["sgd"][0], 0.1, beta=1.0)), expected("sam"))


def test_random_equals_numpy_given_its_directions(x64):
    def drawn(key):
        return run(samop.sam(BASES["sgd"][0], 0.3, ascent=ascents.random(jax.random.key(key))))

    ours = drawn(0)
    d = perturbations(ours) / 0.3
    theirs = ref.train(ref.sam(0.3, ref.given(d)), BASES["sgd"][1](), START, BATCHES)
    assert_same(ours, theirs)
    assert_apart(ours, "random")
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1, rtol=0, atol=TOLERANCE)

    # On a sphere in P dimensions cosines have the deviation 1/√P: between steps, and with g.
    g = [ref.gradient(w, *batch) for w, batch in zip(ours.path, BATCHES)]
    cosines = (d @ d.T)[np.triu_indices(ref.STEPS, 1)]
    with_g = np.sum(d * [ref.unit(x) for x in g], 1)
    assert max(np.abs(cosines).max(), np.abs(with_g).max()) < 5 / np.sqrt(ref.SIZE)
    # Even over the leaves and without a preferred sign: every leaf has its share of the square.
    for span in ref.SPANS.values():
        count = d[:, span].size
        share = np.sum(d[:, span] ** 2) * ref.SIZE / count
        assert abs(share - 1) < 5 * np.sqrt(2 / count)
        assert abs(d[:, span].mean()) * np.sqrt(ref.SIZE) < 5 / np.sqrt(count)
    assert abs(perturbations(drawn(1))[0] @ d[0]) / 0.3 < 0.5
