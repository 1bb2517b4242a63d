"""Several backends for one graph: each node on the first that can do it, in parts that can run one after another."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc.backend import CompileOptions
from graphc.errors import GraphcError, Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node
from graphc.ir.types import f64
from graphc.partition import choose, partition
from graphc.testing.random_graphs import graphs, random_inputs
from graphc_reference import BACKEND as REFERENCE


@dataclass
class Toy:
    """The reference backend without some operators: some it refuses beforehand, some when it compiles."""

    name: str = "toy"
    supported: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    compiled: list[Graph] = field(default_factory=list)

    def supports(self, node: Node) -> str | None:
        return "not supported" if self.supported and node.op.name not in self.supported else None

    def pipeline(self, options: CompileOptions) -> list[str]:
        return ["decompose"]

    def compile(self, graph, options, context):
        self.compiled.append(graph)
        bad = [n for n in graph.nodes if n.op.name in self.refuses]
        if bad:
            raise UnsupportedOpError("toy", [Unsupported(n.op.name, ", ".join(n.origin), "no kernel") for n in bad])
        return REFERENCE.compile(graph, options, context)

    def store(self, segment, key) -> None:
        """Nothing is kept."""

    def restore(self, key, graph, options) -> None:
        return None


TEXT = """
graph @net(%x: f32[n,4], %w: f32[n,4]) {
  %k: f32[4] = iota() {axis=0, dtype=f32, shape=[4]} from "scale"
  %kn: f32[n,4] = broadcast(%k) {shape=[n,4], axes=[1]} from "scale"
  %a: f32[n,4] = exp(%x) from "act"
  %b: f32[n,4] = mul(%a, %kn) from "gate"
  %c: f32[n,4] = softmax(%b) {axis=1} from "soft"
  %d: f32[4*n] = reshape(%c) {shape=[4*n]} from "flat"
  %e: f32[4*n] = tanh(%d) from "squash"
  %f: f32[] = reduce_sum(%e) {axes=[0]} from "pool"
  %g: f32[n,4] = broadcast(%f) {shape=[n,4], axes=[]} from "spread"
  %h: f32[n,4] = mul(%g, %w) from "mix"
  %y: f32[n,4] = add(%h, %a) from "sum"
  return %y, %e, %a, %x, %a
}
"""


def net() -> Graph:
    return graphc.parse_graph(TEXT)


def inputs(n: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(n).standard_normal((2, n, 4)).astype(np.float32))


def assert_same(executable: graphc.Executable, graph: Graph, arrays: list[np.ndarray]) -> None:
    for seen, expected in zip(executable(*arrays), graphc.interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["supported", "refuses"])
def test_each_node_runs_where_it_can(how: str) -> None:
    graph, no = net(), {"tanh", "broadcast"}
    every = {n.op.name for n in graph.nodes} | {"reduce_max", "sub", "div"}
    toy = Toy(supported=frozenset(every - no)) if how == "supported" else Toy(refuses=frozenset(no))
    executable = graphc.compile(graph, [toy, "llvm"], cache=False)
    on = {op: p["backend"] for p in executable.report.partition["parts"] for op in p["nodes"]}
    assert {op for op, backend in on.items() if backend == "llvm"} >= {"tanh", "broadcast"}
    assert on["exp"] == on["mul"] == on["reduce_sum"] == "toy"
    for n in (1, 3, 8):
        assert_same(executable, graph, inputs(n))


def test_explain_tells_parts_copies_and_reasons() -> None:
    text = graphc.compile(net(), [Toy(refuses=frozenset({"tanh"})), "llvm"], cache=False).explain()
    assert text.startswith("net on toy,llvm")
    assert "0 on toy: exp, mul, softmax, reshape" in text
    assert "1 on llvm: tanh" in text
    assert "d: f32[4*n], 16 bytes, from 0 (toy) to 1 (llvm)" in text
    assert "e: f32[4*n], 16 bytes, from 1 (llvm) to 2 (toy)" in text
    assert "toy: tanh: tanh: no kernel (at squash)" in text


def test_a_backend_that_takes_all_gets_one_part() -> None:
    toy = Toy()
    executable = graphc.compile(net(), [toy, "llvm"], cache=False)
    assert [p["backend"] for p in executable.report.partition["parts"]] == ["toy"]
    assert executable.report.partition["copies"] == []
    assert len(toy.compiled) == 1
    assert_same(executable, net(), inputs())


def test_alone_a_backend_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UnsupportedOpError, match="squash"):
        graphc.compile(net(), Toy(refuses=frozenset({"tanh"})), cache=False)


def test_what_no_backend_can_do_is_told_with_all_reasons() -> None:
    one, other = Toy("one", refuses=frozenset({"tanh", "exp"})), Toy("other", refuses=frozenset({"tanh"}))
    with pytest.raises(UnsupportedOpError) as error:
        graphc.compile(net(), [one, other], cache=False)
    assert "neither one nor other" in str(error.value)
    assert [(u.op, u.layer) for u in error.value.unsupported] == [("tanh", "squash"), ("tanh", "squash")]


def test_backends_must_differ() -> None:
    for backends in ([], ["llvm", "llvm"]):
        with pytest.raises(GraphcError, match="backends must differ"):
            graphc.compile(net(), backends)


def test_targets_are_told_by_backend() -> None:
    seen = {}

    class Aimed(Toy):
        def compile(self, graph, options, context):
            seen[options.backend] = options.target
            return super().compile(graph, options, context)

    toys = [Aimed("one", refuses=frozenset({"tanh"})), Aimed("two")]
    executable = graphc.compile(net(), toys, target={"two": "sm_90"}, cache=False)
    assert seen == {"one": None, "two": "sm_90"}
    assert executable.options.targets == (("two", "sm_90"),)
    with pytest.raises(GraphcError, match="target doesn't fit"):
        graphc.compile(net(), toys, target="sm_90")
    with pytest.raises(GraphcError, match="target doesn't fit"):
        graphc.compile(net(), Toy(), target={"toy": "sm_90"})


def test_three_backends() -> None:
    one, two = Toy("one", refuses=frozenset({"tanh", "exp"})), Toy("two", refuses=frozenset({"tanh", "mul"}))
    executable = graphc.compile(net(), [one, two, "llvm"], cache=False)
    on = {op: p["backend"] for p in executable.report.partition["parts"] for op in p["nodes"]}
    assert (on["mul"], on["exp"], on["tanh"]) == ("one", "two", "llvm")
    assert_same(executable, net(), inputs())


def test_outputs_alias_nothing() -> None:
    executable = graphc.compile(net(), [Toy(refuses=frozenset({"tanh"})), "llvm"], cache=False)
    arrays = inputs()
    outputs = executable(*arrays)
    for i, y in enumerate(outputs):
        assert not any(np.shares_memory(y, z) for z in (*outputs[:i], *arrays))


def test_sizes_that_no_operand_tells_are_passed_on() -> None:
    graph = graphc.parse_graph("""
    graph @sizes(%x: f32[n,m]) {
      %a: f32[] = reduce_sum(%x) {axes=[0,1]} from "pool"
      %b: f32[n + 2*m] = broadcast(%a) {shape=[n + 2*m], axes=[]} from "spread"
      %c: f32[n + 2*m] = tanh(%b) from "squash"
      return %c
    }
    """)
    for no in ({"broadcast", "tanh"}, {"tanh"}, {"reduce_sum", "broadcast"}, {"reduce_sum", "tanh"}):
        executable = graphc.compile(graph, [Toy(refuses=frozenset(no)), "llvm"], cache=False)
        for shape in ((1, 1), (3, 5)):
            x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            np.testing.assert_allclose(executable(x), graphc.interpret(graph, [x])[0], rtol=1e-5)


def test_inputs_are_checked_against_the_whole_graph() -> None:
    executable = graphc.compile(net(), [Toy(refuses=frozenset({"tanh"})), "llvm"], cache=False)
    x, w = inputs()
    with pytest.raises(graphc.ShapeError, match="input w"):
        executable(x, w[:2])


def test_regions_are_refused_whole() -> None:
    graph = graphc.parse_graph("""
    graph @loop(%h: f64[3], %xs: f64[t,3]) {
      %last: f64[3], %ys: f64[t,3] = scan(%h, %xs) {carries=1, scanned=1} [
        body=graph @body(%c: f64[3], %x: f64[3]) {
          %s: f64[3] = add(%c, %x) from "step"
          %z: f64[3] = tanh(%s) from "step"
          return %z, %s
        }
      ] from "rnn"
      %y: f64[t,3] = exp(%ys) from "head"
      return %y, %last
    }
    """)

    @dataclass
    class NoScan(Toy):
        def compile(self, graph, options, context):
            bodies = [n["body"].nodes for n in graph.nodes if n.op.name == "scan"]
            bad = [
                Unsupported("tanh", ", ".join(m.origin), "no kernel") for b in bodies for m in b if m.op.name == "tanh"
            ]
            if bad:
                raise UnsupportedOpError("toy", bad)
            return super().compile(graph, options, context)

    executable = graphc.compile(graph, [NoScan(), "llvm"], cache=False)
    parts = executable.report.partition["parts"]
    assert [(p["backend"], p["nodes"]) for p in parts] == [("llvm", ["scan"]), ("toy", ["exp"])]
    h, xs = np.zeros(3), np.random.default_rng(1).standard_normal((5, 3))
    for seen, expected in zip(executable(h, xs), graphc.interpret(graph, [h, xs]), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_a_saved_program_is_cut_again(tmp_path: Path) -> None:
    graph = net()
    executable = graphc.compile(graph, ["reference", "llvm"])
    executable.save(tmp_path / "net.graphc")
    loaded = graphc.load(tmp_path / "net.graphc")
    assert loaded.options.backend == ("reference", "llvm")
    assert loaded.report.partition["parts"] == executable.report.partition["parts"]
    for a, b in zip(loaded(*inputs()), executable(*inputs()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_kernels_profile_and_memory_cover_all_parts() -> None:
    executable = graphc.compile(net(), [Toy(refuses=frozenset({"tanh"})), "llvm"], cache=False)
    assert len(executable.profile(*inputs()).rows) == len(executable.kernels) > 3
    assert executable.memory.arena >= 32
    assert "tanh" in executable.text("1.llvm")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(max_nodes=16), st.data())
def test_parts_are_convex_and_complete(graph: Graph, data: st.DataObject) -> None:
    able = {n: data.draw(st.sampled_from([(0,), (1,), (0, 1)])) for n in graph.nodes}
    chosen = choose(graph, lambda b, n: b in able[n], 2)
    assert all(b in able[n] for n, b in chosen.items())
    parts = partition(graph, chosen, lambda n: len(able[n]) == 2)
    paths = networkx.DiGraph((v.producer, n) for n in graph.nodes for v in n.operands if v.producer is not None)
    available = {v.name for v in graph.inputs}
    for part in parts:
        assert {v.name for v in part.reads} <= available
        available |= {v.name for v in part.graph.outputs}
        inside = {n for n in part.nodes if n in paths}
        below = set().union(*(networkx.descendants(paths, n) for n in inside)) - inside
        above = set().union(*(networkx.ancestors(paths, n) for n in inside)) - inside
        assert not below & above, "a path leaves the part and comes back"
    assert {v.name for v in graph.outputs} <= available
    assert all(chosen[n] == p.backend or len(able[n]) == 2 for p in parts for n in p.nodes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(dtype=f64), st.sampled_from([{"n": 1, "m": 1}, {"n": 5, "m": 3}]), st.data())
def test_random_graphs_on_two_backends(graph: Graph, dims: dict[str, int], data: st.DataObject) -> None:
    names = sorted({n.op.name for n in graph.nodes})
    refused = frozenset(data.draw(st.sets(st.sampled_from(names)))) if names else frozenset()
    executable = graphc.compile(graph, [Toy(refuses=refused), "llvm"], cache=False, threads=1)
    arrays = random_inputs(graph, dims)
    outputs = executable(*arrays)
    for seen, expected in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), graphc.interpret(graph, arrays), strict=True
    ):
        scale = float(np.abs(expected).max(initial=0))
        np.testing.assert_allclose(seen, expected, rtol=1e-9, atol=1e-9 * (1 + scale))


def test_outputs_that_need_no_computing() -> None:
    graph = graphc.parse_graph("""
    graph @still(%x: f32[n]) {
      %k: f32[3] = iota() {axis=0, dtype=f32, shape=[3]}
      %e: f32[3] = exp(%k)
      return %x, %e, %k
    }
    """)
    x = np.ones(2, np.float32)
    for refuses in (frozenset(), frozenset({"exp"}), frozenset({"exp", "iota"})):
        executable = graphc.compile(graph, [Toy(refuses=refuses), "llvm"], cache=False)
        for seen, expected in zip(executable(x), graphc.interpret(graph, [x]), strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-6)
        assert not np.shares_memory(executable(x)[0], x)
    through = graphc.parse_graph("graph @through(%x: f32[n]) {\n  return %x\n}")
    np.testing.assert_array_equal(graphc.compile(through, [Toy(), "llvm"], cache=False)(x), x)


def test_passes_are_checked_part_by_part() -> None:
    executable = graphc.compile(net(), [Toy(refuses=frozenset({"tanh"})), "llvm"], verify="sample")
    assert {p["graph"] for p in executable.report.passes} >= {"net_0", "net_1", "net_2"}
    assert_same(executable, net(), inputs())


def test_weights_do_not_cross() -> None:
    b = graphc.Builder(Graph("weights"), origin=("layer",))
    x = b.input("x", f64, (4, 4))
    w = b.transpose(b.constant(np.random.default_rng(0).standard_normal((4, 4))), (1, 0))
    y = b.op("matmul", b.op("tanh", b.op("matmul", x, w)), w)
    graph = b.returns(y)
    executable = graphc.compile(graph, [Toy(refuses=frozenset({"tanh"})), "llvm"], cache=False)
    assert [p["backend"] for p in executable.report.partition["parts"]] == ["toy", "llvm", "toy"]
    assert len(executable.report.partition["copies"]) == 2
    arrays = [np.random.default_rng(1).standard_normal((4, 4))]
    np.testing.assert_allclose(executable(*arrays), graphc.interpret(graph, arrays)[0], rtol=1e-12)


TRITON = """
import numpy as np
import graphc

