"""Stochastic estimates: Lanczos quadrature, effective rank, trace and Frobenius norm.

On a diagonal matrix probes of ±1 are exact, so there every quantity has one right value.
"""

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from samop import hessian

# Values are compared, not programs.
KEY = jax.random.key(0)
SPECTRUM = np.array([3.0, 1.5, 1.0, 0.5, 0.2, 0.1, 0.01, 0.0, -0.3, -0.7])
RNG = np.random.default_rng(0)


def diagonal(values):
    values = np.asarray(values, float)
    like = jax.ShapeDtypeStruct(values.shape, jnp.float64)
    return hessian.linear(lambda v: v * jnp.asarray(values), like)


def full(matrix):
    like = jax.ShapeDtypeStruct((len(matrix),), jnp.float64)
    return hessian.linear(jax.jit(hm.matvec_of(matrix, like)), like)


def entropy_rank(values):
    """Roy & Vetterli 2007: exp of the entropy of |λ| / Σ|λ|."""
    p = np.abs(values) / np.abs(values).sum()
    p = p[p > 0]
    return np.exp(-np.sum(p * np.log(p)))


# ---- quadrature


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_quadrature_is_exact_for_polynomials_up_to_degree_2m_1(steps, x64):
    matrix, _ = hm.with_spectrum(np.linspace(-1, 1.2, 12))
    few = hessian.spectral_density(full(matrix), key=KEY, num_probes=3, num_steps=steps)
    exact = hessian.spectral_density(full(matrix), key=KEY, num_probes=3, num_steps=12)
    moment = lambda d, at: np.sum(at.weights * at.nodes**d, 1)  # noqa: E731
    for degree in range(2 * steps):
        np.testing.assert_allclose(moment(degree, few), moment(degree, exact), atol=1e-11)
    gap = np.abs(moment(2 * steps, few) - moment(2 * steps, exact))
    assert np.all(gap > 1e-6)  # and no further


def test_all_steps_give_all_eigenvalues_of_each_probe(x64):
    exact = np.linspace(-1, 1.2, 12)
    matrix, _ = hm.with_spectrum(exact)
    found = hessian.spectral_density(full(matrix), key=KEY, num_probes=3, num_steps=12)
    assert found.size == 12
    assert np.shape(found.nodes) == np.shape(found.weights) == (3, 12)
    np.testing.assert_allclose(np.sort(found.nodes, 1), np.tile(exact, (3, 1)), atol=1e-9)


@pytest.mark.parametrize("steps", [3, 10, 40])
def test_weights_are_probabilities_within_the_spectrum(steps, x64):
    """Also with more steps than dimensions."""
    matrix, _ = hm.with_spectrum(SPECTRUM)
    found = hessian.spectral_density(full(matrix), key=KEY, num_probes=4, num_steps=steps)
    assert np.all(found.weights >= 0)
    np.testing.assert_allclose(np.sum(found.weights, 1), 1, atol=1e-12)
    seen = found.nodes[found.weights > 1e-12]
    assert seen.min() >= SPECTRUM.min() - 1e-9
    assert seen.max() <= SPECTRUM.max() + 1e-9


FUNCTIONS = {"square": np.square, "exp": np.exp, "abs": np.abs, "positive": lambda x: x > 0.05}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expectations_on_a_diagonal_are_exact(name, x64):
    f = FUNCTIONS[name]
    density = hessian.spectral_density(diagonal(SPECTRUM), key=KEY, num_steps=10)
    found = density.expectation(f)
    np.testing.assert_allclose(found.value, np.sum(f(SPECTRUM)), atol=1e-8)
    np.testing.assert_allclose(found.std_error, 0, atol=1e-8)


def test_expectations_are_means_over_probes_with_their_standard_error(x64):
    matrix, _ = hm.with_spectrum(SPECTRUM)
    density = hessian.spectral_density(full(matrix), key=KEY, num_probes=6, num_steps=10)
    found = density.expectation(np.exp)
    each = 10 * np.sum(np.asarray(density.weights) * np.exp(density.nodes), 1)
    np.testing.assert_allclose(found.value, each.mean())
    np.testing.assert_allclose(found.std_error, each.std(ddof=1) / 6**0.5)
    assert abs(found.value - np.exp(SPECTRUM).sum()) < 5 * found.std_error


