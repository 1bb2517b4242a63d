"""Several backends for one graph: who takes what, and the program of their segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphc.backend import Backend, KernelReport, KernelTime, MemoryReport, Segment
from graphc.errors import GraphcError, Unsupported, UnsupportedOpError
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import as_symbol, evaluate
from graphc.ir.text import print_graph
from graphc.partition import Part, choose, partition

Compile = Callable[[Graph, int], Segment]
"""Compiles a part's graph for backend number i; raises UnsupportedOpError."""


def compile_parts(graph: Graph, backends: Sequence[Backend], compile: Compile) -> tuple[PartitionedSegment, list[str]]:
    """The graph's segments, each node on the first backend that takes it; and why others didn't.

    A backend refuses a node by `supports` (a primitive), or by an UnsupportedOpError that tells the node's layer when a
    part is compiled: then the parts are cut anew. Raises UnsupportedOpError where no backend takes a node.
    """
    refused = [{n: r for n in graph.nodes if n.op.is_primitive and (r := b.supports(n))} for b in backends]
    made: dict[tuple[int, str], Segment] = {}
    while True:
        chosen = choose(graph, lambda b, n: n not in refused[b], len(backends))
        impossible = [n for n in graph.nodes if n not in chosen]
        if impossible:
            raise _nobody(impossible, backends, refused)
        parts = partition(graph, chosen, lambda n: not any(n in r for r in refused))
        failed = False
        for part in parts:
            key = part.backend, print_graph(part.graph)
            if key in made:
                continue
            try:
                made[key] = compile(part.graph, part.backend)
            except UnsupportedOpError as e:
                failed = True
                found = _refused(part, compile, graph)
                if not found:
                    e.hint = "no node of the graph has the layers that the backend tells"
                    raise
                refused[part.backend].update(found)
        if not failed:
            steps = [(p, made[p.backend, print_graph(p.graph)]) for p in parts]
            reasons = [
                f"{b.name}: {n.op.name}: {reason} (at {_layer(n)})"
                for b, r in zip(backends, refused, strict=True)
                for n, reason in r.items()
            ]
            return PartitionedSegment(graph, [b.name for b in backends], steps), reasons


def _refused(part: Part, compile: Compile, whole: Graph) -> dict[Node, str]:
    """The nodes of the whole graph that the backend refuses in a part, with its reasons.

    The part is compiled again, each node's name standing for its layer: fused nodes tell the names of all that are in them.
    """
    by_name = {n.results[0].name: n for n in whole.nodes if n.results}
    tagged, _ = part.graph.clone()
    for node in tagged.nodes:
        _tag(node, node.results[0].name if node.results else "")
    try:
        compile(tagged, part.backend)
    except UnsupportedOpError as e:
        return {
            by_name[name]: f"{u.op}: {u.reason}"
            for u in e.unsupported
            for name in dict.fromkeys((*u.origin, *u.layer.split(", ")))
            if name in by_name
        }
    raise GraphcError("a backend refuses a graph or not, depending on its layers' names")


def _tag(node: Node, name: str) -> None:
    """Makes `name` the only layer of a node and of those in its regions (which are copied: clones share them)."""
    node.origin = (name,)
    for key, value in node.attributes.items():
        if isinstance(value, Graph):
            region, _ = value.clone()
            for inner in region.nodes:
                _tag(inner, name)
            node.attributes[key] = region


def _nobody(nodes: Sequence[Node], backends: Sequence[Backend], refused: Sequence[Mapping[Node, str]]) -> GraphcError:
    names = " nor ".join(b.name for b in backends)
    reasons = [
        Unsupported(n.op.name, _layer(n), f"{b.name}: {r[n]}")
        for n in nodes
        for b, r in zip(backends, refused, strict=True)
    ]
    return UnsupportedOpError(f"neither {names}", reasons) if len(backends) > 1 else UnsupportedOpError(names, reasons)


def _layer(node: Node) -> str:
    return ", ".join(node.origin) or f"%{node.results[0].name}"


@dataclass(frozen=True)
class Crossing:
    """A value that one part computes and another, of another backend perhaps, reads: it goes through host memory."""

    value: str
    type: str
    bytes: int
    source: int
    target: int


