"""Chains of steps run in bands: a part of each kernel in turn, so that what they hand on stays in the cache.

Where a step writes more than a cache holds, its reader finds little of it there. Run in bands, a part of the writer is
followed by as much of the reader as has what it reads, halo included, and so on to the chain's end; nothing is computed
twice. A buffer that only a chain uses gets a window in place of memory for all of it: before the writer goes on, the bytes
that will still be read move to the window's begin. Kernels know nothing of this: a window is an address that is lower by
what was left behind, a part is a range of work items, and what shows that a part may run is the kernels' `Walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import inf, prod

from graphc.ir.symbolic import Dim, evaluate
from graphc.lowering.memory import Lifetime, plan
from graphc.lowering.program import KernelStep, Location, Program
from graphc_llvm.walk import Walk, Walks

LINE = 64
"""Bytes: windows move by whole cache lines."""
MOST_STEPS = 12
"""Steps of a chain, at most."""
FINENESS = 16
"""Parts of a band by which steps get on."""
MOST_TRIES = 3
"""Chains from one step on that are arranged, to see whether their windows are small enough."""
_BYTES_PER_SECOND = 3e10
"""At which what is saved would have come from the last cache or memory, and weights that are read again come from there."""
_CALL = 2e-6
"""Seconds that one more call of a kernel costs, for each thread."""


@dataclass(frozen=True)
class Part:
    """Work items [begin, end) of step number `step`; a window's buffer begins `shifts[buffer]` bytes before the window."""

    step: int
    begin: int
    end: int
    shifts: Mapping[int, int]


@dataclass(frozen=True)
class Move:
    """Bytes [source, source + bytes) of a buffer's window go to its begin, before step number `step` writes on."""

    step: int
    buffer: int
    source: int
    bytes: int


@dataclass(frozen=True)
class Chain:
    """Steps [first, last] in bands: what runs in their place, in order, and bytes of the buffers that are windows."""

    first: int
    last: int
    order: tuple[Part | Move, ...]
    windows: Mapping[int, int]


def lifetimes(program: Program, sizes: Sequence[int], chains: Sequence[Chain]) -> list[Lifetime]:
    """How long a program's buffers are in use: what a chain touches, during all of it."""
    firsts, lasts, bytes_ = [b.first for b in program.buffers], [b.last for b in program.buffers], list(sizes)
    for chain in chains:
        for i, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            if first <= chain.last and last >= chain.first:
                firsts[i], lasts[i] = min(first, chain.first), max(last, chain.last)
        for i, size in chain.windows.items():
            bytes_[i] = size
    return list(map(Lifetime, firsts, lasts, bytes_))


