"""A program at given dims: where everything lies in memory, and every launch with its arguments.

Loops of a known number of trips are unrolled, since a graph of launches has no other form for them. Only one whose end is data
stays a loop: the host reads its condition before each trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.errors import NumericError
from graphc.ir.symbolic import Dim, Expr, evaluate
from graphc.lowering.memory import ALIGNMENT, Lifetime, plan
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program, Step
from graphc_triton.function import Argument
from graphc_triton.kernels import TritonKernel


@dataclass(frozen=True)
class Place:
    """`offset` bytes behind base address number `base`; see `program.Program`. After the constants comes the status."""

    base: int
    offset: int = 0


@dataclass(frozen=True)
class Launch:
    """Runs function `function` of kernel `kernel`, `grid` times. step: of the program, from which it comes."""

    kernel: int
    function: int
    grid: int
    arguments: tuple[Place | int, ...]
    step: int


@dataclass(frozen=True)
class Copy:
    """Copies bytes on the device."""

    target: Place
    source: Place
    bytes: int
    step: int


@dataclass(frozen=True)
class Fault:
    """What has no value at these dims, where a condition decides whether it is asked for: an extreme of no elements."""

    kernel: KernelStep
    step: int

    def error(self) -> NumericError:
        """The error of a run that comes here."""
        return NumericError(f"{self.kernel.name} met an extreme of no elements", layer=", ".join(self.kernel.origin))


@dataclass(frozen=True)
class Loop:
    """Runs `work` while the bool at `condition` is `expected`, `trips` times at most."""

    condition: Place
    expected: bool
    trips: int
    work: tuple[Work, ...]
    step: int


Work = Launch | Copy | Fault | Loop


@dataclass(frozen=True)
class Plan:
    """What one run at certain dims does. shapes: of the outputs; statuses: the kernel step of each status word.

    arena, between: bytes of intermediates, and behind them of what the functions of a kernel leave each other.
    """

    work: tuple[Work, ...]
    shapes: tuple[tuple[int, ...], ...]
    arena: int
    between: int
    statuses: tuple[KernelStep, ...]


def make_plan(program: Program, kernels: Sequence[TritonKernel], dims: Mapping[str, int]) -> Plan:
    """The launches of a run. Raises NumericError where an extreme is taken of nothing."""
    offsets, arena = plan([Lifetime(b.first, b.last, _at(b.bytes, dims)) for b in program.buffers])
    planner = _Planner(program, kernels, dims, offsets, arena)
    work = tuple(w for number, step in enumerate(program.steps) for w in planner.work(step, number))
    for w in work:
        if isinstance(w, Fault):
            raise w.error()
    shapes = tuple(t.concrete(dims) for t in program.outputs)
    between = max((sum(map(_aligned, k.between)) for k in kernels), default=0)
    return Plan(work, shapes, arena, between, tuple(planner.statuses))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _at(d: Dim, dims: Mapping[str, int]) -> int:
    return evaluate(d, dims) if isinstance(d, Expr) else d


@dataclass
class _Planner:
    program: Program
    kernels: Sequence[TritonKernel]
    dims: Mapping[str, int]
    offsets: Sequence[int]
    arena: int
    slices: dict[int, Place] = field(default_factory=dict)
    statuses: dict[KernelStep, int] = field(default_factory=dict)

    def work(self, step: Step, number: int) -> Iterator[Work]:
        """What a step does, in order; `number`: of the step of the program that it is part of."""
        match step:
            case CopyStep():
                target, source, size = self.place(step.target), self.place(step.source), _at(step.bytes, self.dims)
                if size and target != source:
                    yield Copy(target, source, size, number)
            case KernelStep():
                yield from self.launches(step, number)
            case LoopStep(condition=None):
                yield from self.unrolled(step, number)
            case LoopStep():
                work = tuple(w for s in (*step.steps, *step.carries) for w in self.work(s, number))
                assert step.condition is not None and not step.slices
                yield Loop(self.place(step.condition), step.expected, _at(step.trips, self.dims), work, number)

    def unrolled(self, step: LoopStep, number: int) -> Iterator[Work]:
        trips = _at(step.trips, self.dims)
        for trip in range(trips):
            t = trips - 1 - trip if step.reverse else trip
            for s in step.slices:
                start = self.place(s.source)
                self.slices[s.base] = Place(start.base, start.offset + t * _at(s.stride, self.dims))
            for inner in (*step.steps, *step.carries):
                yield from self.work(inner, number)

    def launches(self, step: KernelStep, number: int) -> Iterator[Work]:
        if any(_at(d, self.dims) == 0 for d in step.nonempty):
            yield Fault(step, number)
            return
        kernel = self.kernels[step.kernel]
        own = {name: _at(d, self.dims) for name, d in zip(kernel.own, step.dims, strict=True)}
        operands = [self.place(x) for x in step.operands]
        end = self.arena
        for size in kernel.between:
            operands.append(Place(self.program.arena_base, end))
            end += _aligned(size)
        status = Place(self.program.first_constant + self.program.constants)
        if any(a.name == "status_ptr" for f in kernel.functions for a in f.arguments):
            status = replace(status, offset=4 * self.statuses.setdefault(step, len(self.statuses)))
        for n, f in enumerate(kernel.functions):
            grid = evaluate(f.grid, own) if isinstance(f.grid, Expr) else f.grid
            if grid:
                arguments = tuple(_argument(a, operands, status, own) for a in f.arguments)
                yield Launch(step.kernel, n, grid, arguments, number)

    def place(self, x: Location) -> Place:
        if x.base in self.slices:
            return self.slices[x.base]
        return Place(x.base, 0 if x.buffer is None else self.offsets[x.buffer])


def _argument(a: Argument, operands: Sequence[Place], status: Place, dims: Mapping[str, int]) -> Place | int:
    if a.dim is not None:
        return dims[a.dim]
    return status if a.buffer is None else operands[a.buffer]
