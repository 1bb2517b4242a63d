"""Programs, walked step by step in NumPy over memory full of garbage: they compute what their graphs mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.interpreter import interpret, run_node
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import Dim, Expr, evaluate, symbol
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import dtype_of, f32
from graphc.lowering.assemble import Assembly, assemble
from graphc.lowering.memory import Lifetime, plan
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program, Step
from graphc.ops import core_operators
from graphc.testing.random_graphs import graphs, random_inputs

GARBAGE = 0xAB


@dataclass
class NodeKernel:
    """A kernel that is one node of the graph."""

    node: Node
    key: str
    symbol: str = "f"
    name: str = "node"
    dims: tuple[Dim, ...] = ()
    work: Dim = 1
    scratch: Dim = 0
    flops: Dim = 0
    bytes: Dim = 0
    nonempty: tuple[Dim, ...] = ()


def assembled(graph: Graph, prepared: int = 0) -> Assembly[NodeKernel]:
    return assemble(graph, prepared, lambda n: NodeKernel(n, f"{n!r} {id(n)}"), "nobody")


class Machine:
    """Walks a program as a backend would, with one array of bytes for each base."""

    def __init__(
        self,
        made: Assembly[NodeKernel],
        inputs: Sequence[np.ndarray],
        prepared: Sequence[np.ndarray],
        dims: Mapping[str, int],
    ) -> None:
        self.program: Program = made.program
        self.dims = dims
        self.nodes = [k.node for k in made.kernels]
        self.offsets, size = plan([Lifetime(b.first, b.last, self.at(b.bytes)) for b in self.program.buffers])
        rest = iter(prepared)
        constants = [c.array if isinstance(c, TensorData) else next(rest) for c in made.constants]
        self.outputs = [np.full(self.at(t.bytes), GARBAGE, np.uint8) for t in self.program.outputs]
        slices: list[np.ndarray] = [np.zeros(0, np.uint8)] * self.program.slices
        self.bases = [
            *map(as_bytes, inputs), *self.outputs, np.full(size, GARBAGE, np.uint8), *map(as_bytes, constants), *slices
        ]  # fmt: skip
        assert len(self.bases) == self.program.bases

    def at(self, d: Dim) -> int:
        return evaluate(d, self.dims) if isinstance(d, Expr) else d

    def run(self, steps: Sequence[Step]) -> None:
        for s in steps:
            match s:
                case CopyStep():
                    self.copy(s)
                case KernelStep():
                    self.kernel(s)
                case LoopStep():
                    self.loop(s)

    def memory(self, place: Location, size: int) -> np.ndarray:
        start = self.offsets[place.buffer] if place.buffer is not None else 0
        found = self.bases[place.base][start : start + size]
        assert len(found) == size, "outside of its memory"
        return found

    def copy(self, s: CopyStep) -> None:
        size = self.at(s.bytes)
        self.memory(s.target, size)[...] = self.memory(s.source, size).copy()

    def kernel(self, s: KernelStep) -> None:
        node = self.nodes[s.kernel]
        values = [*node.operands, *node.results]
        views = [self.memory(p, self.at(v.type.bytes)) for p, v in zip(s.operands, values, strict=True)]
        count = len(node.operands)
        for view in views[count:]:
            view[...] = GARBAGE  # results may be written before operands were read for the last time
        operands = [
            v.view(x.type.dtype.numpy).reshape(x.type.concrete(self.dims))
            for v, x in zip(views, node.operands, strict=False)
        ]
        for view, result in zip(views[count:], run_node(node, operands, self.dims), strict=True):
            view[...] = as_bytes(result)

    def loop(self, s: LoopStep) -> None:
        trips = self.at(s.trips)
        for t in reversed(range(trips)) if s.reverse else range(trips):
            if s.condition is not None and bool(self.memory(s.condition, 1)[0]) != s.expected:
                break
            for x in s.slices:
                stride = self.at(x.stride)
                whole = self.memory(x.source, trips * stride)
                self.bases[x.base] = whole[t * stride : (t + 1) * stride]
            self.run(s.steps)
            for c in s.carries:
                self.copy(c)


def as_bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def check(graph: Graph, inputs: Sequence[np.ndarray], dims: Mapping[str, int], prepared: int = 0) -> Program:
    made = assembled(graph, prepared)
    count = len(inputs) - prepared
    machine = Machine(made, inputs[:count], inputs[count:], dims)
    before = [x.copy() for x in inputs]
    machine.run(machine.program.steps)
    for value, seen, want in zip(graph.outputs, machine.outputs, interpret(graph, inputs), strict=True):
        assert seen.tobytes() == want.tobytes(), f"%{value.name}"
    for x, original in zip(inputs, before, strict=True):
        assert x.tobytes() == original.tobytes()
    return machine.program


SIZES = ({"n": 1, "m": 1}, {"n": 5, "m": 3}, {"n": 2, "m": 16})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(max_nodes=20), st.sampled_from(SIZES), st.integers(0, 3))
def test_random_graphs(graph: Graph, dims: Mapping[str, int], prepared: int) -> None:
    check(graph, random_inputs(graph, dims), dims, prepared)


@pytest.mark.parametrize("number", range(5))
def test_every_sample_of_scan(number: int) -> None:
    op = core_operators()["scan"]
    sample = list(op.samples())[number]
    b = Builder()
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(sample.operands)]
    results = b.emit(op, values, **sample.attributes).results
    check(b.returns(*results, results[0]), sample.operands, {})


def body(*outputs: str) -> str:
    return f"""
      body=graph @body(%a: f32[3], %b: f32[3], %x: f32[3], %c: f32[3]) {{
        %s: f32[3] = add(%a, %x)
        %m: f32[3] = mul(%s, %c)
        %r: f32[3,1] = reshape(%m) {{shape=[3, 1]}}
        %q: f32[3] = reshape(%r) {{shape=[3]}}
        %k: f32[3] = constant() {{value=f32[3] [1.5, 2.5, 3.5]}}
        return {", ".join(outputs)}
      }}"""


SCANS = {
    "carries that swap": ("%b", "%a"),
    "a carry that stays": ("%a", "%s"),
    "both carries from one": ("%a", "%a"),
    "new carries that are equal": ("%s", "%s"),
    "carries and ys that are equal": ("%s", "%m", "%s", "%m", "%m"),
    "ys that are carries": ("%s", "%m", "%a", "%b", "%a"),
    "ys that are slices and captures": ("%s", "%x", "%x", "%c", "%x"),
    "reshapes of each other": ("%q", "%m", "%q", "%m"),
    "constants": ("%k", "%s", "%k", "%k"),
    "carries that rotate through constants": ("%b", "%k", "%a"),
}


@pytest.mark.parametrize("reverse", ["false", "true"])
@pytest.mark.parametrize("name", SCANS)
def test_what_a_loop_hands_on(name: str, reverse: str) -> None:
    outputs = SCANS[name]
    results = [f"%y{i}" for i in range(len(outputs))]
    types = ["f32[3]", "f32[3]", *["f32[t,3]"] * (len(outputs) - 2)]
    text = f"""
