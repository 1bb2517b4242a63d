"""The loops of one nest: its axes walked as the schedule says, and the statements run at each point.

    for inner axes                       plain loops
      for vectors of the vector axis     whole passes, then a masked tail; for matrix products the next loop is outside
        for blocks of the block axis     where predicates may fail: a branch a block, to fast or to general code
          for reduction axes             the accumulators of all points of the block stay in registers
            unrolled reduction axes      equal addresses are loaded once
          stores
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.ir.symbolic import Dim, bounds, ceildiv, free_symbols, linear, minimum
from graphc.lowering.loop_body import Axis, Range, Reduce
from graphc_llvm.flat_body import FlatBody, FlatLoad, FlatStore
from graphc_llvm.index import Indexer
from graphc_llvm.points import Point, Points
from graphc_llvm.reductions import Reductions
from graphc_llvm.schedule import Schedule
from graphc_llvm.strips import Strips

Then = Callable[[list[Point]], None]


@dataclass
class Nest:
    """Emits one nest. The symbols of the schedule's outer axes are bound; its chunk and block are given to `run`."""

    ix: Indexer
    points: Points
    body: FlatBody
    schedule: Schedule
    fused_multiply_add: bool

    def __post_init__(self) -> None:
        s = self.schedule
        self.strips = Strips(self.ix, self.points, s.lanes, s.unroll)
        self.reductions = Reductions(
            self.ix, self.points, self.body, s, self.strips, fused_multiply_add=self.fused_multiply_add
        )

    def run(self, chunk: Dim | None, block: Dim | None) -> None:
        """Emits the part of the nest that is one work item."""
        if any(a.extent == 0 for a in self.body.axes if a.kind != "reduction"):
            return
        if any(r.kind in ("max", "min", "argmax", "argmin") for r in self.body.reduces):
            for a in self.body.axes_of("reduction"):
                self.points.require_some(a.extent)
        self._inner(list(self.schedule.inner), chunk, block)

    def _inner(self, axes: Sequence[Axis], chunk: Dim | None, block: Dim | None) -> None:
        if axes:
            with self.ix.loop_over(axes[0].name, axes[0].extent):
                self._inner(axes[1:], chunk, block)
            return
        s = self.schedule
        if s.block_first or s.block_outer:
            self._blocks([{}], block, lambda points: self._vectors(points, chunk, self._point))
        else:
            self._vectors([{}], chunk, lambda points: self._blocks(points, block, self._point))

    def _vectors(self, points: list[Point], chunk: Dim | None, then: Then) -> None:
        """The vector axis, where it is parallel."""
        s = self.schedule
        if s.vector is None or s.reduces_lanes:
            then(points)
            return
        first: Dim = 0
        length = s.vector.extent
        if chunk is not None and s.chunk is not None:
            first = chunk * s.chunk
            length = minimum(s.chunk, s.vector.extent - first)
        for count, strip in self.strips.over(first, length):
            with self.ix.loop(count, "strip") as i, self.strips.lanes_of(strip, i) as starts:
                then([{**p, s.vector.name: at} for p in points for at in starts])

    # Blocks.

    def _blocks(self, points: list[Point], block: Dim | None, then: Then) -> None:
        s = self.schedule
        if s.block is None:
            then(points)
        elif block is not None:
            self._block(points, block, then)
        else:
            with self.ix.loop(ceildiv(s.block.extent, s.block_size), "block") as i:
                self._block(points, i, then)

    def _block(self, points: list[Point], i: Dim, then: Then) -> None:
        """One block: where it is whole, all its points at once, without predicates where they are known to hold."""
        s, ix = self.schedule, self.ix
        assert s.block is not None
        name, first = s.block.name, i * s.block_size
        together = [{**p, name: first + k} for k in range(s.block_size) for p in points]

        def whole() -> None:
            ranges = self._provable(points, first)
            self._either([at for _, at in ranges], lambda: fast(frozenset(r for r, _ in ranges)), lambda: then(together))

        def fast(ranges: frozenset[Range]) -> None:
            self.points.inside = (ix.level, ranges)
            self.points.tile = (name, first) if s.transposes else None
            then(together)
            self.points.inside = self.points.tile = None

        def part() -> None:
            with ix.loop(minimum(s.block_size, s.block.extent - first), "one") as k:
                then([{**p, name: first + k} for p in points])

        fits = Range(first + s.block_size, 0, s.block.extent + 1)
        self._either([fits], whole, part)

    def _either(self, ranges: list[Range], yes: Callable[[], None], no: Callable[[], None]) -> None:
        """`yes` where all ranges hold, else `no`; no branch where that is known now."""
        b, ix = self.ix.b, self.ix
        found = [c.value for c in map(ix.holds, ranges) if c is not None]
        if not found:
            yes()
            return
        condition = found[0]
        for c in found[1:]:
            condition = b.and_(condition, c)
        entry = b.block
        with b.if_else(condition) as (then, otherwise):
            with then, ix.scope(entry):
                yes()
            with otherwise, ix.scope(entry):
                no()

    def _provable(self, points: list[Point], first: Dim) -> list[tuple[Range, Range]]:
        """(range of a predicate, a range that implies it for the whole block and all reduction points)."""
        s = self.schedule
        assert s.block is not None
        found = []
        for r in dict.fromkeys(self._ranges()):
            within = self._implied(r, points, first)
            if within is not None:
                found += [(r, at) for at in within]
        return found

    def _ranges(self) -> list[Range]:
        ranges: list[Range] = []
        for s in self.body.statements:
            if isinstance(s, FlatLoad | FlatStore):
                ranges += s.access.predicate
            elif isinstance(s, Reduce):
                ranges += s.predicate
        return ranges

    def _implied(self, r: Range, points: list[Point], first: Dim) -> list[Range] | None:
        s = self.schedule
        assert s.block is not None
        moving = {s.block.name: (first, first + s.block_size - 1)}
        moving |= {a.name: (0, a.extent - 1) for a in self.body.axes_of("reduction")}
        ends = _ends(r.expression, moving)
        names = {a for p in points for a in p} | set(self.body.definitions) | moving.keys()
        names |= {s.vector.name} if s.vector is not None else set()  # not bound yet where blocks are outside
        if ends is None or any(x.name in names for e in (*ends, r.low, r.high) for x in free_symbols(e)):
            return None
        low, high = ends
        return [Range(low, r.low, r.high), Range(high, r.low, r.high)]

    def _point(self, points: list[Point]) -> None:
        """Runs the statements at points whose parallel axes are fixed."""
        if self.body.axes_of("scan"):
            self.reductions.scan(points)
            return
        if self.body.reduces or self.body.axes_of("reduction"):
            self.reductions.reduce(points)
        for s in self.body.stores:
            if not self.body.reduces_within(s):
                self.points.store(s, points)


def _ends(e: Dim, moving: dict[str, tuple[Dim, Dim]]) -> tuple[Dim, Dim] | None:
    """The smallest and the largest value of `e` while named symbols go from one end to the other; None where unclear."""
    found = linear(e, moving)
    if found is None:
        return None
    coefficients, low = found
    high = low
    for name, k in coefficients.items():
        first, last = moving[name]
        sign = bounds(k)
        if sign[0] is not None and sign[0] >= 0:
            low, high = low + k * first, high + k * last
        elif sign[1] is not None and sign[1] <= 0:
            low, high = low + k * last, high + k * first
        else:
            return None
    return low, high

