"""The statements of a nest at one point (or one vector of points), as LLVM values.

A point says where the axes that are vectorized, blocked or unrolled stand; the symbols of all other axes are bound by
the loops. A value is emitted when it is first needed, at the level that its operands are known at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, nonnegative, substitute
from graphc.ir.types import DType, bool_, f32
from graphc.lowering.loop_body import Apply, Index, Operand, Predicate, Range, Reduce
from graphc.lowering.status import Status
from graphc_llvm.emit import I32, binary, constant, i32, i64, reduce_vector, splat
from graphc_llvm.flat_body import Checked, FlatAccess, FlatBody, FlatLoad, FlatStore, values_in
from graphc_llvm.index import Indexer, Placed
from graphc_llvm.math.cast import emit_cast
from graphc_llvm.math.table import emit_scalar_op
from graphc_llvm.memory import Access, Memory
from graphc_llvm.schedule import transposable
from graphc_llvm.values import literal, ssa_type

Point = Mapping[str, Dim]
"""Where vectorized, blocked and unrolled axes stand, by the axis' name."""

BRANCHING = frozenset(("sin", "cos", "tan", "rem", "mod", "pow"))
"""Operations whose code has branches of its own, so that it can't be placed in a block that is finished."""


@dataclass
class Points:
    """Emits the statements of one body.

    status: where faults are noted; number: that of the nest in its kernel, since the names of values repeat; floor: the
    level that loads of `written` buffers mustn't leave; mask: the lanes in use, while a tail is emitted; inside: (the
    level from which on some ranges of predicates are known to hold, those ranges); tile: (an axis, its first point of as
    many as there are lanes), while loads may be transposed.
    """

    memory: Memory
    body: FlatBody
    status: ir.Value
    number: int = 0
    written: frozenset[str] = frozenset()
    floor: int = 0
    mask: Placed | None = None
    inside: tuple[int, frozenset[Range]] | None = None
    tile: tuple[str, Dim] | None = None

    @property
    def ix(self) -> Indexer:
        return self.memory.ix

    @property
    def b(self) -> ir.IRBuilder:
        return self.memory.ix.b

    # Values.

    def value(self, operand: Operand, dtype: DType, point: Point) -> Placed:
        """An operand of type `dtype` at a point; a scalar where its lanes don't differ."""
        if not isinstance(operand, str):
            return Placed(literal(dtype, operand), 0)
        key = self.key(operand, point)
        for scope in reversed(self.ix.scopes):
            if key in scope.memo:
                return scope.memo[key]
        s = self.body.definitions[operand]
        match s:
            case FlatLoad():
                result = self._load(s, point)
            case Apply():
                result = self._apply(s, point)
            case Index():
                result = self._index(s, point)
            case Reduce():
                raise ValueError(f"{operand} is used before its reduction is complete")
        self.ix.scopes[result.level].memo[key] = result
        return result

    def key(self, name: str, point: Point) -> tuple[object, ...]:
        """What a value is remembered by: its name and where its axes stand."""
        at = tuple((a, point[a]) for a in sorted(self.body.dependences[name]) if a in point)
        return ("value", self.number, name, at, None if self.mask is None else id(self.mask.value))

    def bind(self, name: str, point: Point, value: ir.Value) -> None:
        """Makes `value` the value of a completed reduction at this point, for the rest of the current scope."""
        self.ix.scopes[self.ix.level].memo[self.key(name, point)] = Placed(value, self.ix.level)

    def _apply(self, s: Apply, point: Point) -> Placed:
        types = [s.operand_dtype] * len(s.operands)
        if s.op == "select":
            types[0] = bool_
        operands = [self.value(o, t, point) for o, t in zip(s.operands, types, strict=True)]
        level = max((o.level for o in operands), default=0)
        if s.op in BRANCHING:
            level = self.ix.level
        with self.ix.at(level):
            values = [o.value for o in operands]
            if any(isinstance(v.type, ir.VectorType) for v in values):
                values = [self.memory.spread(v) for v in values]
            if s.op == "cast":
                return Placed(emit_cast(self.b, values[0], s.operand_dtype.name, s.dtype.name), level)
            name = s.operand_dtype.name
            return Placed(
                emit_scalar_op(self.b, s.op, values, name, numerics=self.memory.numerics, fault=self._division_fault), level
            )

    def _index(self, s: Index, point: Point) -> Placed:
        e = self.bound(s.expression, point)
        level = self.ix.level_of(e)
        type_ = ssa_type(s.dtype)
        with self.ix.at(level):
            if not self.ix.is_vector(e):
                return Placed(self._resized(self.ix.scalar(e), type_), level)
            found = self.ix.stride(e)
            if found is None or not isinstance(found[0], int):
                return Placed(self._resized(self.ix.vector(e), ssa_type(s.dtype, self.ix.width)), level)
            step, start = found
            steps = ir.Constant(ir.VectorType(type_, self.ix.width), [step * k for k in range(self.ix.width)])
            first = splat(self.b, self._resized(self.ix.scalar(start), type_), self.ix.width)
            return Placed(self.b.add(first, steps), level)

    def _resized(self, value: ir.Value, type_: ir.Type) -> ir.Value:
        return value if value.type == type_ else self.b.trunc(value, type_)

    # Index expressions.

    def bound(self, e: Dim, point: Point) -> Dim:
        """The expression at a point, the values in it bound to symbols of their own."""
        values = dict(point)
        for name in values_in([e]):
            if name in self.body.definitions:
                values[name] = self._value_symbol(name, point)
        return substitute(e, values)

    def _value_symbol(self, name: str, point: Point) -> Dim:
        s = self.body.definitions[name]
        found = self.value(name, s.dtype, point)
        key = ("symbol", id(found.value))
        memo = self.ix.scopes[found.level].memo
        if key not in memo:
            with self.ix.at(found.level):
                wide = emit_cast(self.b, found.value, s.dtype.name, "i64")
            # What keeps the value alive also keeps its id from being used again.
            memo[key] = (self.ix.fresh(name, wide, found.level, -(2**63)), found)
        return memo[key][0]

    def access(self, a: FlatAccess, point: Point) -> Access:
        """An access at a point, its data-dependent indices checked where the predicate holds."""
        where, mask, level = self.condition(a.predicate, point)
        address = self.bound(a.address, point)
        for c in a.checked:
            address = address + self._checked(c, point, where, mask, level)
        level = max(level, self.ix.level_of(address), self.memory.buffers[a.buffer.name].level)
        if a.buffer.name in self.written:
            level = max(level, self.floor)
        vector = self.ix.is_vector(address) or mask is not None
        if vector and self.mask is not None:
            level = max(level, self.mask.level)
            mask = self.mask.value if mask is None else self._all([Placed(mask, level), self.mask])
        return Access(address, where, mask, level)

    def condition(self, predicate: Predicate, point: Point) -> tuple[ir.Value | None, ir.Value | None, int]:
        """(the part of a predicate that is one for all lanes, the part that has lanes, where they are known)."""
        level = 0
        parts: dict[bool, list[Placed]] = {False: [], True: []}
        for r in predicate:
            if self.inside is not None and r in self.inside[1]:
                level = max(level, self.inside[0])
                continue
            found = self.ix.holds(Range(*(self.bound(e, point) for e in (r.expression, r.low, r.high))))
            if found is not None:
                parts[isinstance(found.value.type, ir.VectorType)].append(found)
                level = max(level, found.level)
        return self._all(parts[False]), self._all(parts[True]), level

    def _all(self, conditions: list[Placed]) -> ir.Value | None:
        if not conditions:
            return None
        level = max(c.level for c in conditions)
        key = ("all", *(id(c.value) for c in conditions))
        memo = self.ix.scopes[level].memo
        if key not in memo:
            with self.ix.at(level):
                result = conditions[0].value
                for c in conditions[1:]:
                    result = self.b.and_(result, c.value)
            memo[key] = (result, conditions)
        return memo[key][0]

    def _checked(self, c: Checked, point: Point, where: ir.Value | None, mask: ir.Value | None, level: int) -> Dim:
        """The address offset of a data-dependent index, clamped to its range; outside of it the status is set."""
        e, extent = self.bound(c.index, point), self.bound(c.extent, point)
        level = max(level, self.ix.level_of(e), self.ix.level_of(extent))
        vector = self.ix.is_vector(e)
        if vector and self.mask is not None:
            level = max(level, self.mask.level)
        key = ("checked", e, extent, id(where), id(mask))
        memo = self.ix.scopes[level].memo
        if key not in memo:
            b = self.b
            with self.ix.at(level):
                index = self.ix.vector(e) if vector else self.ix.scalar(e)
                size = self.memory.spread(self.ix.scalar(extent)) if vector else self.ix.scalar(extent)
                zero, one = constant(index.type, 0), constant(index.type, 1)
                outside = b.icmp_unsigned(">=", index, size)
                for condition in (where, mask, self.mask.value if vector and self.mask is not None else None):
                    outside = self.memory.both(outside, condition)
                self._fault(outside, Status.BAD_INDEX)
                clamped = binary(b, "smax", binary(b, "smin", index, b.sub(size, one)), zero)
                memo[key] = (self.ix.fresh("at", clamped, level, 0), where, mask)
        return memo[key][0] * self.bound(c.stride, point)

    # Faults.

    def require_some(self, extent: Dim) -> None:
        """Sets the status where a reduction without an identity has no element."""
        if not nonnegative(extent - 1):
            self._fault(self.b.icmp_signed("<", self.ix.scalar(extent), i64(1)), Status.NO_ELEMENTS)

    def _division_fault(self, b: ir.IRBuilder, lanes: ir.Value) -> None:
        if isinstance(lanes.type, ir.VectorType) and self.mask is not None:
            lanes = b.and_(lanes, self.mask.value)
        self._fault(lanes, Status.INTEGER_DIVISION)

    def _fault(self, lanes: ir.Value, code: Status) -> None:
        b = self.b
        any_ = reduce_vector(b, "or", lanes) if isinstance(lanes.type, ir.VectorType) else lanes
        old = b.load(self.status, typ=I32)
        first = b.and_(any_, b.icmp_signed("==", old, i32(0)))
        b.store(b.select(first, i32(code), old), self.status)

    # Loads.

    def _load(self, s: FlatLoad, point: Point, *, moved: bool = False) -> Placed:
        """The value of a load; `moved`: as it is in memory, for a store of the same type."""
        a = self.access(s.access, point)
        otherwise = None
        if a.where is not None or (a.mask is not None and s.access.predicate):
            otherwise = self.value(s.otherwise, s.dtype, point)
            a = replace(a, level=max(a.level, otherwise.level))
        buffer = s.access.buffer
        dtype = buffer.type.dtype if moved else s.dtype
        key = ("load", buffer.name, a.address, dtype, id(a.where), id(a.mask), id(otherwise and otherwise.value))
        memo = self.ix.scopes[a.level].memo
        if key not in memo:
            with self.ix.at(a.level):
                raw = self._transposed(s, point, a)
                raw = self.memory.read(buffer, a) if raw is None else raw
                value = raw if moved else emit_cast(self.b, raw, buffer.type.dtype.name, s.dtype.name)
                if otherwise is not None and not _is_zero(otherwise.value):
                    value = self._or_else(value, otherwise.value, a)
                memo[key] = (value, a, otherwise)
        return Placed(memo[key][0], a.level)

    def _transposed(self, s: FlatLoad, point: Point, a: Access) -> ir.Value | None:
        """The load as one column of a tile of loads that are contiguous across points; None where it isn't one."""
        if self.tile is None or not transposable(s.access) or not self.ix.is_vector(a.address):
            return None
        axis, first = self.tile
        corner = self.access(s.access, {**point, axis: first})
        column, stride = a.address - corner.address, self.ix.stride(a.address)
        if stride is None or stride[0] == 1 or not isinstance(column, int) or column != point[axis] - first:
            return None
        key = ("tile", s.access.buffer.name, corner.address, id(corner.mask))
        memo = self.ix.scopes[a.level].memo
        if key not in memo:
            memo[key] = (self.memory.read_tile(s.access.buffer, corner), corner)
        tile = memo[key][0]
        return None if tile is None else tile[column]

    def _or_else(self, value: ir.Value, otherwise: ir.Value, a: Access) -> ir.Value:
        condition = a.where
        if a.mask is not None:
            condition = self.memory.both(a.mask, a.where)
            value = self.memory.spread(value)
        assert condition is not None
        if isinstance(value.type, ir.VectorType):
            condition, otherwise = self.memory.spread(condition), self.memory.spread(otherwise)
        elif isinstance(otherwise.type, ir.VectorType):
            condition, value = self.memory.spread(condition), self.memory.spread(value)
        return self.b.select(condition, value, otherwise)

    # Stores.

    def store(self, s: FlatStore, points: list[Point]) -> None:
        """Stores at several points, after all their values are computed."""
        dtype = s.access.buffer.type.dtype
        ready = [(self.access(s.access, p), self._stored(s, p, dtype)) for p in points]
        while ready:
            (a, value), *ready = ready
            others = self.memory.interleaved(a, [x for x, _ in ready]) if s.combine == "set" else []
            if not others:
                self.memory.write(s.access.buffer, s.combine, a, value)
                continue
            self.memory.write_interleaved(s.access.buffer, a, [value, *(ready[i][1] for i in others)])
            ready = [x for i, x in enumerate(ready) if i not in others]

    def _stored(self, s: FlatStore, point: Point, dtype: DType) -> ir.Value:
        source = self.body.definitions[s.operand] if isinstance(s.operand, str) else None
        if isinstance(source, FlatLoad) and _moves(source, dtype):
            return self._load(source, point, moved=True).value
        known = source.dtype if source is not None else dtype
        if not isinstance(s.operand, str) and dtype.name in ("f16", "bf16"):
            known = f32  # how literals of these types are emitted
        return emit_cast(self.b, self.value(s.operand, known, point).value, known.name, dtype.name)


def _moves(s: FlatLoad, dtype: DType) -> bool:
    """Whether a load is of narrow floats that are stored as they are: they needn't be widened and rounded on their way."""
    same = dtype.name in ("f16", "bf16") and s.access.buffer.type.dtype == dtype
    return same and (not s.access.predicate or str(s.otherwise) in ("0", "0.0"))


def _is_zero(value: ir.Value) -> bool:
    return isinstance(value, ir.Constant) and value.constant in (0, False) and str(value.constant) != "-0.0"
