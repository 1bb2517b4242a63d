"""Lifting: composites are recognized in the pieces that exporters write them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.graph import Graph
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.engine import apply_rules
from graphc_optimize import lift_activations, lift_attention, lift_norms


@dataclass(frozen=True)
class Lift:
    """Recognizes sigmoid, silu, gelu, softmax, layer_norm, rms_norm and attention; run it on a canonical graph."""

    name: ClassVar[str] = "lift"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for rules in (lift_activations.RULES, *lift_norms.STAGES, (lift_attention.ATTENTION,)):
            counts |= apply_rules(graph, rules, context)
        return PassResult(bool(counts), counts)
