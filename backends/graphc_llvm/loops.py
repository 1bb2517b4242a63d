"""The loops of one nest: its axes walked as the schedule says, and the statements run at each point.

    for inner axes                                     plain loops
      for vectors of the vector axis (then its tail, masked)        or, for matrix products, blocks outside of vectors
        for blocks of the block axis                   where predicates may fail: one branch a block, fast and general code
          for reduction axes                           accumulators of all points of the block stay in registers
            unrolled reduction axes                    equal addresses are loaded once
          stores
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, bounds, ceildiv, free_symbols, linear, minimum, nonnegative, symbol
from graphc.ir.types import DType, f32
from graphc.lowering.loop_body import Apply, Axis, Range, Reduce
from graphc_llvm.accumulate import (
    Accumulator,
    accumulator_dtype,
    across_lanes,
    keep_lanes,
    merge_all,
    start,
    step,
)
from graphc_llvm.emit import binary, constant, fma, splat, tail_mask
from graphc_llvm.flat_body import FlatBody, FlatLoad, FlatStore
from graphc_llvm.index import LANE, Indexer, Placed
from graphc_llvm.math.cast import emit_cast
from graphc_llvm.points import Point, Points
from graphc_llvm.schedule import Schedule

Then = Callable[[list[Point]], None]


@dataclass
class Nest:
    """Emits one nest. The symbols of the schedule's outer axes are bound, those of its chunk and block are arguments."""

    ix: Indexer
    points: Points
    body: FlatBody
    schedule: Schedule
    fused_multiply_add: bool

    def run(self, chunk: Dim | None, block: Dim | None) -> None:
        """Emits the part of the nest that is one work item."""
        if any(a.extent == 0 for a in self.body.axes if a.kind != "reduction"):
            return
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

    # Vectors.

    def _vectors(self, points: list[Point], chunk: Dim | None, then: Then) -> None:
        s = self.schedule
        if s.vector is None or s.reduces_lanes:
            then(points)
            return
        first: Dim = 0
        length = s.vector.extent
        if chunk is not None and s.chunk is not None:
            first = chunk * s.chunk
            length = minimum(s.chunk, s.vector.extent - first)
        name = s.vector.name

        def visit(starts: Sequence[Dim]) -> None:
            then([{**p, name: at} for p in points for at in starts])

        self._strips(first, length, visit)

    def _strips(self, first: Dim, length: Dim, visit: Callable[[Sequence[Dim]], None]) -> None:
        """Calls `visit` with the vectors of each pass over [first, first + length): whole passes, then a masked tail."""
        s, ix = self.schedule, self.ix
        lane = symbol(LANE, 0, s.lanes - 1)
        passes = length // (s.lanes * s.unroll)
        if passes != 0:
            with ix.loop(passes, "pass") as i:
                at = first + i * (s.lanes * s.unroll)
                visit([at + s.lanes * u + lane for u in range(s.unroll)])
        done = passes * (s.lanes * s.unroll)
        rest = length - done
        if rest == 0:
            return
        with ix.loop(ceildiv(rest, s.lanes), "tail") as i:
            with self._masked(rest - i * s.lanes, rest):
                visit([first + done + i * s.lanes + lane])

    @contextmanager
    def _masked(self, remaining: Dim, rest: Dim) -> Iterator[None]:
        """Inside, only the lanes below `remaining` are in use; all of them where `rest`, its start, is whole vectors."""
        ix = self.ix
        if rest % self.schedule.lanes != 0:
            level = ix.level_of(remaining)
            with ix.at(level):
                self.points.mask = Placed(tail_mask(ix.b, ix.scalar(remaining), ix.width), level)
        yield
        self.points.mask = None

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
            then(together)
            self.points.inside = None

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
        if ends is None or any(x.name in names for e in (*ends, r.low, r.high) for x in free_symbols(e)):
            return None
        low, high = ends
        return [Range(low, r.low, r.high), Range(high, r.low, r.high)]

    # Points.

    def _point(self, points: list[Point]) -> None:
        """Runs the statements at points whose parallel axes are fixed."""
        if self.body.axes_of("scan"):
            self._scan(list(self.body.axes_of("scan")), points)
        elif self.body.reduces or self.body.axes_of("reduction"):
            self._reduce(points)
        self._stores(points, reducing=False)

    def _stores(self, points: list[Point], reducing: bool) -> None:
        if self.body.axes_of("scan") and not reducing:
            return
        axes = {a.name for a in self.body.axes if a.kind == "reduction"}
        for s in self.body.stores:
            if reducing == bool(self.body.store_dependences(s) & axes) or self.body.axes_of("scan"):
                self.points.store(s, points)

    # Reductions.

    def _reduce(self, points: list[Point]) -> None:
        s, b = self.schedule, self.ix.b
        parts = s.unroll if s.reduces_lanes else 1
        initial = [[self._start(r) for _ in range(parts)] for _ in points for r in self.body.reduces]
        final = self._reduction_loops(list(s.reduction), points, initial)
        for (point, r), accumulators in zip(itertools.product(points, self.body.reduces), final, strict=True):
            dtype = self._operand_dtype(r)
            result = merge_all(b, r.kind, dtype, accumulators)
            if s.reduces_lanes:
                result = across_lanes(b, r.kind, dtype, result)
            self.points.bind(r.value, point, self._result(r, result))

    def _result(self, r: Reduce, accumulator: Accumulator) -> ir.Value:
        b, value = self.ix.b, accumulator[-1]
        if len(accumulator) == 2 and r.predicate:
            value = binary(b, "smax", value, constant(value.type, 0))  # where no element took part
        return emit_cast(b, value, accumulator_dtype(r.dtype).name, r.dtype.name)

    def _operand_dtype(self, r: Reduce) -> DType:
        return self.body.definitions[r.operand].dtype if isinstance(r.operand, str) else _literal_dtype(r)

    def _width(self, r: Reduce) -> int:
        """Lanes of the accumulator: one where nothing that it sums varies along the vector axis."""
        s = self.schedule
        if s.vector is None:
            return 1
        names = self.body.dependences[r.operand] if isinstance(r.operand, str) else frozenset()
        used = s.reduces_lanes or s.vector.name in names or any(
            x.name == s.vector.name for p in r.predicate for e in (p.expression, p.low, p.high) for x in free_symbols(e)
        )  # fmt: skip
        return s.lanes if used else 1

    def _start(self, r: Reduce) -> Accumulator:
        return start(r.kind, self._operand_dtype(r), self._width(r), bool(r.predicate))

    def _reduction_loops(
        self, axes: list[Axis], points: list[Point], accumulators: list[list[Accumulator]]
    ) -> list[list[Accumulator]]:
        if axes:
            axis, values = axes[0], _flat(accumulators)
            with self.ix.fold_over(axis.name, axis.extent, values) as loop:
                inner = self._reduction_loops(axes[1:], points, _shaped(loop.carried, accumulators))
                loop.update(_flat(inner))
            return _shaped(loop.results, accumulators)
        if self.schedule.reduces_lanes:
            return self._reduction_strips(points, accumulators)
        return self._unrolled(points, accumulators, [{}])

    def _reduction_strips(self, points: list[Point], accumulators: list[list[Accumulator]]) -> list[list[Accumulator]]:
        """The vector axis as a reduction: whole passes over several accumulators, then a masked tail."""
        s, ix = self.schedule, self.ix
        assert s.vector is not None
        name, lane = s.vector.name, symbol(LANE, 0, s.lanes - 1)
        passes = s.vector.extent // (s.lanes * s.unroll)
        if passes != 0:
            with ix.fold(passes, "pass", _flat(accumulators)) as (i, loop):
                at = i * (s.lanes * s.unroll)
                strips = [{name: at + s.lanes * u + lane} for u in range(s.unroll)]
                loop.update(_flat(self._unrolled(points, _shaped(loop.carried, accumulators), strips)))
            accumulators = _shaped(loop.results, accumulators)
        done = passes * (s.lanes * s.unroll)
        rest = s.vector.extent - done
        if rest == 0:
            return accumulators
        with ix.fold(ceildiv(rest, s.lanes), "tail", _flat(accumulators)) as (i, loop):
            with self._masked(rest - i * s.lanes, rest):
                strips = [{name: done + i * s.lanes + lane}]
                loop.update(_flat(self._unrolled(points, _shaped(loop.carried, accumulators), strips)))
        return _shaped(loop.results, accumulators)

    def _unrolled(
        self, points: list[Point], accumulators: list[list[Accumulator]], strips: Sequence[Point]
    ) -> list[list[Accumulator]]:
        """One step of the reduction loops: the unrolled axes at all points; strip k goes into accumulator k."""
        unrolled = self.schedule.unrolled
        current = [list(parts) for parts in accumulators]
        for at in itertools.product(*(range(_static(a)) for a in unrolled)):
            fixed: Point = dict(zip((a.name for a in unrolled), at, strict=True))
            for k, strip in enumerate(strips):
                for parts, (point, r) in zip(current, itertools.product(points, self.body.reduces), strict=True):
                    parts[k] = self._step(r, parts[k], {**point, **strip, **fixed})
                self._stores([{**p, **strip, **fixed} for p in points], reducing=True)
        return current

    def _step(self, r: Reduce, acc: Accumulator, point: Point) -> Accumulator:
        """The accumulator after the operand at a point."""
        b, points = self.ix.b, self.points
        dtype = self._operand_dtype(r)
        new = self._multiply_add(r, acc, point)
        if new is None:
            x = emit_cast(b, points.value(r.operand, dtype, point).value, dtype.name, accumulator_dtype(dtype).name)
            position = self._position(acc, point) if len(acc) == 2 else None
            new = step(b, r.kind, dtype, acc, self._like(x, acc[0]), position, bool(r.predicate))
        where, mask, _ = points.condition(r.predicate, point)
        if points.mask is not None and isinstance(acc[0].type, ir.VectorType) and self.schedule.reduces_lanes:
            mask = points.mask.value if mask is None else b.and_(mask, points.mask.value)
        for condition in (where, mask):
            if condition is not None:
                new = keep_lanes(b, self._like(condition, acc[0]), new, acc)
        return new

    def _like(self, x: ir.Value, acc: ir.Value) -> ir.Value:
        if isinstance(acc.type, ir.VectorType) and not isinstance(x.type, ir.VectorType):
            return splat(self.ix.b, x, acc.type.count)
        return x

    def _multiply_add(self, r: Reduce, acc: Accumulator, point: Point) -> Accumulator | None:
        """A sum of products as fused steps: the products aren't rounded."""
        if r.kind != "sum" or not isinstance(r.operand, str) or not self.fused_multiply_add:
            return None
        s = self.body.definitions[r.operand]
        if not isinstance(s, Apply) or s.op != "mul" or s.dtype.name not in ("f32", "f64"):
            return None
        x, y = (self.points.value(o, s.operand_dtype, point).value for o in s.operands)
        return [fma(self.ix.b, self._like(x, acc[0]), self._like(y, acc[0]), acc[0])]

    def _position(self, acc: Accumulator, point: Point) -> ir.Value:
        e = self.points.bound(self.body.position, point)
        if self.ix.is_vector(e):
            return self.ix.vector(e)
        return self._like(self.ix.scalar(e), acc[0])

    # Scans.

    def _scan(self, axes: list[Axis], points: list[Point]) -> None:
        """Walks the scan axes in order; a reduction's value is what it has come to."""
        reduces = self.body.reduces
        shape = [[self._start(r)] for _ in points for r in reduces]

        def walk(remaining: list[Axis], accumulators: list[list[Accumulator]]) -> list[list[Accumulator]]:
            if remaining:
                axis = remaining[0]
                with self.ix.fold_over(axis.name, axis.extent, _flat(accumulators)) as loop:
                    inner = walk(remaining[1:], _shaped(loop.carried, accumulators))
                    loop.update(_flat(inner))
                return _shaped(loop.results, accumulators)
            current = []
            for parts, (point, r) in zip(accumulators, itertools.product(points, reduces), strict=True):
                new = self._step(r, parts[0], point)
                self.points.bind(r.value, point, self._result(r, new))
                current.append([new])
            self._stores(points, reducing=True)
            return current

        walk(axes, shape)


def _static(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent


def _literal_dtype(r: Reduce) -> DType:
    return f32 if r.kind in ("argmax", "argmin") else r.dtype


def _flat(accumulators: list[list[Accumulator]]) -> list[ir.Value]:
    return [v for parts in accumulators for acc in parts for v in acc]


def _shaped(values: Sequence[ir.Value], like: list[list[Accumulator]]) -> list[list[Accumulator]]:
    items = iter(values)
    return [[[next(items) for _ in acc] for acc in parts] for parts in like]


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

