"""A budget for the memory of intermediates: what the backward pass computes again so that a run stays within it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.autodiff.peak import likely_peak
from graphc.autodiff.recomputation import Recomputation, cheapest, recompute
from graphc.errors import GraphcError
from graphc.ir.graph import Graph, Node
from graphc.pipeline import EXACT, Claim, PassContext, PassResult

PRICES = (1e-10, 1e-9, 2e-9, 4e-9, 1e-8, 1e-7)
"""Seconds for each byte that is kept for the whole step: from functions that are computed again to products."""
SEGMENTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
CLOSE = 1.05
"""How far above the budget a guess may lie to be looked at."""
LOOKS = 16
"""Programs that are planned at most."""

Measure = Callable[[Graph], int]


@dataclass(frozen=True)
class Rematerialize:
    """Lets the backward pass of a training step compute values again instead of keeping them, so far as a budget asks for it.

    budget: bytes of intermediates in use at once (parameters, optimizer state and constants aside). measure: what a run of a
    graph would need; only what stays within the budget by it is taken. The graph's first output is the loss: what comes
    before it is the forward pass. Many recomputations are guessed at, and the cheapest that look right are measured, until
    one is within the budget. Raises GraphcError where none is, with the least that was found.
    """

    budget: int
    measure: Measure
    name: ClassVar[str] = "rematerialize"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.symbols():
            names = ", ".join(graph.symbols())
            hint = "what is computed again is chosen by what it takes at one size: compile for one"
            raise GraphcError("a memory budget needs sizes that are known", seen=f"symbolic {names}", hint=hint)
        before = self.measure(graph)
        if before <= self.budget:
            return PassResult(False, {"arena": before})
        waiting = sorted(_candidates(graph), key=lambda c: c.recomputation.seconds)
        least, ratio = before, 1.0  # of what is measured to what was guessed
        for _ in range(min(LOOKS, len(waiting))):
            likely = (c for c in waiting if c.guess * ratio <= self.budget * CLOSE)
            chosen = next(likely, None) or min(waiting, key=lambda c: c.guess)
            waiting.remove(chosen)
            needed = self.measure(_rewritten(graph, chosen.recomputation))
            if needed <= self.budget:
                copies = recompute(graph, _last(graph), chosen.recomputation.nodes)
                estimated = f"{chosen.recomputation.seconds * 1e3:.1f} ms"
                sizes: dict[str, int | str] = {"unconstrained": before, "arena": needed}
                return PassResult(True, {**sizes, "recomputed": copies, "estimated": estimated})
            least, ratio = min(least, needed), (ratio + needed / max(1, chosen.guess)) / 2
        raise GraphcError(
            "the memory budget can't be met",
            seen=f"{self.budget} bytes for intermediates",
            expected=f"at least {least} bytes, the least that recomputation reached; {before} without any",
            hint="a smaller batch needs less; accumulate=n makes one update of n of them",
        )


@dataclass(frozen=True)
class _Candidate:
    recomputation: Recomputation
    guess: int


def _candidates(graph: Graph) -> Iterator[_Candidate]:
    """Recomputations to choose among, each once, and what memory they look like needing."""
    tried: set[frozenset[Node]] = set()
    for price in PRICES:
        for segments in SEGMENTS:
            found = cheapest(graph, _last(graph), price, segments)
            if found.nodes not in tried:
                tried.add(found.nodes)
                yield _Candidate(found, likely_peak(_rewritten(graph, found)))


def _rewritten(graph: Graph, found: Recomputation) -> Graph:
    """A copy of the graph that computes those nodes again."""
    copy, _ = graph.clone()
    recompute(copy, _last(copy), [new for old, new in zip(graph.nodes, copy.nodes, strict=True) if old in found.nodes])
    return copy


def _last(graph: Graph) -> int:
    """The number of the last node of the forward pass: the loss's."""
    loss = graph.outputs[0].producer
    if loss is None:
        raise GraphcError("the first output of a training step is its loss", seen=f"the input %{graph.outputs[0].name}")
    return graph.nodes.index(loss)
