"""A program at given dims, ready to run: the native step table, the arena's plan, and frames for calls.

An instance is immutable; what a call writes to (the arena, the table of bases) is a frame's, of which one call at a
time has the use. Frames are kept for later calls."""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from graphc.backend import MemoryReport
from graphc.errors import GraphcError, NumericError
from graphc.ir.symbolic import Dim, evaluate
from graphc.lowering.memory import aligned, plan
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program, Step
from graphc_llvm.bands import Move, Part, find_chains, lifetimes
from graphc_llvm.entry import CallContext
from graphc_llvm.walk import Walks

ALIGNMENT = 64
KEPT_BYTES = 512 << 20
"""Arenas that a program keeps for later calls take no more, but for the one that a call needs."""
_WORTH_WAKING = 20e-6
"""Seconds of work, in one step or in all trips of a loop, below which waking a thread costs more than it brings."""
_WORTH_SHARING = 1e-6
"""Seconds of a step below which even a thread that waits for it takes longer to be told than it saves."""
_FLOPS_PER_SECOND, _BYTES_PER_SECOND, _CACHED_BYTES_PER_SECOND = 5e10, 1e10, 1e11
_ENDLESS = 2**62
"""Operations that no run lives to finish; below, no count overflows 64 bits."""
_PHYSICAL_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Step(ctypes.Structure):
    """executor.ll's %Step."""

    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("slot_count", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("scratch", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("wake", ctypes.c_int32),
        ("loop", ctypes.c_void_p),
        ("begin", ctypes.c_int64),
    ]


class _Loop(ctypes.Structure):
    """executor.ll's %Loop."""

    _fields_ = [
        ("steps", ctypes.c_void_p),
        ("step_count", ctypes.c_int64),
        ("trips", ctypes.c_int64),
        ("reverse", ctypes.c_int64),
        ("slices", ctypes.c_void_p),
        ("slice_count", ctypes.c_int64),
        ("copies", ctypes.c_void_p),
        ("copy_count", ctypes.c_int64),
        ("conditional", ctypes.c_int64),
        ("condition_base", ctypes.c_int64),
        ("condition_offset", ctypes.c_int64),
        ("expected", ctypes.c_int64),
    ]


def estimated_seconds(flops: int, bytes: int) -> float:
    """How long one thread takes for a kernel, roughly."""
    return flops / _FLOPS_PER_SECOND + bytes / _BYTES_PER_SECOND


@dataclass
class Frame:
    """What one call writes to: its context (with the table of bases), arena and scratch.

    numbers: of the program's steps, for each step of the native table.
    """

    context: CallContext
    memory: tuple[np.ndarray, ...]
    numbers: Sequence[int]


@dataclass
class Instance:
    """A program at given dims. Raises NumericError where it has no value at them: an extreme of no elements.

    kernels: addresses, by kernel number; constants: arrays, in order; shapes: of the outputs. With `walks`, steps run in
    bands where that is predicted to gain; `chosen_threads`: see `Code.threads`.
    """

    program: Program
    dims: Mapping[str, int]
    kernels: Sequence[int]
    constants: Sequence[np.ndarray]
    threads: int
    walks: Walks | None = None
    chosen_threads: Sequence[int] = ()
    shapes: list[tuple[int, ...]] = field(init=False)
    seconds: float = field(init=False, default=0.0)
    _frames: list[Frame] = field(init=False, default_factory=list)
    _kept: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        program = self.program
        self.shapes = [t.concrete(self.dims) for t in program.outputs]
        sizes = [self.at(b.bytes) for b in program.buffers]
        self.chains = [] if self.walks is None else find_chains(program, self.walks, self.at, sizes, self.threads)
        self.offsets, self.arena_bytes = plan(lifetimes(program, sizes, self.chains))
        self.scratch_bytes = 0
        self.table, self.numbers = self.steps_and_chains()
        self.frame_bytes = self.arena_bytes + self.scratch_bytes
        self._most_frames = max(1, KEPT_BYTES // max(self.frame_bytes, 1))

    @property
    def bands(self) -> list[int]:
        """For each step of the program, the parts that it is run in."""
        found = [1] * len(self.program.steps)
        for chain in self.chains:
            runs = Counter(part.step for part in chain.order if isinstance(part, Part))
            for number in range(chain.first, chain.last + 1):
                found[number] = runs[number]
        return found

    def at(self, dim: Dim) -> int:
        """A dim's value here."""
        return dim if isinstance(dim, int) else evaluate(dim, self.dims)

    def steps_and_chains(self) -> tuple[Any, list[int]]:
        """The native table of the program, and which step each of its records is of."""
        order: list[tuple[int, Part | Move | None]] = []
        done = 0
        for chain in self.chains:
            order += [(number, None) for number in range(done, chain.first)]
            order += [(part.step, part) for part in chain.order]
            done = chain.last + 1
        order += [(number, None) for number in range(done, len(self.program.steps))]
        table = (_Step * max(len(order), 1))()
        for record, (number, part) in zip(table, order, strict=False):
            if isinstance(part, Move):
                self.fill_move(record, part)
            else:
                self.fill(record, self.program.steps[number], 1, part)
                record.wake = record.threads > 1
        self._kept.append(table)
        return table, [number for number, _ in order]

    def steps(self, steps: Sequence[Step], trips: int) -> Any:
        """The native table of the steps of a loop, which are run `trips` times."""
        table = (_Step * max(len(steps), 1))()
        for record, step in zip(table, steps, strict=False):
            self.fill(record, step, trips)
        self._kept.append(table)
        return table

    def fill_move(self, record: _Step, move: Move) -> None:
        base, begin = self.program.arena_base, self.offsets[move.buffer]
        record.n = move.bytes
        record.slots, record.slot_count = self.longs([base, begin, base, begin + move.source]), 2

    def fill(self, record: _Step, step: Step, trips: int, part: Part | None = None) -> None:
        """Fills in a step that is run `trips` times, or a part of it."""
        if isinstance(step, LoopStep):
            loop, record.threads = self.loop(step, trips)
            record.loop = ctypes.addressof(loop)
            return
        if isinstance(step, CopyStep):
            record.n = self.at(step.bytes)
            record.slots, record.slot_count = self.longs(self.slots((step.target, step.source))), 2
            return
        assert isinstance(step, KernelStep)
        if any(self.at(d) == 0 for d in step.nonempty):
            raise NumericError(f"{step.name} met an extreme of no elements", layer=", ".join(step.origin) or None)
        rate = _BYTES_PER_SECOND if trips == 1 else _CACHED_BYTES_PER_SECOND
        seconds = self.at(step.flops) / _FLOPS_PER_SECOND + self.at(step.bytes) / rate
        if self.at(step.flops) >= _ENDLESS:
            what = f"{step.name} is more work than can ever be done"
            raise GraphcError(what, layer=", ".join(step.origin) or None, seen=f"{self.at(step.flops)} operations")
        work, scratch = self.at(step.work), -(-self.at(step.scratch) // ALIGNMENT) * ALIGNMENT
        begin, end = (0, work) if part is None else (part.begin, part.end)
        waking = seconds * trips / _WORTH_WAKING
        seconds *= (end - begin) / max(work, 1)
        self.seconds += seconds * trips
        record.kernel = self.kernels[step.kernel]
        shifts = {} if part is None else part.shifts
        record.slots, record.slot_count = self.longs(self.slots(step.operands, shifts)), len(step.operands)
        record.dims = self.longs([self.at(d) for d in step.dims])
        record.begin, record.n, record.scratch = begin, end - begin, scratch
        chosen = self.chosen_threads[step.kernel] if self.chosen_threads and trips == 1 else 0
        worth = chosen or int(min(waking, seconds / _WORTH_SHARING))
        record.threads = max(1, min(self.threads, end - begin, worth))
        record.wake = seconds >= record.threads * _WORTH_WAKING
        self.scratch_bytes = max(self.scratch_bytes, scratch * record.threads)

    def loop(self, step: LoopStep, outer: int) -> tuple[_Loop, int]:
        """A loop that is run `outer` times, and the number of threads that share steps in it which are too short to wake them."""
        trips = self.at(step.trips)
        # Where a condition ends it, one trip is counted, since nobody knows.
        table = self.steps(step.steps, outer if step.condition is not None else outer * trips)
        slices = [x for s in step.slices for x in (s.base, *self.slot(s.source), self.at(s.stride))]
        copies = [x for c in step.carries for x in (*self.slot(c.target), *self.slot(c.source), self.at(c.bytes))]
        loop = _Loop(
            ctypes.addressof(table),
            len(step.steps),
            trips,
            step.reverse,
            self.longs(slices),
            len(step.slices),
            self.longs(copies),
            len(step.carries),
            step.condition is not None,
            *(self.slot(step.condition) if step.condition is not None else (0, 0)),
            step.expected,
        )
        self._kept.append(loop)
        return loop, max((r.threads for r in table if not r.wake), default=1)

    def slot(self, place: Location, shift: int = 0) -> tuple[int, int]:
        return place.base, (0 if place.buffer is None else self.offsets[place.buffer] - shift)

    def slots(self, places: Sequence[Location], shifts: Mapping[int, int] = MappingProxyType({})) -> list[int]:
        """What the table says of places; a buffer begins `shifts[buffer]` bytes before its memory."""
        return [x for p in places for x in self.slot(p, 0 if p.buffer is None else shifts.get(p.buffer, 0))]

    def longs(self, values: Sequence[int]) -> int:
        array = (ctypes.c_int64 * max(len(values), 1))(*values)
        self._kept.append(array)
        return ctypes.addressof(array)

    # Calls

    def take_frame(self) -> Frame:
        """A frame for one call; give it back with `give_frame`."""
        try:
            return self._frames.pop()
        except IndexError:
            return self.new_frame()

    def give_frame(self, frame: Frame) -> None:
        if len(self._frames) < self._most_frames:
            self._frames.append(frame)

    @property
    def kept_bytes(self) -> int:
        """What its frames take, at least one."""
        return self.frame_bytes * max(1, len(self._frames))

    def new_frame(self) -> Frame:
        """Memory for one more call at a time. Raises GraphcError where a call needs more than the machine has."""
        program = self.program
        needed = (
            self.arena_bytes + self.scratch_bytes + sum(self.at(t.bytes) for t in (*program.inputs, *program.outputs))
        )
        if needed > _PHYSICAL_BYTES:
            raise GraphcError(
                "a run needs more memory than this machine has", seen=f"{needed} bytes", expected=_PHYSICAL_BYTES
            )
        arrays = len(program.inputs) + len(program.outputs)
        arena, scratch = aligned(self.arena_bytes), aligned(self.scratch_bytes)
        context = CallContext(
            arrays,
            bases=program.bases,
            steps=ctypes.addressof(self.table),
            step_count=len(self.numbers),
            scratch=scratch.ctypes.data,
        )
        context.bases[program.arena_base] = arena.ctypes.data
        for i, constant in enumerate(self.constants, program.first_constant):
            context.bases[i] = constant.ctypes.data
        return Frame(context, (arena, scratch), self.numbers)

    def memory(self) -> MemoryReport:
        """Bytes that a call needs."""
        return MemoryReport(self.arena_bytes, sum(c.nbytes for c in self.constants), self.scratch_bytes)
