"""A program at given dims: where everything lies in memory, and every launch with its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.errors import NumericError, Unsupported, UnsupportedOpError
from graphc.ir.symbolic import Dim, Expr, evaluate
from graphc.lowering.memory import Lifetime, plan
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program
from graphc_triton.function import Argument
from graphc_triton.kernels import WHO, TritonKernel
from graphc_triton.supported import REFUSED


@dataclass(frozen=True)
class Place:
    """`offset` bytes behind base address number `base`; see `program.Program`. The base after the last is the status."""

    base: int
    offset: int = 0


@dataclass(frozen=True)
class Launch:
    """Runs function `function` of kernel `kernel`, `grid` times."""

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
class Plan:
    """What one run at certain dims does. shapes: of the outputs; statuses: the step of each status word."""

    work: tuple[Launch | Copy, ...]
    shapes: tuple[tuple[int, ...], ...]
    arena: int
    statuses: tuple[int, ...]


def check_steps(program: Program) -> None:
    """Raises UnsupportedOpError for steps that have no launch: loops."""
    loops = [s for s in program.steps if isinstance(s, LoopStep)]
    if loops:
        raise UnsupportedOpError(
            WHO, [Unsupported(s.name, ", ".join(s.origin), REFUSED[s.name], s.origin) for s in loops]
        )


def make_plan(program: Program, kernels: Sequence[TritonKernel], dims: Mapping[str, int]) -> Plan:
    """The launches of a run. Raises NumericError where an extreme is taken of nothing."""

    def at(d: Dim) -> int:
        return evaluate(d, dims) if isinstance(d, Expr) else d

    offsets, arena = plan([Lifetime(b.first, b.last, at(b.bytes)) for b in program.buffers])

    def place(x: Location) -> Place:
        return Place(x.base, 0 if x.buffer is None else offsets[x.buffer])

    work: list[Launch | Copy] = []
    statuses: list[int] = []
    for number, step in enumerate(program.steps):
        if isinstance(step, CopyStep):
            target, source = place(step.target), place(step.source)
            if at(step.bytes) and target != source:
                work.append(Copy(target, source, at(step.bytes), number))
            continue
        assert isinstance(step, KernelStep), "loops were refused"
        if any(at(d) == 0 for d in step.nonempty):
            raise NumericError(f"{step.name} met an extreme of no elements", layer=", ".join(step.origin))
        status = Place(program.bases, 4 * len(statuses))
        kernel = kernels[step.kernel]
        own = {name: at(d) for name, d in zip(kernel.own, step.dims, strict=True)}
        operands = [place(x) for x in step.operands]
        if any(a.name == "status_ptr" for f in kernel.functions for a in f.arguments):
            statuses.append(number)
        for n, f in enumerate(kernel.functions):
            grid = evaluate(f.grid, own) if isinstance(f.grid, Expr) else f.grid
            if grid:
                arguments = tuple(_argument(a, operands, status, own) for a in f.arguments)
                work.append(Launch(step.kernel, n, grid, arguments, number))
    shapes = tuple(t.concrete(dims) for t in program.outputs)
    return Plan(tuple(work), shapes, arena, tuple(statuses))


def _argument(a: Argument, operands: Sequence[Place], status: Place, dims: Mapping[str, int]) -> Place | int:
    if a.dim is not None:
        return dims[a.dim]
    return status if a.buffer is None else operands[a.buffer]
