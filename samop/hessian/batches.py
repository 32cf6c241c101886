"""The batches that a mean is taken over: one, a stack, a list, or a stream too large for memory."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samop.errors import UserError

PyTree = Any
BatchWeight = Callable[[PyTree], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Batches of equal size as one pytree, leaves [number, size, ...]: read by one `lax.scan`."""

    batches: PyTree

    @property
    def number(self) -> int:
        """How many batches there are."""
        return len(jax.tree.leaves(self.batches)[0])


class Part(NamedTuple):
    """Some batches of equal shape in memory.

    Attributes:
      batches: leaves [number, size, ...].
      weights: [number], shares of the whole mean; over all parts they sum to one.
    """

    batches: PyTree
    weights: jax.Array


class Stream:
    """Batches that are read anew for every product, one in memory at a time.

    Args:
      source: called, or iterated over, it yields the batches of one pass.
      batch_weight: see `weight_of`.
    """

    def __init__(self, source: Any, batch_weight: BatchWeight | None):
        self._source, self._weight = source, batch_weight
        self._shape: Any = None

    def __iter__(self) -> Iterator[tuple[PyTree, float]]:
        """Yields (batch, weight). Raises UserError without batches or where they differ."""
        batches = self._source() if callable(self._source) else iter(self._source)
        number = -1
        for number, batch in enumerate(batches):
            structure = jax.tree.structure(batch)
            self._shape = self._shape or structure
            _same_structure(structure, self._shape, number)
            yield batch, weight_of(batch, self._weight)
        if number < 0:
            raise UserError(
                "batches is empty: an iterable of at least one batch is needed, and one that can "
                "be read again for every product"
            )


def stack(batch: PyTree, size: int) -> Stack | list[Any]:
    """Cuts one batch into a `Stack` of batches of `size` examples.

    A product then needs the memory of `size` examples, and its arrays stay in a CPU's caches.

    Args:
      batch: leaves [n, ...]; leaves without that axis are not supported.
      size: examples a batch, at least 1.

    Returns:
      A Stack; where `size` does not divide n, a list of a Stack and the rest.
    """
    n = examples(batch)
    if n is None or any(not _array(x).ndim for x in jax.tree.leaves(batch)):
        raise UserError(
            "a batch whose arrays do not all have the examples as their first axis cannot be cut: "
            "give a list of batches"
        )
    if size < 1:
        raise UserError(f"size={size} should be at least 1")
    number, rest = divmod(n, size)

    def cut(x):
        return x[: number * size].reshape(number, size, *x.shape[1:])

    whole = Stack(jax.tree.map(cut, batch))
    if not rest:
        return whole
    tail = jax.tree.map(lambda x: x[number * size :], batch)
    return [whole, tail] if number else [tail]


def examples(batch: PyTree) -> int | None:
    """Number of examples of a batch: the leading axis of its arrays; None where they disagree."""
    counts = {x.shape[0] for x in map(_array, jax.tree.leaves(batch)) if x.ndim}
    return counts.pop() if len(counts) == 1 else None


def weight_of(batch: PyTree, batch_weight: BatchWeight | None) -> float:
    """The weight of a batch: `batch_weight(batch)` or its number of examples."""
    if batch_weight is not None:
        weight = float(batch_weight(batch))
        if not (np.isfinite(weight) and weight >= 0):
            raise UserError(f"batch_weight returned {weight}: it should be finite and ≥ 0")
        return weight
    count = examples(batch)
    if count is None:
        raise UserError(
            "the arrays of a batch have different leading axes, so its number of examples is not "
            "known: give batch_weight, a function of a batch"
        )
    return float(count)


def gather(
    batches: Any, batch_weight: BatchWeight | None, devices: Sequence[jax.Device] | None
) -> tuple[Part, ...] | Stream:
    """Reads what a caller gave as `batches`; see `samop.hessian`.

    Args:
      batches: a batch, a `Stack`, a list of either, or something to read batches from.
      batch_weight: see `weight_of`.
      devices: examples are divided among them; None: arrays stay where they are.

    Raises:
      UserError: no batches, batches of different structure, or an iterator.
    """
    if isinstance(batches, list):
        found = batches
    elif isinstance(batches, Stack) or not _is_leaf(batches) or hasattr(batches, "shape"):
        found = [batches]
    elif hasattr(batches, "__next__"):
        raise UserError(
            "batches is an iterator, which can be read only once: give a list, an object whose "
            "iter() starts anew, or a function that returns an iterator"
        )
    elif callable(batches) or hasattr(batches, "__iter__"):
        if devices is not None:
            raise UserError(
                "devices is for batches in memory; the batches of a stream may be sharded already"
            )
        return Stream(batches, batch_weight)
    else:
        raise UserError(f"batches of type {type(batches).__name__} cannot be read")
    if not found:
        raise UserError("batches is empty: at least one batch is needed")
    return _parts(found, batch_weight, devices)


