"""What the engine enforces of every rule."""

from __future__ import annotations

import pytest

from graphc.errors import VerifyError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.ir.types import f32
from graphc.ir.verifier import verify
from graphc.pipeline import PassContext
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.patterns import Capture, op
from graphc.rewrite.regions import rewrite_regions
from graphc.rewrite.rules import Rule

X = Capture("x")
SIGMOID = Rule(
    "neg-exp", "exp(-x) = rsqrt(exp(x + x))", op("exp", op("neg", X)),
    lambda b, m: b.op("rsqrt", b.op("exp", b.op("add", m["x"], m["x"]))),
)  # fmt: skip

TEXT = """graph @g(%x: f32[n]) {
  %a: f32[n] = neg(%x) from "one"
  %y: f32[n] = exp(%a) from "two"
  return %y
}
"""


def test_match_is_replaced_with_united_origins() -> None:
    graph, context = parse_graph(TEXT), PassContext()
    y = graph.outputs[0]
    assert apply_rules(graph, [SIGMOID], context) == {"neg-exp": 1}
    verify(graph)
    assert print_graph(graph) == """graph @g(%x: f32[n]) {
  %add: f32[n] = add(%x, %x) from "one", "two"
  %exp: f32[n] = exp(%add) from "one", "two"
  %y: f32[n] = rsqrt(%exp) from "one", "two"
  return %y
}
"""
    assert context.replaced[y] is graph.outputs[0]


@pytest.mark.parametrize("text", [
    TEXT.replace("return %y", "return %y, %a"),
    TEXT.replace("  return %y", "  %z: f32[n] = tanh(%a)\n  return %y, %z"),
])  # fmt: skip
def test_inner_value_used_elsewhere_is_refused(text: str) -> None:
    graph, context = parse_graph(text), PassContext()
    assert apply_rules(graph, [SIGMOID], context) == {}
    assert print_graph(graph) == text
    assert [str(r) for r in context.refusals] == ["neg-exp: %a is used elsewhere (at two)"]


def test_refusal_of_the_check_is_recorded_once() -> None:
    graph, context = parse_graph(TEXT), PassContext()
    picky = Rule(SIGMOID.name, SIGMOID.equation, SIGMOID.pattern, SIGMOID.rewrite, lambda m: "the moon is full")
    apply_rules(graph, [picky], context)
    apply_rules(graph, [picky], context)
    (refusal,) = context.refusals
    assert (refusal.rule, refusal.layer, refusal.reason) == ("neg-exp", "two", "the moon is full")
    assert refusal.node == "%y: f32[n] = exp(%a)"


def test_refusals_that_were_overcome_are_forgotten() -> None:
    """tanh reads %a at first; once it is gone, the rule applies."""
    text = TEXT.replace("  return %y", "  %z: f32[n] = tanh(%a)\n  return %y, %z")
    graph, context = parse_graph(text), PassContext()
    without = Rule("tanh", "tanh(-x) = -tanh(x)", op("tanh", op("neg", X, shared=True)),
                   lambda b, m: b.op("neg", b.op("tanh", m["x"])))  # fmt: skip
    assert apply_rules(graph, [SIGMOID, without], context) == {"neg-exp": 1, "tanh": 1}
    assert context.refusals == []


def test_type_change_is_an_error() -> None:
    bad = Rule("shrink", "exp(x) = sum(x)", op("exp", X), lambda b, m: b.op("reduce_sum", m["x"], axes=(0,)))
    with pytest.raises(VerifyError, match="rule shrink changes types") as caught:
        apply_rules(parse_graph(TEXT), [bad], PassContext())
    assert caught.value.layer == "two"


def test_endless_rules_are_stopped() -> None:
    there = Rule("there", "exp(x) = tanh(x)", op("exp", X), lambda b, m: b.op("tanh", m["x"]))
    back = Rule("back", "tanh(x) = exp(x)", op("tanh", X), lambda b, m: b.op("exp", m["x"]))
    with pytest.raises(VerifyError, match="doesn't end") as caught:
        apply_rules(parse_graph(TEXT), [there, back], PassContext())
    assert "there" in str(caught.value.seen) and "back" in str(caught.value.seen)


def test_regions_are_rewritten_in_a_copy() -> None:
    region = Graph("body")
    b = Builder(region)
    c, x = b.input("c", f32, (2,)), b.input("x", f32, (2,))
    b.returns(b.op("exp", b.op("neg", b.op("add", c, x))))
    graph = Graph("g")
    b = Builder(graph)
    c, xs = b.input("c", f32, (2,)), b.input("xs", f32, (3, 2))
    b.returns(b.op("scan", c, xs, body=region, carries=1, scanned=1))
    context = PassContext()
    assert rewrite_regions(graph, context, lambda g, inner: bool(apply_rules(g, [SIGMOID], inner)))
    verify(graph)
    (node,) = graph.nodes
    assert "neg" not in {n.op.name for n in node["body"].nodes}
    assert "neg" in {n.op.name for n in region.nodes}
    assert not rewrite_regions(graph, context, lambda g, inner: bool(apply_rules(g, [SIGMOID], inner)))
