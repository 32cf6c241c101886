"""Moments of the Hessians of single examples against those Hessians, made one by one."""

import functools

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_models import flat, unflat

from samop import hessian
from samop.hessian.moments import Terms
from samop.hessian.operators import Kind

# Values are compared, not programs.
KEY = jax.random.key(0)
MLP = hm.network("mlp")
V = np.random.default_rng(0).normal(size=57)
TIGHT = {"key": KEY, "tol": 1e-9, "max_matvecs": 500, "check": False}


def power(each, k):
    return np.stack([np.linalg.matrix_power(h, k) for h in each])


def largest(matrix):
    return np.linalg.eigvalsh(matrix)[-1]


def expected(each, k, weights=None):
    """λ_max(mean Hᵢᵏ − (mean Hᵢ)ᵏ)^(1/k)."""
    mean = functools.partial(np.average, axis=0, weights=weights)
    sigma = mean(power(each, k)) - np.linalg.matrix_power(mean(each), k)
    return np.sign(largest(sigma)) * np.abs(largest(sigma)) ** (1 / k)


def batches_of(each, *ends):
    """The Hessian of each batch, and how many examples it has."""
    parts = np.split(each, ends)
    return np.stack([part.mean(0) for part in parts]), [len(part) for part in parts]


@pytest.mark.parametrize("coefficients", [(0, 1), (0, 1, 0.3), (0, 0, 0, 1), (0.5, -1, 2, 0.1, 3)])
def test_polynomials_of_each_hessian(coefficients, x64):
    each = hm.hessians_of("mlp")
    mean = sum(c * power(each, k).mean(0) for k, c in enumerate(coefficients))
    product = hessian.moment_vp(
        MLP.loss_fn, MLP.params, MLP.batch, unflat(V, MLP.params), coefficients, check=False
    )
    np.testing.assert_allclose(flat(product), mean @ V, atol=1e-9)


def test_moments_of_a_network(x64):
    each = hm.hessians_of("mlp")
    found = hessian.hessian_moments(
        MLP.loss_fn, MLP.params, MLP.batch, orders=(2, 3, 4), rho=0.3, **TIGHT
    )
    mean = each.mean(0)
    np.testing.assert_allclose(found.a.values[0], largest(mean), rtol=1e-6)
    assert found.number == hm.N
    assert set(found.s) == {2, 3, 4}
    for k in (2, 3, 4):
        np.testing.assert_allclose(found.s[k].value, expected(each, k), rtol=1e-6)
    np.testing.assert_allclose(
        found.h_rho_m2.values[0], largest(mean + 0.3 * power(each, 2).mean(0)), rtol=1e-6
    )
    assert found.contraction is None


def test_second_moments_of_attention(x64):
    at, each = hm.network("attention"), hm.hessians_of("attention")
    found = hessian.hessian_moments(at.loss_fn, at.params, at.batch, **TIGHT)
    np.testing.assert_allclose(found.s[2].value, expected(each, 2), rtol=1e-6)
    assert found.h_rho_m2 is None


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_moments_of_gauss_newton_matrices(name, x64):
    at, each = hm.network(name), hm.ggns_of(name)
    found = hessian.ggn_moments(
        at.model_fn, at.criterion, at.params, at.batch, orders=(2, 3), rho=0.3, **TIGHT
    )
    np.testing.assert_allclose(found.a.values[0], largest(each.mean(0)), rtol=1e-6)
    for k in (2, 3):
        np.testing.assert_allclose(found.s[k].value, expected(each, k), rtol=1e-6)
    np.testing.assert_allclose(
        found.h_rho_m2.values[0], largest((each + 0.3 * power(each, 2)).mean(0)), rtol=1e-6
    )


@pytest.mark.parametrize("cut", ["stack", "unequal"])
def test_moments_over_batches(cut, x64):
    """Per batch, H_b is the mean Hessian of a batch, which counts by its examples."""
    rows, ends = (slice(0, 18), (6, 12)) if cut == "stack" else (slice(None), (7,))
    batch = jax.tree.map(lambda x: x[rows], MLP.batch)
    batches = hessian.stack(batch, 6) if cut == "stack" else hm.cut(batch, *ends)
    each, weights = batches_of(hm.hessians_of("mlp")[rows], *ends)
    found = hessian.hessian_moments(MLP.loss_fn, MLP.params, batches, per="batch", rho=0.2, **TIGHT)
    np.testing.assert_allclose(found.s[2].value, expected(each, 2, weights), rtol=1e-6)
    squares = np.average(power(each, 2), axis=0, weights=weights)
    whole = np.average(each, axis=0, weights=weights)
    np.testing.assert_allclose(found.a.values[0], largest(whole), rtol=1e-6)
    np.testing.assert_allclose(found.h_rho_m2.values[0], largest(whole + 0.2 * squares), rtol=1e-6)
    assert found.number == len(each)


