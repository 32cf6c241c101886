"""What the contract is tried on: every transform, and a small regression network."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import samop

LATE = samop.window(3, 6)


class Case(NamedTuple):
    """A transform under test.

    Attributes:
      make: `make(base, rho, **options) -> transform`.
      fields: as a config would say it, for its cost.
      traced: a hyperparameter of its own that may be traced, and another value for it.
    """

    make: Callable[..., Any]
    fields: dict[str, Any]
    traced: tuple[str, float] | None = None


CASES = {
    "sam": Case(samop.sam, {"name": "sam"}),
    "sam, 3 ascents": Case(
        functools.partial(samop.sam, ascent_steps=3), {"name": "sam", "ascent_steps": 3}
    ),
    "sam, in a window": Case(
        functools.partial(samop.sam, active=LATE), {"name": "sam", "start": 0.3, "end": 0.6}
    ),
    "asam": Case(samop.asam, {"name": "asam"}, ("eta", 0.1)),
    "gsam": Case(samop.gsam, {"name": "gsam"}, ("alpha", 0.2)),
    "looksam": Case(samop.looksam, {"name": "looksam"}, ("alpha", 0.2)),
    "fsam": Case(samop.fsam, {"name": "fsam"}, ("sigma", 0.5)),
    "vasso": Case(samop.vasso, {"name": "vasso"}, ("theta", 0.7)),
    "msam": Case(samop.msam, {"name": "msam"}),
    "esam": Case(samop.esam, {"name": "esam"}, ("beta", 0.9)),
    "wsam": Case(samop.wsam, {"name": "wsam"}, ("gamma", 0.6)),
    "wsam, decoupled": Case(
        functools.partial(samop.wsam, learning_rate=0.05), {"name": "wsam"}, ("gamma", 0.6)
    ),
    "gnp": Case(samop.gnp, {"name": "gnp"}, ("alpha", 0.2)),
    "stablesam": Case(samop.stablesam, {"name": "stablesam"}),
    "stablesam, reversed": Case(
        functools.partial(samop.stablesam, reverse=True), {"name": "stablesam"}
    ),
}
SKIPPING = ("looksam", "sam, in a window")
ONE_GRADIENT = ("msam",)


class NotApplicable(Exception):
    """A property that a transform cannot have; the text says why."""


# ---- a small regression network with every kind of leaf that masks tell apart

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 8, 3)).astype(np.float32)
Y = np.tanh(X @ np.array([1.0, -2.0, 0.5], np.float32))
PARAMS = {
    "hidden": {"kernel": RNG.normal(size=(3, 4)), "bias": RNG.normal(size=4)},
    "norm": {"scale": 1 + 0.1 * RNG.normal(size=4), "bias": 0.1 * RNG.normal(size=4)},
    "out": {"kernel": RNG.normal(size=(4, 1)), "bias": np.zeros(1)},
}
PARAMS = jax.tree.map(lambda x: np.asarray(x, np.float32), PARAMS)
SGD = optax.sgd(0.05, momentum=0.9)
BASES = {
    "sgd": SGD,
    "adamw": optax.adamw(0.01),
    "lion": optax.lion(0.003),
    "muon": contrib.muon(0.02),
}


def bases_of(name):
    """All of them for SAM; what a transform does with a base shows with two."""
    return BASES.values() if name == "sam" else (BASES["sgd"], BASES["adamw"])


def loss(params, x, y):
    z = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    z = z * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    out = z @ params["out"]["kernel"] + params["out"]["bias"][None]
    return jnp.mean((out[:, 0] - y) ** 2)


grad = jax.grad(loss)


def update(tx, params, state, i, x=X, y=Y, **extra):
    """One step on mini-batch i."""
    grad_fn = lambda p: grad(p, x[i], y[i])  # noqa: E731
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, **extra)
    return optax.apply_updates(params, updates), state


def train(tx, params=PARAMS, steps=8, start=0, state=None):
    """Steps as one compiled scan; returns parameters and state."""

    def run(params, state):
        x, y = jnp.asarray(X), jnp.asarray(Y)
        body = lambda carry, i: (update(tx, *carry, i, x, y), None)  # noqa: E731
        return jax.lax.scan(body, (params, state), jnp.arange(start, start + steps) % len(X))[0]

    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(run)(params, tx.init(params) if state is None else state)


def close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def differ(a, b, by=1e-5):
    gaps = [
        np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in zip(*map(jax.tree.leaves, (a, b)))
    ]
    assert max(gaps) > by, "the two should differ"


@functools.cache
def trained(name):
    """Parameters and state after eight steps at ρ = .1."""
    return train(CASES[name].make(SGD, 0.1))


@functools.cache
def plain(steps):
    """Parameters after some steps of the base alone."""
    return train(SGD, steps=steps)[0]


def stepper(make):
    """A jitted `step(params, state, i, rho)`; the transform is `make(rho)`."""

    @jax.jit
    def step(params, state, i, rho):
        return update(make(rho), params, state, i, jnp.asarray(X), jnp.asarray(Y))

    return step
