"""The exact criterion: against dense eigenvalues, against simulation, between its forms."""

import numpy as np
import pytest

from samop import theory
from samop.errors import UserError
from samop.theory import exact, simulate


def draws(rng, dimension, count):
    """Non-commuting H_i ⪰ 0, `[count, d, d]`, and their probabilities."""
    factors = rng.normal(size=(count, dimension, rng.integers(1, dimension + 1)))
    sizes = rng.gamma(1.0, 1.0, size=count)
    hessians = np.einsum("nij,nkj->nik", factors, factors) * sizes[:, None, None]
    return hessians, rng.dirichlet(np.ones(count))


def outer(gradients):
    return gradients[:, :, None] * gradients[:, None, :]


def kronecker(hessians, p, eta, rho):
    """max |λ| of E[B ⊗ B]."""
    b = np.eye(hessians.shape[1]) - eta * (hessians + rho * hessians @ hessians)
    return np.abs(np.linalg.eigvals(sum(q * np.kron(x, x) for q, x in zip(p, b)))).max()


@pytest.mark.parametrize("dimension", [1, 2, 5])
@pytest.mark.parametrize("rho", [0.0, 0.04, 1.0])
def test_the_radius_is_the_dense_eigenvalue(dimension, rho):
    rng = np.random.default_rng(dimension)
    for eta in (0.02, 0.3):
        hessians, p = draws(rng, dimension, 4)
        found = theory.radius(hessians, eta, rho, p)
        assert found.converged
        assert found.value == pytest.approx(kronecker(hessians, p, eta, rho), rel=1e-9)
        assert np.linalg.eigvalsh(found.matrix * np.sign(np.trace(found.matrix)))[0] > -1e-6


@pytest.mark.parametrize("shape", [(4, 3), (6, 9), (3, 1), (2, 40)])
@pytest.mark.parametrize(("eta", "rho"), [(0.01, 0.0), (0.1, 0.0), (0.1, 0.04), (0.05, 0.5)])
def test_rank_one_is_dense_in_the_span(shape, eta, rho):
    rng = np.random.default_rng(sum(shape))
    gradients = rng.normal(size=shape) * rng.gamma(1.0, 1.0, size=(shape[0], 1))
    p = rng.dirichlet(np.ones(shape[0]))
    g = theory.span(gradients)
    assert g.shape[1] == min(shape)
    np.testing.assert_allclose(g @ g.T, gradients @ gradients.T, atol=1e-10)
    dense = outer(g)
    found = theory.rank_one_radius(gradients, eta, rho, p)
    assert found.converged
    assert found.value == pytest.approx(theory.radius(dense, eta, rho, p).value, rel=1e-8)
    ratio = theory.rank_one_noise_ratio(g, eta, rho, p)
    assert ratio == pytest.approx(theory.noise_ratio(dense, eta, rho, p), rel=1e-8)
    assert (ratio <= 1) == (found.value <= 1)
    v = theory.rank_one_worst_direction(g, eta, rho, p).value
    assert v == pytest.approx(theory.worst_direction(dense, eta, rho, p, starts=16).value, rel=1e-3)
    x = np.eye(g.shape[1])
    b = x - eta * (dense + rho * dense @ dense)
    np.testing.assert_allclose(
        exact.rank_one_map(g, eta, rho, p)(x), np.tensordot(p, b @ x @ b, 1), atol=1e-12
    )


def test_with_more_parameters_than_examples_the_rest_of_space_stands_still():
    gradients = 0.5 * np.random.default_rng(0).normal(size=(2, 5))
    assert theory.radius(outer(gradients), 0.1, 0.0).value == pytest.approx(1.0)
    assert theory.rank_one_radius(gradients, 0.1, 0.0).value < 1 - 1e-3
    with pytest.raises(UserError, match=r"no example sees.*theory.span"):
        theory.rank_one_noise_ratio(gradients, 0.1, 0.0)
    with pytest.raises(UserError, match="no example sees"):
        theory.noise_ratio(outer(gradients), 0.1, 0.0)


@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_the_radius_is_the_rate_at_which_simulated_squares_grow(rho, scale):
    rng = np.random.default_rng(3)
    hessians, p = draws(rng, 3, 4)
    t = theory.edge(lambda t: theory.noise_ratio(hessians, 0.1 * t, rho * t, p))
    eta, rho = 0.1 * t * scale, rho * t * scale
    found = theory.radius(hessians, eta, rho, p)
    assert (found.value > 1) == (scale > 1)
    start = found.matrix * np.sign(np.trace(found.matrix))
    grown = simulate.simulate(
        hessians, eta, rho, p, steps=8, replicas=100_000, rng=rng, start=start
    )
    assert grown.low <= found.value <= grown.high
    assert grown.high - grown.low < 0.1
    # And from any other start in the end: exactly, without replicas.
    squares = simulate.mean_squares(hessians, eta, rho, p, steps=3000)
    assert squares[-1] / squares[-2] == pytest.approx(found.value, rel=1e-6)
    one = simulate.simulate(hessians, eta, rho, p, steps=2, replicas=100_000, rng=rng)
    np.testing.assert_allclose(one.mean_square, squares[:3], rtol=0.05)


