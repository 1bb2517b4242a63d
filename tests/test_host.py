"""Programs on the host: kernels that are Python functions here, so that what is tested is all but the kernels."""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import graphc
from graphc.backend import CompileOptions
from graphc.errors import UnsupportedOpError
from graphc.host import Function, HostSegment, compile_for_host
from graphc.ir.graph import Graph, Node
from graphc.ir.types import f32
from graphc.lowering.evaluate import evaluate
from graphc.lowering.facts import dimensions
from graphc.lowering.kernel import SourceKernel, fusion_kernel
from graphc.lowering.loop_body import Body
from graphc.lowering.status import Status
from graphc.pipeline import PassContext


class Evaluated:
    """A backend whose kernels run their bodies in NumPy."""

    name = "evaluated"

    def __init__(self, status: int = 0) -> None:
        self.bodies: dict[str, Body] = {}
        self.built: list[str] = []
        self.status = status

    def supports(self, node: Node) -> str | None:
        return None if node.op.is_primitive else "it is decomposed"

    def pipeline(self, options: CompileOptions) -> list[str]:
        return ["canonicalize", "fold-constants", "decompose", "cse", "dce"]

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> HostSegment:
        return compile_for_host(graph, options, context, self.make, self.build, "evaluated")

    def make(self, node: Node) -> SourceKernel:
        return fusion_kernel(node, self.emit, "evaluated")

    def emit(self, body: Body, symbol: str) -> str:
        self.bodies[symbol] = body
        return f"source of {symbol}"

    def build(self, kernels: Sequence[SourceKernel]) -> list[Function]:
        self.built += [k.symbol for k in kernels]
        return [self.function(self.bodies[k.symbol]) for k in kernels]

    def function(self, body: Body) -> Function:
        def run(pointers, dims, scratch: int, begin: int, end: int) -> int:
            assert (begin, end) == (0, 1) and scratch % 64 == 0
            known = dict(zip((s.name for s in dimensions(body)), dims, strict=True))
            arrays = []
            for address, b in zip(pointers, [b for b in body.buffers if b.access != "scratch"], strict=True):
                shape = b.type.concrete(known)
                size = int(np.prod(shape)) * b.type.dtype.bytes
                raw = (ctypes.c_char * size).from_address(address)
                arrays.append(np.frombuffer(raw, b.type.dtype.numpy).reshape(shape) if size else np.empty(shape))
            evaluate(body, arrays, known)
            return self.status

        return run

    def store(self, segment: HostSegment, key: str) -> None:
        """Nothing is kept."""

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> None:
        return None


def check(text: str, *arrays: np.ndarray) -> graphc.Executable:
    graph = graphc.parse_graph(text)
    executable = graphc.compile(graph, Evaluated(), cache=False)
    outputs = executable(*arrays)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for seen, expected in zip(outputs, graphc.interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
    return executable


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def model() -> Graph:
    b = graphc.Builder(Graph("model"), origin=("fc",))
    x = b.input("x", f32, (graphc.Dim("n"), 8))
    w = b.constant(normal(8, 4))
    a = b.op("matmul", b.op("exp", x), b.op("tanh", w))
    return b.returns(b.op("softmax", a, axis=1), a)


def test_a_model_with_weights_and_dynamic_dims() -> None:
    backend = Evaluated()
    graph = model()
    executable = graphc.compile(graph, backend, cache=False)
    for n in (1, 3, 7):
        x = normal(n, 8)
        for seen, expected in zip(executable(x), graphc.interpret(graph, [x]), strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert set(executable.stages) == {"imported", "prepare", "fused", "loops", "source"}
    assert "= tanh(" in executable.text("prepare") and "= tanh(" not in executable.text("fused")
    assert len(set(backend.built)) == len(backend.built)
    assert executable.memory.constants == 8 * 4 * 4
    assert len(executable.profile(x).rows) == len(executable.kernels)
    assert executable.kernels[-1].flops > 0


def test_calls_share_nothing() -> None:
    executable = graphc.compile(model(), Evaluated(), cache=False)
    inputs = [normal(5, 8) * k for k in range(8)]
    expected = [executable(x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for seen, y in zip(pool.map(lambda x: executable(x)[0], inputs), expected, strict=True):
            np.testing.assert_array_equal(seen, y)


@pytest.mark.parametrize("reverse", ["true", "false"])
def test_scans(reverse: str) -> None:
    check(
        f"""
graph @loop(%h: f32[3], %g: f32[3], %xs: f32[t,3]) {{
  %a: f32[3], %b: f32[3], %ys: f32[t,3] = scan(%h, %g, %xs) {{carries=2, scanned=1, reverse={reverse}}} [
    body=graph @body(%c: f32[3], %d: f32[3], %x: f32[3]) {{
      %s: f32[3] = add(%c, %x)
      %z: f32[3] = tanh(%s)
      return %d, %z, %s
    }}
  ] from "rnn"
  return %a, %b, %ys
}}""",
        normal(3),
        normal(3),
        normal(6, 3),
    )


def test_what_is_an_input_or_given_twice_is_copied() -> None:
    executable = check(
        "graph @g(%x: f32[4]) {\n  %y: f32[4] = neg(%x)\n  %z: f32[2,2] = reshape(%y) {shape=[2,2]}\n  return %x, %y, %z\n}",
        normal(4),
    )
    x = normal(4)
    outputs = executable(x)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(outputs) for b in (x, *outputs[:i]))


def test_faults_name_the_layer() -> None:
    executable = graphc.compile(
        graphc.parse_graph('graph @g(%x: f32[4]) {\n  %y: f32[4] = neg(%x) from "flip"\n  return %y\n}'),
        Evaluated(Status.BAD_INDEX),
        cache=False,
    )
    with pytest.raises(graphc.NumericError, match="neg met an index out of bounds") as error:
        executable(normal(4))
    assert error.value.layer == "flip"


def test_an_extreme_of_nothing_raises() -> None:
    graph = graphc.parse_graph(
        'graph @g(%x: f32[n]) where n >= 0 {\n  %y: f32[] = reduce_max(%x) {axes=[0]} from "top"\n  return %y\n}'
    )
    executable = graphc.compile(graph, Evaluated(), cache=False)
    assert executable(normal(3)) == normal(3).max()
    with pytest.raises(graphc.NumericError, match="no elements"):
        executable(normal(0))


def test_what_has_no_kernel_is_told_with_all_layers() -> None:
    graph = graphc.parse_graph("""
    graph @g(%x: f32[4], %y: f32[4]) {
      %a: f32[4], %i: i64[4] = sort(%x) {axis=0, descending=false} from "first"
      %b: f32[4], %j: i64[4] = sort(%y) {axis=0, descending=false}
      %c: f32[4] = add(%a, %b)
      return %c
    }""")
    with pytest.raises(UnsupportedOpError) as error:
        graphc.compile(graph, Evaluated(), cache=False)
    first, second = error.value.unsupported
    assert (first.op, first.layer, second.op) == ("sort", "first", "sort")
    assert second.layer.startswith("%")
