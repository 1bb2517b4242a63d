"""Computes before it repeats: elementwise work moves in front of broadcasts."""

from __future__ import annotations

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim
from graphc.pipeline import PassContext
from graphc_optimize.dce import erase_unused


def sink_broadcasts(graph: Graph, context: PassContext) -> int:
    """op(broadcast(x), broadcast(y)) = broadcast(op(x, y)) where both repeat alike, or one repeats a single element.

    A norm's rsqrt(variance + epsilon) is so computed once a row, however the model's exporter wrote it. Returns how many.
    """
    moved = 0
    for node in graph.nodes:
        like = _repeated_alike(node) if "elementwise" in node.op.traits else None
        if like is None:
            continue
        b = Builder(graph, before=node, origin=node.origin)
        small = like.operands[0].type.shape
        operands = [_small(b, v, small) for v in node.operands]
        result = b.op(node.op, *operands, **node.attributes)
        context.replace(graph, node.result, b.op("broadcast", result, shape=like["shape"], axes=like["axes"]))
        graph.erase(node)
        moved += 1
    if moved:
        erase_unused(graph)
    return moved


def _repeated_alike(node: Node) -> Node | None:
    """The broadcast of more than one element that every operand is, but for those of single ones; None if there is none."""
    found: Node | None = None
    for v in node.operands:
        producer = v.producer
        if producer is None or producer.op.name != "broadcast":
            return None
        if producer.operands[0].type.size == 1:
            continue
        key = (producer.operands[0].type.shape, producer["axes"])
        if found is not None and key != (found.operands[0].type.shape, found["axes"]):
            return None
        found = producer
    if found is None or found.operands[0].type.size == node.result.type.size:
        return None
    return found


def _small(b: Builder, v: Value, shape: tuple[Dim, ...]) -> Value:
    """What `v` repeats, in the small shape; a single element is repeated to it."""
    assert v.producer is not None
    (x,) = v.producer.operands
    return b.broadcast(b.reshape(x, ()), shape, ()) if x.type.size == 1 else x
