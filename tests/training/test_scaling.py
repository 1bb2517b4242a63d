"""The scale of the loss: how far it falls, and that it rises again."""

from __future__ import annotations

import numpy as np

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import bool_, f32, i64
from graphc.training.scaling import GROWTH_INTERVAL, SMALLEST, next_scale


def test_the_scale_stays_above_zero_however_often_gradients_overflow() -> None:
    """It halves to 1, and rises again once gradients are finite."""
    b = Builder()
    scale, count, finite = b.input("scale", f32, ()), b.input("count", i64, ()), b.input("finite", bool_, ())
    graph = b.returns(*next_scale(b, scale, count, finite))
    s, n = np.array(2.0**16, np.float32), np.array(0)
    for _ in range(200):
        s, n = interpret(graph, [s, n, np.array(False)])
    assert s == SMALLEST == 1
    for _ in range(GROWTH_INTERVAL):
        s, n = interpret(graph, [s, n, np.array(True)])
    assert s == 2
    assert interpret(graph, [np.array(0, np.float32), n, np.array(False)])[0] == 1  # of a checkpoint from elsewhere
