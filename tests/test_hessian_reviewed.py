"""What reviews broke: stale closures, maps that are not symmetric, last batches, cancellation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samop import hessian, validation
from samop.errors import NotFinite, UserError
from samop.hessian.moments import _root
from samop.measures import WORDS

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (24, 4))
DATA = {"x": X, "y": jnp.sin(X[:, 0])}


def loss(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def test_a_closure_that_has_changed_is_noticed():
    scale = {"value": 1.0}
    scaled = lambda w, batch: scale["value"] * loss(w, batch)  # noqa: E731
    hessian.hessian(scaled, jnp.ones(4), DATA)
    scale["value"] = 10.0
    with pytest.raises(UserError, match="what it closes over has changed"):
        hessian.hessian(scaled, jnp.ones(4), DATA)


def test_a_map_that_is_not_symmetric_is_noticed():
    matrix = jnp.triu(jnp.ones((30, 30))) * jnp.arange(30.0)[:, None]
    op = hessian.linear(lambda v: matrix @ v, jnp.zeros(30))
    with pytest.raises(UserError, match="contradicts earlier ones"):
        hessian.top_eigenvalues(op, k=2, key=KEY)


def test_a_stream_that_yields_other_examples_is_noticed():
    passes = iter(range(1000))

    def batches():
        start = 8 * (next(passes) % 3)
        return iter([jax.tree.map(lambda x: x[start : start + 8], DATA)])

    with pytest.raises(UserError, match="same examples at every pass"):
        hessian.top_eigenvalues(loss, jnp.ones(4), batches, k=2, key=KEY)


def test_padding_in_the_last_batch_needs_its_weight():
    def masked(w, batch):
        return jnp.sum(batch["m"] * (batch["x"] @ w - batch["y"]) ** 2) / jnp.sum(batch["m"])

    data = {**DATA, "m": (jnp.arange(24) < 17).astype(jnp.float32)}
    batches = [jax.tree.map(lambda x, i=i: x[i : i + 8], data) for i in (0, 8, 16)]
    with pytest.raises(UserError, match="batch_weight"):
        hessian.hessian(masked, jnp.ones(4), batches)


def test_cancelled_moments_have_the_error_of_what_cancels():
    same = jax.tree.map(lambda x: jnp.repeat(x[:1], 16, 0), DATA)
    found = hessian.hessian_moments(loss, jnp.ones(4), same, key=KEY, orders=(2, 3, 4))
    for root in found.s.values():
        assert abs(root.value) <= root.residual  # the truth is zero


def test_a_root_is_as_wrong_as_its_steeper_side():
    value = hessian.Eigenvalues(np.array([1e-2]), np.array([9e-3]), None, 1, True)
    found = _root(value, 4)
    assert found.value - found.residual == pytest.approx(1e-3**0.25)


def test_a_check_of_moments_does_not_depend_on_the_chunk():
    mixes = lambda w, batch: loss(w, {**batch, "x": batch["x"] - batch["x"].mean(0)[None]})  # noqa: E731
    with pytest.raises(UserError, match="no mean over examples"):
        hessian.hessian_moments(mixes, jnp.ones(4), DATA, key=KEY, chunk=1)


@pytest.mark.parametrize("option", ["batch_weight", "devices"])
def test_what_sharpness_cannot_do_is_refused(option):
    value = {"batch_weight": lambda b: 1.0, "devices": jax.devices()[:2]}[option]
    with pytest.raises(UserError, match=f"{option} is not supported"):
        hessian.sharpness_at_radius(loss, jnp.ones(4), DATA, key=KEY, m=8, **{option: value})


def test_a_nan_within_the_ball_is_said():
    jumps = lambda w, batch: loss(w, batch) + jnp.where(jnp.linalg.norm(w) > 2.01, jnp.nan, 0)  # noqa: E731
    with pytest.raises(NotFinite, match="around the parameters"):
        hessian.sharpness_at_radius(jumps, jnp.ones(4), DATA, key=KEY, m=8, rho=0.5, check=False)


def test_a_layer_without_parameters_is_left_out():
    params = {"empty": jnp.zeros((0, 3)), "full": {"w": jnp.ones(4)}}
    whole = lambda p, batch: loss(p["full"]["w"], batch) + 0 * jnp.sum(p["empty"])  # noqa: E731
    found = hessian.sharpness(whole, params, DATA, key=KEY, m=8, num_draws=2, num_samples=4)
    assert list(found.layers) == ["full"]


def test_arrays_that_are_no_examples_are_refused_by_name():
    batch = {**DATA, "temperature": jnp.ones(())}
    tempered = lambda w, b: loss(w, b) * b["temperature"]  # noqa: E731
    with pytest.raises(UserError, match="cannot be cut"):
        hessian.stack(batch, 8)
    with pytest.raises(UserError, match="per='batch'"):
        hessian.hessian_moments(tempered, jnp.ones(4), batch, key=KEY)
    divided = hessian.hessian(tempered, jnp.ones(4), batch, devices=jax.devices()[:5])
    plain = hessian.hessian(loss, jnp.ones(4), DATA)
    v = jnp.arange(4.0)
    np.testing.assert_allclose(divided(v), plain(v), rtol=1e-5)


def test_outputs_may_be_a_pytree():
    model = lambda w, batch: {"a": batch["x"] @ w, "b": batch["x"] @ w**2}  # noqa: E731
    criterion = lambda out, batch: jnp.mean((out["a"] + out["b"] - batch["y"]) ** 2)  # noqa: E731
    one = lambda w, batch: (batch["x"] @ (w + w**2))[:, None]  # noqa: E731
    same = lambda out, batch: jnp.mean((out[:, 0] - batch["y"]) ** 2)  # noqa: E731
    found = hessian.ggn_moments(model, criterion, jnp.ones(4), DATA, key=KEY)
    expected = hessian.ggn_moments(one, same, jnp.ones(4), DATA, key=KEY)
    np.testing.assert_allclose(found.s[2].value, expected.s[2].value, rtol=1e-3)


@pytest.mark.parametrize("k", [2.0, True, 0])
def test_k_is_a_whole_number(k):
    with pytest.raises(UserError, match="k="):
        hessian.top_eigenvalues(loss, jnp.ones(4), DATA, k=k, key=KEY)


def test_double_precision_has_to_be_switched_on():
    with pytest.raises(UserError, match="jax_enable_x64"):
        hessian.hessian(loss, jnp.ones(4), DATA, dtype=jnp.float64)


def test_the_words_that_decide_random_keys_keep_their_order():
    assert WORDS == validation.WHAT
    expected = "eigenvalues negative trace moments ggn density layers sharpness"
    assert " ".join(WORDS) == expected