@dataclass
class PartitionedSegment:
    """Segments of several backends, run one after another."""

    graph: Graph
    backends: Sequence[str]
    steps: Sequence[tuple[Part, Segment]]
    direct: None = None
    _last_read: list[set[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kept = {v.name for v in self.graph.outputs}
        self._last_read = []
        for part, _ in reversed(self.steps):
            names = {v.name for v in part.reads}
            self._last_read.insert(0, names - kept)
            kept |= names

    @property
    def stages(self) -> Mapping[str, str]:
        found = {}
        for i, (part, segment) in enumerate(self.steps):
            name = f"{i}.{self.backends[part.backend]}"
            found[name] = print_graph(part.graph)
            found.update({f"{name}.{stage}": text for stage, text in segment.stages.items()})
        return found

    @property
    def kernels(self) -> Sequence[KernelReport]:
        return [k for _, segment in self.steps for k in segment.kernels]

    @property
    def crossings(self) -> list[Crossing]:
        """The copies between parts; bytes with dynamic dims at their smallest."""
        dims = {s.name: s.low for s in self.graph.symbols().values()}
        made = {v.name: i for i, (part, _) in enumerate(self.steps) for v in part.graph.outputs}
        return [
            Crossing(v.name, str(v.type), evaluate(v.type.bytes, dims), made[v.name], i)
            for i, (part, _) in enumerate(self.steps)
            for v in part.reads
            if v.name in made
        ]

    def describe(self) -> dict[str, Any]:
        """The parts and the copies between them, as JSON's types."""
        parts = [
            {
                "backend": self.backends[part.backend],
                "nodes": [n.op.name for n in part.nodes],
                "reads": [v.name for v in part.reads],
                "gives": [v.name for v in part.graph.outputs],
            }
            for part, _ in self.steps
        ]
        return {"parts": parts, "copies": [vars(c) for c in self.crossings]}

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return self._walk(inputs, lambda _, segment, arrays: segment.run(arrays))

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        times: list[KernelTime] = []

        def run(part: Part, segment: Segment, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
            times.extend(replace(t, backend=self.backends[part.backend]) for t in segment.profile(arrays))
            return segment.run(arrays)

        self._walk(inputs, run)
        return times

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        """What crosses is intermediate memory too; no two parts run at once."""
        reports = [segment.memory(dims) for _, segment in self.steps]
        given = {v.name for v in self.graph.outputs}
        values = {v.name: v.type for part, _ in self.steps for v in part.graph.outputs if v.name not in given}
        crossing = sum(evaluate(t.bytes, dims) for t in values.values())
        return MemoryReport(
            max((m.arena for m in reports), default=0) + crossing,
            sum(m.constants for m in reports),
            max((m.scratch for m in reports), default=0),
        )

    def _walk(
        self,
        inputs: Sequence[np.ndarray],
        run: Callable[[Part, Segment, Sequence[np.ndarray]], tuple[np.ndarray, ...]],
    ) -> tuple[np.ndarray, ...]:
        dims = bind_dims(self.graph, [x.shape for x in inputs])
        known = dict(zip((v.name for v in self.graph.inputs), inputs, strict=True))
        for (part, segment), last in zip(self.steps, self._last_read, strict=True):
            arrays = [known[v.name] for v in part.reads]
            for v, x in zip(part.reads, arrays, strict=True):  # symbols that data defines are known from here on
                for d, n in zip(v.type.shape, x.shape, strict=True):
                    s = as_symbol(d)
                    if s is not None:
                        dims.setdefault(s.name, n)
            if part.symbols:
                arrays.append(np.empty((*(dims[s] for s in part.symbols), 0), bool))
            outputs = run(part, segment, arrays)
            known.update(zip((v.name for v in part.graph.outputs), outputs, strict=True))
            for name in last:
                del known[name]
        fresh: set[int] = {id(x) for x in inputs}
        returned = []
        for v in self.graph.outputs:  # an output that is an input, or another output, gets memory of its own
            y = known[v.name]
            returned.append(y.copy() if id(y) in fresh else y)
            fresh.add(id(y))
        return tuple(returned)
