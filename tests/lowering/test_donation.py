"""Donated inputs: their text, what may share memory with them, and programs that write over them."""

import numpy as np
import pytest

import graphc
from graphc.errors import VerifyError
from graphc.interpreter import interpret
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.ir.verifier import verify
from graphc.lowering.donation import in_place

UPDATE = """graph @update(%w: f32[40,70], %m: f32[40,70], %x: f32[8,40], %d: f32[8,70]) {
  %y: f32[8,70] = dot(%x, %w) {lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0]}
  %g: f32[40,70] = dot(%x, %d) {lhs_batch=[], rhs_batch=[], lhs_contract=[0], rhs_contract=[0]}
  %n: f32[40,70] = add(%m, %g)
  %v: f32[40,70] = sub(%w, %n)
  donate %w to 1, %m to 2
  return %y, %v, %n
}
"""


def arrays(graph: graphc.Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=v.type.concrete({})).astype(v.type.dtype.numpy) for v in graph.inputs]


def test_the_text_keeps_donations_and_clones_do():
    graph = parse_graph(UPDATE)
    assert graph.donations == [(0, 1), (1, 2)]
    assert print_graph(graph) == print_graph(parse_graph(print_graph(graph)))
    assert graph.clone()[0].donations == graph.donations


@pytest.mark.parametrize("wrong", [[(0, 0)], [(0, 1), (0, 2)], [(0, 1), (1, 1)], [(9, 1)], [(0, 9)]])
def test_the_verifier_refuses_donations_that_cant_be(wrong):
    graph = parse_graph(UPDATE)
    graph.donations = wrong
    with pytest.raises(VerifyError, match="donat"):
        verify(graph)


def test_a_program_writes_over_what_it_is_given():
    graph = parse_graph(UPDATE)
    expected = interpret(graph, arrays(graph))
    exe = graphc.compile(graph, "llvm", cache=False)
    given = arrays(graph)
    outputs = exe(*given)
    assert outputs[1] is given[0] and outputs[2] is given[1]
    for y, e in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-5, atol=1e-5)


def test_nothing_else_is_written_over():
    graph = parse_graph(UPDATE)
    exe = graphc.compile(graph, "llvm", cache=False)
    w, m, x, d = arrays(graph)
    frozen = w.copy()
    frozen.flags.writeable = False
    outputs = exe(frozen, m, x, d)
    assert outputs[1] is not frozen
    np.testing.assert_array_equal(frozen, w)
    # One array for both: neither may be lost under the other.
    twice = w.copy()
    outputs = exe(twice, twice, x, d)
    expected = interpret(graph, [w, w, x, d])
    for y, e in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("%y: f32[4,4] = transpose(%w) {permutation=[1, 0]}\n  %z: f32[4,4] = exp(%x)", False),  # reads other places
        ("%y: f32[4,4] = exp(%w)\n  %z: f32[4,4] = add(%w, %x)", False),  # a later read
        ("%z: f32[4,4] = add(%w, %x)\n  %y: f32[4,4] = exp(%w)", True),
        ("%s: f32[16] = reshape(%w) {shape=[16]}\n  %t: f32[16] = exp(%s)\n"
         "  %z: f32[4,4] = reshape(%t) {shape=[4,4]}\n  %y: f32[4,4] = exp(%x)", True),  # only the writer's reads count
        ("%y: f32[4,4] = exp(%x)\n  %z: f32[4,4] = exp(%x)", True),
    ],
)  # fmt: skip
def test_the_last_read_comes_first(text, allowed):
    graph = parse_graph(
        f"graph @g(%w: f32[4,4], %x: f32[4,4]) {{\n  {text}\n  donate %w to 0\n  return %y, %z\n}}\n"
    )
    verify(graph)
    assert bool(in_place(graph)) == allowed


def test_an_input_that_is_returned_stays():
    graph = parse_graph("graph @g(%w: f32[4]) {\n  %y: f32[4] = exp(%w)\n  donate %w to 0\n  return %w, %y\n}\n")
    exe = graphc.compile(graph, "llvm", cache=False)
    w = np.arange(4, dtype=np.float32)
    kept, y = exe(w)
    np.testing.assert_array_equal(kept, np.arange(4))
    np.testing.assert_allclose(y, np.exp(np.arange(4)), rtol=1e-6)


SQUARE = "graph @g(%w: f32[40,40], %x: f32[40,40]) {{\n  {}\n  donate %w to 0\n  return %y, %z\n}}\n"
ROWS = """%e: f32[40,40] = tanh(%x)
  %y: f32[40,40] = add(%w, %e)
  %s: f32[40] = reduce_sum(%x) {axes=[1]}
  %b: f32[40,40] = broadcast(%s) {shape=[40,40], axes=[0]}
"""


@pytest.mark.parametrize(
    "text",
    [
        "%e: f32[40,40] = exp(%x)\n  %y: f32[40,40] = transpose(%e) {permutation=[1, 0]}\n"
        "  %z: f32[40,40] = add(%e, %w)",
        "%e: f32[40,40] = exp(%x)\n  %y: f32[40,40] = reverse(%e) {axes=[1]}\n  %z: f32[40,40] = add(%e, %w)",
        ROWS + "%z: f32[40,40] = mul(%w, %b)",
        ROWS + "%z: f32[40,40] = mul(%y, %b)",
    ],
    ids=["transposed", "reversed", "read again", "computed again"],
)
def test_a_fusion_that_reads_elsewhere_or_again_loses_nothing(text):
    graph = parse_graph(SQUARE.format(text))
    expected = interpret(graph, arrays(graph))
    for y, e in zip(graphc.compile(graph, "llvm", threads=1, cache=False)(*arrays(graph)), expected, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-5, atol=1e-5)
