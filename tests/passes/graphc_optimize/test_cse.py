"""Common subexpressions."""

from __future__ import annotations

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import f32
from graphc_optimize.cse import CommonSubexpressions


def test_equal_nodes_become_one_with_all_origins(run_passes) -> None:
    graph, _ = run_passes(
        """
        graph @g(%x: f32[n], %y: f32[n]) {
          %a: f32[n] = add(%x, %y) from "one"
          %b: f32[n] = add(%y, %x) from "two"
          %c: f32[n] = exp(%a)
          %d: f32[n] = exp(%b)
          %z: f32[n] = mul(%c, %d)
          return %z
        }
        """,
        CommonSubexpressions(),
        tolerance=0,
    )
    assert [n.op.name for n in graph.nodes] == ["add", "exp", "mul"]
    assert graph.nodes[0].origin == ("one", "two")


def test_other_operands_order_or_attributes_stay(run_passes) -> None:
    text = """
        graph @g(%x: f32[2,2], %y: f32[2,2]) {
          %a: f32[2,2] = sub(%x, %y)
          %b: f32[2,2] = sub(%y, %x)
          %c: f32[2] = reduce_sum(%a) {axes=[0]}
          %d: f32[2] = reduce_sum(%a) {axes=[1]}
          %e: f32[2,2] = max(%x, %y)
          %f: f32[2,2] = max(%y, %x)
          return %b, %c, %d, %e, %f
        }
        """
    graph, _ = run_passes(text, CommonSubexpressions(), tolerance=0)
    assert len(graph) == 6


def test_both_of_equal_outputs_stay_outputs(run_passes) -> None:
    text = """
        graph @g(%x: f32[2]) {
          %a: f32[2] = exp(%x)
          %b: f32[2] = exp(%x)
          return %a, %b
        }
        """
    graph, _ = run_passes(text, CommonSubexpressions(), tolerance=0)
    assert len(graph) == 1
    assert graph.outputs[0] is graph.outputs[1]


def test_constants_are_compared_whole(run_passes) -> None:
    values = np.arange(10_000, dtype=np.float32)
    other = values.copy()
    other[7] = -1.0  # between the elements that make the key's hash
    b = Builder(Graph())
    x = b.input("x", f32, values.shape)
    ys = [b.op("add", x, b.constant(v)) for v in (values, values.copy(), other)]
    graph, _ = run_passes(b.returns(*ys), CommonSubexpressions(), tolerance=0)
    assert [n.op.name for n in graph.nodes].count("constant") == 2
    assert graph.outputs[0] is graph.outputs[1] is not graph.outputs[2]


def test_zeros_of_different_signs_differ(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, ())
    ys = [b.op("add", x, b.scalar(zero, f32)) for zero in (0.0, -0.0)]
    graph, _ = run_passes(b.returns(*ys), CommonSubexpressions(), tolerance=0)
    assert len(graph) == 4
