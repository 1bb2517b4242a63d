"""What composites share: computing f16 and bf16 in f32, and gradients made from those of the decomposition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Decompose, NotDifferentiable
from graphc.ir.types import DType, bf16, f16, f32

Compute = Callable[[Builder, Sequence[Value], Mapping[str, Any]], Sequence[Value]]
"""Emits a composite's results from its operands and attributes."""


def decomposition(compute: Compute) -> Decompose:
    """A `decompose` that computes f16 and bf16 operands in f32 and rounds the results once, as the references do."""

    def decompose(b: Builder, node: Node) -> Sequence[Value]:
        results = compute(b, [b.cast(v, wide(v.type.dtype)) for v in node.operands], node.attributes)
        return [b.cast(r, v.type.dtype) for r, v in zip(results, node.results, strict=True)]

    return decompose


def wide(dtype: DType) -> DType:
    """The element type in which an operator computes: f32 for f16 and bf16."""
    return f32 if dtype in (f16, bf16) else dtype


def vjp_by_decomposition(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """The cotangents of a composite's operands: emits its decomposition again, then that backwards.

    The repeated forward nodes equal those into which the composite itself is decomposed later; CSE joins them.
    """
    nodes, results = _emit_decomposition(b, node)
    given: dict[Value, Value] = {}
    for result, cotangent in zip(results, cotangents, strict=True):
        add_cotangent(b, given, result, cotangent)
    found = backpropagate(b, nodes, given, node.operands)
    # An operand that stands twice gets its whole cotangent once.
    return [found.get(v) if v not in node.operands[:i] else None for i, v in enumerate(node.operands)]


def _emit_decomposition(b: Builder, node: Node) -> tuple[list[Node], list[Value]]:
    """Emits what the composite decomposes into; the nodes in order, and its results."""
    assert node.op.decompose is not None
    scratch = Graph()
    operands: dict[Value, Value] = {v: scratch.add_input(v.name, v.type) for v in node.operands}
    types, names = [v.type for v in node.results], [v.name for v in node.results]
    copy = Node(node.op, [operands[v] for v in node.operands], node.attributes, types, names, node.origin)
    results = node.op.decompose(Builder(scratch, origin=node.origin), copy)
    b.graph.guards += [g for g in scratch.guards if g not in b.graph.guards]
    mapping = {inner: outer for outer, inner in operands.items()}
    nodes = [Graph.copy_node(n, b.graph, mapping, b.before) for n in scratch.nodes]
    return nodes, [mapping[v] for v in results]


def backpropagate(
    b: Builder, nodes: Sequence[Node], cotangents: Mapping[Value, Value], wrt: Iterable[Value]
) -> dict[Value, Value]:
    """Emits the cotangents of the values `wrt`, and of all between them and the nodes' results.

    `nodes` are in topological order; `cotangents` are those of their results. What is emitted has the origin of the node
    whose gradient it is. Raises UnsupportedOpError naming all nodes without a gradient that one would have to pass through.
    """
    found = dict(cotangents)
    active = {v for v in wrt if v.type.dtype.is_float}
    for node in nodes:
        if any(v in active for v in node.operands):
            active.update(v for v in node.results if v.type.dtype.is_float)
    around, missing = b.origin, []
    for node in reversed(nodes):
        if not any(v in found and v in active for v in node.results):
            continue
        if isinstance(node.op.vjp, NotDifferentiable):
            layer = ", ".join(node.origin) or f"%{node.results[0].name}"
            missing.append(Unsupported(node.op.name, layer, node.op.vjp.reason, node.origin))
            continue
        b.origin = node.origin or around
        given = [found[v] if v in found else b.full_like(0, v) for v in node.results]
        try:
            emitted = node.op.vjp(b, node, given)
        except UnsupportedOpError as e:  # something in a region, or a form of this operator
            missing += e.unsupported
            continue
        for value, cotangent in zip(node.operands, emitted, strict=True):
            if cotangent is not None and value in active:
                add_cotangent(b, found, value, cotangent)
    b.origin = around
    if missing:
        raise UnsupportedOpError("autodiff", missing)
    return found


def add_cotangent(b: Builder, found: dict[Value, Value], value: Value, cotangent: Value) -> None:
    """Adds to what was found for a value."""
    found[value] = b.op("add", found[value], cotangent) if value in found else cotangent
