"""Descent on a quadratic, against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import samop
from samop import ascents, trajectory


def test_unnormalised_sam_on_a_quadratic_is_a_matrix_power(x64):
    """x ← (I − ηA)x with A = H + ρH²."""
    h, eta, rho = jnp.array([1.0, 3.0]), 0.1, 0.2
    tx = samop.sam(optax.sgd(eta), rho, ascent=ascents.unnormalized())
    start = jnp.array([1.0, -2.0])
    last, seen = trajectory.trajectory(
        tx, lambda x, _: 0.5 * jnp.sum(h * x**2), start, lambda step: (), 12, every=4,
        record=lambda x: x,
    )  # fmt: skip
    factor = 1 - eta * (h + rho * h**2)
    want = [start * factor**t for t in (0, 4, 8, 12)]
    np.testing.assert_allclose(seen, np.stack(want), rtol=1e-12)
    np.testing.assert_array_equal(seen[-1], last)


def test_batches_of_an_epoch_hold_each_example_once():
    batch_of = trajectory.shuffled(jnp.arange(12), 4, jax.random.key(0))
    epochs = [np.concatenate([batch_of(jnp.int32(3 * e + i)) for i in range(3)]) for e in (0, 1)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    drawn = trajectory.independent(jnp.arange(12), 4, jax.random.key(0))
    assert len(np.unique(np.concatenate([drawn(jnp.int32(i)) for i in range(3)]))) < 12


def test_every_divides_steps():
    with pytest.raises(ValueError, match="every=5 should divide steps=12"):
        trajectory.trajectory(
            optax.with_extra_args_support(optax.sgd(0.1)), lambda x, _: x, 0.0, lambda s: (), 12,
            every=5, record=lambda x: x,
        )  # fmt: skip
    with pytest.raises(ValueError, match="size=13 should be from 1 to 12"):
        trajectory.shuffled(jnp.arange(12), 13, jax.random.key(0))
