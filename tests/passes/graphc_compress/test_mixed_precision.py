"""Products of narrow floats: which are rounded, where, and what stays f32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import graphc
from graphc.claims import find_breach
from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.pipeline import PassContext, PassManager
from graphc_compress.mixed_precision import MixedPrecision

MLP = """
graph @mlp(%x: f32[n,32], %w: f32[32,48], %v: f32[48,16]) {
  %h: f32[n,48] = dot(%x, %w) {lhs_contract=[1], rhs_contract=[0]}
  %r: f32[n,48] = relu(%h)
  %o: f32[n,16] = dot(%r, %v) {lhs_contract=[1], rhs_contract=[0]}
  %s: f32[n] = reduce_sum(%r) {axes=[1]}
  return %o, %s
}
"""


def run(text: str, dtype: str = "bf16") -> Graph:
    graph = parse_graph(text)
    PassManager([MixedPrecision(dtype)]).run(graph, PassContext())
    return graph


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_products_multiply_rounded_operands_and_sum_in_f32() -> None:
    x, w, v = random(5, 32), random(32, 48), random(48, 16)
    h = np.maximum(rounded(x) @ rounded(w), 0)
    o, s = interpret(run(MLP), [x, w, v])
    np.testing.assert_allclose(o, rounded(h) @ rounded(v), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(s, h.sum(1), rtol=1e-6)  # who isn't a product reads what was computed


def test_text() -> None:
    after = run("""
graph @g(%x: f32[4,6,16], %w: f32[16,16]) {
  %y: f32[4,6,16] = tanh(%x)
  %t: f32[6,4,16] = transpose(%y) {permutation=[1, 0, 2]}
  %o: f32[6,4,16] = dot(%t, %w) {lhs_contract=[2], rhs_contract=[0]}
  return %o, %y
}
""")
    assert print_graph(after) == (
        "graph @g(%x: f32[4,6,16], %w: f32[16,16]) {\n"
        "  %y: f32[4,6,16] = tanh(%x)\n"
        "  %t: f32[6,4,16] = transpose(%y) {permutation=[1, 0, 2]}\n"
        "  %cast: bf16[4,6,16] = cast(%y) {dtype=bf16}\n"
        "  %transpose: bf16[6,4,16] = transpose(%cast) {permutation=[1, 0, 2]}\n"
        "  %cast_1: bf16[16,16] = cast(%w) {dtype=bf16}\n"
        "  %o: f32[6,4,16] = dot(%transpose, %cast_1) {lhs_contract=[2], rhs_contract=[0], wide=true}\n"
        "  return %o, %y\n"
        "}\n"
    )


def test_rounding_comes_before_what_moves_elements() -> None:
    """A padded copy and the activation itself, read by two products, are rounded once, and the copy is narrow."""
    after = run("""
graph @g(%x: f32[2,5,5,16], %d: f32[2,5,5,32], %w: f32[3,3,16,32]) {
  %a: f32[2,5,5,16] = tanh(%x)
  %zero: f32[] = constant() {value=f32[] [0.0]}
  %p: f32[2,7,7,16] = pad(%a, %zero) {low=[0, 1, 1, 0], high=[0, 1, 1, 0]}
  %m: f32[2,7,7,16] = materialize(%p)
  %g: f32[3,3,16,32] = conv_weight_grad(%m, %d) {strides=[1, 1], padding=[0, 0, 0, 0], dilation=[1, 1], groups=1, layout="channels_last", kernel_layout="io", kernel_size=[3, 3]}
  %y: f32[2,5,5,32] = conv(%a, %w) {strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], groups=1, layout="channels_last", kernel_layout="io"}
  return %g, %y
}
""")  # noqa: E501
    (rounding,) = [n for n in after.nodes if n.op.name == "cast" and n.operands[0].name == "a"]
    assert sorted(u.op.name for u in rounding.result.users) == ["conv", "pad"]
    (copy,) = [n for n in after.nodes if n.op.name == "materialize" and n.result.uses]
    assert str(copy.result.type.dtype) == "bf16"


@pytest.mark.parametrize(("outputs", "rounded"), [(32, True), (16, False)])
def test_few_channels_are_rounded_where_they_are_read_often(outputs: int, rounded: bool) -> None:
    after = run(f"""
