"""Gradient checks: a VJP's product with a random direction against finite differences, in f64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.opdef import NotDifferentiable, OpDef, Sample
from graphc.ir.types import dtype_of, f64
from graphc.ir.verifier import verify
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


def check_vjp(op: OpDef, sample: Sample, *, directions: int = 3, tolerance: float = 1e-7) -> None:
    """The VJP agrees with finite differences along random directions of all floating operands at once.

    The function differentiated is a random weighted sum of all floating results; an operand with cotangent None must
    have no influence. Relative to the sum of the magnitudes of all the products, which bounds the rounding error.
    """
    rng = np.random.default_rng(11)
    forward, floating = _forward(op, sample)
    if not floating:
        return
    shapes = [v.type.concrete({}) for v in forward.outputs]
    weights = [rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape) for shape in shapes]
    weights = [np.asarray(w, v.type.dtype.numpy) for w, v in zip(weights, forward.outputs, strict=True)]
    gradients = _gradients(op, sample, weights)

    def value(operands: Arrays) -> float:
        results = interpret(forward, operands)
        return float(sum(np.sum(results[i] * weights[i]) for i in floating))

    for _ in range(directions):
        along = [rng.normal(size=x.shape) if dtype_of(x).is_float else None for x in sample.operands]
        expected = _derivative(value, sample.operands, along)
        pairs = zip(gradients, along, strict=True)
        products = [g * d for g, d in pairs if g is not None and d is not None]
        scale = 1 + sum(float(np.sum(np.abs(p))) for p in products)
        seen = float(sum(np.sum(p) for p in products))
        assert abs(seen - expected) <= tolerance * scale, f"{op.name}: VJP says {seen!r}, differences {expected!r}"


def _forward(op: OpDef, sample: Sample) -> tuple[Graph, list[int]]:
    """The operator as a graph, and which of its outputs are floats."""
    b = Builder(Graph("forward"))
    operands = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(sample.operands)]
    results = b.emit(op, operands, **sample.attributes).results
    return b.returns(*results), [i for i, v in enumerate(results) if v.type.dtype.is_float]


def vjp_graph(op: OpDef, sample: Sample) -> tuple[Graph, list[bool]]:
    """Operands and cotangents to the cotangents of the operands; and for each operand whether it has one."""
    assert not isinstance(op.vjp, NotDifferentiable)
    b = Builder(Graph("backward"))
    operands = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(sample.operands)]
    node = b.emit(op, operands, **sample.attributes)
    given = [b.graph.add_input(f"g{i}", v.type) for i, v in enumerate(node.results)]
    found = list(op.vjp(b, node, given))
    assert len(found) == len(operands), f"{op.name}: {len(found)} cotangents for {len(operands)} operands"
    for operand, cotangent in zip(operands, found, strict=True):
        assert cotangent is None or cotangent.type == operand.type, f"{op.name}: {cotangent} for {operand}"
    return b.returns(*(v for v in found if v is not None)), [v is not None for v in found]


def _gradients(op: OpDef, sample: Sample, weights: Arrays) -> list[np.ndarray | None]:
    graph, present = vjp_graph(op, sample)
    verify(graph)
    values = iter(interpret(graph, [*sample.operands, *weights]))
    return [next(values) if p else None for p in present]


def _derivative(f: Callable[[Arrays], float], at: Arrays, along: Sequence[np.ndarray | None]) -> float:
    """The derivative of f along a direction, by central differences at two steps, extrapolated."""

    def difference(h: float) -> float:
        moved = [[x if d is None else np.asarray(x + s * d) for x, d in zip(at, along, strict=True)] for s in (h, -h)]
        return (f(moved[0]) - f(moved[1])) / (2 * h)

    return (4 * difference(STEP / 2) - difference(STEP)) / 3
