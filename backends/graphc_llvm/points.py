"""The statements of a nest at one point (or one vector of points), as LLVM values.

A point says where the axes that are vectorized, blocked or unrolled stand; the symbols of all other axes are bound by
the loops. A value is emitted when it is first needed, at the level that its operands are known at. Nothing here branches:
a load whose predicate fails reads a zero of the kernel's own, or is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, substitute
from graphc.ir.types import DType, bool_, f32
from graphc.lowering.loop_body import Apply, Index, Operand, Predicate, Range, Reduce
from graphc_llvm.abi import Status
from graphc_llvm.emit import (
    I1,
    I32,
    I64,
    PTR,
    VOID,
    binary,
    call_intrinsic,
    constant,
    gather,
    i32,
    load,
    load_masked,
    load_vector,
    mangle,
    offset,
    reduce_vector,
    size_of,
    splat,
    store,
    store_masked,
    store_vector,
)
from graphc_llvm.flat_body import Checked, FlatAccess, FlatBody, FlatLoad, FlatStore, values_in
from graphc_llvm.index import Indexer, Placed
from graphc_llvm.math.cast import emit_cast, load_bool, store_bool
from graphc_llvm.math.table import emit_scalar_op
from graphc_llvm.values import literal, memory_type, ssa_type

Point = Mapping[str, Dim]
"""Where vectorized, blocked and unrolled axes stand, by the axis' name."""

BRANCHING = frozenset(("sin", "cos", "tan", "rem", "mod", "pow"))
"""Operations whose code has branches of its own, so that it can't be placed in a block that is finished."""


@dataclass(frozen=True)
class Access:
    """An access at one point: its address as an expression, and the conditions under which it may happen.

    where: one i1 for all lanes; mask: one i1 a lane; either may be absent. level: from where on all is known.
    """

    address: Dim
    where: ir.Value | None
    mask: ir.Value | None
    level: int


