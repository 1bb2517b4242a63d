"""Short forms over `llvmlite.ir.IRBuilder` that every kernel generator uses.

Pointers are opaque (`PTR`), so nothing is ever bitcast. Every vector access states its element's alignment, because
user memory is taken as it comes. Conditionals are llvmlite's own `builder.if_then(cond)` and `builder.if_else(cond)`.
Value parameters are annotated `ir.Value`; `b` is always the builder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import llvmlite.ir as ir


class BFloatType(ir.types._BaseFloatType):  # pyright: ignore[reportPrivateUsage]
    """LLVM's `bfloat`, which llvmlite has no class for."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def format_constant(self, value: float) -> str:
        return ir.types._format_double(value)  # pyright: ignore[reportPrivateUsage]


BFloatType._create_instance()  # pyright: ignore[reportPrivateUsage]

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, BF16, F32, F64 = ir.HalfType(), BFloatType(), ir.FloatType(), ir.DoubleType()
PTR, VOID = ir.PointerType(), ir.VoidType()

ELEMENT_TYPES: dict[str, ir.Type] = {
    "f16": F16, "bf16": BF16, "f32": F32, "f64": F64,
    "i8": I8, "i16": I16, "i32": I32, "i64": I64,
    "u8": I8, "u16": I16, "u32": I32, "u64": I64,
    "bool": I8,
}  # fmt: skip
"""The type of one element in memory, by dtype name; a bool is a byte, 0 or 1."""

_BYTES: dict[ir.Type, int] = {I1: 1, I8: 1, I16: 2, I32: 4, I64: 8, F16: 2, BF16: 2, F32: 4, F64: 8}


def is_float(type_: ir.Type) -> bool:
    """Whether `type_`, or its element if it is a vector, is a floating-point type."""
    return scalar_of(type_) in (F16, BF16, F32, F64)


def scalar_of(type_: ir.Type) -> ir.Type:
    """The element type of a vector type; any other type itself."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def size_of(type_: ir.Type) -> int:
    """Bytes that a scalar of `type_`, or an element of a vector type, takes in memory; its alignment too."""
    return 8 if isinstance(type_, ir.PointerType) else _BYTES[scalar_of(type_)]


def i32(value: int) -> ir.Constant:
    """The i32 constant `value`."""
    return ir.Constant(I32, value)


def i64(value: int) -> ir.Constant:
    """The i64 constant `value`."""
    return ir.Constant(I64, value)


def constant(type_: ir.Type, value: float) -> ir.Constant:
    """`value` as a constant of `type_`; for a vector type, in each lane."""
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)
    return ir.Constant(type_, value)


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function `name` of `module`, declared on first use."""
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def call_intrinsic(b: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value], **options) -> ir.Value:
    """Call the intrinsic with the full, mangled `name` (such as "llvm.fma.v16f32"); `options` go to `builder.call`."""
    return b.call(declare(b.module, name, result, [a.type for a in arguments]), arguments, **options)


