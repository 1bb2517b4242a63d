"""Fusion: which nodes become one kernel, that they compute the same, and what isn't fused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.ir.verifier import verify
from graphc.pipeline import PassContext
from graphc.testing.bodies import check_fusions
from graphc.testing.random_graphs import graphs, random_inputs
from graphc_optimize.decompose import Decompose
from graphc_optimize.fuse import Fuse
from graphc_optimize.fuse_groups import Grouping


def fuse(run_passes, text: str, **dims: int) -> list[tuple[str, list[str]]]:
    """(kind, operators) of each fusion, and other nodes as (operator, []), after the bodies were compared too."""
    graph, _ = run_passes(text, Fuse(), tolerance=0)
    check_fusions(graph, random_inputs(graph, dims))
    return [_summary(n) for n in graph.nodes if n.op.name != "constant"]


def _summary(node) -> tuple[str, list[str]]:
    if node.op.name != "fusion":
        return node.op.name, []
    return node["kind"], [n.op.name for n in node["body"].nodes if n.op.name != "constant"]


CONV = '{strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], layout="channels_last", kernel_layout="io"}'


def test_a_convolution_takes_bias_residual_and_activation(run_passes) -> None:
    fused = fuse(
        run_passes,
        f"""
        graph @g(%x: f32[n,4,4,3], %w: f32[3,3,3,2], %b: f32[2], %r: f32[n,4,4,2]) {{
          %y: f32[n,4,4,2] = conv(%x, %w) {CONV}
          %bias: f32[n,4,4,2] = broadcast(%b) {{shape=[n, 4, 4, 2], axes=[3]}}
          %biased: f32[n,4,4,2] = add(%y, %bias)
          %sum: f32[n,4,4,2] = add(%biased, %r)
          %zero: f32[] = constant() {{value=f32[] [0.0]}}
          %zeros: f32[n,4,4,2] = broadcast(%zero) {{shape=[n, 4, 4, 2], axes=[]}}
          %out: f32[n,4,4,2] = max(%sum, %zeros)
          return %out
        }}
        """,
        n=2,
    )
    assert fused == [("loop", ["conv", "broadcast", "add", "add", "broadcast", "max"])]


def test_what_is_computed_before_a_product_is_a_kernel_of_its_own(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[5,4], %w: f32[4,3]) {
          %e: f32[5,4] = exp(%x)
          %y: f32[5,3] = dot(%e, %w) {lhs_contract=[1], rhs_contract=[0]}
          return %y
        }
        """,
    )
    assert fused == [("loop", ["exp"]), ("loop", ["dot"])]


def test_two_products_are_two_kernels(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[5,4], %w: f32[4,3], %u: f32[4,3]) {
          %y: f32[5,3] = dot(%x, %w) {lhs_contract=[1], rhs_contract=[0]}
          %z: f32[5,3] = dot(%x, %u) {lhs_contract=[1], rhs_contract=[0]}
          %s: f32[5,3] = sub(%y, %z)
          return %s
        }
        """,
    )
    assert sorted(len(ops) for _, ops in fused) == [1, 2]


def test_softmax_is_a_tile(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,6]) {
          %m: f32[n] = reduce_max(%x) {axes=[1]}
          %mb: f32[n,6] = broadcast(%m) {shape=[n, 6], axes=[0]}
          %d: f32[n,6] = sub(%x, %mb)
          %e: f32[n,6] = exp(%d)
          %s: f32[n] = reduce_sum(%e) {axes=[1]}
          %sb: f32[n,6] = broadcast(%s) {shape=[n, 6], axes=[0]}
          %y: f32[n,6] = div(%e, %sb)
          return %y
        }
        """,
        n=3,
    )
    assert fused == [("tile", ["reduce_max", "broadcast", "sub", "exp", "reduce_sum", "broadcast", "div"])]


def test_a_reduction_takes_what_is_computed_before_and_after(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[3,4,5]) {
          %e: f32[3,4,5] = exp(%x)
          %s: f32[3,5] = reduce_sum(%e) {axes=[1]}
          %l: f32[3,5] = log(%s)
          return %l
        }
        """,
    )
    assert fused == [("loop", ["exp", "reduce_sum", "log"])]


def test_rows_across_memory_are_no_tile(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[3,4,5]) {
          %m: f32[3,5] = reduce_max(%x) {axes=[1]}
          %mb: f32[3,4,5] = broadcast(%m) {shape=[3, 4, 5], axes=[0, 2]}
          %d: f32[3,4,5] = sub(%x, %mb)
          return %d
        }
        """,
    )
    assert fused == [("loop", ["reduce_max"]), ("loop", ["broadcast", "sub"])]


