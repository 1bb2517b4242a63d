"""From a model to an executable: import, passes, options, the cache key."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import graphc
from graphc.backend import CompileOptions
from graphc.driver import cache_key
from graphc.errors import GraphcError, ModelError, PluginError, VerifyError
from graphc.ir.graph import Graph
from graphc.pipeline import EXACT, Claim, PassContext, PassResult

TEXT = """
graph @net(%x: f32[batch,3]) where batch <= 8 {{
  %w: f32[3,2] = constant() {{value=f32[3,2] {values}}}{origin}
  %h: f32[batch,2] = matmul(%x, %w)
  %y: f32[batch,2] = relu(%h)
  return %y
}}
"""
X = np.array([[1, 2, 3], [-4, 5, -6]], np.float32)


def net(values: str = "[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]", origin: str = "") -> Graph:
    return graphc.parse_graph(TEXT.format(values=values, origin=origin))


@dataclass(frozen=True)
class SwapForAbs:
    """Replaces relu by abs: wrong wherever a value is negative."""

    name: ClassVar[str] = "swap-for-abs"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        swapped = 0
        for node in graph.nodes:
            if node.op.name == "relu":
                new = graphc.Builder(graph, before=node, origin=node.origin).op("abs", node.operands[0])
                context.replace(graph, node.result, new)
                graph.erase(node)
                swapped += 1
        return PassResult(swapped > 0, {"swapped": swapped})


def test_a_compiled_graph_computes_what_numpy_does() -> None:
    executable = graphc.compile(net(), backend="reference")
    expected = np.maximum(X @ np.arange(1, 7, dtype=np.float32).reshape(3, 2), 0)
    np.testing.assert_array_equal(executable(X), expected)


def test_compiling_leaves_the_graph_as_it_is() -> None:
    graph = net()
    before = graphc.print_graph(graph)
    graphc.compile(graph, backend="reference", passes=[SwapForAbs()])
    assert graphc.print_graph(graph) == before


def test_given_passes_replace_the_pipeline_and_are_reported() -> None:
    executable = graphc.compile(net(), backend="reference", passes=["dce", SwapForAbs()])
    assert [(p["name"], p["changed"]) for p in executable.report.passes] == [("dce", False), ("swap-for-abs", True)]
    assert executable.report.passes[1]["stats"] == {"swapped": 1}
    assert executable(np.float32([[-1, 0, 0]])).tolist() == [[1, 2]]


def test_verification_names_the_pass_that_breaks_its_claim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    with pytest.raises(VerifyError, match="swap-for-abs breaks its claim"):
        graphc.compile(net(), backend="reference", passes=[SwapForAbs()], verify="full")
    assert graphc.compile(net(), backend="reference", passes=["dce"], verify="full")(X).shape == (2, 2)


def test_an_exact_pass_is_held_to_the_bits_that_the_pass_before_left() -> None:
    """Decomposition changes roundings; fusion then computes from the inputs again, to the bit."""
    text = """graph @g(%x: f32[n,16], %y: f32[n,16]) {
      %s: f32[n,16] = softmax(%x) {axis=1}
      %m: f32[n,16] = mul(%s, %y)
      return %m
    }"""
    after = graphc.run_passes(graphc.parse_graph(text), ["decompose", "fuse"], verify="full")
    assert [n.op.name for n in after.nodes] == ["fusion"]


def test_run_passes_gives_a_copy() -> None:
    graph = net()
    changed = graphc.run_passes(graph, [SwapForAbs()])
    assert [n.op.name for n in changed.nodes] == ["constant", "matmul", "abs"]
    assert [n.op.name for n in graph.nodes] == ["constant", "matmul", "relu"]


def test_wrong_options_are_told() -> None:
    graph = net()
    with pytest.raises(PluginError, match="llvn"):
        graphc.compile(graph, backend="llvn")
    with pytest.raises(PluginError, match="no-such-pass"):
        graphc.compile(graph, backend="reference", passes=["no-such-pass"])
    with pytest.raises(GraphcError, match="precision"):
        graphc.compile(graph, backend="reference", precision="bf16")
    with pytest.raises(GraphcError, match="numerics"):
        graphc.compile(graph, backend="reference", numerics="sloppy")  # type: ignore[arg-type]
    with pytest.raises(VerifyError, match="level"):
        graphc.compile(graph, backend="reference", verify="maybe")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="frontend"):
        graphc.compile(object())


def test_a_graph_that_breaks_the_rules_is_refused() -> None:
    graph = net()
    graph.nodes[1].result.type = graph.inputs[0].type
    with pytest.raises(VerifyError):
        graphc.compile(graph, backend="reference")


def test_the_cache_key_holds_structure_layers_and_options_but_no_weights() -> None:
    options = CompileOptions("llvm")
    key = cache_key(net(), options)
    assert cache_key(net(), options) == key
    assert cache_key(net("[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]"), options) == key
    assert cache_key(net(origin=' from "fc1"'), options) != key
    assert cache_key(net(), CompileOptions("llvm", threads=3, verify="full", cache=False)) == key
    others = [{"backend": "reference"}, {"numerics": "strict"}, {"target": "x"}]
    assert len({key, *(cache_key(net(), replace(options, **o)) for o in others)}) == 4
    longer = graphc.run_passes(net(), [SwapForAbs()])
    assert cache_key(longer, options) != key


def test_loading_what_is_not_there() -> None:
    with pytest.raises(graphc.ArtifactError, match=r"nowhere\.graphc"):
        graphc.load("nowhere.graphc")


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any, tmp_path: Path) -> None:
    with pytest.raises(GraphcError, match="number of threads"):
        graphc.compile(net(), backend="reference", threads=threads)
    graphc.compile(net(), backend="reference").save(tmp_path / "net.graphc")
    with pytest.raises(GraphcError, match="number of threads"):
        graphc.load(tmp_path / "net.graphc", threads=threads)


def test_a_literal_that_equals_a_weight_is_no_weight_in_cached_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folded literal and an equal weight are merged; another model's weight must not take the literal's place."""
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))

    def model(weight: list[float]) -> Graph:
        b = graphc.Builder()
        x = b.input("x", graphc.ir.types.f32, (4,))
        literal = b.op("cast", b.constant(np.arange(4)), dtype=graphc.ir.types.f32)
        return b.returns(b.op("add", b.op("mul", x, b.constant(np.array(weight, np.float32))), literal))

    cached = []
    for weight in ([0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 6.0], [0.0, 1.0, 2.0, 3.0], [7.0, 8.0, 9.0, 8.0]):
        executable = graphc.compile(model(weight))
        assert executable(np.ones(4, np.float32)).tolist() == [w + i for i, w in enumerate(weight)]
        cached.append(executable.report.cached)
    assert cached == [False, False, True, True]