def mangle(type_: ir.Type) -> str:
    """The suffix by which overloaded intrinsics name `type_`: "f32", "v16f32", "p0"."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{type_.element.intrinsic_name}"
    return type_.intrinsic_name


# Control flow.


@dataclass
class Loop:
    """A loop being emitted: its induction value, and the values it carries from one iteration to the next."""

    index: ir.Value
    carried: list[ir.Value]
    results: list[ir.Value] = field(default_factory=list)
    _next: list[ir.Value] | None = None

    def update(self, values: Sequence[ir.Value]) -> None:
        """Give the carried values of the next iteration; called once, anywhere in the body that dominates its end."""
        self._next = list(values)


@contextmanager
def fold_range(
    b: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: int | ir.Value = 1,
    initial: Sequence[ir.Value] = (),
    name: str = "i",
) -> Iterator[Loop]:
    """Emit `for index in range(start, stop, step)` that carries values in registers; step > 0.

    The body reads `loop.carried` and calls `loop.update(next_values)`; after the `with`, `loop.results` holds the final
    values. The loop is emitted rotated (test at the end, one guard before), so no pass has to rotate it.
    """
    type_ = start.type
    step_value = ir.Constant(type_, step) if isinstance(step, int) else step
    body, exit_ = b.append_basic_block(f"{name}.body"), b.append_basic_block(f"{name}.exit")
    before = b.block
    guarded = not (isinstance(start, ir.Constant) and isinstance(stop, ir.Constant) and start.constant < stop.constant)
    if guarded:
        b.cbranch(b.icmp_signed("<", start, stop), body, exit_)
    else:
        b.branch(body)
    b.position_at_end(body)
    index = b.phi(type_, name)
    index.add_incoming(start, before)
    carried = [b.phi(value.type, f"{name}.carried") for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    loop = Loop(index, carried)
    yield loop
    following = loop._next if loop._next is not None else carried
    latch = b.block
    advanced = b.add(index, step_value, f"{name}.next", flags=("nsw",))
    index.add_incoming(advanced, latch)
    for phi, value in zip(carried, following, strict=True):
        phi.add_incoming(value, latch)
    b.cbranch(b.icmp_signed("<", advanced, stop), body, exit_)
    b.position_at_end(exit_)
    for value, final in zip(initial, following, strict=True):
        result = b.phi(value.type, f"{name}.result")
        result.add_incoming(final, latch)
        if guarded:
            result.add_incoming(value, before)
        loop.results.append(result)


@contextmanager
def for_range(
    b: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: int | ir.Value = 1, name: str = "i"
) -> Iterator[ir.Value]:
    """Emit `for i in range(start, stop, step)` around the body; yields the induction value. step > 0."""
    with fold_range(b, start, stop, step, name=name) as loop:
        yield loop.index


def local(b: ir.IRBuilder, type_: ir.Type, count: int = 1, name: str = "local", align: int | None = None) -> ir.Value:
    """A stack slot for `count` values of `type_`, in the function's entry block, where SROA finds it."""
    with b.goto_entry_block():
        slot = b.alloca(type_, i64(count) if count != 1 else None, name)
        if align is not None:
            slot.align = align
        return slot


# Memory.


def offset(b: ir.IRBuilder, ptr: ir.Value, index: ir.Value | int, element: ir.Type = I8) -> ir.Value:
    """The address of element `index` of the array of `element` at `ptr`."""
    if isinstance(index, int):
        index = i64(index)
    return b.gep(ptr, [index], inbounds=True, source_etype=element)


def load(b: ir.IRBuilder, ptr: ir.Value, type_: ir.Type, name: str = "") -> ir.Value:
    """The scalar of `type_` at `ptr`."""
    return b.load(ptr, name, align=size_of(type_), typ=type_)


def store(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value) -> None:
    """Store a scalar or a vector at `ptr`, aligned to its element only."""
    b.store(value, ptr, align=size_of(value.type))


def load_vector(b: ir.IRBuilder, ptr: ir.Value, element: ir.Type, n: int, align: int | None = None) -> ir.Value:
    """The `n` consecutive elements at `ptr`; aligned to an element unless `align` promises more."""
    return b.load(ptr, align=align or size_of(element), typ=ir.VectorType(element, n))


def store_vector(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, align: int | None = None) -> None:
    """Store a vector at `ptr`; aligned to an element unless `align` promises more."""
    b.store(value, ptr, align=align or size_of(value.type))


def load_field(b: ir.IRBuilder, ptr: ir.Value, struct: ir.LiteralStructType, index: int, name: str = "") -> ir.Value:
    """Field `index` of the `struct` at `ptr`."""
    type_ = struct.elements[index]
    return b.load(field_address(b, ptr, struct, index), name, typ=type_, align=size_of(type_))


def field_address(b: ir.IRBuilder, ptr: ir.Value, struct: ir.LiteralStructType, index: int) -> ir.Value:
    """The address of field `index` of the `struct` at `ptr`."""
    return b.gep(ptr, [i32(0), i32(index)], inbounds=True, source_etype=struct)


# Vectors.


