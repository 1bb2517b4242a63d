"""What is computed on the finished sums of a contraction's tile: row by row, on all of a panel's columns at once.

A strip of several registers is one LLVM vector, so that the constants of a long polynomial serve all of them once loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim
from graphc.ir.types import bf16, f32
from graphc.lowering.loop_body import Apply, Index, Load, Store
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import Contraction, address, affine
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    I1,
    I16,
    constant,
    convert_float,
    for_range,
    i64,
    load,
    load_masked,
    load_vector,
    offset,
    scalar_of,
    splat,
    store_masked,
    store_vector,
    tail_mask,
)
from graphc_llvm.math import emit_cast, emit_scalar_op
from graphc_llvm.pairs import round_to_bf16


@dataclass(frozen=True)
class Strip:
    """`lanes` columns of a panel from `first` on; `mask`: those of them that there are, None where all are."""

    first: int
    lanes: int
    mask: ir.Value | None


def strips(width: int, lanes: int) -> list[tuple[int, int]]:
    """(first column, lanes) of the vectors that a panel's row is computed in: powers of two, the largest first."""
    found: list[tuple[int, int]] = []
    first = 0
    while first < width:
        size = lanes
        while 2 * size <= width - first:
            size *= 2
        found.append((first, size))
        first += size
    return found


