"""Rematerialization: the cut against all choices, the rewritten graph against the original, budgets against what is used."""

from __future__ import annotations

import functools
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

import graphc
from graphc.autodiff.costs import elements, seconds
from graphc.autodiff.recomputation import cheapest, recompute, waits
from graphc.autodiff.rematerialize import Rematerialize
from graphc.backend import CompileOptions
from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.parser import parse_graph
from graphc.ir.types import f32
from graphc.ir.verifier import verify
from graphc.lowering.order import Order
from graphc.pipeline import PassContext
from graphc.plugins import BACKENDS, find

LAYERS, WIDTH, BATCH = 2, 32, 256


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH))]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, WIDTH)).astype(np.float32), rng.integers(0, 10, BATCH)


def training(budget: int | None = None, backend: str = "llvm") -> graphc.training.step.TrainingStep:
    return graphc.compile_training(
        network(), loss="cross_entropy", optimizer=graphc.Adam(1e-2), example_inputs=batch(), threads=1, cache=False,
        memory_budget=budget, backend=backend,
    )  # fmt: skip


@functools.cache
def plain() -> graphc.training.step.TrainingStep:
    """Without a budget; one test alone may call it."""
    return training()


def joint() -> tuple[Graph, int]:
    """A loss and the gradients of its weights, of primitives, and the number of the last node of the forward pass."""
    b = Builder(Graph("joint"))
    x, ws = b.input("x", f32, (16, 8)), [b.input(f"w{i}", f32, (8, 8)) for i in range(3)]
    for i, w in enumerate(ws):
        b.origin = (f"layer{i}",)
        x = b.op("layer_norm", b.op("gelu", b.op("matmul", x, w)), b.full(1.5, w.type.with_shape((8,))),
                 b.full(0.5, w.type.with_shape((8,))), axis=1)  # fmt: skip
    graph = graphc.value_and_grad(b.returns(b.op("reduce_sum", b.op("mul", x, x), axes=(0, 1))), [w.name for w in ws])
    graph = graphc.run_passes(graph, ["decompose", "simplify-algebra", "cse", "dce"])
    Order().run(graph, PassContext())
    loss = graph.outputs[0].producer
    assert loss is not None
    return graph, graph.nodes.index(loss)


SMALL = """
graph @small(%x: f32[64,16], %w: f32[16,16]) {
  %a: f32[64,16] = exp(%x)
  %b: f32[64,16] = mul(%a, %x)
  %c: f32[64,16] = dot(%b, %w) {lhs_contract=[1], rhs_contract=[0]}
  %d: f32[64,16] = sin(%c)
  %e: f32[64] = reduce_sum(%d) {axes=[1]}
  %loss: f32[] = reduce_sum(%e) {axes=[0]}
  %f: f32[64,16] = mul(%d, %c)
  %g: f32[64,16] = mul(%f, %b)
  %h: f32[64,16] = add(%g, %a)
  return %loss, %h
}
"""


def cost(graph: Graph, needed: set[Value], again: set[Node], price: float) -> float:
    """Of computing those nodes again and keeping all else that is needed."""
    needed = needed | {v for n in again for v in n.operands if v.producer is not None}
    kept = [v for v in needed if v.producer not in again]
    number = {n: i for i, n in enumerate(graph.nodes)}
    return sum(seconds(n) or 0.0 for n in again) + sum(price * 4 * elements(v) * waits(v, number, 5) for v in kept)


