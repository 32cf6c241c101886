"""Batches of a stream put together to chunks by a thread, the next one ready while one is used."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from samop.data.stream import Batches

PyTree = Any
Chunk = dict[str, PyTree]
THREAD = "samop-chunks"
BYTES = 2**26  # of a chunk, unless a single batch has more


def length(batch_size: int, batches: int, example: tuple[PyTree, PyTree]) -> int:
    """Number of batches in a chunk."""
    of_example = sum(x.dtype.itemsize * int(np.prod(x.shape)) for x in jax.tree.leaves(example))
    return max(1, min(batches, BYTES // max(1, of_example * batch_size)))


def put_together(batches: Batches, shape: Mapping[str, Any]) -> Iterator[tuple[Chunk, int]]:
    """(chunk of a shape, number of its batches): the last chunk is filled up with zeros."""
    whole = {name: value for name, value in shape.items() if name != "count"}
    leaves = jax.tree.leaves(whole)
    many = leaves[0].shape[0]

    def empty() -> Chunk:
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), whole)

    try:
        out, filled = empty(), 0
        for batch in batches:
            jax.tree.map(lambda all, one: _put(all, filled, one), out, batch)  # noqa: B023
            filled += 1
            if filled == many:
                yield out, filled
                out, filled = empty(), 0
        if filled:
            yield out, filled
    finally:
        batches.close()


def _put(chunk: np.ndarray, place: int, batch: np.ndarray) -> None:
    if np.shape(batch) != chunk.shape[1:]:  # which NumPy would stretch if it could
        raise ValueError(f"a batch of shape {np.shape(batch)} in a chunk of {chunk.shape}")
    chunk[place] = batch


def ahead(items: Callable[[], Generator[Any]]) -> Generator[Any]:
    """The items of an iterator that a thread runs, one more than was asked for being ready."""
    ready: queue.Queue = queue.Queue(maxsize=1)
    over = threading.Event()

    def offer(kind: str, value: Any) -> None:
        while not over.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with contextlib.closing(items()) as source:
                for item in source:
                    offer("item", item)
                    if over.is_set():
                        return
            offer("end", None)
        except BaseException as error:  # whoever takes the items gets it
            offer("error", error)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        over.set()
        thread.join()
