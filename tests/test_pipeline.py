"""The pass manager: verification, dumps, claims and reproductions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from graphc.checking import generate_inputs, sample_dims
from graphc.claims import EXACT, REASSOCIATES, Claim, approximate, find_breach
from graphc.cones import cone, specialize, widen
from graphc.errors import ArtifactError, GraphcError, PluginError, VerifyError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.ir.types import f64
from graphc.ir.verifier import verify
from graphc.pipeline import PassContext, PassManager, PassResult, reproduce, resolve_passes

TEXT = """graph @g(%x: f32[n,4], %w: f32[4,3]) {
  %h: f32[n,3] = matmul(%x, %w) from "fc"
  %e: f32[n,3] = exp(%h) from "act"
  %y: f32[n,3] = add(%e, %h) from "sum"
  return %y
}
"""


@dataclass(frozen=True)
class Scale:
    """Multiplies every exp by `factor`: right only for 1."""

    name: ClassVar[str] = "scale"
    claim: ClassVar[Claim] = EXACT

    factor: float = 1.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        count = 0
        for node in graph.nodes:
            if node.op.name != "exp":
                continue
            b = Builder(graph, before=node, origin=node.origin)
            again = b.op("exp", node.operands[0])
            context.replace(graph, node.result, b.op("mul", again, b.full_like(self.factor, again)))
            graph.erase(node)
            count += 1
        return PassResult(count > 0, {"scaled": count})


@dataclass(frozen=True)
class ScaleApproximately(Scale):
    """The same, claiming no more than a thousandth."""

    name: ClassVar[str] = "scale-approximately"
    claim: ClassVar[Claim] = approximate(1e-3)


@dataclass(frozen=True)
class ScaleReassociating(Scale):
    name: ClassVar[str] = "scale-reassociating"
    claim: ClassVar[Claim] = REASSOCIATES


@dataclass(frozen=True)
class Rewire:
    """Changes what a node reads without saying so."""

    name: ClassVar[str] = "rewire"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        node = graph.outputs[0].producer
        assert node is not None
        graph.set_operand(node, 1, node.operands[0])
        return PassResult(True)


@dataclass(frozen=True)
class Untyped:
    """Stores a type that inference doesn't give."""

    name: ClassVar[str] = "untyped"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        graph.outputs[0].type = graph.outputs[0].type.with_dtype(f64)
        return PassResult(True)


def test_records_say_what_each_pass_did() -> None:
    records = PassManager([Scale(), Scale()]).run(parse_graph(TEXT), PassContext())
    assert [(r.name, r.changed, r.stats) for r in records] == [("scale", True, {"scaled": 1})] * 2
    assert all(r.seconds > 0 for r in records)


def test_graph_is_dumped_after_each_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path / "dump"))
    graph = parse_graph(TEXT)
    context = PassContext()
    PassManager([Scale(), Rewire()]).run(graph, context)
    assert sorted(p.name for p in (tmp_path / "dump").iterdir()) == ["00-input.txt", "01-scale.txt", "02-rewire.txt"]
    assert (tmp_path / "dump/00-input.txt").read_text() == TEXT
    assert (tmp_path / "dump/02-rewire.txt").read_text() == print_graph(graph)
    PassManager([Scale()]).run(graph, context)
    assert (tmp_path / "dump/04-scale.txt").exists()


def test_graph_is_verified_after_each_pass() -> None:
    with pytest.raises(VerifyError, match="after pass untyped"):
        PassManager([Untyped()]).run(parse_graph(TEXT), PassContext())


FUSED = """graph @g(%x: f32[4,3]) {
  %z: f32[4,3] = fusion(%x) [
    body=graph @body(%x: f32[4,3]) {
      %y: f32[4,3] = exp(%x)
      %z: f32[4,3] = tanh(%y)
      return %z
    }
  ]
  return %z
}
"""


@dataclass(frozen=True)
class UntypedInside:
    """The same in a region, and doesn't say that anything changed."""

    name: ClassVar[str] = "untyped-inside"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        for body in [a for n in graph.nodes for a in n.attributes.values() if isinstance(a, Graph)]:
            body.nodes[0].result.type = body.nodes[0].result.type.with_dtype(f64)
        return PassResult(False)


