"""Sources of batches: the same for the same epoch; errors come through; threads end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from graphc.errors import GraphcError, ShapeError
from graphc.training.data import Batch, Source, prefetched, source_of

X = np.arange(22, dtype=np.float32).reshape(11, 2)
Y = np.arange(11)


def _source(data: Any, **options: Any) -> Source:
    return source_of(data, **{"batch_size": 4, "shuffle": True, "seed": 3, "drop_last": False, **options})


def _rows(source: Source, epoch: int) -> list[list[int]]:
    return [batch[-1].tolist() for batch in source.epoch(epoch)]


def _joined(rows: list[list[int]]) -> list[int]:
    return [i for batch in rows for i in batch]


def test_arrays_come_in_an_order_of_seed_and_epoch() -> None:
    first = _rows(_source((X, Y)), 0)
    assert [len(b) for b in first] == [4, 4, 3]
    assert sorted(_joined(first)) == Y.tolist() != _joined(first)
    assert first == _rows(_source((X, Y)), 0)
    assert first != _rows(_source((X, Y)), 1)
    assert first != _rows(_source((X, Y), seed=4), 0)
    for x, y in _source((X, Y)).epoch(0):
        np.testing.assert_array_equal(x[:, 0], 2 * y)


def test_arrays_in_order_and_whole_batches_alone() -> None:
    source = _source((X, torch.from_numpy(Y)), shuffle=False, drop_last=True)
    assert _rows(source, 5) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert source.length == 2 and not source.uneven
    assert _source((X, Y)).length == 3 and _source((X, Y)).uneven
    assert not _source((X, Y), batch_size=11).uneven
    assert not _source((X, Y), batch_size=20).uneven


def test_lists_functions_and_iterators() -> None:
    batches = [(X[:3], Y[:3]), [X[3:6], Y[3:6]]]
    source = _source(batches)
    assert source.length == 2
    assert _rows(source, 0) == _rows(source, 1) == [[0, 1, 2], [3, 4, 5]]
    assert _rows(_source(lambda epoch: [(X, Y + epoch)]), 2) == [(Y + 2).tolist()]
    once = _source(iter(batches))
    assert once.length is None
    assert _rows(once, 0) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(GraphcError, match="once"):
        list(once.epoch(1))


@pytest.mark.parametrize("own", [False, True])
def test_loaders_of_torch_repeat_an_epochs_order(own: bool) -> None:
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    generator = torch.Generator() if own else None
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=generator)
    source = _source(loader)
    assert source.length == 3 and source.uneven
    assert not _source(torch.utils.data.DataLoader(data, batch_size=4, drop_last=True)).uneven
    first, second = _rows(source, 0), _rows(source, 1)
    assert sorted(_joined(first)) == Y.tolist()
    assert first != second
    assert first == _rows(_source(loader), 0)


@pytest.mark.parametrize("data", [5, X, (X, Y[:3]), (X, np.array(1)), (), (X[:0], Y[:0])], ids=str)
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(GraphcError, match=r"training data|no batch"):
        _source(data)


@pytest.mark.parametrize("batch", [{"x": X}, (X, "text")], ids=["dict", "text"])
def test_batches_of_other_things_are_refused(batch: Any) -> None:
    with pytest.raises(ShapeError, match="arrays of numbers"):
        list(_source([batch]).epoch(0))


def test_too_few_rows_for_a_whole_batch() -> None:
    with pytest.raises(ShapeError, match="no batch"):
        _source((X, Y), batch_size=12, drop_last=True)


def _counting(upto: int, error: Exception | None = None) -> Iterator[Batch]:
    for i in range(upto):
        yield (np.array(i),)
    if error is not None:
        raise error


def _workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "graphc-data"]


def test_prefetching_keeps_order_and_ends() -> None:
    assert [int(i) for (i,) in prefetched(_counting(20), lambda: None)] == list(range(20))
    assert not _workers()


def test_errors_of_the_data_come_through_in_their_place() -> None:
    seen = []
    with pytest.raises(KeyError, match="row 7"):
        for (i,) in prefetched(_counting(5, KeyError("row 7")), lambda: None):
            seen.append(int(i))
    assert seen == [0, 1, 2, 3, 4]


def test_closing_ends_the_thread() -> None:
    batches = prefetched(_counting(10**9), lambda: None)
    next(batches)
    assert _workers()
    batches.close()
    assert not _workers()


def test_waiting_can_be_given_up() -> None:
    release = threading.Event()

    def slow() -> Iterator[Batch]:
        release.wait(30)
        yield (X,)

    def give_up() -> None:
        release.set()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        next(prefetched(slow(), give_up))