graph = graphc.parse_graph('''
graph @ranked(%x: f32[n,16], %w: f32[16,8]) where n <= 64 {
  %a: f32[n,8] = matmul(%x, %w) from "fc"
  %b: f32[n,8] = relu(%a) from "act"
  %c: f64[n,8] = cast(%b) {dtype=f64} from "rank"
  %d: f64[n,8] = tan(%c) from "rank"
  %e: f32[n,8] = cast(%d) {dtype=f32} from "rank"
  %s: f32[n,8] = softmax(%e) {axis=1} from "head"
  return %s
}''')
try:
    graphc.compile(graph, "triton", target="interpreter")
except graphc.UnsupportedOpError as error:
    print(error.layer)
executable = graphc.compile(graph, ["triton", "llvm"], target={"triton": "interpreter"})
print([(p["backend"], p["nodes"]) for p in executable.report.partition["parts"]])
rng = np.random.default_rng(0)
x, w = rng.uniform(0, 0.25, (5, 16)).astype(np.float32), rng.uniform(0, 0.25, (16, 8)).astype(np.float32)
np.testing.assert_allclose(executable(x, w), graphc.interpret(graph, [x, w])[0], rtol=1e-4, atol=1e-5)
"""


def test_triton_and_llvm() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-c", TRITON]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, parts = done.stdout.splitlines()
    assert refused.endswith("rank")
    assert parts == str([("triton", ["matmul", "relu", "cast"]), ("llvm", ["tan"]), ("triton", ["cast", "softmax"])])