def test_the_density_is_a_mixture_of_gaussians_of_mass_one(x64):
    matrix, _ = hm.with_spectrum(SPECTRUM)
    density = hessian.spectral_density(full(matrix), key=KEY, num_probes=5, num_steps=7)
    grid, width = np.linspace(-2, 5, 1401), 0.1
    mean, spread = density.on(grid, width)
    np.testing.assert_allclose(integrate.trapezoid(mean, grid), 1, atol=1e-6)
    each = np.array(
        [
            sum(w * stats.norm.pdf(grid, x, width) for x, w in zip(nodes, weights))
            for nodes, weights in zip(density.nodes, density.weights)
        ]
    )
    np.testing.assert_allclose(mean, each.mean(0), atol=1e-9)
    np.testing.assert_allclose(spread, each.std(0, ddof=1) / 5**0.5, atol=1e-9)


RANKS = {
    "identity": (np.ones(9), 9),
    "rank 3": (np.array([2.0, -2.0, 2.0, 0, 0, 0, 0, 0]), 3),
    "one": (np.array([0.0, 0.0, 5.0, 0.0]), 1),
    "halves": (np.array([2.0, 1.0, 1.0, 0.0]), np.exp(1.5 * np.log(2))),
    "spectrum": (SPECTRUM, entropy_rank(SPECTRUM)),
}


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_effective_ranks_of_known_spectra(name, scale, x64):
    values, expected = RANKS[name]
    density = hessian.spectral_density(diagonal(scale * values), key=KEY, num_steps=12)
    found = density.effective_rank()
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)
    np.testing.assert_allclose(found.std_error, 0, atol=1e-5)


def test_effective_rank_of_rotated_matrices(x64):
    values = 0.9 ** np.arange(60)
    density = hessian.spectral_density(
        full(hm.with_spectrum(values)[0]), key=KEY, num_probes=64, num_steps=40
    )
    found = density.effective_rank()
    assert 0 < found.std_error < 3
    assert abs(found.value - entropy_rank(values)) < 4 * found.std_error

    def of(probes):  # of their mean, a spectrum with 60 w / probes eigenvalues at each node
        w, a = density.weights[probes], np.abs(density.nodes[probes])
        p = a / np.sum(w * a)
        return 60 / len(probes) * np.exp(-np.sum(w * p * np.log(p)))

    whole = of(np.arange(64))
    left = np.array([of(np.delete(np.arange(64), i)) for i in range(64)])
    np.testing.assert_allclose(found.value, 64 * whole - 63 * left.mean(), rtol=1e-9)
    error = np.sqrt(63 / 64 * np.sum((left - left.mean()) ** 2))
    np.testing.assert_allclose(found.std_error, error, rtol=1e-9)


def test_the_spectrum_of_a_network(x64):
    at, exact = hm.network("mlp"), np.linalg.eigvalsh(hm.hessian_of("mlp"))
    density = hessian.spectral_density(
        at.loss_fn, at.params, at.batch, key=KEY, num_probes=32, num_steps=40, check=False
    )
    for f in (np.square, np.abs, lambda x: x < -0.05):
        found = density.expectation(f)
        assert abs(found.value - np.sum(f(exact))) < 4 * found.std_error + 1e-9


# ---- trace and Frobenius norm


METHODS = ["hutchinson", "hutch++", "xtrace"]


@pytest.mark.parametrize("method", METHODS)
def test_products_are_counted(method, x64):
    count = 0

    def note():
        nonlocal count
        count += 1

    matrix = jnp.asarray(hm.with_spectrum(np.linspace(-1, 3, 40))[0])

    def matvec(v):
        jax.debug.callback(note)
        return matrix @ v

    like = jax.ShapeDtypeStruct((40,), jnp.float64)
    found = hessian.trace(hessian.linear(matvec, like), key=KEY, num_samples=12, method=method)
    jax.effects_barrier()
    assert found.num_matvecs == count <= 12
    assert found.method == method