class Epilogue:
    """Emits the statements behind the sum of `c`; `buffers` are the addresses of the body's."""

    def __init__(
        self,
        b: ir.IRBuilder,
        c: Contraction,
        lanes: int,
        numerics: str,
        at: AxisValues,
        buffers: Mapping[str, ir.Value],
    ) -> None:
        self.b, self.c, self.numerics, self.at, self.buffers = b, c, numerics, at, buffers
        self.strips = strips(c.width, lanes)
        self.element = ELEMENT_TYPES[c.dtype.name]
        self.rounds = c.pair is not None and numerics == "fast"

    def emit(self, row: ir.Value, count: ir.Value, tile: ir.Value, columns: ir.Value | None) -> None:
        """Computes and stores rows [row, row + count) of a panel from their sums at `tile`; see `emit_row`."""
        b, c = self.b, self.c
        saved = dict(self.at.env)
        with for_range(b, i64(0), count, name="done") as r:
            self.at.unravel(b.add(row, r), c.rows)
            self.emit_row(offset(b, tile, b.mul(r, i64(c.width)), self.element), columns)
        self.at.env = saved

    def emit_row(self, line: ir.Value, columns: ir.Value | None) -> None:
        """Computes and stores one row of a panel, of which the axes say which it is, from its sums at `line`.

        columns: how many there are from the panel's first on; None where they fill it.
        """
        b, c = self.b, self.c
        self.at.env[c.column.name] = b.mul(self.at.env["panel"], i64(c.width))
        self.finish(columns, lambda s: load_vector(b, offset(b, line, s.first, self.element), self.element, s.lanes))

    def finish(self, columns: ir.Value | None, sums: Callable[[Strip], ir.Value]) -> None:
        """Computes and stores one row from its sums in registers; all axes, the column's first too, are set."""
        bases = self.bases()
        for first, lanes in self.strips:
            mask = None if columns is None else tail_mask(self.b, self.b.sub(columns, i64(first)), lanes)
            strip = Strip(first, lanes, mask)
            self.emit_statements({self.c.reduced: sums(strip)}, bases, strip)

    def bases(self) -> dict[int, tuple[ir.Value, Dim]]:
        """For each load and store: the address at the panel's first column, and its stride along the columns (0 or 1).

        For each counter: its value there, and its step.
        """
        bases: dict[int, tuple[ir.Value, Dim]] = {}
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Index):
                split = affine(s.expression, [a.name for a in self.c.body.axes])
                assert split is not None
                first = self.at.sum(split, self.c.body.axes_of("parallel"), split.constant)
                bases[i] = first, split.of(self.c.column.name)
            elif isinstance(s, Load | Store):
                buffer = self.c.body.buffer(s.buffer)
                split = affine(address(buffer, s.index), [a.name for a in self.c.body.axes])
                assert split is not None
                at = self.at.sum(split, self.c.body.axes_of("parallel"), split.constant)
                pointer = offset(self.b, self.buffers[s.buffer], at, ELEMENT_TYPES[buffer.type.dtype.name])
                bases[i] = pointer, split.of(self.c.column.name)
        return bases

    def emit_statements(
        self, values: dict[str, ir.Value], bases: Mapping[int, tuple[ir.Value, Dim]], strip: Strip
    ) -> None:
        """The statements on a strip of a row."""
        b = self.b
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Load):
                pointer, moves = bases[i]
                values[s.value] = self.load_lanes(pointer, s, moves == 1, strip)
            elif isinstance(s, Index):
                values[s.value] = self.count(*bases[i], s, strip)
            elif isinstance(s, Apply):
                operands = [self.operand(o, values, s, position, strip.lanes) for position, o in enumerate(s.operands)]
                if s.op == "cast" and s.dtype == bf16 and s.operand_dtype == f32 and self.rounds:
                    values[s.value] = round_to_bf16(b, operands[0])
                elif s.op == "cast":
                    values[s.value] = emit_cast(b, operands[0], s.operand_dtype.name, s.dtype.name)
                else:
                    values[s.value] = emit_scalar_op(b, s.op, operands, s.operand_dtype.name, {}, self.numerics)
            elif isinstance(s, Store):
                pointer, _ = bases[i]
                self.store_lanes(pointer, s, values, strip)

    def count(self, first: ir.Value, step: Dim, s: Index, strip: Strip) -> ir.Value:
        kind = ELEMENT_TYPES[s.dtype.name]
        start = self.b.add(first, self.b.mul(self.at.dim(step), i64(strip.first)))
        narrow = start if kind == start.type else self.b.trunc(start, kind)
        assert isinstance(step, int)
        steps = ir.Constant(ir.VectorType(kind, strip.lanes), [step * k for k in range(strip.lanes)])
        return self.b.add(splat(self.b, narrow, strip.lanes), steps)

    def load_lanes(self, pointer: ir.Value, s: Load, moves: bool, strip: Strip) -> ir.Value:
        b = self.b
        memory = ELEMENT_TYPES[self.c.body.buffer(s.buffer).type.dtype.name]
        if not moves:
            return splat(b, self.widened(load(b, pointer, memory), s), strip.lanes)
        at = offset(b, pointer, strip.first, memory)
        if strip.mask is None:
            return self.widened(load_vector(b, at, memory, strip.lanes), s)
        return self.widened(load_masked(b, at, strip.mask, memory), s)

    def widened(self, value: ir.Value, s: Load) -> ir.Value:
        stored = self.c.body.buffer(s.buffer).type.dtype
        if stored.is_bool:
            return self.b.icmp_unsigned("!=", value, ir.Constant(value.type, None))
        return convert_float(self.b, value, ELEMENT_TYPES[s.dtype.name]) if stored != s.dtype else value

    def store_lanes(self, pointer: ir.Value, s: Store, values: Mapping[str, ir.Value], strip: Strip) -> None:
        b = self.b
        stored = self.c.body.buffer(s.buffer).type.dtype
        memory = ELEMENT_TYPES[stored.name]
        value = (
            values[s.operand] if isinstance(s.operand, str) else splat(b, ir.Constant(memory, s.operand), strip.lanes)
        )
        if stored.is_bool:
            value = b.zext(value, ir.VectorType(memory, strip.lanes))
        elif stored == bf16 and scalar_of(value.type) == I16:  # its bits, as casts give them
            value = b.bitcast(value, ir.VectorType(memory, strip.lanes))
        elif stored.is_float:
            value = convert_float(b, value, memory)
        at = offset(b, pointer, strip.first, memory)
        if strip.mask is None:
            store_vector(b, value, at)
        else:
            store_masked(b, value, at, strip.mask)

    def operand(self, o: object, values: Mapping[str, ir.Value], s: Apply, position: int, lanes: int) -> ir.Value:
        if isinstance(o, str):
            return values[o]
        if s.op == "select" and position == 0:
            return constant(ir.VectorType(I1, lanes), o)
        kind = I1 if s.operand_dtype.is_bool else ELEMENT_TYPES[s.operand_dtype.name]
        return constant(ir.VectorType(kind, lanes), o)
