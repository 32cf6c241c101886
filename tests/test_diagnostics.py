"""What is measured of a perturbation, on closed forms; in the record; and the warning."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import grid, point, prepared

import samop
from samop import diagnostics, groups, loop, records

W = jnp.array([3.0, -1.0])
H = jnp.array([1.0, 4.0])


def quadratic(w):
    return 0.5 * jnp.sum(H * w**2)


def test_closed_form_on_a_quadratic():
    tx = samop.sam(optax.sgd(0.1), rho=0.3)
    found = samop.diagnose(tx, tx.init(W), W, quadratic)
    g = np.array(H * W)
    epsilon = 0.3 * g / np.linalg.norm(g)
    there = np.array(H) * (np.array(W) + epsilon)
    wanted = diagnostics.Diagnosis(
        np.linalg.norm(g),
        0.3,
        g @ there / np.linalg.norm(g) / np.linalg.norm(there),
        g @ epsilon + 0.5 * epsilon @ (np.array(H) * epsilon),
        0.3 * np.linalg.norm(g),
        1.0,
        1.0,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert diagnostics.inactive(found, 0.3) == ""


def test_momentum_sam_is_measured_at_the_weights():
    tx = samop.msam(optax.sgd(0.1, momentum=0.9), rho=0.3)
    state, w = tx.init(W), W
    for _ in range(2):
        updates, state = tx.update(jax.grad(quadratic)(w), state, w)
        w = optax.apply_updates(w, updates)
    found = samop.diagnose(tx, state, w, quadratic)
    plain = samop.eval_params(state, w)
    np.testing.assert_allclose(found.grad_norm, np.linalg.norm(H * plain), rtol=1e-5)
    np.testing.assert_allclose(found.epsilon_norm, 0.3, rtol=1e-5)
    np.testing.assert_allclose(
        found.loss_increase, quadratic(w) - quadratic(plain), rtol=1e-3, atol=1e-6
    )


def test_coordinates_that_round_away_do_not_count_as_moved():
    w = jnp.full(1000, 0.05)
    tx = samop.sam(optax.sgd(0.1), rho=1e-3)  # 3e-5 a coordinate
    loss = lambda w: jnp.sum(w.astype(jnp.bfloat16)).astype(jnp.float32)  # noqa: E731
    found = samop.diagnose(tx, tx.init(w), w, loss, dtype=jnp.bfloat16)
    assert (found.moved, found.survived) == (0, 0)
    assert "rounding leaves 0 % of a perturbation" in diagnostics.inactive(found, 1e-3)
    whole = samop.diagnose(tx, tx.init(w), w, jnp.sum)
    assert whole.moved == 1
    np.testing.assert_allclose(whole.survived, 1, rtol=1e-3)


def test_large_coordinates_that_move_keep_sam_active():
    """A tenth of the coordinates, the large ones, holds most of the perturbation."""
    slope = jnp.where(jnp.arange(1000) < 100, 1.0, 1e-3)
    w = jnp.full(1000, 0.05)
    tx = samop.sam(optax.sgd(0.1), rho=0.05)
    loss = lambda w: w.astype(jnp.bfloat16).astype(jnp.float32) @ slope  # noqa: E731
    found = samop.diagnose(tx, tx.init(w), w, loss, dtype=jnp.bfloat16)
    np.testing.assert_allclose(found.moved, 0.1)
    assert found.survived > 0.9
    assert diagnostics.inactive(found, 0.05) == ""


def test_a_loss_scale_is_taken_out():
    tx = samop.sam(optax.sgd(0.1), rho=0.3)
    plain = samop.diagnose(tx, tx.init(W), W, quadratic)
    scaled = samop.diagnose(tx, tx.init(W), W, lambda w: 1024 * quadratic(w), loss_scale=1024.0)
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)


def test_a_lost_radius_is_named_and_a_zero_gradient_is_not():
    tx = samop.sam(optax.sgd(0.1), rho=lambda count: 0.0 * count)
    found = samop.diagnose(tx, tx.init(W), W, quadratic)
    assert "a schedule has lost ρ" in diagnostics.inactive(found, 0.1)
    assert diagnostics.inactive(found, 0.0) == ""
    still = samop.diagnose(tx, tx.init(W), 0 * W, quadratic)
    assert diagnostics.inactive(still, 0.1) == ""
    assert np.all(np.isfinite(still))


def test_a_plain_optimiser_cannot_be_diagnosed():
    with pytest.raises(TypeError, match="a transform of samop"):
        samop.diagnose(optax.sgd(0.1), (), W, quadratic)


def trained(tmp_path, caplog, rho=0.1, **fields):
    config = point(train__epochs=5, train__diagnostics_every=2, **fields)
    rows = grid(config, [{"optimizer__rho": r} for r in (0.0, rho)], (0,))
    ready = prepared(rows)
    for name in ready.group.names:
        (tmp_path / "points" / name).mkdir(parents=True)
    groups.freeze(ready.group, tmp_path / "groups" / ready.group.name, {"mode": "vmap"})
    with caplog.at_level(logging.WARNING, logger="absl"):
        loop.train(ready, tmp_path)
    files = [tmp_path / "points" / name / "metrics.jsonl" for name in ready.group.names]
    return [records.read_rows(file) for file in files]


def test_the_record_holds_the_perturbation_at_its_cadence(tmp_path, caplog):
    off, on = trained(tmp_path, caplog)
    measured = [row["epoch"] for row in on if "sam_grad_norm" in row]
    assert measured == [1, 2, 4]
    for row in on:
        text = json.dumps(row)
        assert "NaN" not in text
        if row["epoch"] in measured:
            assert row["sam_epsilon_norm"] == pytest.approx(0.1, rel=1e-5)
            assert row["sam_first_order"] == pytest.approx(0.1 * row["sam_grad_norm"], rel=1e-4)
            assert row["sam_loss_increase"] > 0
            assert -1 <= row["sam_cosine"] <= 1 + 1e-6
    assert off[0]["sam_epsilon_norm"] == 0
    assert not caplog.records


def said(caplog):
    return [r.getMessage() for r in caplog.records if "SAM is inactive" in r.getMessage()]


def test_a_radius_lost_in_a_schedule_is_said_once(tmp_path, caplog):
    # The rate is zero almost at once, and so is a ρ that follows it down to zero.
    fields = {"schedule": "step", "milestones": (0.01,), "factor": 0.0, "rho_schedule": "lr"}
    trained(tmp_path, caplog, **{f"optimizer__{key}": value for key, value in fields.items()})
    (message,) = said(caplog)
    assert "rho0.1" in message
    assert "a schedule has lost ρ" in message


def test_a_perturbation_that_rounds_away_is_said_once(tmp_path, caplog):
    low = {"precision__compute": "bfloat16", "precision__second_pass": "compute"}
    trained(tmp_path, caplog, 1e-5, **low)
    (message,) = said(caplog)
    assert "compute the second pass in float32" in message
