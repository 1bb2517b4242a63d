"""Where batches come from: arrays, iterables, torch DataLoaders, functions; read ahead in a thread."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphc.errors import GraphcError, ShapeError

Batch = tuple[np.ndarray, ...]
"""A model's inputs, then the loss's targets."""


class Source(Protocol):
    """Batches, again for each epoch: the same for the same epoch, which is what resuming to the same bits needs."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0."""

    @property
    def length(self) -> int | None:
        """How many batches an epoch has; None where that isn't known."""

    @property
    def uneven(self) -> bool:
        """Whether some batch is known to be smaller than the others."""


def source_of(data: Any, batch_size: int, *, shuffle: bool, seed: int, drop_last: bool) -> Source:
    """The source for what users pass as data.

    A tuple of arrays of one length: batches of `batch_size` of them, in another order each epoch with `shuffle`. A function
    of the epoch's number that returns an iterable; or an iterable, such as a list or a torch DataLoader, which is iterated
    anew for each epoch: their items are batches, tuples of arrays, and the three options don't concern them, but that torch's
    own random numbers are seeded for each epoch, so that a DataLoader's order comes again.
    """
    if isinstance(data, tuple):
        return Arrays(tuple(as_array(a) for a in data), batch_size, shuffle, seed, drop_last)
    if callable(data):
        return Items(data)
    if isinstance(data, np.ndarray) or not isinstance(data, Iterable):
        expected = "a tuple of arrays, an iterable of batches, or a function of the epoch that makes one"
        raise GraphcError("no training data", seen=type(data).__name__, expected=expected)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.utils.data.DataLoader):
        return Loader(data, seed)
    return Items(_again(data), len(data) if isinstance(data, Sized) else None)


@dataclass(frozen=True)
class Arrays:
    """Batches of rows of arrays. The order is a function of seed and epoch alone."""

    arrays: tuple[np.ndarray, ...]
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool

    def __post_init__(self) -> None:
        if not self.arrays or len({len(a) if a.ndim else None for a in self.arrays}) > 1 or not self.arrays[0].ndim:
            seen = ", ".join(str(list(a.shape)) for a in self.arrays) or "none"
            raise ShapeError("arrays of training data must have one length", seen=seen)
        if self.batch_size < 1 or self.length == 0:
            raise ShapeError("there is no batch in the data", seen=f"{self.rows} rows, batches of {self.batch_size}")

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def length(self) -> int:
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    @property
    def uneven(self) -> bool:
        return self.length > 1 and not self.drop_last and self.rows % self.batch_size != 0

    def epoch(self, number: int) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(self.rows) if self.shuffle else None
        for i in range(self.length):
            rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
            yield tuple(a[rows] if order is None else a[order[rows]] for a in self.arrays)


@dataclass(frozen=True)
class Items:
    """Batches that a function of the epoch's number makes."""

    make: Callable[[int], Iterable[Any]]
    length: int | None = None
    uneven: bool = False

    def epoch(self, number: int) -> Iterator[Batch]:
        return (as_batch(item) for item in self.make(number))


@dataclass(frozen=True)
class Loader:
    """A torch DataLoader; torch's random numbers, and those of its own generator, are seeded for each epoch."""

    loader: Any
    seed: int

    @property
    def length(self) -> int | None:
        return len(self.loader) if hasattr(self.loader.dataset, "__len__") else None

    @property
    def uneven(self) -> bool:
        size = self.loader.batch_size
        if size is None or self.loader.drop_last or not hasattr(self.loader.dataset, "__len__"):
            return False
        rows = len(self.loader.dataset)
        return bool(rows > size and rows % size)

    def epoch(self, number: int) -> Iterator[Batch]:
        seed = int(np.random.default_rng((self.seed, number)).integers(2**62))
        sys.modules["torch"].manual_seed(seed)
        if self.loader.generator is not None:
            self.loader.generator.manual_seed(seed)
        return (as_batch(item) for item in self.loader)


def as_batch(item: Any) -> Batch:
    """A batch as a tuple of arrays."""
    return tuple(as_array(a) for a in (item if isinstance(item, tuple | list) else (item,)))


def as_array(x: Any) -> np.ndarray:
    """A NumPy array, or anything with `__dlpack__` on the CPU, as an array without a copy; lists of numbers too.

    Raises ShapeError for anything else.
    """
    array = np.from_dlpack(x) if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray) else np.asarray(x)
    if array.dtype.kind not in "biufV":  # V: bfloat16
        raise ShapeError("a batch is a tuple of arrays of numbers", seen=type(x).__name__)
    return array


def prefetched(batches: Iterator[Batch], waiting: Callable[[], None], depth: int = 2) -> Generator[Batch, None, None]:
    """The batches, made in a thread up to `depth` ahead; what goes wrong there is raised here.

    `waiting` is called now and then while none is ready: it may raise. Closing the generator ends the thread.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    worker = threading.Thread(target=_fill, args=(batches, ready, stop), name="graphc-data", daemon=True)
    worker.start()
    try:
        while True:
            try:
                item = ready.get(timeout=0.1)
            except queue.Empty:
                waiting()
                continue
            if isinstance(item, _Failure):
                waiting()  # Ctrl-C ends a loader's processes too, which it then tells of
                raise item.error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        worker.join(timeout=1)  # a dataset that hangs must not hang what comes after it


_END = object()


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def _fill(batches: Iterator[Batch], ready: queue.Queue[Any], stop: threading.Event) -> None:
    try:
        for batch in batches:
            _put(ready, batch, stop)
            if stop.is_set():
                return
        _put(ready, _END, stop)
    except BaseException as error:  # noqa: BLE001 - whatever a dataset raises is raised again where it is waited for
        _put(ready, _Failure(error), stop)


def _put(ready: queue.Queue[Any], item: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return


def _again(data: Iterable[Any]) -> Callable[[int], Iterable[Any]]:
    """`data` for each epoch. An iterator gives its items once: a later epoch raises GraphcError."""
    if iter(data) is not data:
        return lambda number: data
    first: list[int] = []

    def make(number: int) -> Iterable[Any]:
        first.append(number)
        if len(first) > 1:
            raise GraphcError("an iterator gives its batches once", seen=f"epoch {number + 1}",
                              hint="pass a function of the epoch that makes an iterator")  # fmt: skip
        return data

    return make


def rows_of(batch: Sequence[np.ndarray]) -> int:
    """How many samples a batch has: its first array's first dim."""
    return len(batch[0]) if batch and batch[0].ndim else 1
