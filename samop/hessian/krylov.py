"""Lanczos on pytrees: a pure one of fixed length, and one that restarts and knows its residuals.

Every new vector is orthogonalised against all earlier ones, twice, and its coefficients form the
projected matrix. So restarts and breakdowns need no cases of their own: what couples is measured.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from samop import trees
from samop.errors import NotFinite, UserError
from samop.hessian import basis, draws
from samop.hessian.estimate import at_least
from samop.hessian.operators import Operator, operator_of

PyTree = Any
ENDS = ("LA", "SA", "LM", "BE")
BASIS_BYTES = 2**28  # up to which more vectors are kept than a restart needs
TINY = np.finfo(float).tiny
BLOCK = 8  # rows of a large basis that are kept together
SPARE = 16  # vectors beyond the wanted ones that are always kept


class Lanczos(NamedTuple):
    """m steps: A qⱼ = βⱼ₋₁ qⱼ₋₁ + αⱼ qⱼ + βⱼ qⱼ₊₁.

    Attributes:
      basis: orthonormal q₀ … qₘ₋₁, a pytree with leading axis m.
      alpha: [m], the diagonal of T.
      beta: [m]; all but the last are its off-diagonal. Zero where an invariant space was complete.
      next: qₘ, orthonormal to the basis; zeros where the basis spans everything.
    """

    basis: PyTree
    alpha: jax.Array
    beta: jax.Array
    next: PyTree


class Eigenvalues(NamedTuple):
    """Ritz values with evidence. That a multiple eigenvalue has all its copies here is not shown.

    Attributes:
      values: [k] float64; LA and BE descending, SA ascending, LM descending in magnitude.
      residuals: [k] ‖Av − θv‖, from the recurrence, with the rounding error of the precision:
        an eigenvalue lies within this distance of each value.
      vectors: orthonormal Ritz vectors, a pytree with leading axis k, or None.
      num_matvecs: products taken.
      converged: whether every residual is ≤ tol · max|θ|.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: PyTree | None
    num_matvecs: int
    converged: bool


def lanczos(matvec: Callable[[PyTree], PyTree], v0: PyTree, num_steps: int) -> Lanczos:
    """A fixed number of Lanczos steps with full reorthogonalisation: pure, for jit and vmap.

    Args:
      matvec: a symmetric linear map of pytrees like `v0`.
      v0: the first vector, of any length but zero.
      num_steps: at least 1; keeps as many vectors.

    Raises:
      UserError: more steps than dimensions, or none.
    """
    if not 1 <= num_steps <= trees.size(v0):
        raise UserError(
            f"num_steps={num_steps} should be at least 1 and at most the {trees.size(v0)} "
            "dimensions of a vector"
        )
    v, to_tree = ravel_pytree(trees.wide(v0))

    def body(j, carry):
        q, v, alpha, beta, scale = carry
        q = jax.lax.dynamic_update_index_in_dim(q, v, j, 0)
        product = ravel_pytree(matvec(to_tree(v)))[0].astype(v.dtype)
        h, length, after = _extend((q,), product, j)
        scale = jnp.maximum(scale, jnp.abs(h[j]) + length)
        broken = length <= _negligible(v.dtype) * scale
        other = lambda: basis.orthogonal((q,), _normal(jax.random.key(j), v), j)  # noqa: E731
        after = jax.lax.cond(broken, other, lambda: after)
        beta = beta.at[j].set(jnp.where(broken, 0, length))
        return q, after, alpha.at[j].set(h[j]), beta, scale

    q, none = jnp.zeros((num_steps, v.size), v.dtype), jnp.zeros(num_steps, v.dtype)
    start = (q, basis.unit(v), none, none, none[0])
    q, after, alpha, beta, _ = jax.lax.fori_loop(0, num_steps, body, start)
    return Lanczos(jax.vmap(to_tree)(q), alpha, beta, to_tree(after))


