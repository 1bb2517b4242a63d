"""A quick guess at the memory that a graph will need once it is fused, to tell which of many graphs are worth a closer look."""

from __future__ import annotations

from graphc.autodiff.costs import elements
from graphc.ir.graph import Graph, Node, Value

NEAR = 20
"""Nodes within which a function is taken to be fused with all that read it."""


def likely_peak(graph: Graph) -> int:
    """The most bytes in use at once if nodes run in their order; shapes are static.

    A value is in use from its node to its last reader. Views, what only waits, and functions whose readers are near take no
    memory: whoever reads them reads their operands. Outputs, inputs and constants aren't counted.
    """
    number = {n: i for i, n in enumerate(graph.nodes)}
    last: dict[Value, int] = {}
    fused: set[Node] = set()
    for node in reversed(graph.nodes):
        for value in node.results:
            readers = [u for u in value.users if u.op.name != "after" or u.operands[0] is value]
            ends = (last[u.results[0]] if u in fused else number[u] for u in readers)
            last[value] = max(ends, default=number[node])
        near = "elementwise" in node.op.traits and last[node.results[0]] <= number[node] + NEAR
        if near or "view" in node.op.traits or node.op.name == "after":
            fused.add(node)
    change = [0] * (len(graph) + 1)
    for node in graph.nodes:
        if node in fused or not node.operands:
            continue
        for value in node.results:
            if not value.is_output:
                size = value.type.dtype.bytes * elements(value)
                change[number[node]] += size
                change[last[value] + 1] -= size
    used = most = 0
    for difference in change:
        used += difference
        most = max(most, used)
    return most
