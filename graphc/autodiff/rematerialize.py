"""A budget for the memory of intermediates: what the backward pass computes again so that a run stays within it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.autodiff.recomputation import Recomputation, cheapest, recompute
from graphc.errors import GraphcError
from graphc.ir.graph import Graph
from graphc.pipeline import EXACT, Claim, PassContext, PassResult

PRICES = (1e-10, 1e-9, 3e-9, 1e-8, 1e-7)
"""Seconds for each byte that is kept, from where functions of kept values are computed again to where products are."""
SEGMENTS = (1, 2, 4, 8, 3, 6, 12, 16)

Measure = Callable[[Graph], int]


@dataclass(frozen=True)
class Rematerialize:
    """Lets the backward pass of a training step compute values again instead of keeping them, so far as a budget asks for it.

    budget: bytes of intermediates in use at once (parameters, optimizer state and constants aside). measure: what a run of a
    graph would need; only what stays within the budget by it is taken. The graph's first output is the loss: what comes
    before it is the forward pass. Of the recomputations tried, by rising price of memory, the cheapest within the budget at
    the first price that has one is taken. Raises GraphcError where none is, with the least that was found.
    """

    budget: int
    measure: Measure
    name: ClassVar[str] = "rematerialize"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.symbols():
            names = ", ".join(graph.symbols())
            raise GraphcError("a memory budget needs sizes that are known", seen=f"symbolic {names}")
        before = self.measure(graph)
        if before <= self.budget:
            return PassResult(False, {"arena": before})
        least = before
        for found in _candidates(graph):
            copy, last = _copy(graph)
            recompute(copy, last, [copy.nodes[i] for i in _numbers(graph, found)])
            needed = self.measure(copy)
            least = min(least, needed)
            if needed <= self.budget:
                copies = recompute(graph, _last(graph), found.nodes)
                stats: dict[str, int | str] = {
                    "unconstrained": before,
                    "arena": needed,
                    "recomputed": copies,
                    "estimated": f"{found.seconds * 1e3:.1f} ms",
                }
                return PassResult(True, stats)
        raise GraphcError(
            "the memory budget can't be met",
            seen=f"{self.budget} bytes for intermediates",
            expected=f"at least {least} bytes, the least that recomputation reached; {before} without any",
            hint="a smaller batch needs less; accumulate=n makes one update of n of them",
        )


def _candidates(graph: Graph) -> Iterator[Recomputation]:
    """Recomputations to try, each once."""
    tried: set[frozenset[object]] = set()
    for price in PRICES:
        for segments in SEGMENTS:
            found = cheapest(graph, _last(graph), price, segments)
            if found.nodes not in tried:
                tried.add(found.nodes)
                yield found


def _last(graph: Graph) -> int:
    """The number of the last node of the forward pass: the loss's."""
    loss = graph.outputs[0].producer
    if loss is None:
        raise GraphcError("the first output of a training step is its loss", seen=f"the input %{graph.outputs[0].name}")
    return graph.nodes.index(loss)


def _copy(graph: Graph) -> tuple[Graph, int]:
    copy, _ = graph.clone()
    return copy, _last(copy)


def _numbers(graph: Graph, found: Recomputation) -> list[int]:
    """Where the nodes stand, by which they are found in a copy."""
    return [i for i, n in enumerate(graph.nodes) if n in found.nodes]
