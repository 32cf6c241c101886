"""Small float64 problems that the Hessian tests share, and their dense Hessians.

Dense means jax.hessian (forward over reverse, a basis vector at a time) of the loss as a function
of one flat vector, in the order of `ravel_pytree`; nothing here comes from samop.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

N = 19  # examples of a problem: nothing divides it
CLASSES = 3


class Problem(NamedTuple):
    params: Any  # float64 NumPy leaves
    batch: dict  # x [N, ...], y [N] or [N, outputs]
    model_fn: Callable  # (params, batch) -> outputs [n, outputs]
    criterion: Callable  # (outputs, batch) -> mean over the examples
    loss_fn: Callable


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(6)(x))
        return nn.Dense(CLASSES)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(3, (3, 3))(x))
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Attention(nn.Module):
    """One layer of self-attention, a mean over the positions, a linear read-out."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(x)
        return nn.Dense(CLASSES)(x.mean(1))


# Name → module, shape of an example.
MODULES = {"mlp": (MLP(), (5,)), "cnn": (CNN(), (5, 5, 2)), "attention": (Attention(), (6, 4))}


def cross_entropy(outputs, batch):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], 1)
    return -jnp.mean(chosen)


def squared(outputs, batch):
    """½ ‖f − y‖², a mean over the examples alone."""
    return 0.5 * jnp.mean(jnp.sum((outputs - batch["y"]) ** 2, -1))


def problem(model_fn, criterion, params, batch):
    loss_fn = lambda params, batch: criterion(model_fn(params, batch), batch)  # noqa: E731
    return Problem(params, batch, model_fn, criterion, loss_fn)


@functools.cache
def network(name, criterion=cross_entropy, n=N):
    """A problem of a network at random weights of the usual size, labels at random."""
    module, shape = MODULES[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    draw = lambda s: rng.normal(size=s.shape) * max(1, np.prod(s.shape[:-1])) ** -0.5  # noqa: E731
    params = jax.tree.map(draw, like)
    labels = rng.integers(0, CLASSES, n)
    y = labels if criterion is cross_entropy else rng.normal(size=(n, CLASSES))
    model_fn = lambda params, batch: module.apply({"params": params}, batch["x"])  # noqa: E731
    return problem(model_fn, criterion, params, {"x": rng.normal(size=(n, *shape)), "y": y})


def flat(tree):
    """One NumPy vector of a tree's leaves."""
    return np.concatenate([np.zeros(0), *(np.ravel(x) for x in jax.tree.leaves(tree))])


def rows(tree):
    """One row a member of a tree's leading axis: [k, size]."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], 1)


def unflat(vector, like):
    """The inverse of `flat`, with the shapes of `like` (None has no leaf)."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([0, *(int(np.prod(x.shape)) for x in leaves)])
    parts = [vector[a:b].reshape(x.shape) for a, b, x in zip(ends, ends[1:], leaves)]
    return jax.tree.unflatten(structure, parts)


def _on_vectors(params):
    """params as one vector, and f(params, …) as a function of it."""
    w, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    return w, lambda f: lambda w, *rest: f(unravel(w), *rest)


def _alone(batch):
    """Every example as a batch of one: leaves [n, 1, ...]."""
    return jax.tree.map(lambda x: np.asarray(x)[:, None], batch)


@functools.cache
def _cached(kind, name, criterion):
    at = network(name, criterion)
    return DENSE[kind](at)


def dense(at):
    """The Hessian of the mean loss: [P, P]."""
    w, over = _on_vectors(at.params)
    return np.asarray(jax.jit(jax.hessian(over(at.loss_fn)))(w, at.batch))


def dense_examples(at):
    """The Hessian of each example's loss: [n, P, P]."""
    w, over = _on_vectors(at.params)
    each = jax.jit(jax.vmap(jax.hessian(over(at.loss_fn)), (None, 0)))
    return np.asarray(each(w, _alone(at.batch)))


def dense_ggn_examples(at):
    """J_iᵀ C_i J_i of each example, C_i the Hessian of its loss in its outputs: [n, P, P]."""
    w, over = _on_vectors(at.params)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def factors(w, example):
        model = lambda w: over(at.model_fn)(w, example)[0]  # noqa: E731
        inner = jax.hessian(lambda outputs: at.criterion(outputs[None], example))
        return jax.jacobian(model)(w), inner(model(w))

    jacobians, inner = map(np.asarray, factors(w, _alone(at.batch)))
    return np.einsum("iap,iab,ibq->ipq", jacobians, inner, jacobians)


DENSE = {"dense": dense, "examples": dense_examples, "ggn": dense_ggn_examples}


def hessian_of(name, criterion=cross_entropy):
    return _cached("dense", name, criterion)


def hessians_of(name, criterion=cross_entropy):
    return _cached("examples", name, criterion)


def ggns_of(name, criterion=cross_entropy):
    return _cached("ggn", name, criterion)


def cut(batch, *ends):
    """The batch in consecutive pieces that end before these examples, and the rest."""
    number = len(jax.tree.leaves(batch)[0])
    edges = [0, *ends, number]
    return [jax.tree.map(lambda x: x[a:b], batch) for a, b in itertools.pairwise(edges)]  # noqa: B023


class Stream:
    """Batches that can be gone through again and again, and are made anew each time."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return (jax.tree.map(np.copy, batch) for batch in self.batches)


def orthogonal(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def with_spectrum(values, seed=0):
    """A dense symmetric matrix of these eigenvalues, and its eigenvectors as columns."""
    q = orthogonal(np.random.default_rng(seed), len(values))
    matrix = (q * np.asarray(values, float)[None]) @ q.T
    return (matrix + matrix.T) / 2, q


TREE = {"a": (2, 3), "b": {"c": (4,), "d": ()}}  # a pytree of 11 numbers


def tree_like(shapes=None):
    shapes = TREE if shapes is None else shapes
    make = lambda s: jax.ShapeDtypeStruct(s, jnp.float64)  # noqa: E731
    return jax.tree.map(make, shapes, is_leaf=lambda s: isinstance(s, tuple))


def matvec_of(matrix, like):
    """A dense matrix as a map of pytrees like `like`, jit-able."""
    matrix = jnp.asarray(matrix)
    unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like))[1]
    return lambda v: unravel(matrix @ ravel_pytree(v)[0])