class Course:
    """A walk at given dims. `units` are what parts are made of: all panels of a block."""

    def __init__(self, walk: Walk, dims: Mapping[str, int]) -> None:
        def at(d: Dim) -> int:
            return d if isinstance(d, int) else evaluate(d, dims)

        self.extents = tuple(map(at, walk.extents))
        self.total, self.rows, self.block, self.panels = prod(self.extents), at(walk.rows), walk.block, at(walk.panels)
        self.blocks = -(-self.rows // self.block)
        self.units = self.total // self.rows * self.blocks if self.total else 0
        self.outputs = walk.outputs
        self.touches: dict[int, list[_Bytes]] = {}
        for t in walk.touches:
            found = _Bytes(self.extents, tuple(map(at, t.strides)), at(t.low), at(t.high))
            self.touches.setdefault(t.operand, []).append(found)

    def points(self, units: int) -> int:
        """How many points the first so many units do."""
        whole, rest = divmod(units, self.blocks)
        return whole * self.rows + min(rest * self.block, self.rows)

    def shared(self, operand: int) -> bool:
        """Whether every point touches the same of an operand: weights, mostly."""
        return all(not any(t.strides) for t in self.touches.get(operand, ()))

    def end(self, operand: int, units: int) -> float:
        """Where the bytes of an operand end that the first so many units touch."""
        count = self.points(units)
        return max((t.end(count) for t in self.touches.get(operand, ())), default=0) if count else 0

    def start(self, operand: int, units: int) -> float:
        """Where the bytes of an operand begin that the units from that one on touch; infinity behind the last."""
        if units >= self.units:
            return inf
        count = self.points(units)
        return max(0, min((t.start(count) for t in self.touches.get(operand, ())), default=inf))


class _Bytes:
    """A touch at given dims."""

    def __init__(self, extents: tuple[int, ...], strides: tuple[int, ...], low: int, high: int) -> None:
        self.extents, self.strides, self.low, self.high = extents, strides, low, high
        spans = [s * (e - 1) for s, e in zip(strides, extents, strict=True)]
        # Of the axes from number i on, all free: the largest and the smallest they can add.
        self.most = list(accumulate((max(0, x) for x in reversed(spans)), initial=0))[::-1]
        self.least = list(accumulate((min(0, x) for x in reversed(spans)), initial=0))[::-1]

    def end(self, count: int) -> int:
        """The end of the bytes of the first `count` >= 1 points."""
        best, before = None, 0
        for i, (x, s) in enumerate(zip(self._digits(count - 1), self.strides, strict=True)):
            if x:
                found = before + max(0, s * (x - 1)) + self.most[i + 1]
                best = found if best is None else max(best, found)
            before += s * x
        return self.high + (before if best is None else max(best, before))

    def start(self, count: int) -> int:
        """The begin of the bytes of the points from number `count` on."""
        best, before = None, 0
        for i, (x, s, e) in enumerate(zip(self._digits(count), self.strides, self.extents, strict=True)):
            if x < e - 1:
                found = before + min(s * (x + 1), s * (e - 1)) + self.least[i + 1]
                best = found if best is None else min(best, found)
            before += s * x
        return self.low + (before if best is None else min(best, before))

    def _digits(self, point: int) -> list[int]:
        digits = []
        for e in reversed(self.extents):
            point, digit = divmod(point, e)
            digits.append(digit)
        return digits[::-1]


def find_chains(
    program: Program, walks: Walks, at: Callable[[Dim], int], sizes: Sequence[int], threads: int
) -> list[Chain]:
    """The chains of a program at given dims that are predicted to gain, in order; they don't overlap.

    sizes: bytes of its buffers. The arena takes no more with them than without.
    """
    if max(sizes, default=0) < walks.caches.large:
        return []
    found = list(_Search(program, walks, at, sizes, threads).chains())
    most = plan(lifetimes(program, sizes, []))[1] if found else 0
    if plan(lifetimes(program, sizes, found))[1] <= most:
        return found
    kept: list[Chain] = []
    for chain in found:
        if plan(lifetimes(program, sizes, [*kept, chain]))[1] <= most:
            kept.append(chain)
    return kept


class _Search:
    def __init__(
        self,
        program: Program,
        walks: Walks,
        at: Callable[[Dim], int],
        sizes: Sequence[int],
        threads: int,
    ) -> None:
        self.program, self.walks, self.at, self.sizes, self.threads = program, walks.kernels, at, sizes, threads
        self.caches = walks.caches
        self.updated = {len(program.inputs) + o for _, o in program.in_place}
        self.course = cache(self._course)

    def _course(self, number: int) -> Course | None:
        step = self.program.steps[number]
        walk = self.walks[step.kernel] if isinstance(step, KernelStep) else None
        if walk is None or not isinstance(step, KernelStep):
            return None
        course = Course(walk, dict(zip(walk.dims, map(self.at, step.dims), strict=True)))
        return course if course.units else None

    def chains(self) -> Iterator[Chain]:
        number, large = (
            0,
            [b.first for b, size in zip(self.program.buffers, self.sizes, strict=True) if self._large(size)],
        )
        while number < len(self.program.steps):
            chain = self._from(number) if number in large else None
            if chain is not None:
                yield chain
            number = number + 1 if chain is None else chain.last + 1

    def _large(self, size: int) -> bool:
        return size >= self.caches.large

    def _from(self, first: int) -> Chain | None:
        """The chain that begins with a step and gains most; None where none gains."""
        found: list[tuple[float, int, int]] = []
        for last in range(first, min(first + MOST_STEPS, len(self.program.steps))):
            if self.course(last) is None or not self._may_join(first, last):
                break
            windows = self._inside(first, last)
            if windows:
                bands = -(-sum(self.sizes[b] for b in windows) // self.caches.windows(self.threads))
                found.append((self._gain(first, last, windows, bands), last, bands))
        for gain, last, bands in sorted(found, reverse=True)[:MOST_TRIES]:
            chain = self._arranged(first, last, bands) if gain > 0 and bands > 1 else None
            if chain is not None:
                return chain
        return None

    def _may_join(self, first: int, last: int) -> bool:
        """Whether a step writes nothing that earlier ones of the chain touch, or that an input may be read at."""
        written = set(self._operands(last)[self._known(last).outputs :])
        before = {place for number in range(first, last) for place in self._operands(number)}
        return not written & before and not any(place.base in self.updated for place in written)

    def _operands(self, number: int) -> tuple[Location, ...]:
        step = self.program.steps[number]
        assert isinstance(step, KernelStep)
        return step.operands

    def _known(self, number: int) -> Course:
        course = self.course(number)
        assert course is not None
        return course

    def _inside(self, first: int, last: int) -> list[int]:
        """The buffers that the chain alone uses."""
        return [i for i, b in enumerate(self.program.buffers) if first <= b.first < b.last <= last]

    def _gain(self, first: int, last: int, windows: Sequence[int], bands: int) -> float:
        """Seconds saved: large buffers' ways to memory and back, less weights read anew and calls."""
        saved = sum(2 * self.sizes[b] for b in windows if self._large(self.sizes[b])) / _BYTES_PER_SECOND
        again = sum(self._shared_bytes(number) for number in range(first, last + 1)) / _BYTES_PER_SECOND
        return saved - (bands - 1) * (again + (last - first + 1) * _CALL * self.threads)

    def _shared_bytes(self, number: int) -> int:
        """Weights of a step that a core keeps from block to block, but not from band to band."""
        course, total = self._known(number), 0
        for i, place in enumerate(self._operands(number)[: course.outputs]):
            touches = course.touches.get(i, ())
            if course.shared(i) and place.buffer is None:
                total += max((t.high - t.low for t in touches), default=0)
        return total if total <= self.caches.own else 0

    def _arranged(self, first: int, last: int, bands: int) -> Chain | None:
        """The chain in so many bands; None where its windows come out too large to gain."""
        windows = self._inside(first, last)
        order = _Order(
            first,
            [self._known(n) for n in range(first, last + 1)],
            [self._operands(n) for n in range(first, last + 1)],
            self.sizes,
            windows,
        )
        most = min(4 * self.caches.windows(self.threads), sum(self.sizes[b] for b in windows) // 2)
        parts = order.run(bands, most)
        return None if parts is None else Chain(first, last, tuple(parts), order.windows)


class _Order:
    """Runs a chain's units in order of bands, as far as each step's operands are there."""

    def __init__(
        self,
        first: int,
        courses: Sequence[Course],
        operands: Sequence[Sequence[Location]],
        sizes: Sequence[int],
        windows: Sequence[int],
    ) -> None:
        self.first, self.courses, self.operands, self.sizes = first, courses, operands, sizes
        self.done = [0] * len(courses)
        self.grains = [1] * len(courses)
        writers = {p: (n, i) for n, c in enumerate(courses) for i, p in enumerate(operands[n]) if i >= c.outputs}
        self.reads = [
            [(i, p, *writers[p]) for i, p in enumerate(operands[n][: c.outputs]) if p in writers]
            for n, c in enumerate(courses)
        ]
        self.windows = dict.fromkeys(windows, 0)
        self.shifts = dict.fromkeys(windows, 0)
        self.written = dict.fromkeys(windows, 0)

    def run(self, bands: int, most: int) -> list[Part | Move] | None:
        """What is run in so many bands; None where the windows take more than `most` bytes."""
        parts: list[Part | Move] = []
        for band in range(1, bands + 1):
            for n, course in enumerate(self.courses):
                end = self._ready(n, bands) if self.reads[n] else -(-course.units * band // bands)
                if end > self.done[n]:
                    parts += self._part(n, end)
            if sum(self.windows.values()) > most:
                return None
        return parts

    def _ready(self, n: int, bands: int) -> int:
        """How many units of a step have all that they read, to a small part of a band."""
        course = self.courses[n]
        there = [(i, self.courses[w].start(o, self.done[w]), p) for i, p, w, o in self.reads[n]]

        def has_all(units: int) -> bool:
            return all(min(course.end(i, units), self._size(p)) <= end for i, end, p in there)

        if has_all(course.units):
            return course.units
        grain = max(1, course.units // (FINENESS * bands))
        low, high = 0, (course.units - 1 - self.done[n]) // grain
        probe = self.grains[n]  # most often, a step gets on as far as it did before
        while low < high:
            probe = max(low + 1, min(probe, high))
            if has_all(self.done[n] + probe * grain):
                low, probe = probe, probe + 1 if probe == self.grains[n] else (probe + high + 1) // 2
            else:
                high, probe = probe - 1, (low + probe) // 2
        self.grains[n] = low
        return self.done[n] + low * grain

    def _size(self, place: Location) -> float:
        return inf if place.buffer is None else self.sizes[place.buffer]

    def _part(self, n: int, end: int) -> Iterator[Part | Move]:
        course = self.courses[n]
        for i, place in enumerate(self.operands[n]):
            if i >= course.outputs and place.buffer in self.windows:
                yield from self._make_room(n, i, place)
                self._write(place.buffer, min(course.end(i, end), self._size(place)))
        shifts = {p.buffer: self.shifts[p.buffer] for p in self.operands[n] if p.buffer in self.shifts}
        yield Part(self.first + n, self.done[n] * course.panels, end * course.panels, shifts)
        self.done[n] = end

    def _make_room(self, writer: int, operand: int, place: Location) -> Iterator[Move]:
        """Leaves behind what nobody reads any more, and the writer, which may write what nobody reads, is done with."""
        buffer = place.buffer
        assert buffer is not None
        users = [(n, i) for n, reads in enumerate(self.reads) for i, p, *_ in reads if p == place]
        needed = min(self.courses[n].start(i, self.done[n]) for n, i in (*users, (writer, operand)))
        low = int(min(needed, self.written[buffer])) // LINE * LINE
        if low > self.shifts[buffer]:
            if self.written[buffer] > low:
                yield Move(self.first + writer, buffer, low - self.shifts[buffer], self.written[buffer] - low)
            self.shifts[buffer] = low

    def _write(self, buffer: int, end: float) -> None:
        self.written[buffer] = max(self.written[buffer], int(end))
        self.windows[buffer] = max(self.windows[buffer], self.written[buffer] - self.shifts[buffer])
