"""Sharpness measures on functions whose sharpness is known, and where they must not change."""

import hessian_models as hm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_models import flat, unflat

from samop import hessian
from samop.errors import UserError

# Values are compared, not programs.
KEY = jax.random.key(0)
RHO = 0.3
SHAPES = {"first": {"kernel": (2, 3), "bias": (3,)}, "last": {"kernel": (2,)}, "scale": ()}
LIKE = hm.tree_like(SHAPES)
SIZE = 12
RNG = np.random.default_rng(0)
VALUES = np.array([6.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.5, 0.2, 0.1, 0.05, 0.01, 0.0])
A, _ = hm.with_spectrum(VALUES, seed=3)
CENTRE = RNG.normal(size=SIZE)
ONES = {"one": np.ones(8)}
FAST = {"key": KEY, "m": 8, "check": False}


def vector(params):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])


def quadratic(matrix, centre=CENTRE):
    """½ (w − w*)ᵀA(w − w*), for every example the same."""

    def loss_fn(params, batch):
        off = vector(params) - centre
        return jnp.mean(batch["one"]) * 0.5 * (off @ matrix @ off)

    return loss_fn


def at(point):
    return unflat(np.asarray(point), LIKE)


@pytest.fixture(scope="module")
def bowl():
    """All of the measures at the bottom of a quadratic away from the origin."""
    with jax.enable_x64(True):
        options = {**FAST, "num_draws": 400, "num_samples": 100, "tol": 1e-6}
        return hessian.sharpness(quadratic(A), at(CENTRE), ONES, rho=RHO, **options)


DAD = CENTRE[:, None] * A * CENTRE[None]


def assert_climbs_to(found, truth, share=0.95):
    """A lower bound, and not much of one."""
    assert share * truth <= found.value <= truth * (1 + 1e-9)


def test_worst_case_at_the_bottom_of_a_quadratic(bowl):
    assert bowl.at_radius.loss == 0
    assert_climbs_to(bowl.at_radius.worst_case, RHO**2 * VALUES[0] / 2)
    assert_climbs_to(bowl.at_radius.worst_case_adaptive, RHO**2 * np.linalg.eigvalsh(DAD)[-1] / 2)


def test_average_at_the_bottom_of_a_quadratic(bowl):
    for found, matrix in ((bowl.at_radius.average, A), (bowl.at_radius.average_adaptive, DAD)):
        # The variance of ½ρ² zᵀAz with normal z is ½ρ⁴ ‖A‖².
        error = RHO**2 * np.linalg.norm(matrix) / np.sqrt(2 * 400)
        np.testing.assert_allclose(found.std_error, error, rtol=0.25)
        assert abs(found.value - RHO**2 * np.trace(matrix) / 2) < 4 * error


def test_eigenvalues_and_traces_of_a_quadratic(bowl):
    assert bowl.converged
    np.testing.assert_allclose(bowl.eigenvalues.values, VALUES[:5], rtol=1e-5)
    np.testing.assert_allclose(bowl.lambda_max, 6)
    np.testing.assert_allclose(bowl.lambda_ratio, 5, rtol=1e-5)
    np.testing.assert_allclose(
        bowl.lambda_max_adaptive.values[0], np.linalg.eigvalsh(DAD)[-1], rtol=1e-5
    )
    for found, matrix in ((bowl.trace, A), (bowl.trace_adaptive, DAD)):
        assert abs(found.value - np.trace(matrix)) < 4 * found.std_error
    np.testing.assert_allclose(bowl.trace_per_parameter, bowl.trace.value / SIZE)


def test_each_layer_has_the_largest_eigenvalue_of_its_block(bowl):
    spans = {"first": slice(0, 9), "last": slice(9, 11), "scale": slice(11, 12)}
    assert set(bowl.layers) == set(spans)
    for name, span in spans.items():
        want = np.linalg.eigvalsh(A[span, span])[-1]
        np.testing.assert_allclose(bowl.layers[name].values[0], want, rtol=1e-5)
        assert want <= 6  # Cauchy: no block exceeds the whole


def test_on_a_quadratic_everything_grows_with_the_square_of_the_radius(x64):
    """Each radius, and that of the adaptive measures alone, on its own."""
    found = [
        hessian.sharpness_at_radius(
            quadratic(A), at(CENTRE), ONES, rho=rho, rho_adaptive=other, **FAST
        )
        for rho, other in ((1e-3, None), (3.0, None), (1e-3, 3.0))
    ]
    for name, factors in (("", (1, 9e6, 1)), ("_adaptive", (1, 9e6, 9e6))):
        for measure in ("worst_case", "average"):
            values = [getattr(x, measure + name).value for x in found]
            np.testing.assert_allclose(values, values[0] * np.array(factors), rtol=1e-4)


