"""Reading and writing memory at an access: one element, contiguous or scattered lanes, all or some of them.

No more is touched than the conditions of the access allow, and no code branches but around a scalar store: where a scalar
condition fails, a load reads zeros that belong to the kernel; lanes that are off are masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim
from graphc.ir.types import DType
from graphc.lowering.loop_body import Buffer
from graphc_llvm.emit import (
    I1,
    I32,
    I64,
    PTR,
    VOID,
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
from graphc_llvm.index import Indexer, Placed
from graphc_llvm.math.cast import emit_cast, load_bool, store_bool
from graphc_llvm.math.table import emit_scalar_op
from graphc_llvm.values import memory_type

WIDEST = 64
"""Lanes of the widest vector."""


@dataclass(frozen=True)
class Access:
    """An access at one point: its address in elements, and the conditions under which it may happen.

    where: one i1 for all lanes; mask: one i1 a lane; either may be absent. level: from where on all is known.
    """

    address: Dim
    where: ir.Value | None
    mask: ir.Value | None
    level: int


@dataclass
class Memory:
    """Emits accesses to the buffers of a kernel; `buffers` are their base addresses by name."""

    ix: Indexer
    buffers: Mapping[str, Placed]
    numerics: str

    @property
    def b(self) -> ir.IRBuilder:
        return self.ix.b

    # Reading.

    def read(self, buffer: Buffer, a: Access) -> ir.Value:
        """The elements at an access, as values of the buffer's dtype; 0 where its conditions fail."""
        raw = self._read(buffer.name, memory_type(buffer.type.dtype), a)
        return load_bool(self.b, raw) if buffer.type.dtype.is_bool else raw

    def _read(self, name: str, element: ir.Type, a: Access) -> ir.Value:
        b, ix = self.b, self.ix
        found = ix.stride(a.address)
        if found is not None and found[0] in (-1, 2):
            return self._shuffled(name, element, a, found[1], backwards=found[0] == -1)
        if found is None or found[0] not in (0, 1):
            return self._gather(name, element, a)
        address = ix.address(self.buffers[name], found[1], element)
        if found[0] == 0:
            where = a.where if a.mask is None else self.both(reduce_vector(b, "or", a.mask), a.where)
            value = load(b, self._guarded(address, where, element), element)
            if a.mask is None:
                return value
            return b.select(a.mask, self.spread(value), constant(ir.VectorType(element, ix.width), 0))
        address = self._guarded(address, a.where, element)
        if a.mask is None:
            return load_vector(b, address, element, ix.width)
        return load_masked(b, address, a.mask, element)

    def _shuffled(self, name: str, element: ir.Type, a: Access, start: Dim, backwards: bool) -> ir.Value:
        """Lanes that go backwards, or take every second element: whole vectors that end at the last lane, shuffled."""
        b, n = self.b, self.ix.width

        def vector(first: Dim, lanes: Sequence[int | None]) -> ir.Value:
            """The vector from element `first` on, of which element i is needed where lane lanes[i] is on."""
            address = self._guarded(self.ix.address(self.buffers[name], first, element), a.where, element)
            if a.mask is None:
                return load_vector(b, address, element, n)
            off = ir.Constant(a.mask.type, None)
            mask = b.shuffle_vector(a.mask, off, _order([n if k is None else k for k in lanes]))
            return load_masked(b, address, mask, element)

        if backwards:
            order = list(reversed(range(n)))
            whole = vector(start - (n - 1), order)
            return b.shuffle_vector(whole, ir.Constant(whole.type, ir.Undefined), _order(order))
        half = n // 2
        low = vector(start, [i // 2 if i % 2 == 0 else None for i in range(n)])
        high = vector(start + n - 1, [(n - 1 + i) // 2 if i % 2 == 1 else None for i in range(n)])
        return b.shuffle_vector(low, high, _order([2 * k if k < half else n + 2 * k - (n - 1) for k in range(n)]))

    def _gather(self, name: str, element: ir.Type, a: Access) -> ir.Value:
        b, ix = self.b, self.ix
        base, indices, mask = self.buffers[name].value, ix.vector(a.address), self._lanes(a)
        if size_of(element) >= 4:
            return gather(b, base, indices, every_lane(ix.width) if mask is None else mask, element)
        # There is no instruction for narrow elements: read each lane, those that are off from the kernel's own zeros.
        result: ir.Value = ir.Constant(ir.VectorType(element, ix.width), ir.Undefined)
        for k in range(ix.width):
            address = offset(b, base, b.extract_element(indices, i32(k)), element)
            where = None if mask is None else b.extract_element(mask, i32(k))
            result = b.insert_element(result, load(b, self._guarded(address, where, element), element), i32(k))
        return result

    def read_tile(self, buffer: Buffer, a: Access) -> list[ir.Value] | None:
        """Vector k has the elements at address + k: one row a lane, loaded along k, transposed; None without a stride."""
        b, ix, element = self.b, self.ix, memory_type(buffer.type.dtype)
        found = ix.stride(a.address)
        if found is None or a.where is not None:
            return None
        step, start = found
        rows = []
        for j in range(ix.width):
            address = ix.address(self.buffers[buffer.name], start + step * j, element)
            where = None if a.mask is None else b.extract_element(a.mask, i32(j))
            rows.append(load_vector(b, self._guarded(address, where, element), element, ix.width))
        return [load_bool(b, v) if buffer.type.dtype.is_bool else v for v in transpose(b, rows)]

    def _guarded(self, address: ir.Value, where: ir.Value | None, element: ir.Type) -> ir.Value:
        return address if where is None else self.b.select(where, address, self._zeros(element))

    def _zeros(self, element: ir.Type) -> ir.Value:
        """The address of a vector of zeros, which belongs to the kernel."""
        name = f"zeros_{element.intrinsic_name}"
        known = self.b.module.globals.get(name)
        if known is None:
            type_ = ir.ArrayType(element, WIDEST)
            known = ir.GlobalVariable(self.b.module, type_, name)
            known.linkage, known.global_constant, known.initializer = "internal", True, ir.Constant(type_, None)
            known.align = 64
        return known

    # Writing.

    def write(self, buffer: Buffer, combine: str, a: Access, value: ir.Value) -> None:
        """Stores a value of the buffer's dtype at an access, or combines it with what is there."""
        b, ix, dtype = self.b, self.ix, buffer.type.dtype
        element = memory_type(dtype)
        found = ix.stride(a.address)
        base = self.buffers[buffer.name]
        if found is None or found[0] not in (0, 1):
            if combine != "set":
                raise ValueError(f"lanes combine with scattered elements of %{buffer.name}")
            mask = self._lanes(a)
            stored = _stored(b, dtype, self.spread(value))
            scatter(b, stored, base.value, ix.vector(a.address), every_lane(ix.width) if mask is None else mask)
            return
        address = ix.address(base, found[1], element)
        if found[0] == 1:
            self._write_vector(dtype, combine, self._lanes(a), self.spread(value), address)
            return
        if isinstance(value.type, ir.VectorType) or a.mask is not None:
            raise ValueError(f"all lanes store to one element of %{buffer.name}")
        if a.where is None:
            self._write_scalar(dtype, combine, value, address)
        else:
            with b.if_then(a.where):
                self._write_scalar(dtype, combine, value, address)

    def interleaved(self, a: Access, others: Sequence[Access]) -> list[int]:
        """Which of `others` are at the elements between those of `a`, in order: all that it takes, or none."""
        found = self.ix.stride(a.address)
        if found is None or found[0] not in (2, 3, 4) or a.where is not None:
            return []
        behind = {x.address - a.address: i for i, x in enumerate(others) if x.where is None and x.mask is a.mask}
        wanted = range(1, found[0])
        return [behind[k] for k in wanted] if all(k in behind for k in wanted) else []

    def write_interleaved(self, buffer: Buffer, a: Access, values: Sequence[ir.Value]) -> None:
        """Stores two to four vectors, lane by lane in turn, from the first one's access on."""
        b, n, element, count = self.b, self.ix.width, memory_type(buffer.type.dtype), len(values)
        found = self.ix.stride(a.address)
        assert found is not None
        address = self.ix.address(self.buffers[buffer.name], found[1], element)
        vectors = [_stored(b, buffer.type.dtype, self.spread(v)) for v in values]
        vectors += [ir.Constant(vectors[0].type, ir.Undefined)] * (count % 2)
        whole = _order(range(2 * n))
        halves = [b.shuffle_vector(x, y, whole) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
        last = halves[1] if count > 2 else ir.Constant(halves[0].type, ir.Undefined)
        turns = [lane + n * k for lane in range(n) for k in range(count)]
        off = None if a.mask is None else ir.Constant(a.mask.type, None)
        length = min(2 * n, WIDEST)  # powers of two: LLVM takes vectors of other lengths apart
        for first in range(0, len(turns), length):
            part = turns[first : first + length]
            rest = length - len(part)
            lanes = b.shuffle_vector(halves[0], last, _order(part + [0] * rest))
            to = offset(b, address, first, element)
            if off is None:
                store_vector(b, lanes if not rest else b.shuffle_vector(lanes, lanes, _order(range(n))), to)
                continue
            mask = b.shuffle_vector(a.mask, off, _order([i % n for i in part] + [n] * rest))
            store_masked(b, lanes, to, mask if size_of(element) >= 4 else opaque(b, mask))

    def _write_vector(
        self, dtype: DType, combine: str, mask: ir.Value | None, value: ir.Value, address: ir.Value
    ) -> None:
        b, element, n = self.b, memory_type(dtype), self.ix.width
        if combine != "set":
            old = load_vector(b, address, element, n) if mask is None else load_masked(b, address, mask, element)
            value = self._combined(dtype, combine, load_bool(b, old) if dtype.is_bool else old, value)
        stored = _stored(b, dtype, value)
        if mask is None:
            store_vector(b, stored, address)
        else:
            store_masked(b, stored, address, mask if size_of(element) >= 4 else opaque(b, mask))

    def _write_scalar(self, dtype: DType, combine: str, value: ir.Value, address: ir.Value) -> None:
        b = self.b
        if combine != "set":
            old = load(b, address, memory_type(dtype))
            value = self._combined(dtype, combine, load_bool(b, old) if dtype.is_bool else old, value)
        store(b, _stored(b, dtype, value), address)

    def _combined(self, dtype: DType, combine: str, old: ir.Value, new: ir.Value) -> ir.Value:
        b, op = self.b, {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[combine]
        if dtype.is_bool:
            return b.or_(old, new) if op in ("add", "max") else b.and_(old, new)
        if dtype.name not in ("f16", "bf16"):
            return emit_scalar_op(b, op, [old, new], dtype.name, numerics=self.numerics)
        wide = [emit_cast(b, v, dtype.name, "f32") for v in (old, new)]
        return emit_cast(b, emit_scalar_op(b, op, wide, "f32", numerics=self.numerics), "f32", dtype.name)

    # Lanes.

    def spread(self, value: ir.Value) -> ir.Value:
        """A scalar in all lanes; a vector as it is."""
        if isinstance(value.type, ir.VectorType) or self.ix.width == 1:
            return value
        return splat(self.b, value, self.ix.width)

    def both(self, x: ir.Value, y: ir.Value | None) -> ir.Value:
        """The conjunction of two conditions; in lanes where one of them has lanes."""
        if y is None:
            return x
        if isinstance(x.type, ir.VectorType) or isinstance(y.type, ir.VectorType):
            x, y = self.spread(x), self.spread(y)
        return self.b.and_(x, y)

    def _lanes(self, a: Access) -> ir.Value | None:
        return a.mask if a.where is None else self.both(self.spread(a.where), a.mask)


def every_lane(width: int) -> ir.Value:
    """The mask with all lanes on."""
    return constant(ir.VectorType(I1, width), 1)


def transpose(b: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors, a power of two: rows i and i + n/2 interleaved, log2(n) times."""
    n, current = len(rows), list(rows)
    order = [lane + n * second for lane in range(n) for second in (0, 1)]
    halves = [_order(order[:n]), _order(order[n:])]
    for _ in range(n.bit_length() - 1):
        pairs = zip(current[: n // 2], current[n // 2 :], strict=True)
        current = [b.shuffle_vector(x, y, half) for x, y in pairs for half in halves]
    return current


def scatter(b: ir.IRBuilder, value: ir.Value, base: ir.Value, indices: ir.Value, mask: ir.Value) -> None:
    """Store the lanes of `value` where `mask` is on as elements `indices`, an i64 vector, of the array at `base`."""
    pointers = ir.VectorType(PTR, indices.type.count)
    addresses = b.gep(base, [indices], source_etype=value.type.element)
    addresses.type = pointers  # llvmlite takes the result of any GEP for one pointer
    name = f"llvm.masked.scatter.{mangle(value.type)}.{mangle(pointers)}"
    call_intrinsic(b, name, VOID, [value, addresses, i32(size_of(value.type)), mask])


def opaque(b: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    """The same mask, as one that LLVM doesn't know to be constant.

    LLVM 22 stores too many bytes for a truncated vector under a constant mask with a single lane.
    """
    bits = ir.IntType(mask.type.count)
    word = b.bitcast(mask, bits)
    if bits.width < 64:
        word = b.zext(word, I64)
    hidden = b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [word], side_effect=False)
    return b.bitcast(b.trunc(hidden, bits) if bits.width < 64 else hidden, mask.type)


def _order(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


def _stored(b: ir.IRBuilder, dtype: DType, value: ir.Value) -> ir.Value:
    return store_bool(b, value) if dtype.is_bool else value
