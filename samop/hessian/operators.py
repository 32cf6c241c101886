"""Hessian and Gauss–Newton products over any number of batches and devices, as linear maps."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samop import precision, trees
from samop.errors import UserError
from samop.hessian import batches as data
from samop.hessian.checks import check_separable

PyTree = Any
LossFn = Callable[[PyTree, PyTree], jax.Array]
LINEARIZE_BYTES = 2**30  # of saved activations, up to which "auto" keeps them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Operator:
    """A symmetric linear map on pytrees: `op(v)` is its product with v.

    Attributes:
      like: shapes and dtypes of a vector; parameters left out by `where` are None there.
      fn: `fn(arguments, v)`, pure, where all data are in memory; else None.
      arguments: arrays that `fn` reads; kept apart so that no program holds them as constants.
      host: `host(v)`, a loop on the host, where `fn` is None or not to be compiled.
      sharding: where vectors live; None: wherever jax puts them.
      computes_in: dtype of the computation where it is not that of the vectors.
      trusted: whether it is one symmetric linear map by construction; of others Lanczos compares
        the products with each other. (A difference of operators may be rounding and nothing else.)
    """

    like: PyTree
    fn: Callable[[Any, PyTree], PyTree] | None
    arguments: Any = ()
    host: Callable[[PyTree], PyTree] | None = None
    sharding: jax.sharding.Sharding | None = None
    computes_in: Any = None
    trusted: bool = True

    def place(self, v: PyTree) -> PyTree:
        """The vector where vectors live, so that a program is compiled for one place only."""
        return v if self.sharding is None else jax.device_put(v, self.sharding)

    def __call__(self, v: PyTree) -> PyTree:
        """The product with a vector, a pytree like `like`."""
        if self.host is not None:
            return self.host(v)
        return _apply(self.fn, self.arguments, self.place(v))

    def __repr__(self) -> str:
        return f"Operator(size={self.size})"

    @property
    def size(self) -> int:
        """Dimension of the space: number of parameters that the map acts on."""
        return trees.size(self.like)


def hvp(loss_fn: LossFn, params: PyTree, batch: PyTree, v: PyTree) -> PyTree:
    """∇²L(params) v, forward over reverse, for one batch.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar`.
      params, v: pytrees of one structure.
      batch: what `loss_fn` takes.
    """
    return jax.jvp(lambda p: jax.grad(loss_fn)(p, batch), (params,), (v,))[1]


def ggn_vp(
    model_fn: Callable[[PyTree, PyTree], PyTree],
    criterion: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batch: PyTree,
    v: PyTree,
) -> PyTree:
    """JᵀCJ v for one batch: J the Jacobian of the outputs, C the Hessian of the criterion in them.

    Args:
      model_fn: `model_fn(params, batch) -> outputs`.
      criterion: `criterion(outputs, batch) -> scalar` mean loss.
      params, v: pytrees of one structure.
      batch: what both take.
    """
    return _ggn_linear(lambda p: model_fn(p, batch), lambda o: criterion(o, batch), params)(v)


def linear(matvec: Callable[[PyTree], PyTree], like: PyTree) -> Operator:
    """Any symmetric linear map as an operator.

    Args:
      matvec: called once a product; compile it where that pays.
      like: a vector, or its shapes and dtypes.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
    return Operator(shapes, lambda _, v: matvec(v), host=matvec, trusted=False)


def hessian(loss_fn: LossFn, params: PyTree, batches: Any, **options: Any) -> Operator:
    """The Hessian of the mean loss over `batches`.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar`, the mean over the batch's examples.
      params: any pytree of floating-point arrays.
      batches: one batch, a `Stack`, a list of either, or a stream; see `samop.hessian`.
      **options: see `Options`.

    Raises:
      UserError: batches that cannot be read, or a loss that is no mean over examples.
    """
    return _operator(Kind(None, loss_fn), params, batches, options)


def ggn(
    model_fn: Callable[[PyTree, PyTree], PyTree],
    criterion: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batches: Any,
    **options: Any,
) -> Operator:
    """The generalised Gauss–Newton matrix of the mean loss over `batches`; see `ggn_vp`.

    For cross-entropy and other exponential families it is the Fisher information matrix.

    Args:
      model_fn: `model_fn(params, batch) -> outputs`, a pytree of arrays.
      criterion: `criterion(outputs, batch) -> scalar`, the mean loss over the batch.
      params, batches, options: as for `hessian`.

    Returns:
      An operator: `op(v)` is a product, and every measure takes one in place of loss and batches.

    Raises:
      UserError: as `hessian`.
    """
    return _operator(Kind(model_fn, criterion), params, batches, options)


class Options(NamedTuple):
    """How an operator is built.

    Attributes:
      where: which parameters the map acts on: `where(names, leaf) -> bool`, names such as
        ("Dense_0", "kernel"), or booleans in the structure of the parameters or a prefix of it.
        The result is the diagonal block of the matrix; vectors have None elsewhere.
      batch_weight: `batch_weight(batch) -> weight` of its mean loss; default: its number of
        examples. For means over tokens or masks, their number.
      dtype: what the loss computes in; vectors and sums are at least float32, and residuals are
        those of the map as it is computed. None: float32 for parameters of fewer bits, else as
        they are.
      devices: divides the examples of each batch among these.
      linearize: keep what a product needs of the forward and backward pass (True), compute it
        anew each time (False), or keep it up to 1 GiB ("auto").
      check: test on the largest and the last batch (of a stream, the first) that the loss is a
        mean over examples.
    """

    where: Any = None
    batch_weight: data.BatchWeight | None = None
    dtype: Any = None
    devices: Sequence[jax.Device] | None = None
    linearize: bool | str = "auto"
    check: bool = True


class Kind(NamedTuple):
    """Which matrix, hashable: the Hessian of `loss_fn`, or with a `model_fn` its GGN."""

    model_fn: Callable[[PyTree, PyTree], PyTree] | None
    loss_fn: Callable[[PyTree, PyTree], jax.Array]

    @property
    def loss(self) -> LossFn:
        """The whole loss, `loss(params, batch)`."""
        return _composed(self.model_fn, self.loss_fn) if self.model_fn else self.loss_fn


def operator_of(first: Any, params: PyTree, batches: Any, options: dict[str, Any]) -> Operator:
    """What measures accept: an operator alone, or `loss_fn, params, batches` and options."""
    if not isinstance(first, Operator):
        if params is None or batches is None:
            raise UserError("a loss needs params and batches; an operator stands alone")
        return hessian(first, params, batches, **options)
    if params is not None or batches is not None or options:
        raise UserError("an operator stands alone: params, batches and options are in it already")
    return first


def _operator(kind: Kind, params: PyTree, batches: Any, options: dict[str, Any]) -> Operator:
    how = make_options(options)
    sub, rest = split(params, how)
    source = data.gather(batches, how.batch_weight, how.devices)
    sharding = None if how.devices is None else data.replicated(how.devices)
    if sharding is not None:
        sub, rest = jax.device_put((sub, rest), sharding)
    if how.check:
        for batch in data.to_look_at(source):
            check_separable(kind.loss, join(sub, rest), batch, how.batch_weight)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sub)
    dtype = None if how.dtype is None else jnp.dtype(how.dtype)
    if isinstance(source, data.Stream):
        host = _streamed(kind, dtype, sub, rest, source)
        return Operator(like, None, host=host, computes_in=dtype, trusted=False)
    if how.linearize == "auto":
        shapes = jax.eval_shape(functools.partial(_linearized, kind, dtype), sub, rest, source)
        saved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
        keep = saved <= LINEARIZE_BYTES * (len(how.devices) if how.devices else 1)
    else:
        keep = bool(how.linearize)
    if keep:
        arguments = _linearized(kind, dtype, sub, rest, source)
        return Operator(like, _mean_of_linear, arguments, None, sharding, dtype)
    return Operator(like, _recomputed(kind, dtype), (sub, rest, source), None, sharding, dtype)


def make_options(options: dict[str, Any]) -> Options:
    """Options by name; raises UserError for one that does not exist."""
    if unknown := options.keys() - set(Options._fields):
        raise UserError(
            f"unknown option {min(unknown)!r}; allowed: {', '.join(sorted(Options._fields))}"
        )
    how = Options(**options)
    if how.dtype is not None and jax.dtypes.canonicalize_dtype(how.dtype) != jnp.dtype(how.dtype):
        raise UserError(f"dtype={how.dtype!r} needs jax_enable_x64")
    if how.linearize not in (True, False, "auto"):
        raise UserError(f"linearize={how.linearize!r} should be True, False or 'auto'")
    return how


def split(params: PyTree, how: Options) -> tuple[PyTree, PyTree]:
    """(those that vectors have, the others), each with None in place of the other's leaves.

    The first are widened to what vectors and sums are kept in.
    """
    if how.where is None:
        chosen = jax.tree.map(lambda _: True, params)
    elif callable(how.where):
        chosen = trees.where(how.where, params)
    else:
        try:
            chosen = jax.tree.map(
                lambda flag, below: jax.tree.map(lambda _: bool(flag), below), how.where, params
            )
        except ValueError as error:
            raise UserError(
                f"where should be a function, or booleans in the structure of params: {error}"
            ) from None

    def vector(path, keep, x):
        x = jnp.asarray(x)
        if not keep:
            return None
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"params/{'/'.join(trees.names(path))} is {x.dtype}: a Hessian needs real "
                "floating-point parameters; where leaves out others"
            )
        least = jnp.promote_types(x.dtype, jnp.float32)
        return x.astype(jnp.promote_types(least, how.dtype or jnp.float32))

    sub = jax.tree_util.tree_map_with_path(vector, chosen, params)
    if not jax.tree.leaves(sub):
        raise UserError("where selects no parameters")
    return sub, jax.tree.map(lambda keep, x: None if keep else jnp.asarray(x), chosen, params)


def join(sub: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, sub, rest, is_leaf=lambda x: x is None)


@functools.lru_cache(maxsize=256)
def _composed(model_fn, criterion) -> LossFn:
    return lambda params, batch: criterion(model_fn(params, batch), batch)


def linear_of(kind: Kind, dtype: Any, sub: PyTree, rest: PyTree, batch: PyTree) -> Callable:
    """v ↦ product for one batch, linearised at `sub`: a pytree whose leaves are what is saved."""
    batch = precision.cast(batch, dtype)

    def whole(s):
        return precision.cast(join(s, rest), dtype)

    if kind.model_fn is None:
        return jax.linearize(jax.grad(lambda s: kind.loss_fn(whole(s), batch)), sub)[1]
    return _ggn_linear(
        lambda s: kind.model_fn(whole(s), batch), lambda o: kind.loss_fn(o, batch), sub
    )


def _ggn_linear(model, criterion, params) -> Callable:
    outputs, jacobian = jax.linearize(model, params)
    curved = jax.linearize(jax.grad(criterion), outputs)[1]
    return jax.tree_util.Partial(_ggn_product, jacobian, curved)


def _ggn_product(jacobian, curved, v):
    return jax.linear_transpose(jacobian, v)(curved(jacobian(v)))[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _linearized(kind, dtype, sub, rest, parts):
    """Per part (linear maps stacked over its batches, weights)."""

    def one(batch):
        return linear_of(kind, dtype, sub, rest, batch)

    return tuple((_map(one, part.batches), part.weights) for part in parts)


def _map(fn, stack):
    if data.Stack(stack).number > 1:
        return jax.lax.map(fn, stack)
    one = fn(jax.tree.map(lambda x: x[0], stack))
    return jax.tree.map(lambda x: x[None], one)


def _mean_of_linear(stacks, v):
    return weighted_mean(lambda product, v: product(v), stacks, v)


def weighted_mean(product: Callable, stacks: Any, v: PyTree) -> PyTree:
    """Σ weight · product(item, v) over all items of ((items [number, ...], weights), …)."""

    def add(total, item):
        one, weight = item
        return jax.tree.map(
            lambda t, x: t + weight.astype(t.dtype) * x.astype(t.dtype), total, product(one, v)
        ), None

    total = jax.tree.map(jnp.zeros_like, v)
    for items, weights in stacks:
        if len(weights) > 1:
            total = jax.lax.scan(add, total, (items, weights))[0]
        else:  # a loop of one turn would still keep XLA from fusing
            total = add(total, jax.tree.map(lambda x: x[0], (items, weights)))[0]
    return total


@functools.lru_cache(maxsize=256)
def _recomputed(kind, dtype):
    def fn(arguments, v):
        sub, rest, parts = arguments
        return weighted_mean(lambda batch, v: linear_of(kind, dtype, sub, rest, batch)(v), parts, v)

    return fn


def _streamed(kind, dtype, sub, rest, source):
    def host(v):
        total, weights = jax.tree.map(jnp.zeros_like, v), 0.0
        for batch, weight in source:
            total = _accumulate(kind, dtype, sub, rest, batch, weight, v, total)
            weights += weight
        if not weights > 0:
            raise UserError("the weights of all batches sum to zero")
        return trees.scale(1 / weights, total)

    return host


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=7)
def _accumulate(kind, dtype, sub, rest, batch, weight, v, total):
    product = linear_of(kind, dtype, sub, rest, batch)(v)
    return jax.tree.map(lambda t, x: t + (weight * x).astype(t.dtype), total, product)


_apply = jax.jit(lambda fn, arguments, v: fn(arguments, v), static_argnums=0)
