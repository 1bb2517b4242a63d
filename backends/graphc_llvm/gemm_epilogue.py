"""What is computed on the finished sums of a contraction's tile: row by row, on whole vectors along the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import llvmlite.ir as ir

from graphc.lowering.loop_body import Apply, Load, Store
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import Contraction, address, affine
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    I1,
    constant,
    convert_float,
    for_range,
    i64,
    load,
    load_masked,
    load_vector,
    offset,
    splat,
    store_masked,
    store_vector,
)
from graphc_llvm.math import emit_cast, emit_scalar_op

Masks = Sequence[ir.Value] | None
"""For each vector of a panel, the lanes that are columns; None where all are."""


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
        self.b, self.c, self.lanes, self.numerics, self.at, self.buffers = b, c, lanes, numerics, at, buffers
        self.vectors = c.width // lanes
        self.element = ELEMENT_TYPES[c.dtype.name]

    def emit(self, row: ir.Value, count: ir.Value, tile: ir.Value, masks: Masks) -> None:
        """Computes and stores rows [row, row + count) of a panel from their sums at `tile`."""
        b, c = self.b, self.c
        saved = dict(self.at.env)
        with for_range(b, i64(0), count, name="done") as r:
            self.at.unravel(b.add(row, r), c.rows)
            self.emit_row(offset(b, tile, b.mul(r, i64(c.width)), self.element), masks)
        self.at.env = saved

    def emit_row(self, line: ir.Value, masks: Masks) -> None:
        """Computes and stores one row of a panel, of which the axes say which it is, from its sums at `line`."""
        b, c = self.b, self.c
        self.at.env[c.column.name] = b.mul(self.at.env["panel"], i64(c.width))
        bases = self.bases()
        for v in range(self.vectors):
            values = {
                c.reduced: load_vector(b, offset(b, line, v * self.lanes, self.element), self.element, self.lanes)
            }
            self.emit_statements(values, bases, v, masks)

    def bases(self) -> dict[int, tuple[ir.Value, bool]]:
        """For each load and store: the address at the panel's first column, and whether it moves along the column."""
        bases = {}
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Load | Store):
                buffer = self.c.body.buffer(s.buffer)
                split = affine(address(buffer, s.index), [a.name for a in self.c.body.axes])
                assert split is not None
                at = self.at.sum(split, self.c.body.axes_of("parallel"), split.constant)
                pointer = offset(self.b, self.buffers[s.buffer], at, ELEMENT_TYPES[buffer.type.dtype.name])
                bases[i] = pointer, split.of(self.c.column.name) == 1
        return bases

    def emit_statements(
        self, values: dict[str, ir.Value], bases: Mapping[int, tuple[ir.Value, bool]], v: int, masks: Masks
    ) -> None:
        """The statements on vector `v` of a row."""
        b = self.b
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Load):
                pointer, moves = bases[i]
                values[s.value] = self.load_lanes(pointer, s, moves, v, masks)
            elif isinstance(s, Apply):
                operands = [self.operand(o, values, s, position) for position, o in enumerate(s.operands)]
                if s.op == "cast":
                    values[s.value] = emit_cast(b, operands[0], s.operand_dtype.name, s.dtype.name)
                else:
                    values[s.value] = emit_scalar_op(b, s.op, operands, s.operand_dtype.name, {}, self.numerics)
            elif isinstance(s, Store):
                pointer, _ = bases[i]
                self.store_lanes(pointer, s, values, v, masks)

    def load_lanes(self, pointer: ir.Value, s: Load, moves: bool, v: int, masks: Masks) -> ir.Value:
        b = self.b
        memory = ELEMENT_TYPES[self.c.body.buffer(s.buffer).type.dtype.name]
        if not moves:
            return splat(b, self.widened(load(b, pointer, memory), s), self.lanes)
        at = offset(b, pointer, v * self.lanes, memory)
        raw = load_vector(b, at, memory, self.lanes) if masks is None else load_masked(b, at, masks[v], memory)
        return self.widened(raw, s)

    def widened(self, value: ir.Value, s: Load) -> ir.Value:
        stored = self.c.body.buffer(s.buffer).type.dtype
        if stored.is_bool:
            return self.b.icmp_unsigned("!=", value, ir.Constant(value.type, None))
        return convert_float(self.b, value, ELEMENT_TYPES[s.dtype.name]) if stored != s.dtype else value

    def store_lanes(self, pointer: ir.Value, s: Store, values: Mapping[str, ir.Value], v: int, masks: Masks) -> None:
        b = self.b
        stored = self.c.body.buffer(s.buffer).type.dtype
        memory = ELEMENT_TYPES[stored.name]
        value = (
            values[s.operand] if isinstance(s.operand, str) else splat(b, ir.Constant(memory, s.operand), self.lanes)
        )
        if stored.is_bool:
            value = b.zext(value, ir.VectorType(memory, self.lanes))
        elif stored.is_float:
            value = convert_float(b, value, memory)
        at = offset(b, pointer, v * self.lanes, memory)
        if masks is None:
            store_vector(b, value, at)
        else:
            store_masked(b, value, at, masks[v])

    def operand(self, o: object, values: Mapping[str, ir.Value], s: Apply, position: int) -> ir.Value:
        if isinstance(o, str):
            return values[o]
        if s.op == "select" and position == 0:
            return constant(ir.VectorType(I1, self.lanes), o)
        kind = I1 if s.operand_dtype.is_bool else ELEMENT_TYPES[s.operand_dtype.name]
        return constant(ir.VectorType(kind, self.lanes), o)
