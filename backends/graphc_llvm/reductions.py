"""Reductions and scans: what a point of the parallel axes takes from the points of the other axes.

Accumulators are registers. Reduction axes loop, the last few are unrolled; where the vector axis is among them it is the
innermost loop, over several accumulators, and its tail is masked. Sums of products are fused multiply-adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import ceildiv, free_symbols, minimum, nonnegative
from graphc.ir.types import DType, f32
from graphc.lowering.loop_body import Apply, Axis, Reduce
from graphc_llvm.accumulate import (
    Accumulator,
    accumulator_dtype,
    across_lanes,
    keep_lanes,
    merge,
    merge_all,
    start,
    step,
)
from graphc_llvm.emit import fma
from graphc_llvm.flat_body import FlatBody
from graphc_llvm.index import Indexer, Placed
from graphc_llvm.math.cast import emit_cast
from graphc_llvm.points import Point, Points
from graphc_llvm.schedule import Schedule
from graphc_llvm.strips import Strips

BLOCK = 32
"""Passes of the innermost loop whose terms a sum collects before it adds them to the total."""

State = list[list[Accumulator]]
"""For each point and each reduction of the body, in that order, the accumulators that together hold it."""


@dataclass
class Reductions:
    """Emits the reductions of one nest at points whose parallel axes are fixed, and binds their results."""

    ix: Indexer
    points: Points
    body: FlatBody
    schedule: Schedule
    strips: Strips
    fused_multiply_add: bool

    def reduce(self, points: list[Point]) -> None:
        """Runs the reduction loops for several points at once."""
        s, b = self.schedule, self.ix.b
        parts = s.unroll if s.reduces_lanes else 1
        initial = [[self._start(r) for _ in range(parts)] for _ in points for r in self.body.reduces]
        final = self._loops(list(s.reduction), points, initial)
        for (point, r), accumulators in zip(itertools.product(points, self.body.reduces), final, strict=True):
            dtype = self._operand_dtype(r)
            result = merge_all(b, r.kind, dtype, accumulators)
            if s.reduces_lanes:
                result = across_lanes(b, r.kind, dtype, result)
            self.points.bind(r.value, point, self._result(r, result))

    def scan(self, points: list[Point]) -> None:
        """Walks the scan axes in order; a reduction's value is what it has come to, and all stores happen at each step."""
        initial = [[self._start(r)] for _ in points for r in self.body.reduces]
        self._walk(list(self.body.axes_of("scan")), points, initial)

    def _walk(self, axes: list[Axis], points: list[Point], state: State) -> State:
        if axes:
            with self.ix.fold_over(axes[0].name, axes[0].extent, _flat(state)) as loop:
                loop.update(_flat(self._walk(axes[1:], points, _shaped(loop.carried, state))))
            return _shaped(loop.results, state)
        current = []
        for (acc,), (point, r) in zip(state, itertools.product(points, self.body.reduces), strict=True):
            new = self._step(r, acc, point)
            self.points.bind(r.value, point, self._result(r, new))
            current.append([new])
        for s in self.body.stores:
            self.points.store(s, points)
        return current

    def _loops(self, axes: list[Axis], points: list[Point], state: State) -> State:
        if len(axes) == 1 and self._is_long_sum(axes[0]):
            return self._blocked(axes[0], points, state)
        if axes:
            with self.ix.fold_over(axes[0].name, axes[0].extent, _flat(state)) as loop:
                loop.update(_flat(self._loops(axes[1:], points, _shaped(loop.carried, state))))
            return _shaped(loop.results, state)
        vector = self.schedule.vector
        if vector is None or not self.schedule.reduces_lanes:
            return self._unrolled(points, state, [{}])
        for count, starts in self.strips.over(0, vector.extent):
            with self.ix.fold(count, "strip", _flat(state)) as (i, loop), self.strips.lanes_of(starts, i) as at:
                strips = [{vector.name: e} for e in at]
                loop.update(_flat(self._unrolled(points, _shaped(loop.carried, state), strips)))
            state = _shaped(loop.results, state)
        return state

    def _is_long_sum(self, axis: Axis) -> bool:
        sums = all(r.kind == "sum" and r.dtype.is_float for r in self.body.reduces)
        return sums and not self.schedule.reduces_lanes and not nonnegative(BLOCK - axis.extent)

    def _blocked(self, axis: Axis, points: list[Point], state: State) -> State:
        """The innermost loop in blocks, each summed from zero and then added: errors grow with the block, not the sum."""
        ix = self.ix
        fresh = [[self._start(r)] for _ in points for r in self.body.reduces]
        with ix.fold(ceildiv(axis.extent, BLOCK), f"{axis.name}.block", _flat(state)) as (block, outer):
            rest = minimum(BLOCK, axis.extent - BLOCK * block)
            with ix.fold(rest, axis.name, _flat(fresh)) as (i, loop):
                ix.symbols[axis.name] = Placed(ix.scalar(BLOCK * block + i), ix.level)
                loop.update(_flat(self._unrolled(points, _shaped(loop.carried, fresh), [{}])))
            reduces = [r for _ in points for r in self.body.reduces]
            parts = zip(reduces, _shaped(outer.carried, state), _shaped(loop.results, fresh), strict=True)
            merged = [[merge(ix.b, r.kind, self._operand_dtype(r), x, y)] for r, (x,), (y,) in parts]
            outer.update(_flat(merged))
        return _shaped(outer.results, state)

    def _unrolled(self, points: list[Point], state: State, strips: Sequence[Point]) -> State:
        """One pass of the loops: the unrolled axes at all points; strip k goes into accumulator k."""
        unrolled = self.schedule.unrolled
        current = [list(parts) for parts in state]
        for at in itertools.product(*(range(_static(a)) for a in unrolled)):
            fixed = dict(zip((a.name for a in unrolled), at, strict=True))
            for k, strip in enumerate(strips):
                for parts, (point, r) in zip(current, itertools.product(points, self.body.reduces), strict=True):
                    parts[k] = self._step(r, parts[k], {**point, **strip, **fixed})
                for s in self.body.stores:
                    if self.body.reduces_within(s):
                        self.points.store(s, [{**p, **strip, **fixed} for p in points])
        return current

    # One accumulator.

    def _start(self, r: Reduce) -> Accumulator:
        return start(r.kind, self._operand_dtype(r), self._width(r), bool(r.predicate))

    def _operand_dtype(self, r: Reduce) -> DType:
        if isinstance(r.operand, str):
            return self.body.definitions[r.operand].dtype
        return f32 if r.kind in ("argmax", "argmin") else r.dtype

    def _width(self, r: Reduce) -> int:
        """Lanes of the accumulator: one where nothing that it takes in varies along the vector axis."""
        s = self.schedule
        if s.vector is None:
            return 1
        names = set(self.body.dependences[r.operand]) if isinstance(r.operand, str) else set()
        names |= {x.name for p in r.predicate for e in (p.expression, p.low, p.high) for x in free_symbols(e)}
        return s.lanes if s.reduces_lanes or s.vector.name in names else 1

    def _step(self, r: Reduce, acc: Accumulator, point: Point) -> Accumulator:
        """The accumulator after the operand at a point."""
        b, points = self.ix.b, self.points
        dtype, partial = self._operand_dtype(r), bool(r.predicate)
        new = self._multiply_add(r, acc, point)
        if new is None:
            x = emit_cast(b, points.value(r.operand, dtype, point).value, dtype.name, accumulator_dtype(dtype).name)
            position = self._position(acc, point) if len(acc) == 2 else None
            new = step(b, r.kind, dtype, acc, self._like(x, acc[0]), position, partial)
        where, mask, _ = points.condition(r.predicate, point)
        if points.mask is not None and self.schedule.reduces_lanes:
            mask = points.mask.value if mask is None else b.and_(mask, points.mask.value)
        for condition in (where, mask):
            if condition is not None:
                new = keep_lanes(b, self._like(condition, acc[0]), new, acc)
        return new

    def _multiply_add(self, r: Reduce, acc: Accumulator, point: Point) -> Accumulator | None:
        """A step of a sum of products, whose product isn't rounded; None for any other reduction."""
        if r.kind != "sum" or not isinstance(r.operand, str) or not self.fused_multiply_add:
            return None
        s = self.body.definitions[r.operand]
        if not isinstance(s, Apply) or s.op != "mul" or s.dtype.name not in ("f32", "f64"):
            return None
        x, y = (self.points.value(o, s.operand_dtype, point).value for o in s.operands)
        return [fma(self.ix.b, self._like(x, acc[0]), self._like(y, acc[0]), acc[0])]

    def _position(self, acc: Accumulator, point: Point) -> ir.Value:
        e = self.points.bound(self.body.position, point)
        return self.ix.vector(e) if self.ix.is_vector(e) else self._like(self.ix.scalar(e), acc[0])

    def _like(self, x: ir.Value, acc: ir.Value) -> ir.Value:
        return self.points.memory.spread(x) if isinstance(acc.type, ir.VectorType) else x

    def _result(self, r: Reduce, acc: Accumulator) -> ir.Value:
        return emit_cast(self.ix.b, acc[-1], accumulator_dtype(r.dtype).name, r.dtype.name)


def _static(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent


def _flat(state: State) -> list[ir.Value]:
    return [v for parts in state for acc in parts for v in acc]


def _shaped(values: Sequence[ir.Value], like: State) -> State:
    items = iter(values)
    return [[[next(items) for _ in acc] for acc in parts] for parts in like]
