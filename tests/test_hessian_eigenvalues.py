"""The extreme eigenvalues against dense decompositions: values, residuals, multiplicity, cost."""

import functools

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_models import rows

from samop import hessian
from samop.errors import UserError

# Values are compared, not programs.
KEY = jax.random.key(0)


def expected(exact, k, which):
    if which == "SA":
        return np.sort(exact)[:k]
    if which == "LM":
        return exact[np.argsort(-np.abs(exact), kind="stable")][:k]
    if which == "BE":  # half from each end, the odd one from above
        ascending = np.sort(exact)
        return np.concatenate([ascending[::-1][: k - k // 2], ascending[: k // 2][::-1]])
    return np.sort(exact)[::-1][:k]


class Counted:
    """A dense matrix as an operator that counts its products where they are computed."""

    def __init__(self, matrix):
        self.calls = 0
        self.like = jax.ShapeDtypeStruct((len(matrix),), jnp.float64)
        product = jax.jit(hm.matvec_of(matrix, self.like))

        def matvec(v):
            jax.debug.callback(self._count, ordered=True)
            return product(v)

        self.operator = hessian.linear(matvec, self.like)

    def _count(self):
        self.calls += 1


def of_matrix(matrix, k=1, **options):
    """(What was found, number of products computed)."""
    counted = Counted(matrix)
    options = {"key": KEY, "max_matvecs": 2000, "tol": 1e-8, **options}
    found = hessian.top_eigenvalues(counted.operator, k=k, **options)
    jax.effects_barrier()
    return found, counted.calls


def assert_honest(matrix, found, tol=1e-9):
    """The residuals are those of the vectors, which are orthonormal; values hold to them."""
    vectors = rows(found.vectors)
    true = np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1)
    exact = np.linalg.eigvalsh(matrix)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found.residuals, true, rtol=0.01, atol=tol * scale)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=10 * tol)
    # Weyl: an eigenvalue lies within the residual of each value.
    nearest = np.abs(found.values[:, None] - exact[None]).min(1)
    assert np.all(nearest <= true + tol * scale)


@functools.cache
def operator(name):
    at = hm.network(name)
    return hessian.hessian(at.loss_fn, at.params, at.batch, check=False)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", hm.MODULES)
def test_eigenvalues_of_networks(name, which, x64):
    matrix = hm.hessian_of(name)
    exact = np.linalg.eigvalsh(matrix)
    assert exact[0] < -0.1
    options = {"which": which, "key": KEY, "tol": 1e-8, "vectors": True, "max_matvecs": 2000}
    found = hessian.top_eigenvalues(operator(name), k=5, **options)
    assert found.converged
    assert found.values.dtype == found.residuals.dtype == np.float64
    np.testing.assert_allclose(
        found.values, expected(exact, 5, which), rtol=0, atol=1e-6 * exact[-1]
    )
    assert np.all(found.residuals <= 1e-8 * np.abs(exact).max())
    assert_honest(matrix, found)
    assert jax.tree.structure(found.vectors) == jax.tree.structure(hm.network(name).params)


def test_eigenvalues_of_a_loss_over_batches(x64):
    """Options of the operator pass through; `ggn` and a part of the parameters as well."""
    at = hm.network("mlp")
    batches = hm.Stream(hm.cut(at.batch, 6, 12))
    options = {"key": KEY, "tol": 1e-8, "check": False}
    found = hessian.top_eigenvalues(at.loss_fn, at.params, batches, k=3, **options)
    exact = np.linalg.eigvalsh(hm.hessian_of("mlp"))
    np.testing.assert_allclose(found.values, exact[::-1][:3], atol=1e-6)
    found = hessian.top_eigenvalues(
        at.loss_fn,
        at.params,
        at.batch,
        k=2,
        where={"Dense_0": True, "Dense_1": False},
        vectors=True,
        **options,
    )
    exact = np.linalg.eigvalsh(hm.hessian_of("mlp")[:36, :36])
    np.testing.assert_allclose(found.values, exact[::-1][:2], atol=1e-6)
    assert rows(found.vectors).shape == (2, 36)
    op = hessian.ggn(at.model_fn, at.criterion, at.params, at.batch, check=False)
    found = hessian.top_eigenvalues(op, k=3, key=KEY, tol=1e-8)
    exact = np.linalg.eigvalsh(hm.ggns_of("mlp").mean(0))
    np.testing.assert_allclose(found.values, exact[::-1][:3], atol=1e-6)


