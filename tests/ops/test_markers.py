from __future__ import annotations

import numpy as np

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import f64


def test_no_gradient_passes_through_stop_gradient() -> None:
    """x * stop(x) has the gradient x, not 2 x; what only a stopped value reaches has none."""
    b = Builder()
    x, y = b.input("x", f64, (3,)), b.input("y", f64, (3,))
    stopped = b.op("stop_gradient", b.op("mul", x, b.op("exp", y)))
    graph = b.returns(b.op("mul", x, stopped))
    inputs = [np.array([1.0, 2.0, -3.0]), np.array([0.5, 0.0, 1.0])]
    by_x, by_y = interpret(graphc.grad(graph), inputs)
    np.testing.assert_array_equal(by_x, inputs[0] * np.exp(inputs[1]))
    np.testing.assert_array_equal(by_y, np.zeros(3))


def test_stop_gradient_leaves_nothing_behind() -> None:
    b = Builder()
    graph = b.returns(b.op("neg", b.op("stop_gradient", b.input("x", f64, (3,)))))
    lowered = graphc.run_passes(graph, ["decompose"])
    assert [n.op.name for n in lowered.nodes] == ["neg"]