@pytest.mark.parametrize("price", [0.0, 1e-11, 1e-10, 3e-10, 1e-9, 1e-8])
def test_the_cut_is_the_cheapest_of_all_choices(price: float) -> None:
    graph = parse_graph(SMALL)
    forward = list(graph.nodes[:6])
    needed = {v for n in forward for v in n.results if any(u not in forward for u in v.users)}
    choices = [set(c) for k in range(7) for c in combinations(forward, k)]
    least = min(cost(graph, needed, c, price) for c in choices)
    found = cheapest(graph, 5, price, 1)
    assert cost(graph, needed, set(found.nodes), price) == pytest.approx(least, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(("price", "segments"), [(1e-10, 1), (1e-9, 2), (1e-6, 1), (1e-6, 3)])
def test_what_is_computed_again_is_the_same(price: float, segments: int) -> None:
    graph, last = joint()
    rng = np.random.default_rng(2)
    inputs = [rng.normal(size=v.type.shape).astype(np.float32) for v in graph.inputs]
    expected = interpret(graph, inputs)
    copies = recompute(graph, last, cheapest(graph, last, price, segments).nodes)
    assert copies > 0
    verify(graph)
    for seen, e in zip(interpret(graph, inputs), expected, strict=True):
        np.testing.assert_array_equal(seen, e)


def test_no_pass_takes_the_copy_for_the_original() -> None:
    graph, last = joint()
    copies = recompute(graph, last, cheapest(graph, last, 1e-9, 1).nodes)
    cleaned = graphc.run_passes(graph, ["canonicalize", "simplify-algebra", "fold-constants", "cse", "dce"])
    forward = {n.op.name for n in graph.nodes[: last + 1]}
    behind: set[Value] = set()
    for node in cleaned.nodes:
        if node.op.name == "after" or any(v in behind for v in node.operands):
            behind.update(node.results)
    repeated = [v for v in behind if v.producer is not None and v.producer.op.name in ("erf", "exp")]
    assert copies > 0
    assert "erf" in forward
    assert len(repeated) >= 3


def test_only_what_crosses_no_segment_is_computed_again() -> None:
    graph, last = joint()
    one = cheapest(graph, last, 1e-6, 1)
    several = cheapest(graph, last, 1e-6, 3)
    assert several.nodes < one.nodes
    assert several.seconds < one.seconds


def test_a_step_stays_within_its_budget_and_computes_the_same() -> None:
    budget = plain().executable.memory.arena * 3 // 5
    tight = training(budget)
    assert tight.executable.memory.arena <= budget
    (record,) = [p for p in tight.executable.report.passes if p["name"] == "rematerialize"]
    assert record["stats"]["arena"] == tight.executable.memory.arena
    assert record["stats"]["unconstrained"] == plain().executable.memory.arena
    assert "rematerialize" in tight.explain()
    for _ in range(4):
        np.testing.assert_allclose(tight(*batch()), plain()(*batch()), rtol=2e-5)


def test_a_budget_that_is_large_enough_changes_nothing() -> None:
    roomy = training(plain().executable.memory.arena)
    assert roomy.executable.text("fused") == plain().executable.text("fused")


def test_a_budget_that_can_not_be_met_says_what_can() -> None:
    with pytest.raises(GraphcError, match="can't be met") as raised:
        training(1000)
    assert raised.value.expected is not None
    least = int(raised.value.expected.split()[2])
    assert training(least).executable.memory.arena <= least


def test_a_backend_without_budgets_says_so() -> None:
    with pytest.raises(GraphcError, match="reference backend takes no memory budget"):
        training(10**6, backend="reference")


def test_sizes_must_be_known() -> None:
    graph = parse_graph("graph @g(%x: f32[n]) {\n  %y: f32[n] = exp(%x)\n  return %y\n}\n")
    with pytest.raises(GraphcError, match="sizes that are known"):
        Rematerialize(1, lambda g: 2).run(graph, PassContext())


def test_the_pass_comes_last_and_only_where_it_is_asked_for() -> None:
    backend = find(BACKENDS, "llvm")
    names = [getattr(p, "name", p) for p in backend.pipeline(CompileOptions("llvm", memory_budget=1))]
    assert names[-1] == "rematerialize"
    assert "rematerialize" not in [getattr(p, "name", p) for p in backend.pipeline(CompileOptions("llvm"))]
