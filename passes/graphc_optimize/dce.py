"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.graph import Graph
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc.rewrite.regions import rewrite_regions


@dataclass(frozen=True)
class DeadCode:
    """Erases nodes that no output depends on; those with the trait "terminal" stay, with what they read."""

    name: ClassVar[str] = "dce"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inside = rewrite_regions(graph, context, lambda region, _: erase_unused(region) > 0)
        erased = erase_unused(graph)
        return PassResult(inside or erased > 0, {"erased": erased})


def erase_unused(graph: Graph) -> int:
    """Erases every node that nothing reads, last ones first; how many."""
    erased = 0
    for node in reversed(graph.nodes):
        if "terminal" not in node.op.traits and not any(v.uses for v in node.results):
            graph.erase(node)
            erased += 1
    return erased