def test_rows_scattered_over_memory_are_no_tile(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[6,n]) {
          %t: f32[n,6] = transpose(%x) {permutation=[1, 0]}
          %m: f32[n] = reduce_max(%t) {axes=[1]}
          %mb: f32[n,6] = broadcast(%m) {shape=[n, 6], axes=[0]}
          %d: f32[n,6] = sub(%t, %mb)
          return %d
        }
        """,
        n=3,
    )
    assert fused == [("loop", ["transpose", "reduce_max"]), ("loop", ["transpose", "broadcast", "sub"])]


def test_dear_work_isnt_repeated_by_a_broadcast(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[8,4], %b: f32[4]) {
          %e: f32[4] = exp(%b)
          %eb: f32[8,4] = broadcast(%e) {shape=[8, 4], axes=[1]}
          %y: f32[8,4] = add(%x, %eb)
          return %y
        }
        """,
    )
    assert fused == [("loop", ["exp"]), ("loop", ["broadcast", "add"])]


def test_work_on_what_repeats_is_done_before_it_is_repeated(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,6]) {
          %s: f32[n] = reduce_sum(%x) {axes=[1]}
          %sb: f32[n,6] = broadcast(%s) {shape=[n, 6], axes=[0]}
          %c: f32[] = constant() {value=f32[] [0.5]}
          %cb: f32[n,6] = broadcast(%c) {shape=[n, 6], axes=[]}
          %v: f32[n,6] = add(%sb, %cb)
          %e: f32[n,6] = exp(%v)
          %y: f32[n,6] = mul(%x, %e)
          return %y
        }
        """,
        n=3,
    )
    assert fused == [("tile", ["reduce_sum", "broadcast", "add", "exp", "broadcast", "mul"])]


def test_a_value_read_elsewhere_is_a_second_result(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[4,3], %w: f32[3,5]) {
          %e: f32[4,3] = exp(%x)
          %n: f32[4,3] = neg(%e)
          %y: f32[4,5] = dot(%e, %w) {lhs_contract=[1], rhs_contract=[0]}
          return %n, %y
        }
        """,
    )
    assert fused == [("loop", ["exp", "neg"]), ("loop", ["dot"])]


def test_what_is_stored_narrow_is_widened_by_each_reader(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,8], %w: bf16[8,8]) {
          %e: f32[n,8] = exp(%x)
          %narrow: bf16[n,8] = cast(%e) {dtype=bf16}
          %y: f32[n,8] = dot(%narrow, %w) {lhs_contract=[1], rhs_contract=[0], wide=true}
          %wide: f32[n,8] = cast(%narrow) {dtype=f32}
          %sum: f32[n,8] = add(%y, %wide)
          %row: f32[n] = reduce_sum(%wide) {axes=[1]}
          return %sum, %row
        }
        """,
        n=3,
    )
    assert fused == [("tile", ["exp", "cast", "cast", "reduce_sum"]), ("loop", ["dot", "cast", "add"])]


def test_an_epilogue_that_parts_and_meets_again(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,8], %w: f32[8,8]) {
          %y: f32[n,8] = dot(%x, %w) {lhs_contract=[1], rhs_contract=[0]}
          %a: f32[n,8] = erf(%y)
          %b: f32[n,8] = exp(%a)
          %z: f32[n,8] = mul(%y, %b)
          return %z
        }
        """,
        n=3,
    )
    assert fused == [("loop", ["dot", "erf", "exp", "mul"])]


def test_no_cycle_between_kernels(run_passes) -> None:
    """exp and div can't be one kernel: the sum between them is across rows."""
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[4,3]) {
          %e: f32[4,3] = exp(%x)
          %s: f32[3] = reduce_sum(%e) {axes=[0]}
          %sb: f32[4,3] = broadcast(%s) {shape=[4, 3], axes=[1]}
          %y: f32[4,3] = div(%e, %sb)
          return %y
        }
        """,
    )
    assert [kind for kind, _ in fused] == ["loop"] * len(fused)
    assert not any({"exp", "div"} <= set(ops) for _, ops in fused)


def test_reshapes_at_the_border_stay_outside(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,2,3]) {
          %r: f32[n,6] = reshape(%x) {shape=[n, 6]}
          %e: f32[n,6] = exp(%r)
          %y: f32[n,3,2] = reshape(%e) {shape=[n, 3, 2]}
          return %y
        }
        """,
        n=2,
    )
    assert fused == [("reshape", []), ("loop", ["exp"]), ("reshape", [])]