def test_terms_of_unequal_weight(x64):
    """As of masked words: each example counts by its own weight, however they are cut."""
    keep = np.random.default_rng(1).uniform(0.1, 2, hm.N)
    batch = {**MLP.batch, "keep": keep}

    def loss_fn(params, batch):
        logits = jax.nn.log_softmax(MLP.model_fn(params, batch))
        chosen = -jnp.take_along_axis(logits, batch["y"][:, None], 1)[:, 0]
        return jnp.sum(chosen * batch["keep"]) / jnp.sum(batch["keep"])

    each = hm.hessians_of("mlp")
    found = hessian.hessian_moments(
        loss_fn,
        MLP.params,
        hm.cut(batch, 12),
        batch_weight=lambda batch: jnp.sum(batch["keep"]),
        **TIGHT,
    )
    whole = np.average(each, axis=0, weights=keep)
    np.testing.assert_allclose(found.a.values[0], largest(whole), rtol=1e-6)
    np.testing.assert_allclose(found.s[2].value, expected(each, 2, keep), rtol=1e-6)


@pytest.mark.parametrize("chunk", ["auto", 1, 5, 100])
@pytest.mark.parametrize("of", ["hessian", "ggn"])
def test_however_the_examples_are_cut_and_chunked(of, chunk, x64):
    v = unflat(V, MLP.params)
    batches = hm.cut(MLP.batch, 4, 8) if chunk in ("auto", 5) else MLP.batch
    options = {"per": "example", "chunk": chunk, "check": False}
    coefficients = (0.3, 1.0, -0.2)
    if of == "hessian":
        each = hm.hessians_of("mlp")
        product = hessian.moment_vp(MLP.loss_fn, MLP.params, batches, v, coefficients, **options)
    else:
        each = hm.ggns_of("mlp")
        kind = Kind(MLP.model_fn, MLP.criterion)
        terms = Terms(kind, MLP.params, batches, "example", chunk, {"check": False})
        product = terms.polynomial(coefficients)(v)
    want = sum(c * power(each, k).mean(0) for k, c in enumerate(coefficients)) @ V
    np.testing.assert_allclose(flat(product), want, atol=1e-9)


def test_residuals_bound_the_error_and_convergence_is_told(x64):
    want = expected(hm.hessians_of("mlp"), 2)
    found = hessian.hessian_moments(MLP.loss_fn, MLP.params, MLP.batch, **TIGHT).s[2]
    assert found.converged
    assert abs(found.value - want) <= found.residual + 1e-9
    options = {**TIGHT, "max_matvecs": 3}
    found = hessian.hessian_moments(MLP.loss_fn, MLP.params, MLP.batch, **options).s[2]
    assert not found.converged
    assert found.residual > 1e-6


def test_of_some_of_the_parameters(x64):
    each = hm.hessians_of("mlp")[:, :36, :36]
    where = {"Dense_0": True, "Dense_1": False}
    found = hessian.hessian_moments(MLP.loss_fn, MLP.params, MLP.batch, where=where, **TIGHT)
    np.testing.assert_allclose(found.s[2].value, expected(each, 2), rtol=1e-6)


# ---- closed forms


def least_squares(x):
    """½ (xᵢ·w)², whose Hessians are xᵢ xᵢᵀ wherever w is."""
    model_fn = lambda params, batch: batch["x"] @ params["w"]  # noqa: E731
    criterion = lambda outputs, batch: 0.5 * jnp.mean(outputs**2)  # noqa: E731
    return hm.problem(model_fn, criterion, {"w": np.zeros(x.shape[1])}, {"x": x})


def test_of_equal_hessians_nothing_is_left(x64):
    at = least_squares(np.tile([[2.0, 0.0]], (5, 1)))
    found = hessian.hessian_moments(at.loss_fn, at.params, at.batch, orders=(2, 3), **TIGHT)
    np.testing.assert_allclose(found.a.values[0], 4)
    np.testing.assert_allclose([found.s[2].value, found.s[3].value], 0, atol=1e-5)


