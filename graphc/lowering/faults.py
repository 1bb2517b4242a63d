"""Where a run may fail for its data: behind the last such node, memory that the caller gave may be written over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim

LookUp = tuple[Value, tuple[Dim, ...]]
"""A value of the graph that holds indices, and the extents that they must be within."""


def last_fault(graph: Graph) -> int:
    """The position of the last node that may be the first to fail, or -1.

    Integers are divided there, or indices are looked up that no node before has looked up within the same extents: the
    gradient of a look-up, which scatters at its indices at the end of a backward pass, can't fail where it didn't.
    """
    last = -1
    looked_up: set[LookUp] = set()
    for position, node in enumerate(graph.nodes):
        for found in _faults(node, {}):
            if found is None or found not in looked_up:
                last = position
            if found is not None:
                looked_up.add(found)
    return last


def _faults(node: Node, outer: dict[Value, Value]) -> Iterator[LookUp | None]:
    """What may fail in a node: a look-up, or None for what has no name in the graph. `outer` gives a body's inputs theirs."""
    if node.op.name == "fusion":
        body = node["body"]
        outside = dict(zip(body.inputs, node.operands, strict=True))
        for inner in body.nodes:
            yield from _faults(inner, outside)
        return
    for region in (a for a in node.attributes.values() if isinstance(a, Graph)):
        if any(True for inner in region.nodes for _ in _faults(inner, {})):
            yield None
    extents = _extents(node)
    if extents is not None:
        indices = _source(node.operands[1])
        if indices in outer:
            yield _source(outer[indices]), extents
        else:
            yield None if outer else (indices, extents)
    elif node.op.name in ("div", "rem", "mod") and node.results[0].type.dtype.is_integer and not _by_literal(node):
        yield None


def _extents(node: Node) -> tuple[Dim, ...] | None:
    """The extents within which the node's second operand must lie; None where it holds no indices."""
    name = node.op.name
    if name in ("gather", "take_along", "scatter_along"):
        return (node.operands[0].type.shape[node["axis"]],)
    if name in ("gather_nd", "scatter_nd"):
        shape: Sequence[Dim] = node.operands[0].type.shape
        first, depth = node.attributes.get("batch_dims", 0), node.operands[1].type.shape[-1]
        assert isinstance(depth, int)
        return tuple(shape[first : first + depth])
    return None


def _by_literal(node: Node) -> bool:
    """Whether integers are divided by a constant that is neither 0 nor -1."""
    divisor = _source(node.operands[1]).producer
    if divisor is None or divisor.op.name != "constant" or not divisor["value"].is_literal:
        return False
    return divisor["value"].array.item() not in (0, -1)


def _source(value: Value) -> Value:
    """What a value is a view of."""
    while value.producer is not None and "view" in value.producer.op.traits:
        value = value.producer.operands[0]
    return value