def test_heads_are_read_through_a_view_and_written_through_one(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[n,5,6], %w: f32[6,6], %k: f32[n,2,5,3]) {
          %p: f32[n,5,6] = dot(%x, %w) {lhs_contract=[2], rhs_contract=[0]}
          %r: f32[n,5,2,3] = reshape(%p) {shape=[n, 5, 2, 3]}
          %q: f32[n,2,5,3] = transpose(%r) {permutation=[0, 2, 1, 3]}
          %s: f32[n,2,5,5] = dot(%q, %k) {lhs_batch=[0, 1], rhs_batch=[0, 1], lhs_contract=[3], rhs_contract=[3]}
          %o: f32[n,2,5,3] = dot(%s, %k) {lhs_batch=[0, 1], rhs_batch=[0, 1], lhs_contract=[3], rhs_contract=[2]}
          %t: f32[n,5,2,3] = transpose(%o) {permutation=[0, 2, 1, 3]}
          %m: f32[n,5,6] = reshape(%t) {shape=[n, 5, 6]}
          %y: f32[n,5,6] = dot(%m, %w) {lhs_contract=[2], rhs_contract=[0]}
          return %y
        }
        """,
        n=2,
    )
    assert fused == [
        ("loop", ["dot"]), ("reshape", []), ("loop", ["transpose", "dot"]), ("loop", ["dot", "transpose"]), ("reshape", []),
        ("loop", ["dot"]),
    ]  # fmt: skip


def test_a_materialize_ends_a_kernel(run_passes) -> None:
    fused = fuse(
        run_passes,
        """
        graph @g(%x: f32[3,4]) {
          %t: f32[4,3] = transpose(%x) {permutation=[1, 0]}
          %m: f32[4,3] = materialize(%t)
          %e: f32[4,3] = exp(%m)
          return %e
        }
        """,
    )
    assert fused == [("loop", ["transpose", "materialize"]), ("loop", ["exp"])]


def test_a_gather_reads_memory(run_passes) -> None:
    text = """
        graph @g(%t: f32[7,4], %s: f32[3,4]) {
          %e: f32[7,4] = exp(%t)
          %i: i64[3] = constant() {value=i64[3] [6, 0, 2]}
          %g: f32[3,4] = gather(%e, %i) {axis=0}
          %y: f32[3,4] = add(%g, %s)
          return %y
        }
        """
    assert fuse(run_passes, text) == [("loop", ["exp"]), ("loop", ["gather", "add"])]


def test_the_body_of_a_scan_is_fused(run_passes) -> None:
    graph, _ = run_passes(
        """
        graph @g(%h: f32[2], %x: f32[5,2]) {
          %last: f32[2], %all: f32[5,2] = scan(%h, %x) {carries=1, scanned=1} [
            body=graph @step(%s: f32[2], %v: f32[2]) {
              %a: f32[2] = add(%s, %v)
              %t: f32[2] = tanh(%a)
              return %t, %t
            }
          ]
          return %last, %all
        }
        """,
        Fuse(),
        tolerance=0,
    )
    (scan,) = graph.nodes
    assert [_summary(n) for n in scan["body"].nodes] == [("loop", ["add", "tanh"])]


def test_a_fusion_carries_all_its_layers(run_passes) -> None:
    graph, _ = run_passes(
        """
        graph @g(%x: f32[2]) {
          %c: f32[] = constant() {value=f32[] [1.0]} from "shared", "others"
          %f: f32[2] = broadcast(%c) {shape=[2], axes=[]} from "shared", "others"
          %a: f32[2] = add(%x, %f) from "one"
          %b: f32[2] = exp(%a) from "two"
          return %b
        }
        """,
        Fuse(),
    )
    (node,) = graph.nodes
    assert node.origin == ("one", "two")
    assert node.result.name == "b"


def test_the_text_of_a_fused_graph_reads_back(run_passes) -> None:
    graph, _ = run_passes("graph @g(%x: f32[n]) {\n  %e: f32[n] = exp(%x)\n  return %e\n}\n", Fuse())
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


def test_dead_code_makes_no_kernel(run_passes) -> None:
    fused = fuse(run_passes, "graph @g(%x: f32[2]) {\n  %e: f32[2] = exp(%x)\n  %n: f32[2] = neg(%x)\n  return %n\n}\n")
    assert fused == [("loop", ["neg"])]


@settings(max_examples=60, deadline=None)
@given(graph=graphs(max_nodes=14), n=st.integers(1, 5), m=st.integers(1, 5))
def test_random_graphs_compute_the_same(graph: Graph, n: int, m: int) -> None:
    inputs = random_inputs(graph, {"n": n, "m": m})
    expected = interpret(graph, inputs)
    Decompose().run(graph, PassContext())
    Fuse().run(graph, PassContext())
    verify(graph)
    for y, want in zip(interpret(graph, inputs), expected, strict=True):
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(want).max(initial=0)))
    check_fusions(graph, inputs)
    left = {node.op.name for node in graph.nodes}
    assert left <= {"fusion", "constant", "reshape", "sort"}


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_a_cycle_through_what_lies_behind_is_seen():
    graph = parse_graph("""graph @g(%x: f32[4], %y: f32[4]) {
  %a: f32[4] = exp(%x)
  %h: f32[4] = exp(%y)
  %b: f32[4] = add(%a, %h)
  %g: f32[4] = neg(%a)
  %k: f32[4] = add(%h, %g)
  return %b, %k
}
""")
    a, h, b, _, k = graph.nodes
    grouping = Grouping(graph)
    assert grouping.join(h, k)
    assert not grouping.join(a, b)  # a -> g -> k, which is one with h -> b