@pytest.mark.parametrize("per", ["example", "batch"])
def test_contraction_of_a_step(per, x64):
    """λ_max(E[Bᵢ²] − I), Bᵢ = I − η(Hᵢ + ρHᵢ²): negative where every direction contracts."""
    rng = np.random.default_rng(4)
    at = least_squares(rng.normal(size=(20, 3)))
    each = np.einsum("ni,nj->nij", at.batch["x"], at.batch["x"])
    batches = at.batch if per == "example" else hessian.stack(at.batch, 5)
    each = each if per == "example" else each.reshape(4, 5, 3, 3).mean(1)
    for eta, sign in ((0.02, -1), (2.0, 1)):
        step = np.eye(3)[None] - eta * (each + 0.1 * power(each, 2))
        options = {"eta": eta, "rho": 0.1, "per": per, **TIGHT}
        found = hessian.hessian_moments(at.loss_fn, at.params, batches, **options).contraction
        np.testing.assert_allclose(found.values[0], largest(power(step, 2).mean(0)) - 1, rtol=1e-6)
        assert np.sign(found.values[0]) == sign


def test_of_two_kinds_of_examples(x64):
    """In one dimension Hᵢ is a number: s₂ is its standard deviation, s_k from its moments."""
    values = np.array([0.4] * 5 + [0.0] * 3 + [1.5] * 2)
    at = least_squares(np.sqrt(values)[:, None])
    found = hessian.hessian_moments(
        at.loss_fn, at.params, at.batch, orders=(2, 3, 4), rho=10.0, **TIGHT
    )
    np.testing.assert_allclose(found.a.values[0], values.mean())
    np.testing.assert_allclose(found.s[2].value, values.std())
    for k in (3, 4):
        want = np.mean(values**k) - values.mean() ** k
        np.testing.assert_allclose(found.s[k].value ** k, want)
    np.testing.assert_allclose(found.h_rho_m2.values[0], np.mean(values + 10 * values**2))


def test_where_a_network_interpolates_the_moments_come_from_jacobians(x64):
    """Squared loss of one output at zero residual: Hᵢ = gᵢ gᵢᵀ, Hᵢᵏ = ‖gᵢ‖^(2k−2) Hᵢ."""
    one = lambda params, batch: MLP.model_fn(params, batch)[:, :1]  # noqa: E731
    batch = {"x": MLP.batch["x"], "y": np.asarray(one(MLP.params, MLP.batch))}
    at = hm.problem(one, hm.squared, MLP.params, batch)
    jacobian = jax.jit(jax.jacobian(lambda p: one(p, batch)[:, 0]))(MLP.params)
    g = np.concatenate([x.reshape(hm.N, -1) for x in jax.tree.leaves(jacobian)], 1)
    size = np.sum(g**2, 1)
    M = {k: (g.T * size[None] ** (k - 1)) @ g / hm.N for k in (1, 2, 3)}
    full = hessian.hessian_moments(at.loss_fn, at.params, batch, orders=(2, 3), rho=0.1, **TIGHT)
    half = hessian.ggn_moments(
        at.model_fn, at.criterion, at.params, batch, orders=(2, 3), rho=0.1, **TIGHT
    )
    for found in (full, half):
        for k in (2, 3):
            sigma = M[k] - np.linalg.matrix_power(M[1], k)
            np.testing.assert_allclose(found.s[k].value, largest(sigma) ** (1 / k), rtol=1e-6)
        np.testing.assert_allclose(found.h_rho_m2.values[0], largest(M[1] + 0.1 * M[2]), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"orders": (1,)}, r"orders=\(1,\) should hold whole numbers of at least 2"),
        ({"orders": (2, 2.5)}, "orders"),
        ({"per": "epoch"}, "per='epoch'.*example.*batch"),
        ({"rho": -0.1}, "rho=-0.1"),
        ({"eta": np.nan, "rho": 0.1}, "eta=nan"),
        ({"devices": jax.devices()[:2]}, "devices is not supported"),
        ({"chunk": 0}, "chunk=0"),
        ({"tol": 0.0}, "tol=0.0"),
    ],
)
def test_bad_input(options, words, x64):
    with pytest.raises(ValueError, match=words):
        hessian.hessian_moments(MLP.loss_fn, MLP.params, MLP.batch, **{**TIGHT, **options})


def test_streams_are_refused(x64):
    with pytest.raises(ValueError, match="need all batches in memory"):
        hessian.hessian_moments(MLP.loss_fn, MLP.params, hm.Stream([MLP.batch]), **TIGHT)
