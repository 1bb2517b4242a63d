"""The order of nodes, on which the memory of a run depends: what leads to outputs alone runs as soon as it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.graph import Graph, Node, Value
from graphc.lowering.faults import last_fault
from graphc.pipeline import EXACT, Claim, PassContext, PassResult

LIGHT = frozenset({"elementwise", "view"})


@dataclass(frozen=True)
class Order:
    """Moves the last work before outputs up to where its operands are ready, so that what it reads can be forgotten.

    In a training step, that is a weight's gradient and its update, which then follow the layer's part of the backward pass. A
    node is moved if at most one operator that is neither elementwise nor a view lies on its ways to the outputs. What is
    written over a donated input stays behind the input's other readers, and behind what may raise for the call's data: a call
    that fails leaves its donated inputs as they were.
    """

    name: ClassVar[str] = "order"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        nodes = graph.nodes
        movable = _last_work(nodes)
        bound = _bounds(graph, movable)
        place: dict[Node, int] = {}
        for i, node in enumerate(nodes):
            producers = [v.producer for v in node.operands if v.producer is not None]
            place[node] = max([bound.get(node, -1), *(place[p] for p in producers)]) if node in movable else i
        order = sorted(nodes, key=lambda n: (place[n], n in movable))
        moved = sum(a is not b for a, b in zip(order, nodes, strict=True))
        graph.reorder(order)
        return PassResult(moved > 0, {"moved": moved})


def _last_work(nodes: tuple[Node, ...]) -> set[Node]:
    """The nodes that may be moved."""
    found: set[Node] = set()
    heavy: dict[Node, int] = {}
    for node in reversed(nodes):
        own = 0 if node.op.traits & LIGHT or not node.operands else 1
        heavy[node] = own + max((heavy[u] for v in node.results for u in v.users), default=0)
        if heavy[node] <= 1 and "terminal" not in node.op.traits:
            found.add(node)
    return found


def _bounds(graph: Graph, movable: set[Node]) -> dict[Node, int]:
    """By node, the last reader of a donated input that it, or what is made of it, is written over.

    Only what depends on a gradient waits for it, so that a whole update stays together; not the scalars that all share.
    """
    number = {n: i for i, n in enumerate(graph.nodes)}
    fault = last_fault(graph)
    bound: dict[Node, int] = {}
    for i, o in graph.donations:
        writer = graph.outputs[o].producer
        if writer is not None:
            readers = (number[u] for u in _readers(graph.inputs[i]) if u not in movable)
            bound[writer] = max([fault, *readers])
    heavy: set[Node] = set()
    for node in graph.nodes:
        own = node.operands and not node.op.traits & LIGHT
        if own or any(v.producer in heavy for v in node.operands):
            heavy.add(node)
    for node in reversed(graph.nodes):
        if node in heavy:
            after = [bound[u] for v in node.results for u in v.users if u in bound]
            if after:
                bound[node] = max(bound.get(node, -1), *after)
    return bound


def _readers(value: Value) -> set[Node]:
    """The nodes at which a value may be read: a view, or what fuses like one, reads it where its own result is read."""
    found: set[Node] = set()
    waiting = [value]
    while waiting:
        for user in waiting.pop().users:
            if user not in found:
                found.add(user)
                waiting += user.results if user.op.traits & LIGHT else ()
    return found
