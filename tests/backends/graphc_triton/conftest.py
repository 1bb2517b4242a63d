"""Triton's interpreter, in a process of its own: a process interprets or compiles, never both."""

import os
from collections.abc import Iterator

import pytest

from graphc.testing.worker import Call, worker

pytest.importorskip("triton")


@pytest.fixture(scope="session")
def interpreted(cache_folder: object) -> Iterator[Call]:
    """call(function, *arguments) where Triton interprets."""
    with worker({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}) as call:
        yield call


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch, cache_folder: object) -> None:
    """This process compiles, without paths in the code, into a cache of its own."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_DISABLE_LINE_INFO", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", os.path.join(str(cache_folder), "triton-cubins"))