def test_more_steps_climb_higher(x64):
    """Two curvatures that are hard to tell apart: 4 % between them."""
    loss_fn = quadratic(np.diag([1.0, 0.96] + [0.5] * 10), np.zeros(SIZE))
    share = []
    for steps in (20, 200):
        options = {**FAST, "steps": steps}
        found = hessian.sharpness_at_radius(loss_fn, at(np.zeros(SIZE)), ONES, **options)
        share.append(found.worst_case.value / (0.05**2 / 2))
        assert found.worst_case_adaptive.value == 0  # |w| = 0: there is nowhere to go
    assert share == sorted(share)
    assert share[0] > 0.95
    assert 0.999 < share[1] <= 1 + 1e-9


def test_in_the_box_of_a_diagonal_quadratic(x64):
    """‖δ/c‖_∞ ≤ ρ: the worst corner is any, ½ρ² Σ aᵢ cᵢ²."""
    found = hessian.sharpness_at_radius(
        quadratic(np.diag(VALUES)), at(CENTRE), ONES, rho=RHO, norm=np.inf, steps=40, **FAST
    )
    assert_climbs_to(found.worst_case, RHO**2 * VALUES.sum() / 2)
    assert_climbs_to(found.worst_case_adaptive, RHO**2 * np.sum(VALUES * CENTRE**2) / 2)


@pytest.mark.parametrize(("norm", "dual"), [(2, 2), (np.inf, 1)])
def test_on_a_slope_the_worst_case_is_the_dual_norm(norm, dual, x64):
    slope = RNG.normal(size=SIZE)
    loss_fn = lambda params, batch: jnp.mean(batch["one"]) * (vector(params) @ slope)  # noqa: E731
    found = hessian.sharpness_at_radius(loss_fn, at(CENTRE), ONES, rho=RHO, norm=norm, **FAST)
    np.testing.assert_allclose(found.worst_case.value, RHO * np.linalg.norm(slope, dual))
    scaled = RHO * np.linalg.norm(slope * CENTRE, dual)
    np.testing.assert_allclose(found.worst_case_adaptive.value, scaled)
    np.testing.assert_allclose(found.average.value, 0, atol=1e-12)  # δ comes with −δ


def test_at_the_top_nothing_is_worse(x64):
    found = hessian.sharpness_at_radius(quadratic(-A), at(CENTRE), ONES, rho=RHO, **FAST)
    assert found.worst_case.value == found.worst_case_adaptive.value == 0
    assert found.average.value < 0


# ---- subsets


def least_squares(params, batch):
    return 0.5 * jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def interpolated(n, d=4):
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(n, d)), rng.normal(size=d)
    return {"w": w}, {"x": x, "y": x @ w}


@pytest.mark.parametrize("m", [1, 4, 14])
def test_the_worst_case_is_a_mean_over_subsets_of_m(m, x64):
    """Of each subset ½ρ²λ_max(XᵀX/m); what is left over of 14 by 4 does not count."""
    params, batch = interpolated(14)
    found = hessian.sharpness_at_radius(least_squares, params, batch, rho=RHO, **{**FAST, "m": m})
    number = 14 // m
    subsets = batch["x"][: number * m].reshape(number, m, 4)
    each = [RHO**2 / 2 * np.linalg.eigvalsh(x.T @ x / m)[-1] for x in subsets]
    assert found.examples == number * m
    assert_climbs_to(found.worst_case, np.mean(each), 0.9)
    if number > 1:
        error = np.std(each, ddof=1) / np.sqrt(number)
        np.testing.assert_allclose(found.worst_case.std_error, error, rtol=0.1)
    else:
        assert np.isnan(found.worst_case.std_error)
    # The mean of what each loses is what all lose.
    spread = RHO**2 / 2 * np.sum(subsets**2) / (number * m)
    assert abs(found.average.value - spread) < 5 * found.average.std_error


def test_smaller_subsets_are_sharper(x64):
    params, batch = interpolated(16)
    values = [
        hessian.sharpness_at_radius(
            least_squares, params, batch, **{**FAST, "m": m}
        ).worst_case.value
        for m in (1, 16)
    ]
    assert values == sorted(values, reverse=True)


def test_however_the_examples_are_cut(x64):
    params, batch = interpolated(16)
    whole = hessian.sharpness_at_radius(least_squares, params, batch, **FAST)
    pieces = [hessian.stack(jax.tree.map(lambda x: x[:12], batch), 4), hm.cut(batch, 12)[1]]
    pieces = hessian.sharpness_at_radius(least_squares, params, pieces, **FAST)
    np.testing.assert_allclose(whole.worst_case.value, pieces.worst_case.value)
    np.testing.assert_allclose(whole.average.value, pieces.average.value)