# Of one size, so compiled once. Multiple eigenvalues show after a breakdown, so these have few
# others: until then a single starting vector sees one copy of each.
SPECTRA = {
    "double": [5.0, 5.0, *np.ones(6), -0.5, -0.5, -0.5, -0.5],
    "identity": np.ones(12),
    "zero": np.zeros(12),
    "negative": -np.arange(1.0, 13.0),
    "threefold": [7.0, 7.0, 7.0, 3.0, 3.0, *np.zeros(7)],
    "low rank": [9.0, -4.0, 2.0, *np.zeros(9)],
    "twins": [2.0, 2.0 - 1e-6, *np.linspace(0, 1, 10)],
    "opposite": [3.0, -3.0, 2.0, -2.0, *np.zeros(8)],
}


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra_with_their_multiplicities(name, which, x64):
    exact = np.array(SPECTRA[name])
    matrix, _ = hm.with_spectrum(exact)
    found, _ = of_matrix(matrix, 4, which=which, vectors=True)
    assert found.converged
    want = expected(exact, 4, which)
    if which == "LM":  # of two of equal size either may come first
        np.testing.assert_allclose(np.abs(found.values), np.abs(want), atol=1e-6)
        np.testing.assert_allclose(np.sort(found.values), np.sort(want), atol=1e-6)
    else:
        np.testing.assert_allclose(found.values, want, atol=1e-6)
    assert_honest(matrix, found)


def test_an_exactly_diagonal_matrix_with_a_double_eigenvalue(x64):
    """From any start the Krylov space has two dimensions: it has to break down and go on."""
    found, _ = of_matrix(np.diag([5.0, 5.0, 1.0]), 2, vectors=True)
    np.testing.assert_allclose(found.values, [5, 5], atol=1e-12)
    np.testing.assert_allclose(rows(found.vectors)[:, 2], 0, atol=1e-8)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_all_of_them(which, x64):
    exact = np.random.default_rng(1).normal(size=12)
    found, _ = of_matrix(hm.with_spectrum(exact)[0], 12, which=which)
    np.testing.assert_allclose(found.values, expected(exact, 12, which), atol=1e-9)
    assert found.converged
    assert found.vectors is None


@pytest.mark.parametrize("matvec", [lambda v: v, jax.jit(lambda v: v), lambda v: 1.0 * v])
def test_a_map_that_returns_its_argument(matvec, x64):
    """Buffers that are given up must not be those of the caller."""
    op = hessian.linear(lambda v: {"a": matvec(v["a"])}, hm.tree_like({"a": (6,)}))
    found = hessian.top_eigenvalues(op, k=2, key=KEY, vectors=True)
    np.testing.assert_allclose(found.values, 1)
    assert hessian.spectral_density(op, key=KEY, num_steps=3).expectation(abs).value == 6


def test_of_a_single_parameter(x64):
    found, _ = of_matrix(np.array([[-2.5]]), vectors=True)
    np.testing.assert_allclose(found.values, [-2.5])
    np.testing.assert_allclose(np.abs(rows(found.vectors)), [[1]])


# ---- cost, restarts and what did not converge

HARD = hm.with_spectrum(np.concatenate([[1.0, 0.99, 0.98], np.linspace(-0.9, 0.9, 97)]))[0]
TOP = [1.0, 0.99, 0.98]


@pytest.mark.parametrize("options", [{}, {"max_vectors": 12}, {"tol": 1e-2}, {"max_matvecs": 9}])
def test_products_are_counted_and_bounded(options, x64):
    found, calls = of_matrix(HARD, 3, **options)
    assert found.num_matvecs == calls
    assert found.num_matvecs <= options.get("max_matvecs", 2000)


