"""Examples that are too many for the devices: read, decoded and batched through Grain.

What a batch holds is a pure function of the seed, the epoch and its place, whatever the number of
threads that read it and of hosts that share it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from samop.data import photo, sampling
from samop.data.records import Records
from samop.errors import UserError

Example = dict[str, Any]
MOST_THREADS = 32  # Pillow decodes outside of Python's lock; what is left inside feeds about these
AHEAD = 8  # examples a thread


class Host(NamedTuple):
    """Which of the hosts that share the batches this is; each gets an equal part of every batch."""

    number: int
    hosts: int


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Training batches without end, evaluation batches with one.

    Attributes:
      examples: number of training examples.
      example: shapes and types of one raw example (x, y), each with a leading axis of 1.
      train: `train(seed, epoch, batch_size, host=None) -> Batches` of {"x": [b, ...], "y": [b,
        ...], "index": int32 [b]}, b the host's part of the batch (None: this process's among
        jax's); index is an example's place in the training part. The order is that of
        `sampling.epoch_order`, the remainder left out.
      evaluation: `evaluation(split, batch_size, host=None) -> Batches` of {"x", "y", "weight":
        float32 [b]}: every example of "validation" or "test" once, the last batch filled up with
        zeros of weight 0.
      counts: number of examples of every split.
    """

    examples: int
    example: tuple[Any, Any]
    train: Callable[..., "Batches"]
    evaluation: Callable[..., "Batches"]
    counts: Mapping[str, int]


class Batches:
    """An iterator whose place can be kept and gone back to: Grain's, closed when it is done with.

    Args:
      iterator: Grain's `DatasetIterator`.
    """

    def __init__(self, iterator: Any):
        self._iterator = iterator

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """The place, as plain JSON values."""
        return self._iterator.get_state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a place that `state` of an iterator over the same batches gave."""
        self._iterator.set_state(dict(state))

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self._iterator.close()


def make(
    examples: Mapping[str, int],
    example: tuple[Any, Any],
    load: Callable[[str, int, tuple[int, int] | None], Example],
    *,
    threads: int = 0,
    host: Host | None = None,
) -> Stream:
    """A stream of examples that a function loads one at a time.

    Args:
      examples: number of "train", "validation" and "test" examples.
      example: see `Stream`.
      load: `load(split, i, draw) -> {"x", "y"}` of the i-th example of a split; draw is (seed,
        epoch) where what is random is wanted, else None. Threads call it at the same time.
      threads: that load; 0: one a core.
      host: whose batches, unless somebody asks for another's; None: this process among jax's.

    Raises:
      UserError: Grain is not installed.
    """
    grain = _grain()

    def batched(
        split: str, places: np.ndarray, draw: tuple[int, int] | None, who: Host | None
    ) -> Batches:
        """Batches of the examples at `places` [batches, size]; a negative place is padding."""
        who = who or host or _this_host()
        size = places.shape[1]
        if size % who.hosts:
            raise UserError(f"batches of {size} cannot be divided among {who.hosts} hosts")
        part = size // who.hosts
        own = places[:, who.number * part : (who.number + 1) * part]

        def one(place: np.ndarray) -> Example:
            if draw is not None:
                return {**load(split, int(place), draw), "index": np.int32(place)}
            if place < 0:
                x, y = (np.zeros(a.shape[1:], a.dtype) for a in example)
                return {"x": x, "y": y, "weight": np.float32(0)}
            return {**load(split, int(place), None), "weight": np.float32(1)}

        workers = threads or min(MOST_THREADS, os.cpu_count() or 1)
        reading = grain.ReadOptions(
            num_threads=workers, prefetch_buffer_size=min(AHEAD * workers, max(1, own.size))
        )
        dataset = grain.MapDataset.source(own.reshape(-1)).map(one).to_iter_dataset(reading)
        return Batches(iter(dataset.batch(part)))

    def train(seed: int, epoch: int, batch_size: int, host: Host | None = None) -> Batches:
        order = np.asarray(
            sampling.epoch_order(examples["train"], batch_size, np.uint32(seed), np.int32(epoch))
        )
        return batched("train", order, (seed, epoch), host)

    def evaluation(split: str, batch_size: int, host: Host | None = None) -> Batches:
        places = np.full(-(-examples[split] // batch_size) * batch_size, -1)
        places[: examples[split]] = np.arange(examples[split])
        return batched(split, places.reshape(-1, batch_size), None, host)

    return Stream(examples["train"], example, train, evaluation, examples)


def of_photos(
    records: Records,
    parts: Mapping[str, np.ndarray],
    size: int,
    least: float | None,
    *,
    threads: int = 0,
    host: Host | None = None,
) -> Stream:
    """A stream of squares of photos, uint8 [size, size, 3], with their labels.

    Args:
      records: the photos.
      parts: of "train", "validation" and "test" the places among the records.
      size: side of the squares, in pixels.
      least: least share of a photo that a training crop shows; None: training sees the centres.
      threads, host: see `make`.
    """

    def load(split: str, i: int, draw: tuple[int, int] | None) -> Example:
        place = int(parts[split][i])
        data, label = records.read(place)
        name = functools.partial(records.name, place)
        if draw is None or least is None:
            x = photo.central(data, name, size)
        else:
            x = photo.training(data, name, size, least, *draw, i)
        return {"x": x, "y": np.int32(label)}

    example = (np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int32))
    counts = {split: len(places) for split, places in parts.items()}
    return make(counts, example, load, threads=threads, host=host)


def _this_host() -> Host:
    import jax

    return Host(jax.process_index(), jax.process_count())


def _grain() -> Any:
    try:
        import grain
    except ImportError:
        raise UserError("streamed data need grain: pip install 'samop[imagenet]'") from None
    return grain
