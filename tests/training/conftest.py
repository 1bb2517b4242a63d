"""What tests of the Trainer share: a small net, data that it can learn, and Trainers of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.ir.symbolic import Dim
from graphc.ir.types import f32

FEATURES, CLASSES, BATCH, ROWS = 6, 3, 16, 160


def _network(batch: Dim) -> graphc.Graph:
    """A dense layer, dropout-like noise left out, and another; with seeded weights."""
    rng = np.random.default_rng(0)
    b = graphc.Builder(graphc.Graph("net"))
    h = b.input("x", f32, (batch, FEATURES))
    for i, columns in enumerate((8, CLASSES)):
        b.origin = (f"layer{i}",)
        w = b.constant(rng.normal(size=(h.type.shape[1], columns)).astype(np.float32) * 0.3, f"w{i}")
        h = b.op("matmul", h, w)
        bias = b.constant(rng.normal(size=columns).astype(np.float32) * 0.1, f"b{i}")
        h = b.op("add", h, b.broadcast(bias, h.type.shape, (1,)))
        h = b.op("tanh", h) if i == 0 else h
    return b.returns(h)


@pytest.fixture
def network() -> Callable[[Dim], graphc.Graph]:
    """Makes the net for a number of rows, or any number of them."""
    return _network


@pytest.fixture(scope="session")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes that a linear function of them tells, mostly."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    scores = x @ rng.normal(size=(FEATURES, CLASSES)) + rng.normal(size=(ROWS, CLASSES)) * 0.3
    return x, scores.argmax(1)


@pytest.fixture
def trainer() -> Callable[..., graphc.Trainer]:
    """Makes a Trainer of the net; equal ones train to equal bits."""

    def make(callbacks: Sequence[Any] = (), batch: Dim = BATCH, **options: Any) -> graphc.Trainer:
        given = {"loss": "cross_entropy", "optimizer": graphc.Adam(1e-2), "threads": 1, **options}
        return graphc.Trainer(_network(batch), callbacks=callbacks, **given)

    return make
