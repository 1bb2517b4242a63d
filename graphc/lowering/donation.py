"""Which donated inputs an output may be written over, in a graph whose nodes run in order, each as one kernel."""

from __future__ import annotations

from graphc.ir.graph import Graph, Node, Value
from graphc.lowering.faults import last_fault
from graphc.lowering.placement import CONTRACTIONS, REDUCTIONS

RENAMES = ("reshape", "after")
"""Operators whose result lies in the memory of their first operand."""


def in_place(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The donations (input, output) after which memory may be shared: no read of the input comes after the write.

    The node that writes the output may read the input itself where it reads element by element what it then writes. Nor does
    any node after the write fail first: a call that raises leaves what it was given as it was.
    """
    position = {n: i for i, n in enumerate(graph.nodes)}
    fault = last_fault(graph)
    return tuple((i, o) for i, o in graph.donations if _may_share(graph, position, fault, graph.inputs[i], o))


def _may_share(graph: Graph, position: dict[Node, int], fault: int, given: Value, output: int) -> bool:
    taking = graph.outputs[output]
    aliases = _aliases(given)
    if taking in aliases:  # unchanged: a copy onto itself
        return True
    writer = taking.producer
    returned_once = graph.outputs.count(taking) == 1
    if writer is None or writer.op.name in ("constant", *RENAMES, "scan", "if", "while") or not returned_once:
        return False
    if position[writer] < fault:
        return False
    for alias in aliases:
        if alias.is_output:
            return False
        for use in alias.uses:
            user = use.user
            if not isinstance(user, Node) or user.op.name in RENAMES:
                continue
            if position[user] > position[writer]:
                return False
            if user is writer and not (alias is given and _reads_what_it_writes(writer, use.index, taking)):
                return False
    return True


def _aliases(value: Value) -> list[Value]:
    """The value and its other names, which lie in the same memory."""
    found = [value]
    for v in found:
        found += [u.result for u in v.users if u.op.name in RENAMES and u.operands[0] is v]
    return found


def _reads_what_it_writes(node: Node, operand: int, result: Value) -> bool:
    """Whether the node reads each element of the operand for the result's at the same place, and not after that is written.

    What a fusion computes from other sums may be computed in another loop, which reads the operand again.
    """
    if node.op.name != "fusion":
        return "elementwise" in node.op.traits
    body = node["body"]
    waiting = [body.inputs[operand]]
    seen = set(waiting)
    while waiting:
        for user in waiting.pop().users:
            if "elementwise" not in user.op.traits:
                return False
            waiting += [v for v in user.results if v not in seen]
            seen.update(user.results)
    written, sums = body.outputs[node.results.index(result)], _sums(body)
    return written in seen and all(sums[v] == sums[written] for v in body.outputs if v in seen)


def _sums(body: Graph) -> dict[Value, frozenset[Node]]:
    """The reductions and products that each value is computed from."""
    found: dict[Value, frozenset[Node]] = {v: frozenset() for v in body.inputs}
    for node in body.nodes:
        own = frozenset((node,)) if node.op.name in REDUCTIONS | CONTRACTIONS else frozenset()
        found |= dict.fromkeys(node.results, own.union(*(found[v] for v in node.operands)))
    return found