# ---- rescaling


def relu_net(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["w"] + params["b"][None])
    return 0.5 * jnp.mean((hidden @ params["v"] - batch["y"]) ** 2)


def invariants(found):
    at = found.at_radius
    estimates = (at.worst_case_adaptive, at.average_adaptive, found.trace_adaptive)
    return [found.lambda_max_adaptive.values[0], *(x.value for x in estimates)]


@pytest.mark.parametrize("norm", [2, np.inf])
def test_rescaling_neurons_leaves_the_adaptive_measures_alone(norm, x64):
    """relu(αwx + αb) v/α is the same function of x for every α > 0 of each neuron."""
    rng = np.random.default_rng(6)
    params = {"w": rng.normal(size=(3, 5)), "b": rng.normal(size=5), "v": rng.normal(size=5)}
    batch = {"x": rng.normal(size=(16, 3)), "y": rng.normal(size=16)}
    alpha = np.array([10.0, 0.1, 3.0, 1.0, 0.5])
    other = {"w": params["w"] * alpha[None], "b": params["b"] * alpha, "v": params["v"] / alpha}
    options = {**FAST, "norm": norm, "tol": 1e-9, "rho": 0.05, "layers": False}
    a, b = (hessian.sharpness(relu_net, p, batch, **options) for p in (params, other))
    np.testing.assert_allclose(a.at_radius.loss, b.at_radius.loss)
    for one, two in zip(invariants(a), invariants(b)):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    for name in ("worst_case", "average"):
        one, two = (getattr(s.at_radius, name).value for s in (a, b))
        assert abs(one - two) > 0.1 * abs(one)
    assert b.lambda_max > 2 * a.lambda_max


def test_normalized_logits_forget_scale_and_shift(x64):
    logits = RNG.normal(size=(4, 7))
    found = np.asarray(hessian.normalized_logits(jnp.asarray(logits)))
    np.testing.assert_allclose(np.sum(found, 1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    moved = hessian.normalized_logits(jnp.asarray(5 * logits + RNG.normal(size=(4, 1))))
    np.testing.assert_allclose(moved, found, atol=1e-12)
    assert np.all(np.isfinite(hessian.normalized_logits(jnp.zeros((2, 3)))))


# ---- the rest


def test_of_some_of_the_parameters(x64):
    chosen = {"first": True, "last": False, "scale": False}
    found = hessian.sharpness(quadratic(A), at(CENTRE), ONES, rho=RHO, where=chosen, **FAST)
    block = A[:9, :9]
    assert_climbs_to(found.at_radius.worst_case, RHO**2 * np.linalg.eigvalsh(block)[-1] / 2)
    assert set(found.layers) == {"first"}
    np.testing.assert_allclose(found.lambda_max, np.linalg.eigvalsh(block)[-1], rtol=1e-4)


def test_a_network_at_a_small_radius_off_a_minimum(x64):
    """The worst case is then ρ‖∇L‖ + ½ρ² (its curvature along the gradient), to second order."""
    net = hm.network("mlp")
    g = flat(jax.jit(jax.grad(net.loss_fn))(net.params, net.batch))
    rho, slope = 1e-3, np.linalg.norm(g)
    second = rho**2 / 2 * (g @ hm.hessian_of("mlp") @ g) / slope**2
    options = {**FAST, "m": hm.N, "rho": rho}
    found = hessian.sharpness_at_radius(net.loss_fn, net.params, net.batch, **options)
    np.testing.assert_allclose(found.worst_case.value, rho * slope + second, rtol=1e-4)
    np.testing.assert_allclose(found.loss, net.loss_fn(net.params, net.batch))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": 0.0}, "rho=0.0"),
        ({"rho": np.nan}, "rho=nan"),
        ({"rho_adaptive": -1.0}, "rho_adaptive=-1.0"),
        ({"norm": 1}, "norm=1"),
        ({"m": 9}, "m=9 should be at most the 8 examples"),
        ({"m": 0}, "m=0"),
        ({"steps": 1}, "steps=1"),
        ({"num_draws": 0}, "num_draws=0"),
    ],
)
def test_bad_input(options, words, x64):
    with pytest.raises(UserError, match=words):
        hessian.sharpness(quadratic(A), at(CENTRE), ONES, **{**FAST, **options})
    with pytest.raises(UserError, match="in memory"):
        hessian.sharpness(quadratic(A), at(CENTRE), hm.Stream([ONES]), **FAST)
