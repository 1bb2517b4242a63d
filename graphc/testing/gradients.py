"""Gradient checks: a backward graph's product with random directions against finite differences, in f64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.opdef import NotDifferentiable, OpDef, Sample
from graphc.ir.types import dtype_of, f64
from graphc.ir.verifier import verify
from graphc.ops.by_decomposition import add_cotangent, backpropagate
from graphc.testing.conformance import cast_sample

Arrays = Sequence[np.ndarray]

STEP = 2.0**-12
"""Of the differences; with Richardson's extrapolation the error is of fourth order in it."""


def gradient_samples(op: OpDef) -> list[Sample]:
    """The samples of an operator at which its VJP can be checked, in f64."""
    if isinstance(op.vjp, NotDifferentiable):
        return []
    usable = (s for s in op.samples() if s.differentiable and any(dtype_of(x).is_float for x in s.operands))
    return [c for s in usable if (c := cast_sample(s, f64)) is not None]


def check_vjp(op: OpDef, sample: Sample) -> None:
    """The operator's VJP agrees with finite differences at a sample of `gradient_samples`."""
    check_gradient(forward_graph(op, sample), sample.operands)


def check_second_vjp(op: OpDef, sample: Sample) -> None:
    """The graph that the VJP emits is differentiable itself, and its gradient agrees with finite differences.

    Raises UnsupportedOpError naming an operator in it that has no gradient.
    """
    forward = forward_graph(op, sample)
    backward = _backward(forward)
    cotangents = [v for v in backward.inputs if v.name.startswith("cotangent")]
    check_gradient(backward, [*sample.operands, *_weights(cotangents)])


def check_gradient(graph: Graph, inputs: Arrays, *, directions: int = 3, tolerance: float = 1e-7) -> None:
    """Reverse mode through a graph agrees with finite differences along random directions of all its float inputs.

    The function differentiated is a random weighted sum of all float outputs; an input without a cotangent must have no
    influence. The tolerance is relative to the sum of the magnitudes of all products, which bounds the rounding error.
    """
    floating = [i for i, v in enumerate(graph.outputs) if v.type.dtype.is_float]
    weights = _weights(graph.outputs)
    gradients = _gradients(graph, inputs, weights)

    def value(at: Arrays) -> float:
        results = interpret(graph, at)
        return float(sum(np.sum(results[i] * weights[i]) for i in floating))

    rng = np.random.default_rng(12)
    for _ in range(directions):
        along = [rng.normal(size=x.shape) if dtype_of(x).is_float else None for x in inputs]
        pairs = zip(gradients, along, strict=True)
        products = [g * d for g, d in pairs if g is not None and d is not None]
        expected = _derivative(value, inputs, along)
        seen = float(sum(np.sum(p) for p in products))
        scale = 1 + sum(float(np.sum(np.abs(p))) for p in products)
        assert abs(seen - expected) <= tolerance * scale, f"{graph.name}: VJP says {seen!r}, differences {expected!r}"


def forward_graph(op: OpDef, sample: Sample) -> Graph:
    """One node of the operator between inputs and outputs."""
    b = Builder(Graph(op.name))
    operands = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(sample.operands)]
    return b.returns(*b.emit(op, operands, **sample.attributes).results)


def _backward(graph: Graph) -> Graph:
    """A graph from the inputs and the outputs' cotangents to the cotangents of those inputs that have one."""
    backward, _ = graph.clone(f"{graph.name}_backward")
    _differentiate(backward)
    return backward


def _differentiate(graph: Graph) -> list[bool]:
    """Turns a graph into its backward graph, in place; which of its inputs have a cotangent."""
    inputs, nodes = list(graph.inputs), graph.nodes
    given: dict[Value, Value] = {}
    b = Builder(graph)
    for i, value in enumerate(graph.outputs):
        cotangent = graph.add_input(f"cotangent{i}", value.type)
        if value.type.dtype.is_float:
            add_cotangent(b, given, value, cotangent)
    found = backpropagate(b, nodes, given, inputs)
    for value in inputs:
        assert value not in found or found[value].type == value.type, f"cotangent {found[value]} of {value}"
    graph.set_outputs(found[v] for v in inputs if v in found and v.type.dtype.is_float)
    return [v in found and v.type.dtype.is_float for v in inputs]


def _gradients(graph: Graph, inputs: Arrays, weights: Arrays) -> list[np.ndarray | None]:
    backward, _ = graph.clone()
    present = _differentiate(backward)
    verify(backward)
    values = iter(interpret(backward, [*inputs, *weights]))
    return [next(values) if p else None for p in present]


def _weights(values: Sequence[Value]) -> list[np.ndarray]:
    """Random numbers of both signs, none small, in the values' types; zeros for integers and bools."""
    rng = np.random.default_rng(11)
    result = []
    for v in values:
        shape = v.type.concrete({})
        magnitude = rng.uniform(0.5, 1.5, shape) if v.type.dtype.is_float else np.zeros(shape)
        result.append(np.asarray(magnitude * rng.choice([-1, 1], shape), v.type.dtype.numpy))
    return result


def _derivative(f: Callable[[Arrays], float], at: Arrays, along: Sequence[np.ndarray | None]) -> float:
    """The derivative of f along a direction, by central differences at two steps, extrapolated."""

    def difference(h: float) -> float:
        moved = [[x if d is None else np.asarray(x + s * d) for x, d in zip(at, along, strict=True)] for s in (h, -h)]
        return (f(moved[0]) - f(moved[1])) / (2 * h)

    return (4 * difference(STEP / 2) - difference(STEP)) / 3
