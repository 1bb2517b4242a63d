"""Constant folding."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import f32, i64
from graphc_optimize.fold_constants import FoldConstants


def test_small_results_are_computed(check_text) -> None:
    check_text(
        """
        graph @g(%x: f32[2]) {
          %a: i64[2] = constant() {value=i64[2] [1, 2]}
          %b: i64[2] = mul(%a, %a)
          %c: i64[2] = reverse(%b) {axes=[0]}
          %i: i64[2] = iota() {dtype=i64, shape=[2], axis=0}
          %j: i64[2] = add(%c, %i)
          %d: f32[2] = cast(%j) {dtype=f32}
          %y: f32[2] = add(%x, %d)
          return %y
        }
        """,
        """
        graph @g(%x: f32[2]) {
          %d.old: f32[2] = constant() {value=f32[2] [4.0, 2.0]}
          %y: f32[2] = add(%x, %d.old)
          return %y
        }
        """.replace("%d.old", "%d_1"),
        FoldConstants(),
        tolerance=0,
    )


def test_repeated_numbers_fold_at_any_size(check_text) -> None:
    check_text(
        """
        graph @g(%x: f32[n,1000]) {
          %two: f32[] = constant() {value=f32[] [2.0]}
          %a: f32[n,1000] = broadcast(%two) {shape=[n,1000], axes=[]}
          %b: f32[n,1000] = sqrt(%a)
          %c: f32[n,1000] = mul(%b, %b)
          %y: f32[n,1000] = add(%x, %c)
          return %y
        }
        """,
        f"""
        graph @g(%x: f32[n,1000]) {{
          %constant_1: f32[] = constant() {{value=f32[] [{float(np.sqrt(np.float32(2)) ** 2)!r}]}}
          %broadcast_1: f32[n,1000] = broadcast(%constant_1) {{shape=[n, 1000], axes=[]}}
          %y: f32[n,1000] = add(%x, %broadcast_1)
          return %y
        }}
        """,
        FoldConstants(),
        tolerance=0,
    )


@pytest.mark.parametrize("size", [2, 100])
def test_weights_are_left_for_prepare(run_passes, size: int) -> None:
    """Whatever their values: the same code serves others."""
    for values in (np.random.default_rng(0).standard_normal((size, size)), np.ones((size, size))):
        b = Builder(Graph())
        x = b.input("x", f32, (size, size))
        w = b.constant(values.astype(np.float32))
        graph, _ = run_passes(b.returns(b.op("add", x, b.op("exp", w))), FoldConstants(), tolerance=0)
        assert [n.op.name for n in graph.nodes] == ["constant", "exp", "add"]


def test_big_results_are_left_for_prepare(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", i64, (100,))
    graph = b.returns(b.op("add", x, b.op("neg", b.constant(np.arange(100)))))
    graph, _ = run_passes(graph, FoldConstants(limit=799), tolerance=0)
    assert [n.op.name for n in graph.nodes] == ["constant", "neg", "add"]
    graph, _ = run_passes(graph, FoldConstants(limit=800), tolerance=0)
    assert [n.op.name for n in graph.nodes] == ["constant", "add"]


def test_a_broadcast_constant_stays_small(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (10, 3))
    bias = b.constant(np.arange(3, dtype=np.float32))
    graph, _ = run_passes(b.returns(b.op("add", x, b.broadcast(bias, (10, 3), (1,)))), FoldConstants(), tolerance=0)
    assert [n.op.name for n in graph.nodes] == ["constant", "broadcast", "add"]


def test_what_has_no_value_stays() -> None:
    from graphc.ir.parser import parse_graph
    from graphc.pipeline import PassContext

    graph = parse_graph("""graph @g() {
  %a: i64[] = constant() {value=i64[] [1]}
  %z: i64[] = constant() {value=i64[] [0]}
  %y: i64[] = div(%a, %z)
  return %y
}
""")
    assert not FoldConstants().run(graph, PassContext()).changed
    assert len(graph) == 3