@pytest.mark.parametrize("max_vectors", [7, 10, 25])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_restarts_find_the_same(max_vectors, which, x64):
    found, _ = of_matrix(HARD, 3, which=which, max_vectors=max_vectors, vectors=True)
    assert found.converged
    assert found.num_matvecs > max_vectors  # it did restart
    np.testing.assert_allclose(
        found.values, expected(np.linalg.eigvalsh(HARD), 3, which), rtol=0, atol=1e-6
    )
    assert_honest(HARD, found)


@pytest.mark.parametrize("budget", [3, 5, 8, 16])
def test_what_did_not_converge_says_so_and_its_residuals_hold(budget, x64):
    found, _ = of_matrix(HARD, 3, max_matvecs=budget, vectors=True)
    assert not found.converged
    assert found.residuals.max() > 1e-8
    assert_honest(HARD, found)
    assert np.all(found.values <= 1 + 1e-12)  # Rayleigh–Ritz values never exceed the largest


def test_converged_means_what_it_says(x64):
    """Every residual within tol · max |θ|, and no more work than that takes."""
    costs = []
    for tol in (1e-1, 1e-3, 1e-6, 1e-10):
        found, _ = of_matrix(HARD, 3, tol=tol, vectors=True)
        assert found.converged
        assert np.all(found.residuals <= tol * np.abs(found.values).max())
        assert_honest(HARD, found)
        costs.append(found.num_matvecs)
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_a_warm_start_saves_products(x64):
    cold, _ = of_matrix(HARD, 3, vectors=True)
    nearby = HARD + 1e-4 * hm.with_spectrum(np.linspace(-1, 1, 100), seed=7)[0]
    exact = np.linalg.eigvalsh(nearby)[::-1][:3]
    again, _ = of_matrix(HARD, 3, start=cold.vectors)
    warm, _ = of_matrix(nearby, 3, start=cold.vectors)
    without, _ = of_matrix(nearby, 3)
    np.testing.assert_allclose(warm.values, exact, atol=1e-6)
    assert again.converged
    assert again.num_matvecs < cold.num_matvecs
    assert warm.num_matvecs < without.num_matvecs


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_start_may_have_more_or_fewer_vectors(number, x64):
    start = np.linalg.eigh(HARD)[1][:, ::-1][:, :number].T
    found, _ = of_matrix(HARD, 3, start=jnp.asarray(start), vectors=True)
    np.testing.assert_allclose(found.values, TOP, atol=1e-6)
    assert_honest(HARD, found)


def test_a_start_within_the_wrong_subspace_misses_nothing(x64):
    """Exact eigenvectors of small eigenvalues: an invariant space without the wanted ones."""
    start = np.linalg.eigh(HARD)[1][:, 40:43].T
    found, _ = of_matrix(HARD, 3, start=jnp.asarray(start))
    np.testing.assert_allclose(found.values, TOP, atol=1e-6)


def test_keys_repeat_and_differ(x64):
    """A key gives the same numbers again; another key the same eigenvalues."""
    options = {"max_matvecs": 12, "tol": 1e-12}
    a, b, c = (of_matrix(HARD, 3, key=jax.random.key(s), **options)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(a.values, b.values)
    assert np.abs(a.values - c.values).max() > 0
    a, c = (of_matrix(HARD, 3, key=jax.random.key(s))[0] for s in (1, 2))
    np.testing.assert_allclose(a.values, c.values, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scale_does_not_matter(scale, x64):
    found, _ = of_matrix(scale * HARD, 3, vectors=True)
    assert found.converged
    np.testing.assert_allclose(found.values / scale, TOP, atol=1e-6)


def test_in_float32():
    matrix = jnp.asarray(HARD, jnp.float32)
    like = jax.ShapeDtypeStruct((100,), jnp.float32)
    op = hessian.linear(lambda v: matrix @ v, like)
    found = hessian.top_eigenvalues(op, k=3, key=KEY, tol=1e-5, max_matvecs=500, vectors=True)
    assert found.converged
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, TOP, atol=1e-4)
    assert_honest(HARD, found, tol=3e-6)


def test_too_few_vectors_are_refused(x64):
    """With six, restarts converged to −.9 in place of .98, whatever the key."""
    with pytest.raises(UserError, match=r"max_vectors=6 should be at least 2k \+ 1 = 7"):
        of_matrix(HARD, 3, which="LM", max_vectors=6)
