"""A pass of one rule, held to its claim: x / sqrt(y) becomes x * rsqrt(y).

    python examples/write_a_pass.py
"""

from dataclasses import dataclass
from typing import ClassVar

import graphc
from graphc.ir.graph import Graph
from graphc.pipeline import EXACT, REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.patterns import Capture, op
from graphc.rewrite.rules import Rule

RULE = Rule(
    "div-sqrt",
    "x / sqrt(y) = x * rsqrt(y)",
    op("div", Capture("x"), op("sqrt", Capture("y"))),
    lambda b, m: b.op("mul", m["x"], b.op("rsqrt", m["y"])),
)


@dataclass(frozen=True)
class DivSqrt:
    """Divisions by square roots become products with reciprocal ones; other roundings, so not in strict numerics."""

    name: ClassVar[str] = "div-sqrt"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if context.numerics == "strict":
            return PassResult(False)
        counts = apply_rules(graph, [RULE], context)
        return PassResult(bool(counts), counts)


@dataclass(frozen=True)
class WrongClaim(DivSqrt):
    """The same, but it claims not to change a bit."""

    claim: ClassVar[Claim] = EXACT


graph = graphc.parse_graph("""
graph @normalize(%x: f32[n,64], %v: f32[n,64]) {
  %s: f32[n,64] = sqrt(%v) from "deviation"
  %y: f32[n,64] = div(%x, %s) from "scale"
  return %y
}
""")
# Verification draws inputs from the normal distribution: here a square keeps the variances positive.
positive = graphc.parse_graph("""
graph @normalize(%x: f32[n,64], %v: f32[n,64]) {
  %q: f32[n,64] = mul(%v, %v)
  %s: f32[n,64] = sqrt(%q) from "deviation"
  %y: f32[n,64] = div(%x, %s) from "scale"
  return %y
}
""")

print(graphc.print_graph(graphc.run_passes(graph, [DivSqrt()])))
graphc.run_passes(positive, [DivSqrt()], verify="full")
print("its claim holds: other roundings, nothing else")
try:
    graphc.run_passes(positive, [WrongClaim()], verify="full")
except graphc.VerifyError as error:
    print(f"a claim that doesn't hold is found:\n{error}")
