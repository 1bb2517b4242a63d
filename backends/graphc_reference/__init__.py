"""The reference backend: the interpreter, as a backend. Slow, exact, and the meaning of everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.backend import CompileOptions, KernelReport, KernelTime, MemoryReport
from graphc.interpreter import interpret
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import evaluate
from graphc.ir.text import print_graph
from graphc.pipeline import Pass, PassContext


@dataclass(frozen=True)
class ReferenceSegment:
    """Interprets a graph with NumPy."""

    graph: Graph
    kernels: Sequence[KernelReport] = ()
    stages: Mapping[str, str] = field(default_factory=dict)

    @property
    def direct(self) -> None:
        return None

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(np.array(y) for y in interpret(self.graph, inputs))  # fresh memory: outputs alias nothing

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        times: list[float] = []
        last = time.perf_counter()

        def watch(value: Value, array: np.ndarray) -> None:
            nonlocal last
            if value.producer is not None and value.index == 0:
                now = time.perf_counter()
                times.append(now - last)
                last = now

        interpret(self.graph, inputs, watch=watch)
        return [KernelTime(k, t) for k, t in zip(self.kernels, times, strict=True)]

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        produced = [v for n in self.graph.nodes for v in n.results]
        return MemoryReport(
            arena=sum(
                evaluate(v.type.bytes, dims) for v in produced if v.producer and v.producer.op.name != "constant"
            ),
            constants=sum(
                evaluate(v.type.bytes, dims) for v in produced if v.producer and v.producer.op.name == "constant"
            ),
        )


@dataclass(frozen=True)
class ReferenceBackend:
    """Takes every operator as it is."""

    name: str = "reference"

    def supports(self, node: Node) -> str | None:
        return None

    def pipeline(self, options: CompileOptions) -> Sequence[str | Pass]:
        return ()

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> ReferenceSegment:
        kernels = tuple(KernelReport(n.op.name, n.origin, n.op.name) for n in graph.nodes)
        return ReferenceSegment(graph, kernels, {"final": print_graph(graph)})

    def store(self, segment: ReferenceSegment, key: str) -> None:
        """Nothing to keep: there is no code."""

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> ReferenceSegment | None:
        return None


BACKEND = ReferenceBackend()
