"""Products that a scan sums up from step to step become one product over all steps, behind the scan.

    s' = s + a(t) b(t)      =>      s + sum over t of a(t) b(t),   one `dot` of the sequences of a and b

So the gradient of a recurrence's weights is one large product, instead of a small one and an addition at each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import nonnegative
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc_optimize.dce import erase_unused


@dataclass(frozen=True)
class HoistSums:
    """Takes sums of products out of scans where a step's factors are no larger than twice the sum, which it saves to move.

    A product that the body returns as well stays: it would be computed twice.
    """

    name: ClassVar[str] = "hoist-sums"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        hoisted = 0
        for node in graph.nodes:
            current: Node | None = node if node.op.name == "scan" else None
            while current is not None:
                found = next((s for i in range(current["carries"]) if (s := _sum(current, i)) is not None), None)
                current = None if found is None else _hoist(graph, current, found, context)
                hoisted += current is not None
        return PassResult(hoisted > 0, {"hoisted": hoisted})


@dataclass(frozen=True)
class _Sum:
    """Carry `carry` of a scan is a sum of `dot`s, each transposed by `permutation` (None: as it is)."""

    carry: int
    dot: Node
    permutation: tuple[int, ...] | None


def _sum(scan: Node, carry: int) -> _Sum | None:
    body = scan["body"]
    old, new = body.inputs[carry], body.outputs[carry]
    add = new.producer
    if add is None or add.op.name != "add" or len(new.uses) != 1 or len(old.uses) != 1 or old not in add.operands:
        return None
    (term,) = [v for v in add.operands if v is not old] or [old]
    node, permutation = term.producer, None
    if node is not None and node.op.name == "transpose":
        permutation, node = node["permutation"], node.operands[0].producer
    if node is None or node.op.name != "dot" or node["wide"] or len(node.result.uses) > 1 or len(term.uses) > 1:
        return None
    first_capture = scan["carries"] + scan["scanned"]
    if any(v in body.inputs[first_capture:] for v in node.operands):
        return None
    moved = sum((v.type.bytes for v in node.operands), 0)
    if not nonnegative(2 * old.type.bytes - moved):
        return None
    return _Sum(carry, node, permutation)


def _hoist(graph: Graph, scan: Node, found: _Sum, context: PassContext) -> Node:
    """The scan without the sum, which is computed behind it."""
    carries, scanned = scan["carries"], scan["scanned"]
    body, mapping = scan["body"].clone()
    factors = [mapping[v] for v in found.dot.operands]
    sequences: list[Value | None] = []
    outputs = [v for i, v in enumerate(body.outputs) if i != found.carry]
    for v in factors:
        if v in body.inputs[carries : carries + scanned]:
            sequences.append(scan.operands[body.inputs.index(v)])
        else:
            sequences.append(None)
            outputs.append(v)
    body.set_outputs(outputs)
    erase_unused(body)
    body.remove_input(body.inputs[found.carry])
    operands = [v for i, v in enumerate(scan.operands) if i != found.carry]
    b = Builder(graph, before=scan, origin=scan.origin)
    made = b.emit("scan", operands, **{**scan.attributes, "body": body, "carries": carries - 1})
    kept = [r for i, r in enumerate(scan.results) if i != found.carry]
    for old, new in zip(kept, made.results, strict=False):
        context.replace(graph, old, new)
    stacked = iter(made.results[len(kept) :])
    x, y = (next(stacked) if s is None else s for s in sequences)
    dot = found.dot
    shifted = {k: tuple(a + 1 for a in dot[k]) for k in ("lhs_batch", "rhs_batch")}
    over = {k: (0, *(a + 1 for a in dot[k])) for k in ("lhs_contract", "rhs_contract")}
    total = b.op("dot", x, y, **{**dot.attributes, **shifted, **over})
    total = total if found.permutation is None else b.transpose(total, found.permutation)
    context.replace(graph, scan.results[found.carry], b.op("add", scan.operands[found.carry], total))
    graph.erase(scan)
    return made
