"""Constant folding of what is small; the weights' own arithmetic is left for `prepare`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.errors import NumericError
from graphc.interpreter import run_node
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc.rewrite.constants import is_weight, splat_of
from graphc.rewrite.engine import erase_dead
from graphc.rewrite.regions import rewrite_regions


@dataclass(frozen=True)
class FoldConstants:
    """Replaces nodes on constants alone by their values, where operands and results have up to `limit` bytes.

    Weights stay: no code depends on their values. Elementwise nodes on repeated numbers fold whatever their size, into
    one repeated number. A view of a constant that repeats it stays. What has no value, as a division by zero, stays, and
    raises when the model runs.
    """

    name: ClassVar[str] = "fold-constants"
    claim: ClassVar[Claim] = EXACT

    limit: int = 16384

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inside = rewrite_regions(graph, context, lambda region, inner: bool(self._fold(region, inner)))
        counts = self._fold(graph, context)
        return PassResult(inside or bool(counts), dict(sorted(counts.items())))

    def _fold(self, graph: Graph, context: PassContext) -> Counter[str]:
        known: dict[Value, np.ndarray] = {}
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            if node.graph is None:
                continue
            if node.op.name == "constant":
                if self._is_small(node.result) and not is_weight(node.result):
                    known[node.result] = node["value"].array
                continue
            if self._fold_splats(graph, node, context):
                counts[node.op.name] += 1
                continue
            arrays = self._evaluate(node, known)
            if arrays is None:
                continue
            known.update(zip(node.results, arrays, strict=True))
            if node.op.name == "broadcast":
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            for old, array in zip(node.results, arrays, strict=True):
                new = builder.constant(array, name=old.name)
                known[new] = array
                context.replace(graph, old, new)
            erase_dead(graph, [node])
            counts[node.op.name] += 1
        return counts

    def _evaluate(self, node: Node, known: dict[Value, np.ndarray]) -> tuple[np.ndarray, ...] | None:
        """The node's results, None where they can't or shouldn't be computed."""
        if "terminal" in node.op.traits or node.symbols() or any(v not in known for v in node.operands):
            return None
        if any(isinstance(a, Graph) for a in node.attributes.values()):  # a loop may take for ever
            return None
        if node.symbols() or not all(self._is_small(v) for v in node.results):
            return None
        try:
            return run_node(node, [known[v] for v in node.operands], {})
        except NumericError:
            return None

    def _is_small(self, value: Value) -> bool:
        size = value.type.bytes
        return isinstance(size, int) and size <= self.limit

    @staticmethod
    def _fold_splats(graph: Graph, node: Node, context: PassContext) -> bool:
        """Folds an elementwise node whose operands each repeat one number, over any shape."""
        if "elementwise" not in node.op.traits or not node.operands:
            return False
        numbers = [splat_of(v) for v in node.operands]
        if any(n is None for n in numbers):
            return False
        b = Builder(Graph("scratch"))
        arrays = [np.array(n, v.type.dtype.numpy) for n, v in zip(numbers, node.operands, strict=True)]
        scalar = b.emit(node.op, [b.constant(a) for a in arrays], **node.attributes)
        try:
            (array,) = run_node(scalar, arrays, {})
        except NumericError:
            return False
        builder = Builder(graph, before=node, origin=node.origin)
        context.replace(graph, node.result, builder.broadcast(builder.constant(array), node.result.type.shape, ()))
        erase_dead(graph, [node])
        return True
