"""Kernels from loop nests: any LoopBody or TileBody as one vectorized LLVM function, its work cut into items.

`i32 kernel(ptr pointers, ptr dims, ptr scratch, i64 begin, i64 end)` does the work items [begin, end), which are
independent. `pointers` holds the addresses of the body's buffers in order, scratch buffers left out; `dims` the values of
its dimension symbols, sorted by name; `scratch` is 64-byte aligned. It returns 0 or a `Status`. Nothing outside of the
buffers is touched, and no vector access assumes more than its element's alignment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, minimum, nonnegative, product
from graphc.lowering.facts import dimensions, scratch_sizes
from graphc.lowering.loop_body import Apply, Body, Load, LoopBody, Reduce, TileBody
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.emit import I32, I64, PTR, for_range, i32, i64, load, local, offset
from graphc_llvm.flat_body import FlatBody, FlatLoad, FlatStore, flatten
from graphc_llvm.index import Indexer, Placed
from graphc_llvm.loops import Nest
from graphc_llvm.memory import Memory
from graphc_llvm.points import Points
from graphc_llvm.schedule import Schedule, schedule, vector_places
from graphc_llvm.target import Target


@dataclass(frozen=True)
class KernelInfo:
    """What a caller of a kernel must know.

    work_items, scratch_bytes: as expressions over the dims (scratch per thread); flops, bytes: of one whole run, each
    buffer counted once.
    """

    symbol: str
    dims: tuple[str, ...]
    work_items: Dim
    scratch_bytes: Dim
    flops: Dim
    bytes: Dim


def kernel_info(body: Body, target: Target, place: int = 0) -> KernelInfo:
    """What calling the kernel of `emit_kernel` for this body, target and place takes."""
    sizes = work_items(body, target, place), scratch_bytes(body), flops(body), _bytes(body)
    return KernelInfo(kernel_symbol(body), dimension_symbols(body), *sizes)


def kernel_symbol(body: Body) -> str:
    """The name of the kernel's function: equal for bodies of equal text and equal ranges of their symbols."""
    ranges = ";".join(f"{s.name}:{s.low}:{s.high}" for s in dimensions(body))
    return "kernel_" + hashlib.sha256(f"{body.key()} {ranges}".encode()).hexdigest()[:32]


def dimension_symbols(body: Body) -> tuple[str, ...]:
    """The names of the symbols that the kernel reads from `dims`, sorted."""
    return tuple(s.name for s in dimensions(body))


def work_items(body: Body, target: Target, place: int = 0) -> Dim:
    """How many independent pieces the work is cut into."""
    if isinstance(body, TileBody):
        return product(a.extent for a in body.axes)
    return planned(body, target, place=place)[1].work_items


@lru_cache(maxsize=64)
def planned(body: LoopBody, target: Target, whole: bool = False, place: int = 0) -> tuple[FlatBody, Schedule]:
    """The flat form of a nest and how it is run; remembered, because both the code and its sizes follow from it."""
    flat = flatten(body)
    return flat, schedule(flat, target, whole=whole, place=place)


def vector_axes(body: Body, target: Target) -> int:
    """How many axes of a nest may be tried as the vector: `place` below is one of them."""
    return 1 if isinstance(body, TileBody) else vector_places(flatten(body), target)


def scratch_bytes(body: Body) -> Dim:
    """Bytes of scratch that each thread needs."""
    return sum(scratch_sizes(body), 0)


def flops(body: Body) -> Dim:
    """Floating-point operations of one run; a function such as exp counts as one."""
    if isinstance(body, TileBody):
        return product(a.extent for a in body.axes) * sum((flops(loop) for loop in body.loops), 0)
    outside = product(a.extent for a in body.axes if a.kind != "reduction")
    inside = product(a.extent for a in body.axes_of("reduction"))
    late = flatten(body).after_reduction
    per_point = per_result = 0
    for s in body.statements:
        if isinstance(s, Reduce) and s.dtype.is_float:
            per_point += 1
        elif isinstance(s, Apply) and s.operand_dtype.is_float and s.op not in ("cast", "select"):
            per_result += s.value in late
            per_point += s.value not in late
    return outside * inside * per_point + outside * per_result


def _bytes(body: Body) -> Dim:
    """Bytes of all buffers; of one that is read at data-dependent places alone, of as many elements as there are reads."""
    reads: dict[str, list[Dim | None]] = {}
    tiles = product(a.extent for a in body.axes) if isinstance(body, TileBody) else 1
    for loop in body.loops if isinstance(body, TileBody) else (body,):
        for s in loop.statements:
            if isinstance(s, Load):
                points = tiles * product(a.extent for a in loop.axes)
                reads.setdefault(s.buffer, []).append(points if s.checked else None)
    total: Dim = 0
    for b in body.buffers:
        if b.access != "scratch":
            counts = [c for c in reads.get(b.name, [None]) if c is not None]
            gathered = len(counts) == len(reads.get(b.name, [None]))
            total = total + (minimum(sum(counts, 0), b.type.size) * b.type.dtype.bytes if gathered else b.type.bytes)
    return total


