"""Sharpness measures that the field compares, in one call; definitions of arXiv 2302.07011."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import trees
from samop.errors import UserError
from samop.hessian import ascent
from samop.hessian import batches as data
from samop.hessian.checks import check_separable
from samop.hessian.estimate import Estimate, at_least, finite, mean
from samop.hessian.krylov import Eigenvalues, top_eigenvalues
from samop.hessian.operators import Operator, hessian, join, make_options, split
from samop.hessian.traces import trace

PyTree = Any
NORMS = (2, float("inf"))


class AtRadius(NamedTuple):
    """The loss around a network. "Adaptive" scales coordinates by c = |w|; otherwise c = 1.

    Attributes:
      loss: L(w) on the examples used.
      worst_case, worst_case_adaptive: mean over subsets S of m examples of max L_S(w+δ) − L_S(w)
        over ‖δ/c‖_p ≤ ρ, as found by APGD: lower bounds. The standard error is over subsets.
      average, average_adaptive: E L(w+δ) − L(w), δ ~ N(0, ρ² diag c²). As σ is per coordinate,
        these grow with the number of parameters.
      examples: how many were used.
    """

    loss: float
    worst_case: Estimate
    worst_case_adaptive: Estimate
    average: Estimate
    average_adaptive: Estimate
    examples: int


class Sharpness(NamedTuple):
    """One record of all measures.

    Attributes:
      at_radius: see `AtRadius`.
      eigenvalues: the five largest of the Hessian H.
      lambda_max: the largest. At a minimum and for small ρ, ½ρ² of it is the worst case; off one
        ρ‖g‖ adds to that.
      lambda_ratio: λ₁/λ₅; NaN with fewer than five parameters.
      lambda_max_adaptive: of DHD, D = diag(|w|), which rescaling a network's layers leaves alone.
      trace, trace_adaptive: of H and DHD; ½ρ² of it is the average.
      trace_per_parameter: trace / number of parameters.
      layers: name → λ_max of the layer's diagonal block.
      converged: whether all eigenvalues did.
    """

    at_radius: AtRadius
    eigenvalues: Eigenvalues
    lambda_max: float
    lambda_ratio: float
    lambda_max_adaptive: Eigenvalues
    trace: Estimate
    trace_adaptive: Estimate
    trace_per_parameter: float
    layers: dict[str, Eigenvalues]
    converged: bool


def sharpness_at_radius(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    key: jax.Array,
    rho: float = 0.05,
    rho_adaptive: float | None = None,
    m: int = 128,
    norm: float = 2,
    steps: int = 20,
    num_draws: int = 32,
    **options: Any,
) -> AtRadius:
    """Worst-case and average sharpness, plain and adaptive.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar` mean loss; networks in evaluation mode.
      params: any pytree of floating-point arrays.
      batches: in memory; all examples of one shape.
      key: of everything random.
      rho: radius ρ; `rho_adaptive`, where given, is that of the adaptive measures, whose
        coordinates are relative to |w|.
      m: examples a subset, in their order (shuffle what is sorted by class); what is left over is
        not used.
      norm: p of the worst case, 2 or inf.
      steps: of APGD.
      num_draws: random perturbations, each with its negative.
      **options: see `samop.hessian.Options`.

    Raises:
      UserError: impossible arguments, or values that are not finite.
    """
    relative = rho if rho_adaptive is None else rho_adaptive
    for name, value in (("rho", rho), ("rho_adaptive", relative)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name}={value} should be a finite number > 0")
    if norm not in NORMS:
        raise UserError(f"norm={norm!r} is not allowed; allowed: 2, inf")
    at_least("steps", steps, 2)
    at_least("num_draws", num_draws, 1)
    how = make_options(options)
    for name in ("batch_weight", "devices"):
        if getattr(how, name) is not None:
            raise UserError(f"{name} is not supported for the loss around a network")
    dtype = None if how.dtype is None else jnp.dtype(how.dtype)
    sub, rest = split(params, how)
    flat, adaptive = jax.random.split(key)
    subsets = _subsets(batches, m)
    if how.check:
        first = jax.tree.map(lambda x: x[0], subsets)
        check_separable(loss_fn, join(sub, rest), first, how.batch_weight)
    what = "the loss around the parameters"

    def around(scales, radius, key):
        args = (sub, rest, scales, subsets, jnp.asarray(radius, float))
        start, draws = jax.random.split(key)
        highest = ascent.worst(loss_fn, dtype, float(norm), steps, *args, start)
        means = ascent.at_random(loss_fn, dtype, *args, jax.random.split(draws, num_draws))
        return mean(finite(highest, what), 0, "APGD"), mean(finite(means, what), 0, "±normal")

    worst, average = around(jax.tree.map(jnp.ones_like, sub), rho, flat)
    worst_adaptive, average_adaptive = around(jax.tree.map(jnp.abs, sub), relative, adaptive)
    return AtRadius(
        loss=float(ascent.mean_loss(loss_fn, dtype, sub, rest, subsets)),
        worst_case=worst,
        worst_case_adaptive=worst_adaptive,
        average=average,
        average_adaptive=average_adaptive,
        examples=m * len(jax.tree.leaves(subsets)[0]),
    )


def sharpness(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    key: jax.Array,
    rho: float = 0.05,
    rho_adaptive: float | None = None,
    m: int = 128,
    norm: float = 2,
    steps: int = 20,
    num_draws: int = 32,
    num_samples: int = 32,
    tol: float = 1e-3,
    max_matvecs: int = 300,
    layers: bool = True,
    **options: Any,
) -> Sharpness:
    """Worst-case, average and Hessian sharpness, in one record.

    Args:
      loss_fn, params, batches, rho, rho_adaptive, m, norm, steps, num_draws, options: as for
        `sharpness_at_radius`.
      key: of all random vectors.
      num_samples: products for each trace.
      tol, max_matvecs: see `top_eigenvalues`.
      layers: also each layer's λ_max; leaves with a common parent are a layer.

    Returns:
      See `Sharpness`; `converged` says whether all eigenvalues in it did.

    Raises:
      UserError: impossible arguments, a stream in place of examples in memory, or a product that
        is not finite.
    """
    op = hessian(loss_fn, params, batches, **options)
    keys = jax.random.split(key, 6)
    radius = sharpness_at_radius(
        loss_fn,
        params,
        batches,
        key=keys[0],
        rho=rho,
        rho_adaptive=rho_adaptive,
        m=m,
        norm=norm,
        steps=steps,
        num_draws=num_draws,
        **{**options, "check": False},
    )
    size = jax.tree.map(jnp.abs, split(params, make_options(options))[0])
    scaled = dataclasses.replace(op, fn=None, host=lambda v: _times(size, op(_times(size, v))))

    def top(op, k, key):
        return top_eigenvalues(op, k=k, key=key, tol=tol, max_matvecs=max_matvecs)

    values, largest = top(op, min(5, op.size), keys[1]), top(scaled, 1, keys[2])
    each = enumerate(layer_blocks(op)) if layers else ()
    blocks = {name: top(block, 1, jax.random.fold_in(keys[3], i)) for i, (name, block) in each}
    found = trace(op, key=keys[4], num_samples=num_samples)
    first, last = values.values[0], values.values[-1]
    return Sharpness(
        at_radius=radius,
        eigenvalues=values,
        lambda_max=float(first),
        lambda_ratio=float(first / last) if op.size >= 5 and last else float("nan"),
        lambda_max_adaptive=largest,
        trace=found,
        trace_adaptive=trace(scaled, key=keys[5], num_samples=num_samples),
        trace_per_parameter=found.value / op.size,
        layers=blocks,
        converged=all(x.converged for x in (values, largest, *blocks.values())),
    )


def normalized_logits(logits: jax.Array) -> jax.Array:
    """Logits [..., classes], centred and divided by their ℓ2 norm, for the normalised measures.

    A network can shrink its loss's curvature by growing its logits; these do not grow.

    Args:
      logits: [..., classes], floating point.

    Returns:
      [..., classes]; logits that are all equal stay zeros.
    """
    centred = logits - jnp.mean(logits, -1, keepdims=True)
    length = jnp.linalg.norm(centred, axis=-1, keepdims=True)
    return centred / jnp.maximum(length, jnp.finfo(logits.dtype).tiny)


def _subsets(batches: Any, m: int) -> PyTree:
    """Leaves [number, m, ...]."""
    at_least("m", m, 1)
    parts = data.gather(batches, None, None)
    if isinstance(parts, data.Stream):
        raise UserError("sharpness needs all examples in memory: give a list, a Stack or one batch")
    flat = [
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), part.batches)
        for part in parts
        if data.examples(data.first((part,))) is not None
    ]
    shapes = {tuple(x.shape[1:] for x in jax.tree.leaves(tree)) for tree in flat}
    if len(flat) != len(parts) or len(shapes) != 1:
        raise UserError("sharpness divides examples into subsets: all need arrays of one shape")
    whole = jax.tree.map(lambda *xs: jnp.concatenate(xs), *flat)
    n = len(jax.tree.leaves(whole)[0])
    if n < m:
        raise UserError(f"m={m} should be at most the {n} examples there are")
    return jax.tree.map(lambda x: x[: n // m * m].reshape(n // m, m, *x.shape[1:]), whole)


@jax.jit
def _times(scales, v):
    return jax.tree.map(jnp.multiply, scales, v)


def layer_blocks(op: Operator) -> Iterator[tuple[str, Operator]]:
    """(name, diagonal block) of each layer: leaves with a common parent.

    Through products with the whole matrix: a program of its own for each layer would take longer
    to compile than to run.
    """
    parents = jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(trees.names(path)[:-1]) or "/".join(trees.names(path)), op.like
    )
    filled = jax.tree.map(lambda parent, x: parent if x.size else None, parents, op.like)
    names = dict.fromkeys(jax.tree.leaves(filled))
    for name in names:
        inside = jax.tree.map(lambda parent, name=name: parent == name, parents)
        like = jax.tree.map(lambda keep, x: x if keep else None, inside, op.like)

        def product(v, inside=inside):
            whole = jax.tree.map(
                lambda u, x: jnp.zeros(x.shape, x.dtype) if u is None and x is not None else u,
                v,
                op.like,
                is_leaf=lambda u: u is None,
            )
            return jax.tree.map(lambda keep, x: x if keep else None, inside, op(whole))

        yield name, Operator(like, None, (), product, op.sharding, op.computes_in)