def test_graph_is_verified_again_only_where_it_was_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Graph] = []
    monkeypatch.setattr("graphc.pipeline.verify_graph", lambda g: (seen.append(g), verify(g)))
    PassManager(resolve_passes(["dce", "cse", "dce"])).run(parse_graph(TEXT), PassContext())
    assert len(seen) == 1
    PassManager([*resolve_passes(["dce"]), Scale()]).run(parse_graph(TEXT), PassContext())
    assert len(seen) == 3
    with pytest.raises(VerifyError, match="after pass untyped-inside"):
        PassManager([UntypedInside()]).run(parse_graph(FUSED), PassContext())


@pytest.mark.parametrize("level", ["sample", "full"])
def test_true_claims_pass(level: str) -> None:
    passes = [Scale(), ScaleApproximately(1.0001), ScaleReassociating(), Scale()]
    PassManager(passes, verify=level).run(parse_graph(TEXT), PassContext())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken", [Scale(1.0000001), ScaleApproximately(1.01), ScaleReassociating(1.0001), Rewire()], ids=lambda p: p.name
)
def test_false_claim_raises_and_reproduces(broken: Scale, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=f"pass {broken.name} breaks its claim") as caught:
        PassManager([Scale(), broken], verify="sample", dump=tmp_path).run(parse_graph(TEXT), PassContext())
    (folder,) = tmp_path.glob("reproduction-*")
    assert str(folder) in str(caught.value)
    failure = reproduce(folder, {broken.name: type(broken)()})
    assert failure is not None
    assert repr(failure.breach.expected) == caught.value.expected
    assert str(failure.breach) == caught.value.seen


def test_reproduction_passes_once_the_pass_is_mended(tmp_path: Path) -> None:
    with pytest.raises(VerifyError):
        PassManager([Rewire()], verify="sample", dump=tmp_path).run(parse_graph(TEXT), PassContext())
    (folder,) = tmp_path.glob("reproduction-*")
    assert reproduce(folder, {"rewire": Scale()}) is None


def test_reproduction_keeps_big_constants(tmp_path: Path) -> None:
    graph = Graph("g")
    b = Builder(graph)
    x = b.input("x", f64, (5, 5))
    weights = np.random.default_rng(0).standard_normal((5, 5))
    b.returns(b.op("mul", b.op("exp", x), b.constant(weights)))
    with pytest.raises(VerifyError):
        PassManager([Scale(2.0)], verify="sample", dump=tmp_path).run(graph, PassContext())
    (folder,) = tmp_path.glob("reproduction-*")
    assert reproduce(folder, {"scale": Scale()}) is not None


def test_damaged_reproduction_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be read"):
        reproduce(tmp_path)


