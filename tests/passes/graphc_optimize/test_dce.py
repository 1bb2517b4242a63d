"""Dead code."""

from __future__ import annotations

from graphc_optimize.dce import DeadCode


def test_unused_chains_go(check_text) -> None:
    check_text(
        """
        graph @g(%x: f32[n]) {
          %a: f32[n] = exp(%x)
          %b: f32[n] = tanh(%a)
          %y: f32[n] = neg(%x)
          return %y
        }
        """,
        """
        graph @g(%x: f32[n]) {
          %y: f32[n] = neg(%x)
          return %y
        }
        """,
        DeadCode(),
        tolerance=0,
    )


def test_one_used_result_keeps_the_node(run_passes) -> None:
    text = """graph @g(%x: f32[4]) {
  %v: f32[4], %i: i64[4] = sort(%x) {axis=0}
  return %i
}
"""
    graph, _ = run_passes(text, DeadCode(), tolerance=0)
    assert [n.op.name for n in graph.nodes] == ["sort"]
