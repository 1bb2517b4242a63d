"""Algebra of real numbers, in fast numerics alone."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import f32
from graphc_optimize.fold_constants import FoldConstants
from graphc_optimize.reassociate import Reassociate


def _c(b: Builder, x: Value, number: float) -> Value:
    return b.full_like(number, x)


CHEAPER = {
    "x ** 2": (lambda b, x, y: b.op("pow", x, _c(b, x, 2)), ["mul"]),
    "x ** 3": (lambda b, x, y: b.op("pow", x, _c(b, x, 3)), ["mul", "mul"]),
    "x ** 4": (lambda b, x, y: b.op("pow", x, _c(b, x, 4)), ["mul", "mul"]),
    "x ** -1": (lambda b, x, y: b.op("pow", x, _c(b, x, -1)), ["div"]),
    "x / 3": (lambda b, x, y: b.op("div", x, _c(b, x, 3)), ["mul"]),
    "x + 0": (lambda b, x, y: b.op("add", x, _c(b, x, 0)), []),
    "x / sqrt(y)": (lambda b, x, y: b.op("div", x, b.op("sqrt", b.op("abs", y))), ["abs", "rsqrt", "mul"]),
    "(x + 1) + 2": (lambda b, x, y: b.op("add", b.op("add", x, _c(b, x, 1)), _c(b, x, 2)), ["add"]),
    "(x * 3) * 5": (lambda b, x, y: b.op("mul", b.op("mul", x, _c(b, x, 3)), _c(b, x, 5)), ["mul"]),
}  # fmt: skip

AS_THEY_ARE = {
    "x ** 5": lambda b, x, y: b.op("pow", x, _c(b, x, 5)),
    "x ** 0.5": lambda b, x, y: b.op("pow", x, _c(b, x, 0.5)),  # of -inf it is inf, not NaN
    "x / 0": lambda b, x, y: b.op("div", x, _c(b, x, 0)),
    "x / 1e30": lambda b, x, y: b.op("div", x, _c(b, x, 1e30)),
    "(x * 1e30) * 1e-30": lambda b, x, y: b.op("mul", b.op("mul", x, _c(b, x, 1e30)), _c(b, x, 1e-30)),
    "x * 0": lambda b, x, y: b.op("mul", x, _c(b, x, 0)),
    "x - x": lambda b, x, y: b.op("sub", x, x),
}  # fmt: skip


def _graph(make) -> Graph:
    b = Builder(Graph())
    return b.returns(make(b, b.input("x", f32, (3, 7)), b.input("y", f32, (3, 7))))


def _arithmetic(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name not in ("constant", "broadcast")]


@pytest.mark.parametrize("name", CHEAPER)
def test_cheaper(name: str, run_passes) -> None:
    make, left = CHEAPER[name]
    graph, _ = run_passes(_graph(make), Reassociate(), FoldConstants(), tolerance=1e-6)
    assert _arithmetic(graph) == left


@pytest.mark.parametrize("name", CHEAPER)
def test_strict_numerics_change_nothing(name: str, run_passes) -> None:
    graph = _graph(CHEAPER[name][0])
    before = _arithmetic(graph)
    after, _ = run_passes(graph, Reassociate(), tolerance=0, numerics="strict")
    assert _arithmetic(after) == before


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_infinities_and_nan_are_honoured(name: str, run_passes) -> None:
    graph = _graph(AS_THEY_ARE[name])
    before = _arithmetic(graph)
    after, _ = run_passes(graph, Reassociate(), tolerance=0)
    assert _arithmetic(after) == before


@pytest.mark.parametrize("name", [n for n in CHEAPER if n != "(x * 3) * 5"])
def test_special_values(name: str) -> None:
    """NaN and infinities come out where they did, for arguments far from overflow otherwise."""
    from graphc.pipeline import PassContext

    graph = _graph(CHEAPER[name][0])
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.0], np.float32), (3, 7))
    y = np.resize(np.array([np.inf, 0.0, np.nan, 4.0, 1e-30], np.float32), (3, 7))
    expected = interpret(graph, [x, y])
    Reassociate().run(graph, PassContext())
    np.testing.assert_allclose(interpret(graph, [x, y])[0], expected[0], rtol=1e-6)
