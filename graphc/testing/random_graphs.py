"""Random graphs for property tests (a hypothesis strategy): valid, continuous in their inputs, static or symbolic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.cones import widen
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import DType, f32

Draw = Callable[[Any], Any]
Step = Callable[[Draw, Builder, Value, list[Value]], Value]

UNARY = ("tanh", "sigmoid", "sin", "cos", "neg", "abs", "erf", "atan")
BINARY = ("add", "sub", "mul", "max", "min")
DIMS: tuple[Dim, ...] = (1, 2, 3, 4, 7)
SYMBOLS = (symbol("n"), symbol("m", 1, 16))
MAX_RANK, MAX_ELEMENTS = 4, 4096


@st.composite
def graphs(draw: Draw, *, dtype: DType = f32, dynamic: bool = True, max_nodes: int = 12) -> Graph:
    """A graph over one float element type; with `dynamic`, some dims are the symbols n and m.

    All operators in it are continuous, so that two right computations of it differ by rounding alone.
    """
    b = Builder(Graph("random"), origin=("layer",))
    dims = st.sampled_from(DIMS + SYMBOLS if dynamic else DIMS)
    shape = draw(st.lists(dims, min_size=1, max_size=3))
    values = [b.input(name, dtype, shape) for name in ("x", "y")]
    values.append(b.input("z", dtype, draw(st.lists(dims, max_size=2))))
    for _ in range(draw(st.integers(1, max_nodes))):
        x = draw(st.sampled_from(values))
        values.append(draw(st.sampled_from(STEPS))(draw, b, x, values))
    computed = [v for v in values if v.producer is not None and not v.uses]
    return b.returns(*(computed or values[-1:]), *draw(st.lists(st.sampled_from(values), max_size=1)))


def random_inputs(graph: Graph, dims: Mapping[str, int], seed: int = 0) -> list[np.ndarray]:
    """Normally distributed inputs at given sizes of the symbols."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.type.concrete(dims)).astype(v.type.dtype.numpy) for v in graph.inputs]


def unexplained(graph: Graph, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> str | None:
    """The first output whose distance from a run in double precision rounding doesn't explain; None: all are right.

    What rounding explains: four times the distance of the interpreter's own result, and 512 units in the last place of the
    largest output.
    """
    expected = interpret(graph, inputs)
    exact = interpret(widen(graph), [x.astype(np.float64) for x in inputs])
    largest = max((float(np.abs(v).max(initial=0)) for v in exact), default=0.0)
    for value, y, reference, truth in zip(graph.outputs, outputs, expected, exact, strict=True):
        if y.dtype != reference.dtype or y.shape != reference.shape:
            return f"%{value.name} is {y.dtype}{list(y.shape)} instead of {value.type}"
        rounding = float(np.abs(reference - truth).max(initial=0))
        bound = 4 * rounding + 512 * float(np.finfo(y.dtype).eps) * (1 + largest)
        error = float(np.abs(y - truth).max(initial=0))
        if not error <= bound:
            return f"%{value.name} is off by {error} > {bound}"
    return None


def _unary(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    return b.op(draw(st.sampled_from(UNARY)), x)


def _binary(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    y = draw(st.sampled_from([v for v in values if v.type == x.type]))
    return b.op(draw(st.sampled_from(BINARY)), x, y)


def _scale(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    return b.op("mul", x, b.full_like(draw(st.sampled_from((0.5, -1.5, 2.0))), x))


def _transpose(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    return b.transpose(x, draw(st.permutations(range(x.type.rank))))


def _merge(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    if x.type.rank < 2:
        return b.reshape(x, (1, *x.type.shape, 1))
    i = draw(st.integers(0, x.type.rank - 2))
    shape = x.type.shape
    return b.reshape(x, (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :]))


def _reduce(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    axes = sorted(draw(st.sets(st.integers(0, x.type.rank - 1), min_size=1))) if x.type.rank else []
    op = draw(st.sampled_from(("reduce_sum", "reduce_max", "reduce_min")))
    return b.reduce(op, x, axes, keep=draw(st.booleans()))


def _broadcast(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    if x.type.rank >= MAX_RANK:
        return b.op("neg", x)
    at = draw(st.integers(0, x.type.rank))
    shape = (*x.type.shape[:at], draw(st.sampled_from((2, 3))), *x.type.shape[at:])
    return b.broadcast(x, shape, [i for i in range(len(shape)) if i != at])


def _slice(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    starts, limits, strides = [], [], []
    for d in x.type.shape:
        start = draw(st.integers(0, d - 1)) if isinstance(d, int) else 0
        starts.append(start)
        limits.append(draw(st.integers(start + 1, d)) if isinstance(d, int) else d)
        strides.append(draw(st.sampled_from((1, 1, 2))))
    return b.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


def _pad(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    low, high = (tuple(draw(st.integers(0, 2)) for _ in x.type.shape) for _ in range(2))
    return b.op("pad", x, b.scalar(0.5, x.type.dtype), low=low, high=high)


def _concat(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    if x.type.rank == 0:
        return b.op("neg", x)
    others = [v for v in values if v.type == x.type]
    return b.op("concat", x, draw(st.sampled_from(others)), axis=draw(st.integers(0, x.type.rank - 1)))


def _reverse(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    axes = draw(st.sets(st.integers(0, x.type.rank - 1))) if x.type.rank else ()
    return b.op("reverse", x, axes=tuple(sorted(axes)))


def _gram(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    if x.type.rank == 0 or x.type.rank > 2:
        return b.op("neg", x)
    last = (x.type.rank - 1,)
    return b.op("dot", x, x, lhs_batch=(), rhs_batch=(), lhs_contract=last, rhs_contract=last)


def _bounded(step: Step) -> Step:
    """The step, undone by a negation where its result would be too big to test quickly."""

    def checked(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
        y = step(draw, b, x, values)
        large = (
            y.type.rank > MAX_RANK + 1 or np.prod([d if isinstance(d, int) else 8 for d in y.type.shape]) > MAX_ELEMENTS
        )
        return b.op("neg", x) if large else y

    return checked


STEPS = tuple(
    map(
        _bounded,
        (_unary, _binary, _scale, _transpose, _merge, _reduce, _broadcast, _slice, _pad, _concat, _reverse, _gram),
    )
)
