"""Decomposition of composites."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.regions import rewrite_regions


@dataclass(frozen=True)
class Decompose:
    """Composites that the backend doesn't support whole (all of them, without a backend) become simpler operators.

    It goes on until only primitives and supported composites are left, in regions too.
    """

    name: ClassVar[str] = "decompose"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts: Counter[str] = Counter()

        def edit(region: Graph, inner: PassContext) -> bool:
            done = _decompose(region, inner)
            counts.update(done)
            return bool(done)

        counts.update(_decompose(graph, context))
        rewrite_regions(graph, context, edit)
        return PassResult(bool(counts), dict(sorted(counts.items())))


def _decompose(graph: Graph, context: PassContext) -> Counter[str]:
    counts: Counter[str] = Counter()
    pending = list(graph.nodes)
    while pending:
        node = pending.pop()
        if node.op.decompose is None or _taken_whole(node, context):
            continue
        before = set(graph.nodes)
        builder = Builder(graph, before=node, origin=node.origin)
        values = node.op.decompose(builder, node)
        for old, new in zip(node.results, values, strict=True):
            context.replace(graph, old, new)
        graph.erase(node)
        counts[node.op.name] += 1
        pending.extend(n for n in graph.nodes if n not in before)
    return counts


def _taken_whole(node: Node, context: PassContext) -> bool:
    return context.backend is not None and context.backend.supports(node) is None