def test_only_what_was_replaced_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    import graphc.checking

    def recording(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
        ran.extend(n.op.name for n in graph.nodes)
        return interpret(graph, inputs)

    monkeypatch.setattr(graphc.checking, "interpret", recording)
    PassManager([Scale()], verify="sample").run(parse_graph(TEXT), PassContext())
    assert ran[:3] == ["matmul", "exp", "add"]
    assert sorted(set(ran[3:])) == ["broadcast", "constant", "exp", "mul"]


def test_outputs_keep_their_names() -> None:
    graph = parse_graph(TEXT.replace("return %y", "return %y, %e"))
    PassManager([Scale()]).run(graph, PassContext())
    assert [v.name for v in graph.outputs] == ["y", "e"]


def test_replacement_of_another_type_is_refused() -> None:
    graph = parse_graph(TEXT)
    with pytest.raises(VerifyError, match="can't be replaced"):
        PassContext().replace(graph, graph.outputs[0], graph.inputs[0])


def test_unknown_level_is_refused() -> None:
    with pytest.raises(VerifyError, match="no such level"):
        PassManager([], verify="some")  # type: ignore[arg-type]


def test_passes_resolve_by_name() -> None:
    p = Scale()
    first, second = resolve_passes(["dce", p])
    assert first.name == "dce"
    assert second is p
    with pytest.raises(PluginError, match="there is no 'dec'"):
        resolve_passes(["dec"])


def test_integer_inputs_are_indices_that_every_table_has() -> None:
    graph = parse_graph("""graph @g(%t: f32[3,2], %i: i64[n]) {
  %y: f32[n,2] = gather(%t, %i) {axis=0}
  return %y
}
""")
    PassManager([], verify="full").run(graph, PassContext())


def test_graph_without_a_value_on_generated_inputs_says_so() -> None:
    graph = parse_graph("""graph @g(%i: i64[4,4], %j: i64[4,4]) {
  %y: i64[4,4] = div(%i, %j)
  return %y
}
""")
    with pytest.raises(GraphcError, match="can't be verified"):
        PassManager([], verify="sample").run(graph, PassContext())
    inputs = {"i": np.ones((4, 4), np.int64), "j": np.full((4, 4), 2)}
    PassManager([], verify="sample", inputs=inputs).run(graph, PassContext())


def test_dims_are_sampled_within_ranges_and_guards() -> None:
    graph = parse_graph("""graph @g(%x: f32[a,b], %y: f32[c,2*a]) where a >= 3, a <= 5, b == 2*a, c == b {
  return %x
}
""")
    for seed in range(20):
        dims = sample_dims(graph, seed)
        assert 3 <= dims["a"] <= 5
        assert dims["b"] == dims["c"] == 2 * dims["a"]
    assert sample_dims(graph, 0, smallest=True) == {"a": 3, "b": 6, "c": 6}
    assert generate_inputs(graph, 0)["y"].shape[1] == 2 * generate_inputs(graph, 0)["x"].shape[0]


# Claims


def test_exact_means_bits() -> None:
    a = np.array([0.0, np.nan, np.inf, 1.0], np.float32)
    assert find_breach(EXACT, a, a.copy()) is None
    assert find_breach(EXACT, -a, a) is not None  # the sign of zero counts
    breach = find_breach(EXACT, np.nextafter(a, np.float32(2)), a)
    assert breach is not None and breach.index == (0,)


def test_reassociation_is_judged_by_the_originals_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 1000)).astype(np.float32)
    wide = x.astype(np.float64).sum(1)
    original = x.sum(1)
    forward = np.zeros(100, np.float32)
    for column in x.T:
        forward += column
    assert find_breach(REASSOCIATES, forward, original, wide) is None
    assert find_breach(REASSOCIATES, original * np.float32(1.0001), original, wide) is not None
    assert find_breach(REASSOCIATES, np.where(np.arange(100) == 3, np.nan, original), original, wide) is not None


def test_reassociated_overflow_may_differ_only_where_the_original_overflowed() -> None:
    wide = np.array([1e39, 1.0])
    original = np.array([np.inf, 1.0], np.float32)
    assert find_breach(REASSOCIATES, np.array([3e38, 1.0], np.float32), original, wide) is None
    assert find_breach(REASSOCIATES, np.array([np.inf, np.inf], np.float32), original, wide) is not None


def test_approximation_is_relative_to_the_largest() -> None:
    original = np.array([100.0, 1.0], np.float32)
    assert find_breach(approximate(1e-2), original + np.float32(0.9), original) is None
    assert find_breach(approximate(1e-2), original + np.float32(1.1), original) is not None


def test_other_shape_or_dtype_is_a_breach() -> None:
    a = np.zeros((2, 3), np.float32)
    assert find_breach(EXACT, a.reshape(3, 2), a) is not None
    assert find_breach(EXACT, a.astype(np.float64), a) is not None


# Cones


def test_cone_has_what_targets_need_of_the_leaves() -> None:
    graph = parse_graph(TEXT)
    h, e, y = (node.result for node in graph.nodes)
    cut, used = cone([y], [h, graph.inputs[0]])
    assert [v.name for v in used] == ["h"]
    assert [n.op.name for n in cut.nodes] == ["exp", "add"]
    assert e.name in {v.name for v in cut.values()}


def test_widened_and_specialized_graphs_run() -> None:
    graph = parse_graph(TEXT)
    wide = widen(specialize(graph, {"n": 2}))
    assert str(wide.outputs[0].type) == "f64[2,3]"
    inputs = generate_inputs(graph, 3)
    n = inputs["x"].shape[0]
    (y,) = interpret(widen(specialize(graph, {"n": n})), {k: v.astype(np.float64) for k, v in inputs.items()})
    h = inputs["x"].astype(np.float64) @ inputs["w"].astype(np.float64)
    np.testing.assert_allclose(y, np.exp(h) + h, rtol=1e-12)