@dataclass
class Points:
    """Emits the statements of one body.

    buffers: base addresses by name; number: of the nest in its kernel, where value names repeat; floor: the level that loads of `written` buffers mustn't leave; mask: the lanes in use,
    while a tail is emitted; inside: (the level from which on some ranges of predicates are known to hold, those ranges).
    """

    ix: Indexer
    body: FlatBody
    buffers: Mapping[str, Placed]
    status: ir.Value
    numerics: str
    number: int = 0
    written: frozenset[str] = frozenset()
    floor: int = 0
    mask: Placed | None = None
    inside: tuple[int, frozenset[Range]] | None = None

    @property
    def b(self) -> ir.IRBuilder:
        return self.ix.b

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

    def spread(self, value: ir.Value) -> ir.Value:
        """A scalar in all lanes; a vector as it is."""
        return value if isinstance(value.type, ir.VectorType) or self.ix.width == 1 else splat(self.b, value, self.ix.width)

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
                values = [self.spread(v) for v in values]
            if s.op == "cast":
                return Placed(emit_cast(self.b, values[0], s.operand_dtype.name, s.dtype.name), level)
            name = s.operand_dtype.name
            return Placed(
                emit_scalar_op(self.b, s.op, values, name, numerics=self.numerics, fault=self._division_fault), level
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
        level = max(level, self.ix.level_of(address), self.buffers[a.buffer.name].level)
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
            at = replace(
                r, expression=self.bound(r.expression, point), low=self.bound(r.low, point), high=self.bound(r.high, point)
            )
            found = self.ix.holds(at)
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
                size = self.spread(self.ix.scalar(extent)) if vector else self.ix.scalar(extent)
                zero, one = constant(index.type, 0), constant(index.type, 1)
                outside = b.icmp_unsigned(">=", index, size)
                for condition in (where, mask, self.mask.value if vector and self.mask is not None else None):
                    outside = self._and(outside, condition)
                self._fault(outside, Status.BAD_INDEX)
                clamped = binary(b, "smax", binary(b, "smin", index, b.sub(size, one)), zero)
                memo[key] = (self.ix.fresh("at", clamped, level, 0), where, mask)
        return memo[key][0] * self.bound(c.stride, point)

    def _and(self, x: ir.Value, y: ir.Value | None) -> ir.Value:
        if y is None:
            return x
        if isinstance(x.type, ir.VectorType) or isinstance(y.type, ir.VectorType):
            x, y = self.spread(x), self.spread(y)
        return self.b.and_(x, y)

    # Faults.

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

    def _load(self, s: FlatLoad, point: Point) -> Placed:
        a = self.access(s.access, point)
        otherwise = None
        if a.where is not None or (a.mask is not None and s.access.predicate):
            otherwise = self.value(s.otherwise, s.dtype, point)
            a = replace(a, level=max(a.level, otherwise.level))
        buffer = s.access.buffer
        key = ("load", buffer.name, a.address, s.dtype, id(a.where), id(a.mask), id(otherwise and otherwise.value))
        memo = self.ix.scopes[a.level].memo
        if key not in memo:
            with self.ix.at(a.level):
                raw = self._read(buffer.name, buffer.type.dtype, a)
                value = load_bool(self.b, raw) if buffer.type.dtype.is_bool else raw
                value = emit_cast(self.b, value, buffer.type.dtype.name, s.dtype.name)
                if otherwise is not None and not _is_zero(otherwise.value):
                    value = self._or_else(value, otherwise.value, a)
                memo[key] = (value, a, otherwise)
        return Placed(memo[key][0], a.level)

    def _or_else(self, value: ir.Value, otherwise: ir.Value, a: Access) -> ir.Value:
        condition = a.where
        if a.mask is not None:
            condition = self._and(a.mask, a.where)
            value = self.spread(value)
        assert condition is not None
        if isinstance(value.type, ir.VectorType):
            condition, otherwise = self.spread(condition), self.spread(otherwise)
        elif isinstance(otherwise.type, ir.VectorType):
            condition, value = self.spread(condition), self.spread(value)
        return self.b.select(condition, value, otherwise)

    def _read(self, name: str, dtype: DType, a: Access) -> ir.Value:
        """The elements in memory at an access; 0 where its conditions fail."""
        b, ix, element = self.b, self.ix, memory_type(dtype)
        found = ix.stride(a.address)
        if found is not None and found[0] == 0:
            where = a.where
            if a.mask is not None and self.mask is not None and a.mask is self.mask.value:
                pass  # some lane is always in use
            elif a.mask is not None:
                where = self._and(reduce_vector(b, "or", a.mask), where)
            value = load(b, self._guarded(ix.address(self.buffers[name], found[1], element), where, element), element)
            return value if a.mask is None else b.select(a.mask, self.spread(value), constant(ssa_memory(dtype, ix.width), 0))
        if found is not None and found[0] == 1:
            address = self._guarded(ix.address(self.buffers[name], found[1], element), a.where, element)
            if a.mask is None:
                return load_vector(b, address, element, ix.width)
            return load_masked(b, address, a.mask, element)
        return self._gather(name, element, a)

    def _gather(self, name: str, element: ir.Type, a: Access) -> ir.Value:
        b, ix = self.b, self.ix
        base, indices = self.buffers[name].value, ix.vector(a.address)
        mask = a.mask if a.where is None else self._and(self.spread(a.where), a.mask)
        if size_of(element) >= 4:
            return gather(b, base, indices, every_lane(ix.width) if mask is None else mask, element)
        # There is no instruction for narrow elements: read each lane, those that are off from the kernel's own zero.
        result: ir.Value = ir.Constant(ir.VectorType(element, ix.width), ir.Undefined)
        for k in range(ix.width):
            address = offset(b, base, b.extract_element(indices, i32(k)), element)
            where = None if mask is None else b.extract_element(mask, i32(k))
            result = b.insert_element(result, load(b, self._guarded(address, where, element), element), i32(k))
        return result

    def _guarded(self, address: ir.Value, where: ir.Value | None, element: ir.Type) -> ir.Value:
        return address if where is None else self.b.select(where, address, self._zero(element))

    def _zero(self, element: ir.Type) -> ir.Value:
        """The address of a vector of zeros, which belongs to the kernel."""
        name = f"zeros_{element.intrinsic_name}"
        known = self.b.module.globals.get(name)
        if known is None:
            type_ = ir.ArrayType(element, 64)  # as many as the widest vector has lanes
            known = ir.GlobalVariable(self.b.module, type_, name)
            known.linkage, known.global_constant, known.initializer = "internal", True, ir.Constant(type_, None)
            known.align = 64
        return known

    # Stores.

    def store(self, s: FlatStore, points: list[Point]) -> None:
        """Stores at several points, after all their values are computed."""
        dtype = s.access.buffer.type.dtype
        ready = [(self.access(s.access, p), self._stored(s, p, dtype)) for p in points]
        for a, value in ready:
            self._write(s, dtype, a, value)

    def _stored(self, s: FlatStore, point: Point, dtype: DType) -> ir.Value:
        known = self.body.definitions[s.operand].dtype if isinstance(s.operand, str) else dtype
        if not isinstance(s.operand, str) and dtype.name in ("f16", "bf16"):
            known = f32  # how literals of these types are emitted
        return emit_cast(self.b, self.value(s.operand, known, point).value, known.name, dtype.name)

    def _write(self, s: FlatStore, dtype: DType, a: Access, value: ir.Value) -> None:
        b, ix, element = self.b, self.ix, memory_type(dtype)
        found = ix.stride(a.address)
        base = self.buffers[s.access.buffer.name]
        if found is not None and found[0] == 0:
            if isinstance(value.type, ir.VectorType) or a.mask is not None:
                raise ValueError(f"all lanes store to one element of %{s.access.buffer.name}")
            address = ix.address(base, found[1], element)
            if a.where is None:
                self._write_scalar(s, dtype, value, address, element)
            else:
                with b.if_then(a.where):
                    self._write_scalar(s, dtype, value, address, element)
            return
        mask = a.mask if a.where is None else self._and(self.spread(a.where), a.mask)
        value = self.spread(value)
        if found is not None and found[0] == 1:
            address = ix.address(base, found[1], element)
            if s.combine != "set":
                old = load_vector(b, address, element, ix.width) if mask is None else load_masked(b, address, mask, element)
                value = self._combined(s, dtype, self._from_memory(dtype, old), value)
            stored = self._to_memory(dtype, value)
            if mask is None:
                store_vector(b, stored, address)
            else:
                store_masked(b, stored, address, mask if size_of(element) >= 4 else opaque(b, mask))
            return
        if s.combine != "set":
            raise ValueError(f"lanes combine with scattered elements of %{s.access.buffer.name}")
        stored = self._to_memory(dtype, value)
        scatter(b, stored, base.value, ix.vector(a.address), every_lane(ix.width) if mask is None else mask)

    def _write_scalar(self, s: FlatStore, dtype: DType, value: ir.Value, address: ir.Value, element: ir.Type) -> None:
        if s.combine != "set":
            value = self._combined(s, dtype, self._from_memory(dtype, load(self.b, address, element)), value)
        store(self.b, self._to_memory(dtype, value), address)

    def _from_memory(self, dtype: DType, value: ir.Value) -> ir.Value:
        return load_bool(self.b, value) if dtype.is_bool else value

    def _to_memory(self, dtype: DType, value: ir.Value) -> ir.Value:
        return store_bool(self.b, value) if dtype.is_bool else value

    def _combined(self, s: FlatStore, dtype: DType, old: ir.Value, new: ir.Value) -> ir.Value:
        op = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[s.combine]
        if dtype.is_bool:
            return self.b.or_(old, new) if op in ("add", "max") else self.b.and_(old, new)
        if dtype.name not in ("f16", "bf16"):
            return emit_scalar_op(self.b, op, [old, new], dtype.name, numerics=self.numerics)
        wide = [emit_cast(self.b, v, dtype.name, "f32") for v in (old, new)]
        return emit_cast(self.b, emit_scalar_op(self.b, op, wide, "f32", numerics=self.numerics), "f32", dtype.name)


def every_lane(width: int) -> ir.Value:
    """The mask with all lanes on."""
    return constant(ir.VectorType(I1, width), 1)


def opaque(b: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    """The same mask, as one that LLVM doesn't know to be constant.

    LLVM 22 stores too many bytes for a truncated vector under a constant mask with a single lane.
    """
    bits = ir.IntType(mask.type.count)
    word = b.zext(b.bitcast(mask, bits), I64) if bits.width < 64 else b.bitcast(mask, bits)
    hidden = b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [word], side_effect=False)
    return b.bitcast(b.trunc(hidden, bits) if bits.width < 64 else hidden, mask.type)


def scatter(b: ir.IRBuilder, value: ir.Value, base: ir.Value, indices: ir.Value, mask: ir.Value) -> None:
    """Store the lanes of `value` where `mask` is on as elements `indices` of the array at `base`."""
    pointers = ir.VectorType(PTR, indices.type.count)
    addresses = b.gep(base, [indices], source_etype=value.type.element)
    addresses.type = pointers  # llvmlite takes the result of any GEP for one pointer
    name = f"llvm.masked.scatter.{mangle(value.type)}.{mangle(pointers)}"
    call_intrinsic(b, name, VOID, [value, addresses, i32(size_of(value.type)), mask])


def ssa_memory(dtype: DType, width: int) -> ir.Type:
    """A vector of elements of `dtype` as they are in memory."""
    return ir.VectorType(memory_type(dtype), width)


def _is_zero(value: ir.Value) -> bool:
    return isinstance(value, ir.Constant) and value.constant in (0, False) and str(value.constant) not in ("-0.0",)

