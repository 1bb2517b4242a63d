"""From a fused graph to a program: kernels in order, each value's place in memory, loops for scans, branches and whiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim
from graphc.ir.tensor_data import TensorData
from graphc.lowering.donation import RENAMES, in_place
from graphc.lowering.program import (
    ENDLESS,
    ArenaBuffer,
    CopyStep,
    KernelStep,
    Location,
    LoopStep,
    Program,
    Slice,
    Step,
)
from graphc.lowering.reports import arithmetic
from graphc.ops.branching import UNBOUNDED


class Kernel(Protocol):
    """What a program knows of a kernel; see `program.KernelStep`. Equal keys are equal code, called `symbol` in it."""

    @property
    def key(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> tuple[Dim, ...]: ...
    @property
    def work(self) -> Dim: ...
    @property
    def scratch(self) -> Dim: ...
    @property
    def flops(self) -> Dim: ...
    @property
    def bytes(self) -> Dim: ...
    @property
    def nonempty(self) -> tuple[Dim, ...]: ...


K = TypeVar("K", bound=Kernel)


@dataclass
class Assembly(Generic[K]):
    """A program, its kernels in the order of `program.kernels`, and the literal arrays among its constants.

    `constants[i]` is None where main's constant i comes from `prepare`.
    """

    program: Program
    kernels: list[K]
    constants: list[TensorData | None]


def assemble(graph: Graph, prepared: int, make_kernel: Callable[[Node], K], backend: str) -> Assembly[K]:
    """The program of a fused graph, whose last `prepared` inputs are constants made by `prepare`.

    `make_kernel`: the kernel of a node of the fused graph; raises UnsupportedOpError with the reason where there is none;
    a reason without a layer gets the node's. Raises UnsupportedOpError, in the name of `backend`, with every such node.
    """
    return _Assembler(graph, prepared, make_kernel, backend).run()


@dataclass
class _Buffer:
    bytes: Dim
    first: int
    last: int


@dataclass
class _Assembler(Generic[K]):
    graph: Graph
    prepared: int
    make_kernel: Callable[[Node], K]
    backend: str
    kernels: dict[str, tuple[int, K]] = field(default_factory=dict)
    buffers: list[_Buffer] = field(default_factory=list)
    places: dict[Value, Location] = field(default_factory=dict)
    constants: list[TensorData | None] = field(default_factory=list)
    constant_bases: dict[str, int] = field(default_factory=dict)
    problems: list[Unsupported] = field(default_factory=list)
    slices: int = 0
    now: int = 0

    def run(self) -> Assembly[K]:
        graph = self.graph
        inputs = graph.inputs[: len(graph.inputs) - self.prepared]
        self.arena = len(inputs) + len(graph.outputs)
        for i, value in enumerate(inputs):
            self.places[value] = Location(i)
        for value in graph.inputs[len(inputs) :]:
            self.places[value] = Location(self.arena + 1 + len(self.constants))
            self.constants.append(None)
        outputs = self.claim_outputs(graph, [Location(len(inputs) + i) for i in range(len(graph.outputs))])
        steps = self.nodes(graph, top=True)
        for value, place in zip(graph.outputs, outputs, strict=True):
            if self.places.get(value, place) != place:
                steps.append(CopyStep(place, self.read(self.places[value]), value.type.bytes))
        if self.problems:
            raise UnsupportedOpError(self.backend, self.problems)
        slice_base = self.arena + 1 + len(self.constants)
        program = Program(
            tuple(v.type for v in inputs),
            tuple(v.type for v in graph.outputs),
            len(self.constants),
            self.slices,
            tuple(ArenaBuffer(b.bytes, b.first, b.last) for b in self.buffers),
            tuple(_resolve(s, slice_base) for s in steps),
            tuple((key, k.symbol) for key, (_, k) in self.kernels.items()),
            in_place(graph),
        )
        return Assembly(program, [k for _, k in self.kernels.values()], self.constants)

    def claim_outputs(self, graph: Graph, wanted: list[Location]) -> list[Location]:
        """Lets the nodes that produce outputs write them in place, each value once; the rest are copied at the end."""
        for value, place in zip(graph.outputs, wanted, strict=True):
            root = _root(value)
            if _writes_where_told(root) and root not in self.places:
                self.places[root] = place
        return wanted

    def nodes(self, graph: Graph, top: bool) -> list[Step]:
        steps: list[Step] = []
        for node in graph.nodes:
            if node.op.name == "constant":
                self.places[node.result] = self.constant(node["value"])
            elif node.op.name in RENAMES:
                self.places[node.result] = self.places[node.operands[0]]
            elif node.op.name == "scan":
                steps += self.scan(node)
            elif node.op.name == "if":
                steps += self.branches(node)
            elif node.op.name == "while":
                steps += self.loop(node)
            else:
                try:
                    kernel = self.make_kernel(node)
                except UnsupportedOpError as e:
                    layers = ", ".join(node.origin) or f"%{node.results[0].name}"
                    self.problems += [replace(u, layer=u.layer or layers, origin=node.origin) for u in e.unsupported]
                    for value in node.results:
                        self.places.setdefault(value, Location(self.arena))
                    continue
                steps.append(self.kernel_step(node, kernel))
            if top:
                self.now = len(steps)
        return steps

    def kernel_step(self, node: Node, kernel: K) -> KernelStep:
        number, _ = self.kernels.setdefault(kernel.key, (len(self.kernels), kernel))
        reads = tuple(self.read(self.places[v]) for v in node.operands)
        writes = tuple(self.write(v) for v in node.results)
        return KernelStep(
            number,
            kernel.name,
            node.origin,
            reads + writes,
            kernel.dims,
            kernel.work,
            kernel.scratch,
            kernel.flops,
            kernel.bytes,
            kernel.nonempty,
            arithmetic(node),
        )

    def read(self, place: Location) -> Location:
        if place.buffer is not None:
            buffer = self.buffers[place.buffer]
            buffer.last = max(buffer.last, self.now)
        return place

    def write(self, value: Value) -> Location:
        if value not in self.places:
            self.places[value] = self.allocate(value.type.bytes)
        return self.read(self.places[value])

    def allocate(self, size: Dim) -> Location:
        self.buffers.append(_Buffer(size, self.now, self.now))
        return Location(self.arena, len(self.buffers) - 1)

    def constant(self, data: TensorData) -> Location:
        if data.digest not in self.constant_bases:
            self.constant_bases[data.digest] = self.arena + 1 + len(self.constants)
            self.constants.append(data)
        return Location(self.constant_bases[data.digest])

    def scan(self, node: Node) -> list[Step]:
        body, carries, scanned = node["body"], node["carries"], node["scanned"]
        trips = node.operands[carries].type.shape[0]
        steps: list[Step] = []
        slices: list[Slice] = []
        for i, value in enumerate(body.inputs):
            operand = node.operands[i]
            if i < carries:
                place = self.allocate(value.type.bytes)
                steps.append(CopyStep(place, self.read(self.places[operand]), value.type.bytes))
                self.places[value] = place
                self.places[node.results[i]] = place
            elif i < carries + scanned:
                self.places[value] = self.slice(slices, self.read(self.places[operand]), value.type.bytes)
            else:
                self.places[value] = self.read(self.places[operand])
        for i, value in enumerate(body.outputs[carries:], carries):
            place = self.slice(slices, self.write(node.results[i]), value.type.bytes)
            root = _root(value)
            if _writes_where_told(root) and root not in self.places:
                self.places[root] = place
        first_inner = len(self.buffers)
        inner = self.nodes(body, top=False)
        copies = self.carry_copies(list(zip(body.inputs[:carries], body.outputs, strict=False)), inner)
        slice_places = [s.base for s in slices[scanned:]]
        for value, base in zip(body.outputs[carries:], slice_places, strict=True):
            if self.places[value] != Location(base):
                inner.append(CopyStep(Location(base), self.places[value], value.type.bytes))
        self.passing(first_inner)
        steps.append(LoopStep("scan", node.origin, tuple(inner), trips, node["reverse"], tuple(slices), tuple(copies)))
        return steps

    def branches(self, node: Node) -> list[Step]:
        """One loop of at most one trip for each branch, both of which write the results where these lie."""
        condition, *captures = (self.read(self.places[v]) for v in node.operands)
        targets = [self.write(v) for v in node.results]
        steps: list[Step] = []
        for name, expected in (("then", True), ("otherwise", False)):
            region = node[name]
            self.places.update(zip(region.inputs, captures, strict=True))
            inner = self.region(region, targets)
            steps.append(LoopStep("if", node.origin, tuple(inner), 1, False, (), (), condition, expected))
        return steps

    def loop(self, node: Node) -> list[Step]:
        """A loop of which each trip computes the carries, copies them, and computes the condition of the next."""
        body, condition, count = node["body"], node["condition"], node["carries"]
        flag = self.allocate(1)
        carries = [self.allocate(v.type.bytes) for v in node.results]
        initial = [self.read(self.places[v]) for v in node.operands]
        steps: list[Step] = [
            CopyStep(to, source, v.type.bytes) for to, source, v in zip(carries, initial, node.results, strict=False)
        ]
        for region in (condition, body):
            self.places.update(zip(region.inputs, (*carries, *initial[count:]), strict=True))
        self.places.update(zip(node.results, carries, strict=True))
        asking = self.region(condition, [flag])
        first = len(self.buffers)
        inner = self.nodes(body, top=False)
        inner += self.carry_copies(list(zip(body.inputs[:count], body.outputs, strict=True)), inner)
        self.passing(first)
        trips = ENDLESS if node["max_trips"] == UNBOUNDED else node["max_trips"]
        loop = LoopStep("while", node.origin, (*inner, *asking), trips, False, (), (), flag)
        return [*steps, *asking, loop]

    def region(self, region: Graph, targets: list[Location]) -> list[Step]:
        """The steps of a region whose inputs have places, and which leave its outputs at `targets`."""
        first = len(self.buffers)
        claimed: dict[Value, Location] = {}
        for value, place in zip(region.outputs, targets, strict=True):
            if _writes_where_told(_root(value)):
                claimed.setdefault(_root(value), place)
        self.places.update(claimed)
        steps = self.nodes(region, top=False)
        for value, place in zip(region.outputs, targets, strict=True):
            if self.places[value] != place:
                steps.append(CopyStep(place, self.places[value], value.type.bytes))
        self.passing(first)
        return steps

    def passing(self, first: int) -> None:
        """Buffers from number `first` on are in use at this step alone: they are those of regions."""
        for buffer in self.buffers[first:]:
            buffer.first = buffer.last = self.now

    def carry_copies(self, carries: list[tuple[Value, Value]], inner: list[Step]) -> list[CopyStep]:
        """The copies of new carries over old ones; a new carry that is an old one goes through memory of its own."""
        olds = {self.places[old] for old, _ in carries}
        copies = []
        for old, new in carries:
            source = self.places[new]
            if source == self.places[old]:
                continue
            if source in olds:
                kept = self.allocate(new.type.bytes)
                inner.append(CopyStep(kept, source, new.type.bytes))
                source = kept
            copies.append(CopyStep(self.places[old], source, new.type.bytes))
        return copies

    def slice(self, slices: list[Slice], source: Location, stride: Dim) -> Location:
        """A base that moves along `source`; numbered from -1 down until the number of constants is known."""
        self.slices += 1
        slices.append(Slice(-self.slices, source, stride))
        return Location(-self.slices)


def _root(value: Value) -> Value:
    """The value whose memory this one shares, through what only renames it."""
    while value.producer is not None and value.producer.op.name in RENAMES:
        value = value.producer.operands[0]
    return value


def _writes_where_told(value: Value) -> bool:
    """Whether its producer writes it where it is told: inputs, constants and carries have places of their own."""
    producer = value.producer
    if producer is None or producer.op.name == "constant":
        return False
    if producer.op.name == "scan":
        return bool(value.index >= producer["carries"])
    return producer.op.name != "while"


def _resolve(step: Step, slice_base: int) -> Step:
    """The step with slices numbered after the constants."""

    def place(p: Location) -> Location:
        return Location(slice_base - p.base - 1, p.buffer) if p.base < 0 else p

    def copy(c: CopyStep) -> CopyStep:
        return CopyStep(place(c.target), place(c.source), c.bytes)

    if isinstance(step, CopyStep):
        return copy(step)
    if isinstance(step, KernelStep):
        operands = tuple(map(place, step.operands))
        return KernelStep(**{**step.__dict__, "operands": operands})
    return LoopStep(
        step.name,
        step.origin,
        tuple(_resolve(s, slice_base) for s in step.steps),
        step.trips,
        step.reverse,
        tuple(Slice(slice_base - s.base - 1, place(s.source), s.stride) for s in step.slices),
        tuple(map(copy, step.carries)),
        None if step.condition is None else place(step.condition),
        step.expected,
    )