def top_eigenvalues(
    loss_fn: Any,
    params: PyTree = None,
    batches: Any = None,
    k: int = 1,
    *,
    key: jax.Array,
    tol: float = 1e-3,
    max_matvecs: int = 1000,
    which: str = "LA",
    vectors: bool = False,
    start: PyTree = None,
    max_vectors: int | None = None,
    **options: Any,
) -> Eigenvalues:
    """Eigenvalues at the ends of a spectrum by thick-restart Lanczos (Wu and Simon, 2000).

    A host loop over compiled steps: it stops at the first step at which all residuals are small.
    A single starting vector finds one copy of a multiple eigenvalue and can converge before it
    finds the others; the residuals are true all the same.

    Args:
      loss_fn, params, batches: a loss, see `samop.hessian`; or an operator alone.
      k: how many eigenvalues.
      key: of the random starting vector.
      tol: largest residual, relative to the largest |θ| seen.
      max_matvecs: products after which it stops without having converged.
      which: "LA" largest, "SA" smallest, "LM" largest in magnitude, "BE" both ends, half each, the
        larger half at the high end.
      vectors: return Ritz vectors too.
      start: vectors to begin from, leading axis any, as an earlier call returned them.
      max_vectors: vectors kept before a restart, at least 2k + 1; default k + 16, more while they
        fit 256 MiB.
      **options: see `samop.hessian.Options`.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    op = operator_of(loss_fn, params, batches, options)
    at_least("k", k, 1)
    eps = _eps(basis.dtype_of(op.like))
    room = _room(op, k, max_vectors)
    _check(op, k, tol, max_matvecs, which, room, eps)
    v = _first(op.like, key, start)
    krylov = Krylov(op, v, room, jax.random.fold_in(key, 1))
    before, same = np.full(k, np.nan), 0
    while True:
        krylov.step()
        whole = krylov.length == op.size
        last = whole or krylov.num_matvecs >= max_matvecs
        if krylov.length < k or not (last or krylov.length == room or _due(krylov.length)):
            continue
        values, coefficients, residuals, scale = _wanted(krylov, which, k, eps)
        # After a breakdown the next direction is a new one: what it holds shows in a few steps.
        same = same + 1 if np.all(np.abs(values - before) <= tol * scale) else 0
        settled = not krylov.breakdowns or same >= k + 2 or whole
        converged = settled and bool(np.all(residuals <= max(tol * scale, TINY)))
        if converged or last:
            break
        before = values
        if krylov.length == room:
            krylov.restart(which, min(room - 1, k + (room - k) // 2))
    found = krylov.vectors(coefficients) if vectors else None
    return Eigenvalues(values, residuals, found, krylov.num_matvecs, converged)


def _due(length: int) -> bool:
    # A small eigenvalue problem a step, which for long bases would cost more than a product.
    return length <= 2 * SPARE or length % 4 == 0


def _wanted(krylov: "Krylov", which: str, k: int, eps: float):
    """The k Ritz values asked for, in order, their coefficients and residuals; max|θ|."""
    values, coefficients, residuals = krylov.ritz()
    scale = np.abs(values).max()
    best = order(values, which)[:k]
    if which == "BE":
        best = np.sort(best)[::-1]
    return values[best], coefficients[:, best], np.hypot(residuals[best], 4 * eps * scale), scale


class Krylov:
    """A growing orthonormal basis and the matrix projected onto it.

    Vectors are flat here, so that what is compiled does not grow with the number of leaves. A
    large basis is kept in blocks of rows, so that it can be given up in parts at the end.

    Args:
      op: the operator.
      v: the first vector, a pytree.
      room: most vectors that are kept.
      key: of the directions to go on with after a breakdown.
    """

    def __init__(self, op: Operator, v: PyTree, room: int, key: jax.Array):
        self._op, self._key, self.room = op, key, room
        self._next: Any = op.place(_unit(v))
        self._dtype = self._next.dtype
        self._blocks = op.place(basis.zeros(room, op.size, self._dtype))
        self._matrix = np.zeros((room, room))
        self._coupling = np.zeros(room)  # qᵢᵀAq of the next vector q, as earlier products have it
        self._beta = 0.0
        self._scale = 0.0
        self.length = self.num_matvecs = self.breakdowns = 0

    def step(self) -> None:
        """One product and one more vector. Where the space is complete before, a new direction."""
        j, v = self.length, self._next
        which, row = divmod(j, len(self._blocks[0]))
        blocks = list(self._blocks)
        self._blocks, self._next = (), None  # no second reference to what is donated
        blocks[which] = basis.put(blocks[which], v, row)
        # A copy, since a map may return its argument or keep what it returns: donated below.
        product = _flat(self._op(basis.unravel(self._op.like, v)), v.dtype)
        del v
        self._blocks = tuple(blocks)
        self.num_matvecs += 1
        h, beta, after = _step(self._blocks, product, j)
        h, beta = np.asarray(h, float)[: j + 1], float(beta)
        if not np.isfinite(beta) or not np.all(np.isfinite(h)):
            raise NotFinite(
                f"product {self.num_matvecs} of the operator is not finite: is the loss finite on "
                "every batch, and twice differentiable at these parameters?"
            )
        self._matrix[: j + 1, j] = self._matrix[j, : j + 1] = h
        self._scale = max(self._scale, abs(h[j]) + beta)
        if not self._op.trusted:
            self._compare(h[:j])
        self.length += 1
        self._beta, self._next = beta, after
        self._coupling[:] = 0
        self._coupling[j] = beta
        if beta <= _negligible(after.dtype) * self._scale:
            self.breakdowns += 1
            self._beta = self._coupling[j] = 0.0
            if self.length < self._op.size:
                key = jax.random.fold_in(self._key, self.num_matvecs)
                self._next = self._op.place(_other(self._blocks, after, key, j))

    def _compare(self, found: np.ndarray) -> None:
        """A symmetric map couples two vectors alike whichever of them it is applied to."""
        low = self._op.computes_in
        rounding = max(_eps(self._dtype), _eps(low or self._dtype) ** 2 * 1e3)
        far = np.abs(found - self._coupling[: len(found)]).max(initial=0.0)
        if far > 10 * np.sqrt(rounding) * self._scale:
            raise UserError(
                f"product {self.num_matvecs} contradicts earlier ones: the operator is not one "
                "symmetric linear map. Does a stream yield the same examples at every pass?"
            )

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values [m] ascending, coefficients [m, m], residuals [m]), each pair a column."""
        m = self.length
        values, coefficients = np.linalg.eigh(self._matrix[:m, :m])
        return values, coefficients, self._beta * np.abs(coefficients[-1])

    def restart(self, which: str, keep: int) -> None:
        """Keeps the best Ritz vectors in place of the basis, which goes on from there."""
        values, coefficients, _ = self.ritz()
        best = order(values, which)[:keep]
        self._blocks = basis.rotate(self._blocks, self._padded(coefficients[:, best]))
        self._matrix[:] = 0
        self._matrix[range(keep), range(keep)] = values[best]
        self._coupling[:] = 0
        self._coupling[:keep] = self._beta * coefficients[-1, best]
        self.length = keep

    def vectors(self, coefficients: np.ndarray) -> PyTree:
        """These combinations [m, k] of the basis, leading axis k. The basis is used up."""
        blocks, self._blocks = self._blocks, ()
        rotated, k = basis.rotate(blocks, self._padded(coefficients)), coefficients.shape[1]
        del blocks
        kept = rotated[: -(-k // len(rotated[0]))]
        del rotated  # of what is not wanted, before anything is copied
        rows = basis.first_rows(kept, k)
        del kept
        return basis.unravel(self._op.like, rows)

    def _padded(self, coefficients: np.ndarray) -> np.ndarray:
        m, kept = coefficients.shape
        padded = np.zeros((self.room, self.room), self._dtype)
        padded[:m, :kept] = coefficients
        return padded


def _extend(blocks, w, j):
    """w's part in rows 0 … j of a basis, [rows], and length and direction of the rest of it."""
    w, first = basis.sweep(blocks, w, j)
    w, second = basis.sweep(blocks, w, j)
    length = jnp.linalg.norm(w)
    return first + second, length, basis.inverse(length) * w


_step = jax.jit(_extend, donate_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def _flat(v, dtype):
    return jnp.copy(ravel_pytree(v)[0].astype(dtype))


@jax.jit
def _other(blocks, like, key, j):
    return basis.orthogonal(blocks, _normal(key, like), j)


def _normal(key, like):
    return jax.random.normal(key, like.shape, like.dtype)


@jax.jit
def _unit(v):
    return basis.unit(ravel_pytree(trees.wide(v))[0])


def _first(like: PyTree, key: jax.Array, start: PyTree) -> PyTree:
    noise = draws.normal(key, like)
    if start is None:
        return noise
    shapes = jax.tree.map(lambda x: x.shape[1:], start)
    if shapes != jax.tree.map(lambda x: x.shape, like):
        raise UserError(
            "start should hold vectors of the operator: its structure, with one leading axis"
        )
    # Whatever direction the earlier vectors lack must be in the first one.
    size = 1e-2 / np.sqrt(trees.size(like))
    return trees.mix(1.0, jax.tree.map(lambda x: x.sum(0), start), size, noise)


def order(values: np.ndarray, which: str) -> np.ndarray:
    """Indices of ascending values, the wanted ones first."""
    ascending = np.arange(len(values))
    if which == "SA":
        return ascending
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")
    if which == "LA":
        return ascending[::-1]
    pairs = zip(ascending[::-1], ascending)
    return np.array([i for pair in pairs for i in pair])[: len(values)]


def _room(op: Operator, k: int, max_vectors: int | None) -> int:
    if max_vectors is not None:
        return min(max_vectors, op.size)
    vector = op.size * np.dtype(basis.dtype_of(op.like)).itemsize
    return min(op.size, max(k + SPARE, 2 * k + 1, min(k + 7 * SPARE, BASIS_BYTES // vector)))


def _check(op, k, tol, max_matvecs, which, room, eps) -> None:
    if which not in ENDS:
        raise UserError(f"which={which!r} is not allowed; allowed: {', '.join(ENDS)}")
    for name, value in (("max_matvecs", max_matvecs), ("max_vectors", room)):
        at_least(name, value, 1)
    if k > op.size:
        raise UserError(f"k={k} should be at least 1 and at most the {op.size} parameters")
    if not tol >= 8 * eps:
        raise UserError(
            f"tol={tol} should be positive and at least {8 * eps:.1e}, what the precision of the "
            "vectors resolves; dtype=jnp.float64 (with jax_enable_x64) resolves more"
        )
    if max_matvecs < k:
        raise UserError(f"max_matvecs={max_matvecs} should be at least k={k}")
    # With fewer, restarts can throw away what they look for, and converge to something else.
    if room < min(2 * k + 1, op.size):
        raise UserError(f"max_vectors={room} should be at least 2k + 1 = {2 * k + 1}")


def _negligible(dtype) -> float:
    return 32 * _eps(dtype)


def _eps(dtype) -> float:
    return float(jnp.finfo(dtype).eps)
