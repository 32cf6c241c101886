"""The Lanczos relation, orthonormality and breakdown; and matfree's tridiagonalisation."""

import functools

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_models import flat, rows, unflat
from matfree import decomp

from samop import hessian
from samop.errors import UserError

SIZE = 11


@functools.partial(jax.jit, static_argnums=2)
def compiled(matrix, start, steps):
    return hessian.lanczos(hm.matvec_of(matrix, hm.tree_like()), start, steps)


def run(matrix, start, steps):
    """`lanczos` of a dense matrix on the pytree: basis [m, 11], T [m, m], β [m], next [11]."""
    return dense_parts(compiled(matrix, unflat(start, hm.tree_like()), steps))


def dense_parts(found):
    alpha, beta = np.asarray(found.alpha), np.asarray(found.beta)
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    return rows(found.basis), T, beta, flat(found.next)


def assert_lanczos(matrix, Q, T, beta, after, atol=1e-10):
    """A Qᵀ = Qᵀ T + β_m next e_mᵀ, the rows of Q orthonormal."""
    m = len(T)
    rest = np.zeros((len(matrix), m))
    rest[:, -1] = beta[-1] * after
    np.testing.assert_allclose(matrix @ Q.T, Q.T @ T + rest, rtol=0, atol=atol)
    np.testing.assert_allclose(Q @ Q.T, np.eye(m), rtol=0, atol=atol)
    assert np.all(beta >= 0)


MATRICES = {
    "generic": np.random.default_rng(0).normal(size=SIZE),
    "steep": 10.0 ** -np.arange(SIZE),
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "low rank": np.array([3.0, -2.0, 1.0] + [0.0] * 8),
    "repeated": np.repeat([4.0, 1.0, -1.0], [4, 4, 3]),
    "clustered": 1 + 1e-9 * np.arange(SIZE),
    "huge": 1e12 * np.arange(SIZE),
    "tiny": 1e-12 * np.arange(SIZE),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("steps", [1, 6, SIZE])
def test_the_lanczos_relation_holds_even_on_breakdown(name, steps, x64):
    values = MATRICES[name]
    matrix, _ = hm.with_spectrum(values)
    start = np.random.default_rng(1).normal(size=SIZE)
    Q, T, beta, after = run(matrix, start, steps)
    scale = max(np.abs(values).max(), 1e-30)
    assert_lanczos(matrix / scale, Q, T / scale, beta / scale, after)
    np.testing.assert_allclose(Q[0], start / np.linalg.norm(start), atol=1e-12)
    if steps == SIZE:  # the whole space: all eigenvalues, with their multiplicities
        np.testing.assert_allclose(
            np.linalg.eigvalsh(T) / scale, np.sort(values) / scale, atol=1e-10
        )
        assert beta[-1] <= 1e-10 * scale


def test_a_start_within_an_invariant_subspace(x64):
    matrix, q = hm.with_spectrum(np.arange(SIZE))
    Q, T, beta, after = run(matrix, q[:, 3] + q[:, 7], 6)
    assert beta[1] == 0
    np.testing.assert_allclose(np.linalg.eigvalsh(T[:2, :2]), [3, 7], atol=1e-10)
    assert_lanczos(matrix, Q, T, beta, after)


@pytest.mark.parametrize("steps", [0, SIZE + 1])
def test_steps_that_cannot_be(steps, x64):
    with pytest.raises(UserError, match=f"num_steps={steps} .* the 11 dimensions"):
        run(np.eye(SIZE), np.ones(SIZE), steps)


def test_many_starts_under_vmap_equal_each_alone(x64):
    matrix, _ = hm.with_spectrum(MATRICES["repeated"])
    starts = np.random.default_rng(2).normal(size=(4, SIZE))
    trees = jax.vmap(lambda v: unflat(v, hm.tree_like()))(jnp.asarray(starts))
    many = jax.vmap(lambda v: compiled(matrix, v, 6))(trees)
    for i, start in enumerate(starts):
        one = run(matrix, start, 6)
        parts = dense_parts(jax.tree.map(lambda x: x[i], many))  # noqa: B023
        assert_lanczos(matrix, *parts)
        # After the third step come directions of its own choice.
        np.testing.assert_allclose(parts[0][:3], one[0][:3], atol=1e-9)
        np.testing.assert_allclose(parts[1][:3, :3], one[1][:3, :3], atol=1e-9)


def test_equals_the_tridiagonalisation_of_matfree(x64):
    matrix, _ = hm.with_spectrum(MATRICES["generic"])
    like = hm.tree_like()
    matvec = hm.matvec_of(matrix, like)
    start = np.random.default_rng(3).normal(size=SIZE)
    Q, T, beta, after = run(matrix, start, 6)
    theirs = decomp.tridiag_sym(6)(matvec, unflat(jnp.asarray(start), like))
    signs = np.sign(np.sum(rows(theirs.Q_tall) * Q, 1))
    np.testing.assert_allclose(rows(theirs.Q_tall) * signs[:, None], Q, atol=1e-10)
    np.testing.assert_allclose(np.abs(theirs.J_small), np.abs(T), atol=1e-10)
    np.testing.assert_allclose(np.abs(flat(theirs.residual)), np.abs(beta[-1] * after), atol=1e-10)


def test_float32_stays_orthonormal():
    values = np.concatenate([[1e4, 1e3], np.linspace(-1, 1, 98)])
    matrix = hm.with_spectrum(values)[0].astype(np.float32)
    start = np.random.default_rng(4).normal(size=100).astype(np.float32)
    found = jax.jit(lambda v: hessian.lanczos(lambda v: jnp.asarray(matrix) @ v, v, 60))(start)
    Q = np.asarray(found.basis, float)
    assert np.abs(Q @ Q.T - np.eye(60)).max() < 1e-5