def splat(b: ir.IRBuilder, scalar: ir.Value, n: int) -> ir.Value:
    """`scalar` in each of `n` lanes."""
    vector = ir.VectorType(scalar.type, n)
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar] * n)
    single = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, i32(0))
    return b.shuffle_vector(single, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, n), [0] * n))


def lanes(b: ir.IRBuilder, n: int, start: ir.Value | None = None, type_: ir.Type = I64) -> ir.Value:
    """The vector [start, start + 1, …], `n` lanes; from 0 if `start` is None."""
    counted = ir.Constant(ir.VectorType(type_, n), list(range(n)))
    return counted if start is None else b.add(splat(b, start, n), counted)


def tail_mask(b: ir.IRBuilder, remaining: ir.Value, n: int) -> ir.Value:
    """The mask whose lane k is on where k < `remaining`, an i64; all off from 0 down, all on from `n` up."""
    low = call_intrinsic(b, "llvm.smin.i64", I64, [remaining, i64(n)])
    # 32-bit lanes: half the registers of a 64-bit comparison, and the clamp above makes them sufficient.
    bound = b.trunc(call_intrinsic(b, "llvm.smax.i64", I64, [low, i64(0)]), I32)
    return b.icmp_unsigned("<", lanes(b, n, type_=I32), splat(b, bound, n))


def load_masked(
    b: ir.IRBuilder, ptr: ir.Value, mask: ir.Value, element: ir.Type, otherwise: ir.Value | None = None
) -> ir.Value:
    """The elements at `ptr` where `mask` is on; elsewhere `otherwise` (zero), and memory isn't touched."""
    type_ = ir.VectorType(element, mask.type.count)
    bits = ir.VectorType(I16, mask.type.count) if element == BF16 else type_  # see store_masked
    passthrough = b.bitcast(otherwise, bits) if otherwise is not None else ir.Constant(bits, None)
    name = f"llvm.masked.load.{mangle(bits)}.p0"
    return b.bitcast(call_intrinsic(b, name, bits, [ptr, i32(size_of(element)), mask, passthrough]), type_)


def store_masked(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, mask: ir.Value) -> None:
    """Store the lanes of `value` where `mask` is on; no other byte is touched.

    Those of bfloat as their bits: where there is no such instruction, LLVM would take them apart by way of f32 and a
    function of a library.
    """
    if scalar_of(value.type) == BF16:
        value = b.bitcast(value, ir.VectorType(I16, value.type.count))
    name = f"llvm.masked.store.{mangle(value.type)}.p0"
    call_intrinsic(b, name, VOID, [value, ptr, i32(size_of(value.type)), mask])


CACHE_LINE = 64
"""Bytes that come from memory at once."""


def prefetch(b: ir.IRBuilder, ptr: ir.Value) -> None:
    """Ask for the cache line at `ptr`, to be read later; any address will do."""
    call_intrinsic(b, "llvm.prefetch.p0", VOID, [ptr, i32(0), i32(3), i32(1)])


def gather(b: ir.IRBuilder, base: ir.Value, indices: ir.Value, mask: ir.Value, element: ir.Type) -> ir.Value:
    """Elements `indices`, an i64 vector, of the array at `base`; zero, and no access, where `mask` is off."""
    n = indices.type.count
    type_, pointers = ir.VectorType(element, n), ir.VectorType(PTR, n)
    addresses = b.gep(base, [indices], source_etype=element)
    addresses.type = pointers  # llvmlite takes the result of any GEP for one pointer
    name = f"llvm.masked.gather.{mangle(type_)}.{mangle(pointers)}"
    return call_intrinsic(b, name, type_, [addresses, i32(size_of(element)), mask, ir.Constant(type_, None)])


def fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x * y + z, rounded once; scalars or vectors."""
    return call_intrinsic(b, f"llvm.fma.{mangle(x.type)}", x.type, [x, y, z])


def unary(b: ir.IRBuilder, intrinsic: str, x: ir.Value) -> ir.Value:
    """`llvm.<intrinsic>` of a scalar or vector of the same type: "fabs", "sqrt", "floor", "rint", "ctpop" …"""
    return call_intrinsic(b, f"llvm.{intrinsic}.{mangle(x.type)}", x.type, [x])


def binary(b: ir.IRBuilder, intrinsic: str, x: ir.Value, y: ir.Value) -> ir.Value:
    """`llvm.<intrinsic>` of two operands of one type: "maximum" (NaN wins), "smax", "umin", "copysign" …"""
    return call_intrinsic(b, f"llvm.{intrinsic}.{mangle(x.type)}", x.type, [x, y])


_REDUCTIONS = {"add", "mul", "and", "or", "xor", "smax", "smin", "umax", "umin", "fmaximum", "fminimum"}


def reduce_vector(b: ir.IRBuilder, kind: str, x: ir.Value) -> ir.Value:
    """The lanes of `x` combined into a scalar: "fadd" and "fmul" as a balanced tree (a fixed order), or one of
    add, mul, and, or, xor, smax, smin, umax, umin, fmaximum, fminimum (NaN wins)."""
    element = scalar_of(x.type)
    if kind in ("fadd", "fmul"):
        # `reassoc` is what lets LLVM use the tree; the order is then its, and the same for each compilation.
        start = ir.Constant(element, 0.0 if kind == "fadd" else 1.0)
        name = f"llvm.vector.reduce.{kind}.{mangle(x.type)}"
        return call_intrinsic(b, name, element, [start, x], fastmath=("reassoc",))
    if kind not in _REDUCTIONS:
        raise ValueError(f"no reduction named {kind!r}; there are fadd, fmul, {', '.join(sorted(_REDUCTIONS))}")
    return call_intrinsic(b, f"llvm.vector.reduce.{kind}.{mangle(x.type)}", element, [x])


# Conversions.


def convert_float(b: ir.IRBuilder, x: ir.Value, element: ir.Type) -> ir.Value:
    """`x`, a float scalar or vector, as floats of the type `element`, rounded to nearest even as NumPy does.

    Needs no library function on any target, and keeps denormals, which the bf16 instructions of some CPUs flush.
    """
    source = scalar_of(x.type)
    if source == element:
        return x
    if source in (F16, BF16):
        return convert_float(b, b.fpext(x, _with_element(x.type, F32)), element)
    if element == F64:
        return b.fpext(x, _with_element(x.type, F64))
    if source == F64:
        # Two roundings may differ from one. NumPy's conversion to bf16 rounds twice, that to f16 doesn't.
        single = _round_to_odd(b, x) if element == F16 else b.fptrunc(x, _with_element(x.type, F32))
        return convert_float(b, single, element)
    return b.fptrunc(x, _with_element(x.type, F16)) if element == F16 else _to_bf16(b, x)


def _with_element(type_: ir.Type, element: ir.Type) -> ir.Type:
    return ir.VectorType(element, type_.count) if isinstance(type_, ir.VectorType) else element


def _round_to_odd(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """f64 to f32, truncated, with the last bit set where anything was lost: a second rounding then sees it."""
    bits_type = _with_element(x.type, I32)
    nearest = b.fptrunc(x, _with_element(x.type, F32))
    back = b.fpext(nearest, x.type)
    grown = b.fcmp_ordered(">", unary(b, "fabs", back), unary(b, "fabs", x))
    bits = b.sub(b.bitcast(nearest, bits_type), b.zext(grown, bits_type))
    lost = b.zext(b.fcmp_ordered("!=", back, x), bits_type)
    return b.bitcast(b.or_(bits, lost), nearest.type)


def _to_bf16(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    bits_type, half_type = _with_element(x.type, I32), _with_element(x.type, I16)
    bits = b.bitcast(x, bits_type)
    even = b.and_(b.lshr(bits, constant(bits_type, 16)), constant(bits_type, 1))
    rounded = b.lshr(b.add(bits, b.add(even, constant(bits_type, 0x7FFF))), constant(bits_type, 16))
    quiet = b.or_(b.lshr(bits, constant(bits_type, 16)), constant(bits_type, 0x40))
    chosen = b.select(b.fcmp_unordered("uno", x, x), quiet, rounded)
    return b.bitcast(b.trunc(chosen, half_type), _with_element(x.type, BF16))