def test_the_recursion_of_a_map_is_that_of_its_hessians():
    rng = np.random.default_rng(4)
    g = rng.normal(size=(5, 3))
    by_map = simulate.mean_squares_of(exact.rank_one_map(g, 0.1, 0.02), np.eye(3), 10)
    np.testing.assert_allclose(by_map, simulate.mean_squares(outer(g), 0.1, 0.02, steps=10))


def test_a_path_grows_by_its_lyapunov_exponent():
    rng = np.random.default_rng(8)
    one = np.array([[2.0]])
    for eta, rho in ((0.1, 0.0), (0.6, 0.0), (0.1, 0.05)):
        factor = abs(1 - eta * (4 + rho * 16))
        found = simulate.lyapunov(one, eta, rho, epochs=4, rng=rng)
        assert found == pytest.approx(np.log(factor))
    # Orthogonal examples: the slowest direction, once in two steps.
    found = simulate.lyapunov(np.diag([1.0, 0.5]), 0.1, 0.0, epochs=400, rng=rng)
    assert found == pytest.approx(np.log(1 - 0.1 * 0.25) / 2, rel=1e-3)
    # Mean squares grow, while the path returns: by a large step that hardly ever happens.
    g = np.array([[1.0]] * 29 + [[4.5]])
    assert theory.rank_one_radius(g, 0.3, 0.0).value > 1
    assert simulate.lyapunov(g, 0.3, 0.0, epochs=10, rng=rng) < 0
    with pytest.raises(UserError, match="epochs=1 should be at least 2"):
        simulate.lyapunov(g, 0.3, 0.0, epochs=1, rng=rng)


def test_sgds_noise_ratio_is_proportional_to_its_rate():
    rng = np.random.default_rng(5)
    g = rng.normal(size=(6, 4))
    one, two = (theory.rank_one_noise_ratio(g, eta, 0.0) for eta in (0.1, 0.2))
    assert two == pytest.approx(2 * one)
    assert theory.edge(lambda t: theory.rank_one_noise_ratio(g, t, 0.0)) == pytest.approx(0.1 / one)
    with pytest.raises(UserError, match="no edge between"):
        theory.edge(lambda t: 1e-9 * t, limit=10.0)


def test_batches_without_replacement():
    """All batches of two, made one by one, against what is said of them without making any."""
    rng = np.random.default_rng(6)
    g = rng.normal(size=(5, 3))
    pairs = [(i, j) for i in range(5) for j in range(i)]
    weights = np.zeros((len(pairs), 5))
    for row, pair in zip(weights, pairs):
        row[list(pair)] = 1 / 2
    made = theory.batches(g, weights)
    m = theory.rank_one_moments(g)
    np.testing.assert_allclose(
        theory.dense_moments(made)[:2], [m[0], theory.batch_second(m, 5, 2)], atol=1e-12
    )
    # Of SGD the exact criterion needs no more than E[H X H] either.
    share, eta, x = theory.of_batches(5, 2), 0.1, np.diag([1.0, 2.0, 3.0])
    b = np.eye(3) - eta * made
    noise = share * (g.T * (np.einsum("ij,ij->i", g @ x, g) / 5)) @ g
    h = m[0]
    expected = x - eta * (h @ x + x @ h) + eta**2 * (noise + (1 - share) * h @ x @ h)
    np.testing.assert_allclose(np.mean(b @ x @ b, axis=0), expected, atol=1e-12)
    with pytest.raises(UserError, match="weights should be numbers ≥ 0"):
        theory.batches(g, -weights)
    with pytest.raises(UserError, match="size=6 should be from 1 to n=5"):
        theory.batch_second(m, 5, 6)


def test_too_few_iterations_are_said():
    hessians, p = draws(np.random.default_rng(7), 6, 8)
    found = theory.radius(hessians, 0.02, 0.0, p, max_iterations=2)
    assert not found.converged
    assert found.value <= kronecker(hessians, p, 0.02, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.radius(np.ones((2, 2)), 0.1, 0.0), r"shape \[count, d, d\]"),
        (lambda: theory.radius(np.full((1, 2, 2), np.nan), 0.1, 0.0), "finite"),
        (lambda: theory.radius(np.array([[[1.0, 2.0], [0.0, 1.0]]]), 0.1, 0.0), "symmetric"),
        (lambda: theory.radius(np.ones((2, 1, 1)), 0.0, 0.0), "eta=0.0 should be"),
        (lambda: theory.radius(np.ones((2, 1, 1)), 0.1, -1.0), "rho=-1.0 should be"),
        (lambda: theory.radius(np.ones((2, 1, 1)), 0.1, 0.0, np.ones(2)), "2 probabilities"),
        (lambda: theory.span(np.zeros((2, 3))), "all 0"),
        (lambda: theory.span(np.ones(3)), r"shape \[count, d\]"),
        (lambda: theory.span(np.full((1, 2), np.inf)), "finite"),
        (
            lambda: simulate.simulate(
                np.ones((2, 1, 1)), 0.1, 0.0, steps=1, replicas=50, rng=np.random.default_rng(0)
            ),
            "replicas=50 should be a multiple of 20",
        ),
        (
            lambda: simulate.mean_squares(np.ones((2, 1, 1)), 0.1, 0.0, steps=1, start=np.eye(2)),
            "start should have the shape",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
