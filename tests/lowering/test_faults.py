"""Where a run may fail for its data, before and after fusion; what a failing call leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.errors import NumericError
from graphc.ir.graph import Graph, Node
from graphc.ir.types import f32
from graphc.lowering.donation import in_place
from graphc.lowering.faults import last_fault

EMBEDDING = """
graph @embedding(%ids: i64[4,1], %table: f32[9,3], %n: i64[4]) {
  %flat: i64[4] = reshape(%ids) {shape=[4]}
  %rows: f32[4,3] = gather(%table, %flat) {axis=0}
  %y: f32[4,3] = exp(%rows)
  %new: f32[9,3] = scatter_nd(%table, %ids, %y) {combine="sum"}
  %m: i64[4] = add(%n, %n)
  return %y, %new, %m
}
"""


def _fault(graph: Graph) -> Node | None:
    position = last_fault(graph)
    return graph.nodes[position] if position >= 0 else None


def _name(node: Node | None) -> str | None:
    return None if node is None else node.op.name


def test_a_look_up_of_the_same_indices_cannot_fail_first() -> None:
    graph = graphc.parse_graph(EMBEDDING)
    assert _name(_fault(graph)) == "gather"
    assert _name(_fault(graphc.parse_graph(EMBEDDING.replace("gather(%table, %flat)", "gather(%table, %n)")))) == "scatter_nd"


def test_look_ups_within_fusions_are_seen() -> None:
    fused = graphc.run_passes(graphc.parse_graph(EMBEDDING), ["fuse"])
    node = _fault(fused)
    assert node is not None and node.op.name == "fusion"
    assert [n.op.name for n in node["body"].nodes if n.op.name == "gather"] == ["gather"]


@pytest.mark.parametrize(("divisor", "expected"), [("%n", "div"), ("%two", None)])
def test_divisions_of_integers(divisor: str, expected: str | None) -> None:
    graph = graphc.parse_graph(f"""
    graph @g(%x: i64[3], %n: i64[3]) {{
      %one: i64[] = constant() {{value=i64[] [2]}}
      %two: i64[3] = broadcast(%one) {{shape=[3], axes=[]}}
      %y: i64[3] = div(%x, {divisor})
      return %y
    }}""")
    assert _name(_fault(graph)) == expected


def test_a_failing_call_leaves_what_it_was_given() -> None:
    graph = graphc.parse_graph("""
    graph @g(%count: f32[3], %table: f32[9], %ids: i64[4]) {
      %after: f32[3] = exp(%count)
      %rows: f32[4] = gather(%table, %ids) {axis=0}
      return %after, %rows
    }""")
    graph.donations = [(0, 0)]
    assert in_place(graph) == ()  # as the nodes stand, a bad index would come too late
    graph.reorder([graph.nodes[1], graph.nodes[0]])
    assert in_place(graph) == ((0, 0),)


def test_training_steps_that_fail_change_nothing() -> None:
    b = graphc.Builder()
    x = b.input("x", f32, (4, 3))
    w = b.constant(np.ones((3, 2), np.float32), "w")
    graph = b.returns(b.op("matmul", x, w))
    data = np.ones((4, 3), np.float32)
    step = graphc.compile_training(
        graph, loss="cross_entropy", optimizer=graphc.SGD(0.1), example_inputs=(data, np.zeros(4, np.int64)), threads=1
    )
    before = step.snapshot()
    with pytest.raises(NumericError, match="index"):
        step(data, np.array([0, 1, 2, 0]))
    for name, value in step.snapshot().items():
        np.testing.assert_array_equal(value, before[name])