def first(data: tuple[Part, ...] | Stream) -> PyTree:
    """The first batch."""
    if isinstance(data, Stream):
        return next(iter(data))[0]
    return jax.tree.map(lambda x: x[0], data[0].batches)


def to_look_at(source: tuple[Part, ...] | Stream) -> list[PyTree]:
    """The batches that a loss is tested on: the largest and the last, where there are several.

    The last one is where padding and masks are; of a stream only the first is looked at.
    """
    if isinstance(source, Stream):
        return [first(source)]
    largest = max(source, key=lambda part: examples(first((part,))) or 0)
    last = jax.tree.map(lambda x: x[-1], source[-1].batches)
    several = len(source) > 1 or Stack(source[0].batches).number > 1
    return [first((largest,)), *([last] if several else [])]


def replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """Where vectors and parameters live: whole on each device."""
    return NamedSharding(Mesh(np.array(devices), "examples"), PartitionSpec())


def _parts(found, batch_weight, devices) -> tuple[Part, ...]:
    stacks = [
        item.batches if isinstance(item, Stack) else jax.tree.map(lambda x: _array(x)[None], item)
        for item in found
    ]
    if any(not Stack(tree).number for tree in stacks if jax.tree.leaves(tree)):
        raise UserError("a Stack without batches: at least one batch is needed")
    structure = jax.tree.structure(stacks[0])
    if not jax.tree.leaves(stacks[0]):
        raise UserError("a batch holds no arrays")
    for number, tree in enumerate(stacks):
        _same_structure(jax.tree.structure(tree), structure, number)
    if devices is not None:
        stacks = [piece for tree in stacks for piece in _divide(tree, len(devices))]
    alike: dict[Any, list[PyTree]] = {}
    for tree in stacks:
        shapes = tuple((x.shape[1:], x.dtype) for x in jax.tree.leaves(tree))
        alike.setdefault(shapes, []).append(tree)
    joined = [_join(trees) for trees in alike.values()]
    if len(joined) == 1 and Stack(joined[0]).number == 1:
        weights = [np.ones(1)]  # of a single batch it does not matter
    else:
        weights = [_weights(tree, batch_weight) for tree in joined]
    total = sum(w.sum() for w in weights)
    if not total > 0:
        raise UserError("the weights of all batches sum to zero")
    if devices is not None:
        joined = [_place(tree, devices) for tree in joined]
    return tuple(
        Part(tree, jnp.asarray(w / total, jnp.result_type(float)))
        for tree, w in zip(joined, weights)
    )


def _weights(tree: PyTree, batch_weight: BatchWeight | None) -> np.ndarray:
    number = Stack(tree).number
    if batch_weight is None:
        return np.full(number, weight_of(jax.tree.map(lambda x: x[0], tree), None))
    each = [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(number)]
    return np.array([weight_of(batch, batch_weight) for batch in each])


def _join(trees: list[PyTree]) -> PyTree:
    def join(*xs):
        if jnp.issubdtype(xs[0].dtype, jax.dtypes.prng_key):
            return jnp.concatenate(xs)
        # On the host: compiled, it would be another program for every number of batches.
        return jnp.asarray(np.concatenate([np.asarray(x) for x in xs]))

    return trees[0] if len(trees) == 1 else jax.tree.map(join, *trees)


def _divide(tree: PyTree, devices: int) -> list[PyTree]:
    """[number, size, ...] → a piece whose size the devices divide, and the rest."""
    batch = jax.tree.map(lambda x: x[0], tree)
    count = examples(batch)
    if count is None:
        raise UserError("devices cannot divide a batch whose arrays have different leading axes")
    even = count // devices * devices
    pieces = [
        jax.tree.map(lambda x, part=part: x[:, part] if x.ndim > 1 else x, tree)
        for part in (slice(None, even), slice(even, None))
    ]
    return [piece for piece, size in zip(pieces, (even, count - even)) if size]


def _place(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    whole = replicated(devices)
    split = NamedSharding(whole.mesh, PartitionSpec(None, "examples"))

    def place(x):
        even = x.ndim > 1 and x.shape[1] % len(devices) == 0
        return jax.device_put(x, split if even else whole)

    return jax.tree.map(place, tree)


def _same_structure(found: Any, expected: Any, number: int) -> None:
    if found != expected:
        raise UserError(
            f"batches of different structure: batch {number} is {found}, batch 0 is {expected}"
        )


def _is_leaf(x: Any) -> bool:
    return jax.tree_util.all_leaves([x])


def _array(x: Any) -> Any:
    return x if hasattr(x, "ndim") else np.asarray(x)
