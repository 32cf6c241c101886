"""Moments M_k = E[H_i^k] of per-example (or per-batch) Hessians, and what they exceed H^k by.

The quantities of linear stability: a = λ_max(H), the non-uniformities s_k with s_k^k = λ_max(M_k −
H^k), λ_max(H + ρM₂). `samop.theory.stability` compares them with a run's rate and radius.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samop import trees
from samop.errors import UserError
from samop.hessian import batches as data
from samop.hessian import items as terms
from samop.hessian.basis import dtype_of
from samop.hessian.checks import check_separable
from samop.hessian.krylov import Eigenvalues, top_eigenvalues
from samop.hessian.operators import Kind, Operator, ggn, hessian, join, make_options, split

PyTree = Any


class Root(NamedTuple):
    """A k-th root of a largest eigenvalue.

    Attributes:
      value: |λ|^{1/k} with the sign of λ.
      residual: what the eigenvalue's residual makes of it, in its own units.
      eigenvalue: the eigenvalue, see `Eigenvalues`.
    """

    value: float
    residual: float
    eigenvalue: Eigenvalues

    @property
    def converged(self) -> bool:
        """Whether the eigenvalue is."""
        return self.eigenvalue.converged


class Moments(NamedTuple):
    """What `hessian_moments` measures.

    Attributes:
      a: λ_max(H).
      s: k → s_k.
      h_rho_m2: λ_max(H + ρM₂); None where no ρ was given.
      contraction: λ_max(E[B_i²] − I), B_i = I − η(H_i + ρH_i²), at most 0 where linear stability
        is sure (never below 0 with more parameters than the H_i span); None where no η was given.
      eta, rho: as given.
      number: of the terms H_i.
    """

    a: Eigenvalues
    s: dict[int, Root]
    h_rho_m2: Eigenvalues | None
    contraction: Eigenvalues | None
    eta: float | None
    rho: float | None
    number: int


class Terms:
    """Polynomials of the single Hessians or Gauss–Newton matrices, as operators."""

    def __init__(
        self,
        kind: Kind,
        params: PyTree,
        batches: Any,
        per: str,
        chunk: int | str,
        options: dict[str, Any],
    ):
        self._how = make_options(options)
        self._kind = kind
        self._sub, self._rest = split(params, self._how)
        self._dtype = None if self._how.dtype is None else jnp.dtype(self._how.dtype)
        size = trees.size(self._sub)
        parts = terms.gather(batches, self._how, per)
        if self._how.check:
            whole = join(self._sub, self._rest)
            for batch in data.to_look_at(parts):
                check_separable(kind.loss, whole, batch, self._how.batch_weight)
        self._items = terms.cut(parts, self._how, per, size, chunk)
        self._like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._sub)
        self._kernels: Any = None

    @property
    def number(self) -> int:
        """How many terms there are."""
        return terms.number(self._items)

    def polynomial(self, coefficients: Sequence[float]) -> Operator:
        """Σ_k c_k M_k, M₀ the identity."""
        if len(coefficients) < 2:
            raise UserError("coefficients should hold at least those of M₀ and M₁")
        if self._kind.model_fn is None:
            fn = terms.polynomial(self._kind, self._dtype, len(coefficients) - 1)
            return Operator(
                self._like,
                fn,
                (self._sub, self._rest, self._items, jnp.asarray(coefficients, float)),
            )
        constant = jnp.asarray(coefficients[0], float)
        cores = self._cores(coefficients[1:])
        fn = terms.outer(self._kind.model_fn, self._dtype)
        return Operator(self._like, fn, (self._sub, self._rest, self._items, cores, constant))

    def _cores(self, coefficients):
        if self._kernels is None:
            args = (self._kind, self._dtype, self._sub, self._rest, self._items)
            self._kernels = terms.kernels(*args)
        return tuple(_core(jnp.asarray(coefficients, float), *pair) for pair in self._kernels)


@jax.jit
def _core(coefficients, kernel, curvature):
    core = jnp.zeros_like(curvature)
    for c in coefficients[::-1]:
        core = c.astype(core.dtype) * curvature + curvature @ kernel @ core
    return core


def moment_operator(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    coefficients: Sequence[float],
    *,
    per: str = "example",
    chunk: int | str = "auto",
    **options: Any,
) -> Operator:
    """Σ_k coefficients[k] M_k with M_k = E[H_i^k], as an operator; (0, 0, 1) is M₂.

    Args:
      loss_fn, params, batches: as for `hessian_moments`.
      coefficients: of M₀ (the identity), M₁, …
      per, chunk, **options: as for `hessian_moments`.
    """
    made = Terms(Kind(None, loss_fn), params, batches, per, chunk, options)
    return made.polynomial(coefficients)


def moment_vp(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    v: PyTree,
    coefficients: Sequence[float],
    **options: Any,
) -> PyTree:
    """One product with a `moment_operator`; build that for more than one.

    Args:
      loss_fn, params, batches, coefficients, options: as for `moment_operator`.
      v: a pytree like `params`, None where `where` is not.

    Returns:
      A pytree like v.

    Raises:
      UserError: as `moment_operator`.
    """
    return moment_operator(loss_fn, params, batches, coefficients, **options)(v)


def hessian_moments(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    key: jax.Array,
    orders: Sequence[int] = (2,),
    eta: float | None = None,
    rho: float | None = None,
    per: str = "example",
    tol: float = 1e-3,
    max_matvecs: int = 100,
    chunk: int | str = "auto",
    **options: Any,
) -> Moments:
    """Moments of the Hessians of single examples or batches, nothing but products formed.

    A product with M_k costs k products with every H_i on vectors of their own, so it is bound by
    memory traffic: examples × parameters numbers, k times.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar` mean loss; a single example is a batch of one.
      params: any pytree of floating-point arrays.
      batches: in memory: one batch, a `Stack` or a list of either.
      key: of the random starting vectors.
      orders: k of the non-uniformities s_k, ≥ 2.
      eta, rho: learning rate and (unnormalised) radius; with them λ_max(H + ρM₂), and with both
        the contraction E[B_i²] too.
      per: H_i of an "example" or of a "batch".
      tol, max_matvecs: as for `top_eigenvalues`; Σ_k takes products with M_k and with H.
      chunk: terms at a time; "auto": what 64 MiB hold.
      **options: see `samop.hessian.Options`.

    Returns:
      See `Moments`; its roots s_k, k of `orders`, are in units of the Hessian's eigenvalues.

    Raises:
      UserError: impossible arguments, or a product that is not finite.
    """
    made = Terms(Kind(None, loss_fn), params, batches, per, chunk, options)
    whole = hessian(loss_fn, params, batches, **{**options, "check": False})
    return _moments(made, whole, key, orders, eta, rho, tol, max_matvecs)


def ggn_moments(
    model_fn: Any,
    criterion: Any,
    params: PyTree,
    batches: Any,
    *,
    key: jax.Array,
    orders: Sequence[int] = (2,),
    eta: float | None = None,
    rho: float | None = None,
    per: str = "example",
    tol: float = 1e-3,
    max_matvecs: int = 100,
    chunk: int | str = "auto",
    **options: Any,
) -> Moments:
    """Moments of the Gauss–Newton matrices G_i = J_iᵀC_iJ_i in place of the Hessians.

    Through the kernels K_i = J_iJ_iᵀ of single terms, once, a product with any M_k then costs one
    with the mean matrix. With squared loss and a scalar output G_i = g_ig_iᵀ at interpolation,
    and these are the moments of the theory. The kernels take outputs² numbers a term, and making
    them the Jacobian of one term, outputs × parameters: for few outputs.

    Args:
      model_fn, criterion: as for `ggn`.
      params, batches, key, orders, eta, rho, per, tol, max_matvecs, chunk, options: as for
        `hessian_moments`.

    Returns:
      See `Moments`.

    Raises:
      UserError: as `hessian_moments`.
    """
    kind = Kind(model_fn, criterion)
    made = Terms(kind, params, batches, per, chunk, options)
    whole = ggn(model_fn, criterion, params, batches, **{**options, "check": False})
    return _moments(made, whole, key, orders, eta, rho, tol, max_matvecs)


def _moments(made, whole, key, orders, eta, rho, tol, max_matvecs) -> Moments:
    for k in orders:
        if isinstance(k, bool) or int(k) != k or k < 2:
            raise UserError(f"orders={tuple(orders)} should hold whole numbers of at least 2")
    for name, value in (("eta", eta), ("rho", rho)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise UserError(f"{name}={value} should be a finite number ≥ 0")

    def top(op, number):
        own = jax.random.fold_in(key, number)
        return top_eigenvalues(op, key=own, tol=tol, max_matvecs=max_matvecs)

    a = top(whole, 100)
    eps = float(jnp.finfo(dtype_of(whole.like)).eps)
    found = {k: _root(_rounded(top(_excess(made, whole, k), k), a, k, eps), k) for k in orders}
    shifted = square = None
    if rho is not None:
        shifted = top(made.polynomial((0.0, 1.0, float(rho))), 101)
    if eta is not None and rho is not None:
        square = top(made.polynomial(_contraction(float(eta), float(rho))), 102)
    return Moments(a, found, shifted, square, eta, rho, made.number)


def _excess(made: Terms, whole: Operator, k: int) -> Operator:
    """Σ_k = M_k − H^k."""
    moment = made.polynomial((0.0,) * k + (1.0,))

    def product(v):
        power = v
        for _ in range(k):
            power = whole(power)
        return _subtract(moment(v), power)

    return Operator(whole.like, None, host=product)


def _contraction(eta: float, rho: float) -> tuple[float, ...]:
    """Coefficients of (1 − ηx − ηρx²)² − 1."""
    return (0.0, -2 * eta, eta**2 - 2 * eta * rho, 2 * eta**2 * rho, (eta * rho) ** 2)


def _rounded(found: Eigenvalues, a: Eigenvalues, k: int, eps: float) -> Eigenvalues:
    """With what cancels in M_k − H^k, both as large as a^k, in the residual."""
    lost = 8 * eps * (abs(float(found.values[0])) + abs(float(a.values[0])) ** k)
    return found._replace(residuals=np.hypot(found.residuals, lost))


def _root(found: Eigenvalues, k: int) -> Root:
    value, residual = float(found.values[0]), float(found.residuals[0])

    def root(x):
        return float(np.sign(x) * abs(x) ** (1 / k))

    # The root is steeper below: near zero it is the lower end that is far.
    ends = (root(value + residual), root(value - residual))
    return Root(root(value), max(abs(end - root(value)) for end in ends), found)


_subtract = jax.jit(lambda a, b: jax.tree.map(jnp.subtract, a, b))