def test_on_a_diagonal_hutchinson_is_exact(x64):
    found = hessian.trace(diagonal(SPECTRUM), key=KEY, num_samples=5)
    np.testing.assert_allclose([found.value, found.std_error], [SPECTRUM.sum(), 0], atol=1e-12)
    found = hessian.frobenius_norm(diagonal(SPECTRUM), key=KEY, num_samples=5)
    np.testing.assert_allclose(found.value, np.linalg.norm(SPECTRUM), atol=1e-12)
    np.testing.assert_allclose(found.std_error, 0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_of_a_matrix_of_low_rank_the_others_are_exact_too(method, x64):
    """Their sketch spans its range: Hutch++ a third of the products, XTrace about half."""
    matrix, _ = hm.with_spectrum([5.0, -2.0, 1.0, 0.5, *np.zeros(46)])
    found = hessian.trace(full(matrix), key=KEY, num_samples=18, method=method)
    if method == "hutchinson":
        assert abs(found.value - 4.5) > 1e-3
    else:
        np.testing.assert_allclose([found.value, found.std_error], [4.5, 0], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [12, 100])
def test_more_samples_than_dimensions(method, samples, x64):
    op = full(hm.with_spectrum(SPECTRUM[:4])[0])
    found = hessian.trace(op, key=KEY, num_samples=samples, method=method)
    assert abs(found.value - SPECTRUM[:4].sum()) < 5 * found.std_error + 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_estimates_are_unbiased_and_their_errors_honest(method, x64):
    """Many repetitions: how many 95 % intervals hold the truth, and how far is their mean."""
    values = np.concatenate([[8.0, -4.0], RNG.normal(size=38)])
    op, samples = full(hm.with_spectrum(values)[0]), 24
    keys = jax.random.split(KEY, 100 if method == "xtrace" else 200)
    found = [hessian.trace(op, key=k, num_samples=samples, method=method) for k in keys]
    value, error = np.array([(e.value, e.std_error) for e in found]).T
    off = value - values.sum()
    assert abs(off.mean()) < 4 * off.std(ddof=1) / len(off) ** 0.5
    covered = np.mean(np.abs(off) <= stats.t.ppf(0.975, found[0].num_samples - 1) * error)
    # XTrace's error is the spread of estimates that are not independent: too small, says `trace`.
    assert (0.8 if method == "xtrace" else 0.9) <= covered <= 0.99
    assert (0.7 if method == "xtrace" else 0.9) < np.mean(error**2) ** 0.5 / off.std() < 1.15


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_on_decaying_spectra_the_sketches_are_closer(method, x64):
    values = 10.0 / (1 + np.arange(60)) ** 2
    op = full(hm.with_spectrum(values)[0])
    error = {}
    for name in ("hutchinson", method):
        found = [hessian.trace(op, key=k, method=name) for k in jax.random.split(KEY, 20)]
        error[name] = np.sqrt(np.mean([(e.value - values.sum()) ** 2 for e in found]))
        assert error[name] < 3 * np.mean([e.std_error for e in found])
    assert error[method] < error["hutchinson"] / 3


def test_frobenius_norms(x64):
    values = np.concatenate([[4.0], RNG.normal(size=39)])
    op = full(hm.with_spectrum(values)[0])
    found = [hessian.frobenius_norm(op, key=k) for k in jax.random.split(KEY, 100)]
    off = np.array([e.value for e in found]) - np.linalg.norm(values)
    error = np.array([e.std_error for e in found])
    assert np.mean(np.abs(off) < 2.04 * error) > 0.88
    assert 0.7 < np.sqrt(np.mean(error**2)) / off.std() < 1.4


@pytest.mark.parametrize("method", METHODS)
def test_trace_of_a_network(method, x64):
    at, exact = hm.network("cnn"), hm.hessian_of("cnn")
    options = {"key": KEY, "num_samples": 60, "method": method, "check": False}
    found = hessian.trace(at.loss_fn, at.params, at.batch, **options)
    assert abs(found.value - np.trace(exact)) < 4 * found.std_error
    assert found.std_error < 0.2 * np.linalg.norm(exact)


@pytest.mark.parametrize("method", METHODS)
def test_keys_repeat(method, x64):
    op = full(hm.with_spectrum(np.linspace(-1, 3, 40))[0])
    run = lambda seed: hessian.trace(op, key=jax.random.key(seed), method=method).value  # noqa: E731
    assert run(1) == run(1)
    assert run(1) != run(2)