graph @g(%x: f32[1,3,8,8], %w: f32[{outputs},3,3,3]) {{
  %y: f32[1,{outputs},8,8] = conv(%x, %w) {{strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], groups=1}}
  return %y
}}
""")
    assert any(n.op.name == "cast" for n in after.nodes) == rounded


@pytest.mark.parametrize(
    "node",
    [
        "%y: f32[1,8,5,5] = conv(%x, %w) {strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], groups=8}",
        "%y: f32[1,8,5,5] = exp(%x)",
    ],
)
def test_what_stays_as_it_is(node: str) -> None:
    text = f"graph @g(%x: f32[1,8,5,5], %w: f32[8,1,3,3]) {{\n  {node}\n  return %y\n}}\n"
    assert print_graph(run(text)) == text


def test_other_types_stay_as_they_are() -> None:
    text = MLP.replace("f32", "f64")
    assert print_graph(run(text)) == print_graph(parse_graph(text))


def test_f32_means_nothing_to_do() -> None:
    graph = parse_graph(MLP)
    PassManager([MixedPrecision()]).run(graph, PassContext())
    assert print_graph(graph) == print_graph(parse_graph(MLP))
    with pytest.raises(GraphcError, match="precision"):
        run(MLP, "f8")


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_the_claim_is_checked(dtype: str) -> None:
    graph = parse_graph(MLP)
    PassManager([MixedPrecision(dtype)], verify="full").run(graph, PassContext())
    x, w, v = random(5, 32), random(32, 48), random(48, 16)
    for seen, want in zip(interpret(graph, [x, w, v]), interpret(parse_graph(MLP), [x, w, v]), strict=True):
        assert find_breach(MixedPrecision.claim, seen, want) is None
        assert np.abs(seen - want).max() > 1e-6  # it did something


def test_gradients_of_a_graph_and_graphs_of_gradients() -> None:
    """Weights are read rounded, and get f32 gradients; rounding comes before or after differentiation."""
    wide = parse_graph(MLP)
    before = graphc.grad(run(MLP), wrt=["w", "v"])
    after = graphc.grad(wide, wrt=["w", "v"])
    PassManager([MixedPrecision("bf16")]).run(after, PassContext())
    inputs = [random(5, 32), random(32, 48), random(48, 16)]
    exact = interpret(graphc.grad(wide, wrt=["w", "v"]), inputs)
    for graph in (before, after):
        for seen, want in zip(interpret(graph, inputs), exact, strict=True):
            assert seen.dtype == np.float32
            assert np.abs(seen - want).max() < 0.03 * np.abs(want).max()


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_compiled(target: str, precision: str, numerics: str) -> None:
    graph = parse_graph(MLP)
    try:
        executable = graphc.compile(graph, target=target, precision=precision, numerics=numerics, threads=1)  # type: ignore[arg-type]
    except graphc.ArtifactError as e:
        pytest.skip(e.what)
    inputs = [random(5, 32), random(32, 48), random(48, 16)]
    narrow = interpret(run(MLP, precision), inputs)
    for seen, want in zip(executable(*inputs), narrow, strict=True):
        np.testing.assert_allclose(seen, want, atol=2e-3 * np.abs(want).max())  # a sum on the edge may round elsewhere


RECURRENCE = """
graph @g(%c: f32[1,128], %xs: f32[t,1,128], %w: f32[128,128]) {
  %last: f32[1,128], %all: f32[t,1,128] = scan(%c, %xs, %w) {carries=1, scanned=1} [
    body=graph @body(%h: f32[1,128], %x: f32[1,128], %r: f32[128,128]) {
      %d: f32[1,128] = dot(%h, %r) {lhs_contract=[1], rhs_contract=[0]}
      %a: f32[1,128] = add(%d, %x)
      %n: f32[1,128] = tanh(%a)
      return %n, %n
    }
  ]
  return %last, %all
}
"""


def test_a_scan_multiplies_by_weights_that_are_rounded_before_it() -> None:
    assert print_graph(run(RECURRENCE)) == (
        "graph @g(%c: f32[1,128], %xs: f32[t,1,128], %w: f32[128,128]) {\n"
        "  %cast: bf16[128,128] = cast(%w) {dtype=bf16}\n"
        "  %last: f32[1,128], %all: f32[t,1,128] = scan(%c, %xs, %cast) {carries=1, scanned=1} [\n"
        "    body=graph @body(%h: f32[1,128], %x: f32[1,128], %r.rounded: bf16[128,128]) {\n"
        "      %cast: bf16[1,128] = cast(%h) {dtype=bf16}\n"
        "      %dot: f32[1,128] = dot(%cast, %r.rounded) {lhs_contract=[1], rhs_contract=[0], wide=true}\n"
        "      %a: f32[1,128] = add(%dot, %x)\n"
        "      %n: f32[1,128] = tanh(%a)\n"
        "      return %n, %n\n"
        "    }\n"
        "  ]\n"
        "  return %last, %all\n"
        "}\n"
    )


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_weights_of_a_scan_and_of_a_product_behind_it_are_rounded_once_before_both(precision: str) -> None:
    text = RECURRENCE.replace(
        "  return %last, %all",
        "  %tied: f32[1,128] = dot(%last, %w) {lhs_contract=[1], rhs_contract=[0]}\n  return %tied, %all",
    )
    graph = run(text, precision)
    assert [n.op.name for n in graph.nodes] == ["cast", "scan", "cast", "dot"]
    weights, scan, _, dot = graph.nodes
    assert scan.operands[2] is weights.result is dot.operands[1]


@pytest.mark.parametrize("change", [("128", "64"), ("dot(%h, %r)", "dot(%h, %m)")])
def test_few_weights_and_those_that_change_stay_f32_in_a_scan(change: tuple[str, str]) -> None:
    made = "      %m: f32[128,128] = mul(%r, %r)\n      %d:" if "%m" in change[1] else "      %d:"
    text = RECURRENCE.replace("      %d:", made).replace(*change)
    assert print_graph(run(text)) == print_graph(parse_graph(text))


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_a_compiled_scan_equals_a_loop_over_rounded_operands(precision: str) -> None:
    narrow = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}[precision]
    c, xs, w = random(1, 128), random(9, 1, 128), 0.05 * random(128, 128)
    h, wanted = c, []
    for x in xs:
        h = np.tanh(h.astype(narrow).astype(np.float32) @ w.astype(narrow).astype(np.float32) + x)
        wanted.append(h)
    for threads in (1, 2):
        executable = graphc.compile(parse_graph(RECURRENCE), precision=precision, threads=threads)  # type: ignore[arg-type]
        last, all_ = executable(c, xs, w)
        np.testing.assert_allclose(all_, np.stack(wanted), atol=4e-3)  # a state on the edge may round elsewhere
        np.testing.assert_array_equal(last, all_[-1])


def test_gradients_through_a_scan_of_rounded_products() -> None:
    """What the pass makes of a gradient's graph, compiled, beside the same in f32."""
    graph = graphc.grad(parse_graph(RECURRENCE), wrt=["w", "xs"])
    inputs = [random(1, 128), random(9, 1, 128), 0.05 * random(128, 128)]
    exact = interpret(graph, inputs)
    for seen, want in zip(graphc.compile(graph, precision="bf16")(*inputs), exact, strict=True):
        assert 1e-6 < np.abs(seen - want).max() / np.abs(want).max() < 0.03


def test_a_backend_without_the_pass_refuses() -> None:
    with pytest.raises(GraphcError, match="computes in f32"):
        graphc.compile(parse_graph(MLP), backend="reference", precision="bf16")
