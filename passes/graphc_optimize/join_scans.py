"""Scans that carry the same values over the same sequences become one, as of a recurrence and of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc_optimize.cse import CommonSubexpressions
from graphc_optimize.dce import erase_unused


@dataclass(frozen=True)
class JoinScans:
    """Two scans with equal first carries, sequences and direction, whose bodies carry on alike, are run as one.

    The joined one stands where the first stood; the second may read nothing more that is computed after it.
    """

    name: ClassVar[str] = "join-scans"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        first: dict[tuple[object, ...], Node] = {}
        joined = 0
        for node in graph.nodes:
            if node.op.name != "scan":
                continue
            shared = node["carries"] + node["scanned"]
            key = (node["carries"], node["reverse"], *map(id, node.operands[:shared]))
            if key in first and _available(graph, node, first[key]):
                made = _join(graph, first[key], node, context)
                if made is not None:
                    joined += 1
                    first[key] = made
                    continue
            first.setdefault(key, node)
        return PassResult(joined > 0, {"joined": joined})


def _available(graph: Graph, node: Node, at: Node) -> bool:
    """Whether all operands of a node are there when another runs."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    return all(v.producer is None or order[v.producer] < order[at] for v in node.operands)


def _join(graph: Graph, a: Node, b: Node, context: PassContext) -> Node | None:
    """One scan with the results of both; None where their carries aren't seen to be the same."""
    carries, shared = a["carries"], a["carries"] + a["scanned"]
    body, of_a = a["body"].clone()
    operands = list(a.operands)
    given: dict[Value, Value] = {}
    for inner, outer in zip(b["body"].inputs, b.operands, strict=True):
        if len(given) < shared:
            given[inner] = body.inputs[len(given)]
        elif outer in operands[shared:]:
            given[inner] = body.inputs[operands.index(outer, shared)]
        else:
            given[inner] = body.add_input(inner.name, inner.type)
            operands.append(outer)
    body.guards += [g for g in b["body"].guards if g not in body.guards]
    for node in b["body"].nodes:
        Graph.copy_node(node, body, given)
    ys = [of_a[v] for v in a["body"].outputs[carries:]]
    body.set_outputs((*(of_a[v] for v in a["body"].outputs[:carries]), *ys, *(given[v] for v in b["body"].outputs)))
    CommonSubexpressions().run(body, PassContext())
    first, rest = body.outputs[:carries], body.outputs[carries + len(ys) :]
    if first != rest[:carries]:
        return None
    body.set_outputs((*body.outputs[: carries + len(ys)], *rest[carries:]))
    erase_unused(body)
    builder = Builder(graph, before=a, origin=tuple(dict.fromkeys((*a.origin, *b.origin))))
    made = builder.emit("scan", operands, **{**a.attributes, "body": body})
    new = made.results
    for old, value in zip(a.results, new, strict=False):
        context.replace(graph, old, value)
    for old, value in zip(b.results, (*new[:carries], *new[len(a.results) :]), strict=True):
        context.replace(graph, old, value)
    graph.erase(a)
    graph.erase(b)
    return made