graph @loop(%a: f32[3], %b: f32[3], %x: f32[t,3], %c: f32[3]) where t >= 0 {{
  {", ".join(f"{r}: {t}" for r, t in zip(results, types, strict=True))} = scan(%a, %b, %x, %c) {{carries=2, scanned=1, reverse={reverse}}} [{body(*outputs)}
  ]
  %sum: f32[3] = add(%y0, %y1)
  return {", ".join([*results, "%sum", "%y0"])}
}}
"""  # noqa: E501
    graph = parse_graph(text)
    for trips in (0, 1, 2, 5):
        check(graph, random_inputs(graph, {"t": trips}), {"t": trips})


def test_loops_in_loops() -> None:
    inner = Builder(Graph("inner"))
    h, x, w = (inner.input(n, f32, (2,)) for n in "hxw")
    step = inner.op("add", inner.op("mul", h, w), x)
    inner_body = inner.returns(step, h)
    outer = Builder(Graph("outer"))
    g, xs, w = outer.input("g", f32, (2,)), outer.input("xs", f32, (symbol("m"), 2)), outer.input("w", f32, (2,))
    last, before = outer.ops("scan", outer.op("neg", g), xs, w, body=inner_body, carries=1, scanned=1)
    total = outer.op("add", last, outer.op("reduce_sum", before, axes=(0,)))
    outer_body = outer.returns(total, g, before)
    b = Builder()
    start, data, w = b.input("s", f32, (2,)), b.input("x", f32, (symbol("n"), symbol("m"), 2)), b.input("w", f32, (2,))
    results = b.ops("scan", start, data, b.op("tanh", w), body=outer_body, carries=1, scanned=1, reverse=True)
    graph = b.returns(*results, b.op("neg", results[0]))
    for dims in ({"n": 1, "m": 1}, {"n": 3, "m": 4}):
        check(graph, random_inputs(graph, dims), dims)


def test_memory_is_used_again() -> None:
    b = Builder()
    v = b.input("x", f32, (1000,))
    for _ in range(20):
        v = b.op("tanh", v)
    program = check(b.returns(v), random_inputs(b.graph, {}), {})
    _, size = plan([Lifetime(x.first, x.last, int(str(x.bytes))) for x in program.buffers])
    assert size <= 2 * 4032
    assert not any(isinstance(s, CopyStep) for s in program.steps)


def test_equal_constants_stand_once() -> None:
    graph = parse_graph("""graph @g(%x: f32[2]) {
      %a: f32[2] = constant() {value=f32[2] [1.0, 2.0]}
      %b: f32[2] = constant() {value=f32[2] [1.0, 2.0]}
      %s: f32[2] = add(%x, %a)
      %t: f32[2] = add(%s, %b)
      return %t, %a
    }""")
    program = check(graph, random_inputs(graph, {}), {})
    assert program.constants == 1


def test_all_nodes_without_a_kernel_are_told_at_once() -> None:
    b = Builder(origin=("layer",))
    x = b.input("x", f32, (2,))
    graph = b.returns(b.op("neg", b.op("exp", b.op("neg", x))))

    def refuse(node: Node) -> NodeKernel:
        if node.op.name == "neg":
            raise UnsupportedOpError("kernels", [Unsupported("neg", node.results[0].name, "no reason")])
        return NodeKernel(node, node.op.name)

    with pytest.raises(UnsupportedOpError) as caught:
        assemble(graph, 0, refuse, "somebody")
    assert caught.value.who == "somebody"
    assert [u.layer for u in caught.value.unsupported] == ["neg", "neg_1"]
