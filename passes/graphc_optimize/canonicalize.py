"""One form for what can be written in many: views merged, identities dropped, constants to the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.graph import Graph
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.regions import rewrite_regions
from graphc_optimize.canonical_rules import RULES
from graphc_optimize.dce import erase_unused


@dataclass(frozen=True)
class Canonicalize:
    """Merges chains of reshapes, transposes, broadcasts and slices, drops what changes nothing, and dead code with it.

    Transposes that move no element become reshapes; broadcasts have no operand dims of 1 that they repeat; a
    commutative operator's constant operand stands last.
    """

    name: ClassVar[str] = "canonicalize"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inside = rewrite_regions(graph, context, lambda region, inner: bool(_canonical(region, inner)))
        counts = _canonical(graph, context)
        return PassResult(inside or bool(counts), counts)


def _canonical(graph: Graph, context: PassContext) -> dict[str, int]:
    erased = erase_unused(graph)
    counts = apply_rules(graph, RULES, context)
    return {**counts, "erased": erased} if erased else counts
