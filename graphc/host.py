"""Compiled graphs whose kernels are functions in this process: what a backend of kernels needs besides their code.

A backend gives two functions. One makes the kernel of a node of the fused graph (`lowering.kernel.fusion_kernel` does,
from a function that writes the source of a body); the other builds all kernels and hands back callables:

    status = function(pointers, dims, scratch, begin, end)

does the part [begin, end) of the kernel's work on the arrays at `pointers` (a C array of addresses: inputs, then outputs),
with the values of its `dims` (a C array of int64) and the address of its scratch memory.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.backend import CompileOptions, KernelReport, KernelTime, MemoryReport
from graphc.errors import NumericError
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, evaluate
from graphc.ir.text import print_graph
from graphc.kernel_reports import kernel_times, report
from graphc.lowering.assemble import assemble
from graphc.lowering.kernel import SourceKernel
from graphc.lowering.memory import Lifetime, aligned, plan
from graphc.lowering.prepare import split_prepare
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program, Step
from graphc.lowering.status import MEANING, Status
from graphc.pipeline import PassContext, PassManager, resolve_passes

Function = Callable[[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int64], int, int, int], int]
"""A built kernel; see above."""


def compile_for_host(
    graph: Graph,
    options: CompileOptions,
    context: PassContext,
    make_kernel: Callable[[Node], SourceKernel],
    build: Callable[[Sequence[SourceKernel]], Sequence[Function]],
    who: str,
) -> HostSegment:
    """The segment of a graph that went through a backend's pipeline: split, fused, assembled, built, prepared.

    Raises UnsupportedOpError, in the name of `who`, with every node that has no kernel.
    """
    prepare, main, weights = split_prepare(graph)
    for part in (prepare, main):
        PassManager(resolve_passes(["fuse"]), verify=options.verify).run(part, context)
    parts = [assemble(p, n, make_kernel, who) for p, n in ((prepare, 0), (main, len(prepare.outputs)))]
    kernels = list({k.key: k for p in parts for k in p.kernels}.values())
    functions = dict(zip((k.key for k in kernels), build(kernels), strict=True))
    stages = {
        "prepare": print_graph(prepare),
        "fused": print_graph(main),
        "loops": "\n".join(k.loops for k in kernels),
        "source": "\n".join(k.source for k in kernels),
    }
    arrays = [np.require(w.array, requirements=["C", "A"]) for w in weights]
    prepared: Sequence[np.ndarray] = ()
    programs = []
    for assembly in parts:
        made = iter(prepared)
        constants = [
            next(made) if c is None else np.require(c.array, requirements=["C", "A"]) for c in assembly.constants
        ]
        programs.append(HostProgram(assembly.program, [functions[k.key] for k in assembly.kernels], constants))
        prepared = programs[0].run(arrays, {})
    return HostSegment(graph, programs[1], stages)


@dataclass
class HostSegment:
    """A whole graph as a host program."""

    graph: Graph
    program: HostProgram
    stages: Mapping[str, str]
    direct: None = None

    @property
    def kernels(self) -> Sequence[KernelReport]:
        dims = {s.name: s.low for s in self.graph.symbols().values()}
        return [report(step, self.program.program, dims) for step in self.program.program.steps]

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return self.program.run(inputs, self._dims(inputs))

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        seconds: list[float] = []
        dims = self._dims(inputs)
        self.program.run(inputs, dims, seconds)
        return kernel_times(self.program.program, dims, seconds)

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        return self.program.memory(dims)

    def _dims(self, inputs: Sequence[np.ndarray]) -> dict[str, int]:
        return bind_dims(self.graph, [x.shape for x in inputs])


@dataclass
class HostProgram:
    """A program with its functions and constants, run step by step; calls share nothing that they write to."""

    program: Program
    functions: Sequence[Function]
    constants: Sequence[np.ndarray]

    def run(
        self, inputs: Sequence[np.ndarray], dims: Mapping[str, int], seconds: list[float] | None = None
    ) -> tuple[np.ndarray, ...]:
        """The outputs in fresh memory; the time of each step is appended to `seconds`. Raises NumericError."""
        program = self.program
        outputs = tuple([np.empty(t.concrete(dims), t.dtype.numpy) for t in program.outputs])
        offsets, size = self._plan(dims)
        arena = aligned(size)
        known = [x.ctypes.data for x in (*inputs, *outputs, arena, *self.constants)]
        call = _Call(self, dims, offsets, [*known, *[0] * program.slices])
        for step in program.steps:
            start = time.perf_counter()
            call.step(step)
            if seconds is not None:
                seconds.append(time.perf_counter() - start)
        return outputs

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        """Bytes that a call at these dims needs."""
        scratch = max((evaluate(s.scratch, dims) for s in kernel_steps(self.program.steps)), default=0)
        return MemoryReport(self._plan(dims)[1], sum(c.nbytes for c in self.constants), scratch)

    def _plan(self, dims: Mapping[str, int]) -> tuple[list[int], int]:
        return plan([Lifetime(b.first, b.last, evaluate(b.bytes, dims)) for b in self.program.buffers])


@dataclass
class _Call:
    """One run: the values of the symbols, where arena buffers lie, and the table of base addresses."""

    owner: HostProgram
    dims: Mapping[str, int]
    offsets: Sequence[int]
    bases: list[int]
    scratch: np.ndarray = field(default_factory=lambda: aligned(0))

    def step(self, step: Step) -> None:
        if isinstance(step, CopyStep):
            self.copy(step)
        elif isinstance(step, KernelStep):
            self.kernel(step)
        else:
            self.loop(step)

    def kernel(self, step: KernelStep) -> None:
        status = Status.NO_ELEMENTS if any(self.at(d) == 0 for d in step.nonempty) else Status.OK
        if status == Status.OK:
            if self.scratch.size < self.at(step.scratch):
                self.scratch = aligned(self.at(step.scratch))
            pointers = (ctypes.c_void_p * len(step.operands))(*map(self.address, step.operands))
            dims = (ctypes.c_int64 * len(step.dims))(*map(self.at, step.dims))
            function = self.owner.functions[step.kernel]
            status = Status(function(pointers, dims, self.scratch.ctypes.data, 0, self.at(step.work)))
        if status != Status.OK:
            raise NumericError(f"{step.name} met {MEANING[status]}", layer=", ".join(step.origin) or None)

    def copy(self, step: CopyStep) -> None:
        ctypes.memmove(self.address(step.target), self.address(step.source), self.at(step.bytes))

    def loop(self, step: LoopStep) -> None:
        trips = range(self.at(step.trips))
        for t in reversed(trips) if step.reverse else trips:
            if step.condition is not None and self.truth(step.condition) != step.expected:
                break
            for s in step.slices:
                self.bases[s.base] = self.address(s.source) + t * self.at(s.stride)
            for inner in (*step.steps, *step.carries):
                self.step(inner)

    def truth(self, place: Location) -> bool:
        return ctypes.c_uint8.from_address(self.address(place)).value != 0

    def at(self, dim: Dim) -> int:
        return evaluate(dim, self.dims)

    def address(self, place: Location) -> int:
        return self.bases[place.base] + (0 if place.buffer is None else self.offsets[place.buffer])


def kernel_steps(steps: Sequence[Step]) -> list[KernelStep]:
    """The kernel calls among steps, those in loops included."""
    inside = [kernel_steps(s.steps) if isinstance(s, LoopStep) else [s] for s in steps if not isinstance(s, CopyStep)]
    return [s for found in inside for s in found if isinstance(s, KernelStep)]
