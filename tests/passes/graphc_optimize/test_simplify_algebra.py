"""Algebra that is exact: each identity, on values that include NaN, infinities and both zeros."""

from __future__ import annotations

import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import DTYPES, bool_, f16, f32, f64, i32, i64
from graphc_optimize.simplify_algebra import SimplifyAlgebra


def _c(b: Builder, x: Value, number: float | int | bool) -> Value:
    return b.full_like(number, x)


# (dtype of x and y, what goes in, what is left: operators, or the name of an input)
SIMPLER = {
    "x * 1": ("f32", lambda b, x, y: b.op("mul", x, _c(b, x, 1)), "x"),
    "1 * x": ("f32", lambda b, x, y: b.op("mul", _c(b, x, 1), x), "x"),
    "x / 1": ("f32", lambda b, x, y: b.op("div", x, _c(b, x, 1)), "x"),
    "x - 0": ("f32", lambda b, x, y: b.op("sub", x, _c(b, x, 0.0)), "x"),
    "x + -0": ("f32", lambda b, x, y: b.op("add", x, _c(b, x, -0.0)), "x"),
    "i + 0": ("i32", lambda b, x, y: b.op("add", x, _c(b, x, 0)), "x"),
    "x ** 1": ("f64", lambda b, x, y: b.op("pow", x, _c(b, x, 1)), "x"),
    "p and true": ("bool", lambda b, x, y: b.op("logical_and", x, _c(b, x, True)), "x"),
    "p or false": ("bool", lambda b, x, y: b.op("logical_or", x, _c(b, x, False)), "x"),
    "p and false": ("bool", lambda b, x, y: b.op("logical_and", x, _c(b, x, False)), ["constant", "broadcast"]),
    "p or true": ("bool", lambda b, x, y: b.op("logical_or", x, _c(b, x, True)), ["constant", "broadcast"]),
    "i * 0": ("i64", lambda b, x, y: b.op("mul", x, _c(b, x, 0)), ["constant", "broadcast"]),
    "i - i": ("i64", lambda b, x, y: b.op("sub", x, x), ["constant", "broadcast"]),
    "max(x, x)": ("f32", lambda b, x, y: b.op("max", x, x), "x"),
    "min(x, x)": ("f32", lambda b, x, y: b.op("min", x, x), "x"),
    "max(max(x, y), y)": ("f32", lambda b, x, y: b.op("max", b.op("max", x, y), y), ["max"]),
    "min(y, min(x, y))": ("f32", lambda b, x, y: b.op("min", y, b.op("min", x, y)), ["min"]),
    "-(-x)": ("f32", lambda b, x, y: b.op("neg", b.op("neg", x)), "x"),
    "|-x|": ("f32", lambda b, x, y: b.op("abs", b.op("neg", x)), ["abs"]),
    "||x||": ("f32", lambda b, x, y: b.op("abs", b.op("abs", x)), ["abs"]),
    "not not p": ("bool", lambda b, x, y: b.op("logical_not", b.op("logical_not", x)), "x"),
    "p and p": ("bool", lambda b, x, y: b.op("logical_and", x, x), "x"),
    "x * -1": ("f32", lambda b, x, y: b.op("mul", x, _c(b, x, -1)), ["neg"]),
    "x / 8": ("f16", lambda b, x, y: b.op("div", x, _c(b, x, 8)), ["constant", "broadcast", "mul"]),
    "select(true, x, y)": ("f32", lambda b, x, y: b.op("select", b.full(True, x.type.with_dtype(bool_)), x, y), "x"),
    "select(false, x, y)": ("f32", lambda b, x, y: b.op("select", b.full(False, x.type.with_dtype(bool_)), x, y), "y"),
    "select(x < y, x, x)": ("f32", lambda b, x, y: b.op("select", b.op("lt", x, y), x, x), "x"),
    "select(not c, x, y)": (
        "f32", lambda b, x, y: b.op("select", b.op("logical_not", b.op("lt", x, y)), x, y), ["lt", "select"],
    ),
    "f16 -> f32 -> f16": ("f16", lambda b, x, y: b.cast(b.cast(x, f32), f16), "x"),
    "i32 -> i64 -> i32": ("i32", lambda b, x, y: b.cast(b.cast(x, i64), i32), "x"),
    "(i + 2) + 3": (
        "i32", lambda b, x, y: b.op("add", b.op("add", x, _c(b, x, 2)), _c(b, x, 3)),
        ["constant", "broadcast", "constant", "broadcast", "add", "add"],
    ),
}  # fmt: skip

# What looks alike but isn't the same down to the bits.
DIFFERENT = {
    "x + 0": ("f32", lambda b, x, y: b.op("add", x, _c(b, x, 0.0))),
    "x - -0": ("f32", lambda b, x, y: b.op("sub", x, _c(b, x, -0.0))),
    "0 - x": ("f32", lambda b, x, y: b.op("sub", _c(b, x, 0.0), x)),
    "x * 0": ("f32", lambda b, x, y: b.op("mul", x, _c(b, x, 0.0))),
    "x - x": ("f32", lambda b, x, y: b.op("sub", x, x)),
    "x / x": ("f32", lambda b, x, y: b.op("div", x, x)),
    "|-x| of unsigned x": ("u32", lambda b, x, y: b.op("abs", b.op("neg", x))),
    "x / 3": ("f32", lambda b, x, y: b.op("div", x, _c(b, x, 3))),
    "x / 2^100": ("f32", lambda b, x, y: b.op("div", x, _c(b, x, 2.0**100))),
    "i / 2": ("i32", lambda b, x, y: b.op("div", x, _c(b, x, 2))),
    "x ** 2": ("f32", lambda b, x, y: b.op("pow", x, _c(b, x, 2))),
    "(x + 1) + 1": ("f32", lambda b, x, y: b.op("add", b.op("add", x, _c(b, x, 1)), _c(b, x, 1))),
    "f64 -> f32 -> f64": ("f64", lambda b, x, y: b.cast(b.cast(x, f32), f64)),
    "f32 -> i32 -> f32": ("f32", lambda b, x, y: b.cast(b.cast(x, i32), f32)),
    "f16 -> bf16 -> f16": ("f16", lambda b, x, y: b.cast(b.cast(x, DTYPES["bf16"]), f16)),
    "max(min(x, y), y)": ("f32", lambda b, x, y: b.op("max", b.op("min", x, y), y)),
}  # fmt: skip


def _graph(dtype: str, make) -> Graph:
    b = Builder(Graph())
    x, y = b.input("x", DTYPES[dtype], (3, 7)), b.input("y", DTYPES[dtype], (3, 7))
    return b.returns(make(b, x, y))


@pytest.mark.parametrize("name", SIMPLER)
def test_simpler(name: str, run_passes) -> None:
    dtype, make, left = SIMPLER[name]
    graph, _ = run_passes(_graph(dtype, make), SimplifyAlgebra(), tolerance=0, numerics="strict")
    if isinstance(left, str):
        assert graph.outputs[0].name == left and graph.outputs[0] in graph.inputs
    else:
        assert [n.op.name for n in graph.nodes] == left


@pytest.mark.parametrize("name", DIFFERENT)
def test_not_the_same(name: str, run_passes) -> None:
    dtype, make = DIFFERENT[name]
    graph = _graph(dtype, make)
    before = len(graph)
    after, context = run_passes(graph, SimplifyAlgebra(), tolerance=0, numerics="strict")
    assert len(after) == before
    assert not SimplifyAlgebra().run(after, context).changed