def emit_kernel(body: Body, target: Target, numerics: str = "strict", place: int = 0) -> str:
    """LLVM IR of a module with the kernel of `body`, named `kernel_symbol(body)`; `place`: its vector axis, see `schedule`."""
    kernel = _Kernel(body, target, numerics)
    if isinstance(body, TileBody):
        kernel.tile(body)
    else:
        kernel.loop(body, place)
    return kernel.finished()


class _Kernel:
    """A kernel's function being emitted."""

    def __init__(self, body: Body, target: Target, numerics: str) -> None:
        self.target, self.numerics = target, numerics
        module = ir.Module(kernel_symbol(body))
        self.function = ir.Function(module, KERNEL_TYPE, kernel_symbol(body))
        pointers, dims, scratch, self.begin, self.end = self.function.args
        self.b = b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.ix = ix = Indexer(b)
        for i, name in enumerate(dimension_symbols(body)):
            ix.symbols[name] = Placed(load(b, offset(b, dims, i, I64), I64, name), 0)
        self._leave_if_empty(body)
        self.status = local(b, I32, name="status")
        b.store(i32(0), self.status)
        self.buffers: dict[str, Placed] = {}
        given = [x for x in body.buffers if x.access != "scratch"]
        for i, buffer in enumerate(given):
            address = b.load(offset(b, pointers, i, PTR), f"p{buffer.name}", typ=PTR, align=8)
            self.buffers[buffer.name] = Placed(address, 0)
        at: Dim = 0
        kept = [x for x in body.buffers if x.access == "scratch"]
        for buffer, size in zip(kept, scratch_sizes(body), strict=True):
            self.buffers[buffer.name] = Placed(offset(b, scratch, ix.scalar(at)), 0)
            at = at + size

    def _leave_if_empty(self, body: Body) -> None:
        """Returns before anything is loaded where there is no point: an empty tensor has no element to load."""
        b = self.b
        some = b.icmp_signed("<", self.begin, self.end)
        for axis in body.axes:
            if axis.kind != "reduction" and not nonnegative(axis.extent - 1):
                some = b.and_(some, b.icmp_signed("<", i64(0), self.ix.scalar(axis.extent)))
        work, empty = b.append_basic_block("work"), b.append_basic_block("empty")
        b.cbranch(some, work, empty)
        b.position_at_end(empty)
        b.ret(i32(0))
        b.position_at_end(work)

    def finished(self) -> str:
        """Ends the function; the module's text."""
        self.b.ret(self.b.load(self.status, typ=I32))
        return str(self.function.module)

    def loop(self, body: LoopBody, place: int) -> None:
        """One nest: a work item is a point of its outer axes."""
        flat, s = planned(body, self.target, place=place)
        counts = s.outer_counts()
        with self._items(counts) as indices:
            for axis, index in zip(s.outer, indices, strict=False):
                self.ix.symbols[axis.name] = Placed(index, self.ix.level)
            extra = [
                self.ix.fresh("item", index, self.ix.level, 0, count - 1)
                for index, count in list(zip(indices, counts, strict=True))[len(s.outer) :]
            ]
            chunk = extra.pop(0) if s.chunk is not None else None
            self._nest(flat, s, chunk, extra.pop(0) if extra else None)

    def tile(self, body: TileBody) -> None:
        """Several nests: a work item is a point of the tile's axes, and runs all of them."""
        with self._items([a.extent for a in body.axes]) as indices:
            for axis, index in zip(body.axes, indices, strict=True):
                self.ix.symbols[axis.name] = Placed(index, self.ix.level)
            for number, loop in enumerate(body.loops):
                whole = LoopBody(loop.name, body.buffers, loop.axes, loop.statements, loop.sequential)
                with self.ix.barrier():
                    self._nest(*planned(whole, self.target, whole=True), None, None, number)

    def _nest(self, flat: FlatBody, s: Schedule, chunk: Dim | None, block: Dim | None, number: int = 0) -> None:
        self.ix.width = s.lanes
        accesses = [x.access for x in flat.statements if isinstance(x, FlatLoad | FlatStore)]
        written = frozenset(a.buffer.name for a in accesses if a.buffer.access != "in")
        memory = Memory(self.ix, self.buffers, self.numerics)
        points = Points(memory, flat, self.status, number, written, self.ix.level)
        Nest(self.ix, points, flat, s, self.target.fma).run(chunk, block)

    @contextmanager
    def _items(self, counts: Sequence[Dim]) -> Iterator[list[ir.Value]]:
        """The loop over work items; gives the index along each of the counted axes, outermost first."""
        b, ix = self.b, self.ix
        sizes = [ix.scalar(c) for c in counts]
        entry = b.block
        with for_range(b, self.begin, self.end, name="item") as rest, ix.scope(entry):
            indices: list[ir.Value] = []
            for size in reversed(sizes[1:]):
                indices.insert(0, b.urem(rest, size))
                rest = b.udiv(rest, size)
            yield [rest, *indices] if sizes else []
