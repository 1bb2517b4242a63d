"""A backend that makes Python source of a graph: one line a node, for the operators that NumPy has under one name.

    python examples/write_a_backend.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import graphc
from graphc.backend import CompileOptions, KernelReport, KernelTime, MemoryReport
from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import evaluate
from graphc.pipeline import PassContext

UFUNCS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum", "min": "minimum",
    "exp": "exp", "log": "log", "tanh": "tanh", "sqrt": "sqrt", "neg": "negative", "abs": "absolute",
}  # fmt: skip


def line(node: Node, constants: dict[str, np.ndarray]) -> str | None:
    """The statement that computes a node; None for an operator that isn't translated."""
    (result,) = (v.name for v in node.results)
    operands = ", ".join(v.name for v in node.operands)
    if node.op.name in UFUNCS:
        return f"{result} = np.{UFUNCS[node.op.name]}({operands})"
    if node.op.name == "reduce_sum":
        return f"{result} = np.sum({operands}, axis={node['axes']})"
    if node.op.name == "constant":
        constants[result] = node["value"].array
        return f"{result} = constants[{result!r}]"
    if node.op.name == "broadcast" and node.operands[0].type.rank == 0:
        return f"{result} = {operands}"  # NumPy repeats a scalar by itself
    return None


@dataclass(frozen=True)
class SourceSegment:
    """The compiled function, and its source as the stage "python"."""

    graph: Graph
    stages: Mapping[str, str]
    function: Any = field(repr=False)
    kernels: Sequence[KernelReport] = ()
    direct: None = None  # there is no quicker way to run than `run`

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(np.array(y) for y in self.function(*inputs))

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        return ()  # one a kernel: it reports none

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        values = [v for n in self.graph.nodes for v in n.results]
        return MemoryReport(arena=sum(evaluate(v.type.bytes, dims) for v in values), constants=0)


class SourceBackend:
    name = "source"

    def supports(self, node: Node) -> str | None:
        return "it is no primitive" if node.op.decompose else None

    def pipeline(self, options: CompileOptions) -> Sequence[str]:
        return ["canonicalize", "decompose", "cse", "dce"]

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> SourceSegment:
        constants: dict[str, np.ndarray] = {}
        lines = [line(n, constants) for n in graph.nodes]
        refused = [
            Unsupported(n.op.name, ", ".join(n.origin) or n.results[0].name, "it has no translation")
            for n, text in zip(graph.nodes, lines, strict=True)
            if text is None
        ]
        if refused:
            raise UnsupportedOpError("the source backend", refused)
        inputs, outputs = ([v.name for v in values] for values in (graph.inputs, graph.outputs))
        body = [*(text for text in lines if text), f"return ({', '.join(outputs)},)"]
        source = "\n    ".join([f"def program({', '.join(inputs)}):", *body])
        scope: dict[str, Any] = {"np": np, "constants": constants}
        exec(source, scope)
        return SourceSegment(graph, {"python": source}, scope["program"])

    def store(self, segment: SourceSegment, key: str) -> None:
        """Keeps nothing: making it again is as quick."""

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> SourceSegment | None:
        return None


graph = graphc.parse_graph("""
graph @g(%x: f32[n,4], %w: f32[n,4]) {
  %a: f32[n,4] = relu(%x) from "act"
  %b: f32[n,4] = mul(%a, %w) from "gate"
  %y: f32[n] = reduce_sum(%b) {axes=[1]} from "pool"
  return %y
}
""")
exe = graphc.compile(graph, backend=SourceBackend(), verify="full")
print(exe.text("python"))
rng = np.random.default_rng(0)
x, w = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
print("largest difference from the interpreter:", np.abs(exe(x, w) - graphc.interpret(graph, [x, w])[0]).max())

unknown = graphc.parse_graph('graph @g(%x: f32[4]) {\n  %y: f32[4] = erf(%x) from "head"\n  return %y\n}')
try:
    graphc.compile(unknown, backend=SourceBackend())
except graphc.UnsupportedOpError as error:
    print(error)
