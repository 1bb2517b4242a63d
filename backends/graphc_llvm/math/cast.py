"""Conversions between dtypes. `emit_cast` is the one door.

As SSA values bool is i1, bf16 is i16 (its bits; LLVM's bfloat is taken too), f16 is half; in memory a bool is a byte,
0 or 1. Floats become integers by truncation, saturating, NaN as 0; integers wrap; anything but 0 becomes True, NaN too.
Floats that are narrowed round once, to nearest even, also from f64 to f16 or bf16.
"""

from __future__ import annotations

import llvmlite.ir as ir

from graphc_llvm import emit
from graphc_llvm.math.lanes import Lanes, where

FLOATS = {"f16": emit.F16, "bf16": emit.I16, "f32": emit.F32, "f64": emit.F64}
BITS = {"bool": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "u8": 8, "u16": 16, "u32": 32, "u64": 64}


def emit_cast(b: ir.IRBuilder, value: ir.Value, from_dtype: str, to_dtype: str) -> ir.Value:
    """`value`, a scalar or vector of dtype `from_dtype`, as `to_dtype`."""
    if from_dtype == to_dtype:
        return value
    x = widen(Lanes(b, value), from_dtype)
    if to_dtype == "bool":
        return x.compare("!=", 0).value
    if from_dtype in FLOATS:
        return narrow(x, to_dtype).value if to_dtype in FLOATS else to_integer(x, to_dtype).value
    if to_dtype in FLOATS:
        # Integers become f16 or bf16 by way of f32, as in NumPy.
        convert = b.sitofp if is_signed(from_dtype) else b.uitofp
        wide = x.new(convert(x.value, x.like(emit.F64 if to_dtype == "f64" else emit.F32)))
        return narrow(wide, to_dtype).value
    return resize_integer(x, BITS[to_dtype], is_signed(from_dtype)).value


def load_bool(b: ir.IRBuilder, byte: ir.Value) -> ir.Value:
    """The i1 (or vector of i1) for a byte (or vector of bytes) from memory."""
    return Lanes(b, byte).compare("!=", 0).value


def store_bool(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The byte, 0 or 1, that an i1 is in memory."""
    return b.zext(value, Lanes(b, value).like(emit.I8))


def is_signed(dtype: str) -> bool:
    """Whether `dtype` names a signed integer type."""
    return dtype.startswith("i")


def widen(x: Lanes, dtype: str) -> Lanes:
    """f16 and bf16 as f32, exactly; other dtypes as they are."""
    if dtype == "f16":
        return x.new(x.b.fpext(x.value, x.like(emit.F32)))
    if dtype == "bf16":
        bits = x if x.element == emit.I16 else x.new(x.b.bitcast(x.value, x.like(emit.I16)))
        return (bits.new(x.b.zext(bits.value, x.like(emit.I32))) << 16).as_float()
    return x


def narrow(x: Lanes, dtype: str) -> Lanes:
    """An f32 or f64 value as the float type `dtype`, rounded once."""
    b, target = x.b, FLOATS[dtype]
    if dtype in ("f32", "f64"):
        if x.element == target:
            return x
        return x.new((b.fptrunc if x.is_f64 else b.fpext)(x.value, x.like(target)))
    if x.is_f64:
        x = round_to_odd(x)
    return x.new(b.fptrunc(x.value, x.like(target))) if dtype == "f16" else to_bf16(x)


def round_to_odd(x: Lanes) -> Lanes:
    """f64 as f32, inexact results with an odd last bit, so that rounding them again rounds right."""
    b = x.b
    near = x.new(b.fptrunc(x.value, x.like(emit.F32)))
    back = x.new(b.fpext(near.value, x.type))
    bits = near.bits()
    beyond = x.new(b.zext((back.abs() > x.abs()).value, bits.type))
    inexact = x.new(b.zext((back.compare("!=", x) & x.equals(x)).value, bits.type))
    return ((bits - beyond) | inexact).as_float()


def to_bf16(x: Lanes) -> Lanes:
    """The bits of the nearest bf16 of an f32, as i16; ties to even, NaNs quiet."""
    b, bits = x.b, x.bits()
    upper = bits.logical_shift_right(16)
    rounded = (bits + ((upper & 1) + 0x7FFF)).logical_shift_right(16)
    result = where(x.is_nan(), upper | 0x40, rounded)
    return x.new(b.trunc(result.value, x.like(emit.I16)))


def to_integer(x: Lanes, dtype: str) -> Lanes:
    """An f32 or f64 value truncated to an integer, the nearest end of the range beyond it, 0 for NaN."""
    b, bits, signed = x.b, BITS[dtype], is_signed(dtype)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    # Converted in 32 bits at least, where machines have instructions.
    type_ = x.like(ir.IntType(max(bits, 32)))
    if bits < 32:
        bounded = x.at_least(float(low)).at_most(float(high))
        result = x.new(b.fptosi(bounded.value, type_))
        return x.new(b.trunc(where(x.is_nan(), 0, result).value, x.like(ir.IntType(bits))))
    result = x.new((b.fptosi if signed else b.fptoui)(x.value, type_))
    # Out of range the conversion has no defined value, and the selects drop it.
    result = where(x >= float(high + 1), high, where(x > low - 1.0, result, low) if not signed else
                   where(x >= float(low), result, low))
    return where(x.is_nan(), 0, result)


def resize_integer(x: Lanes, bits: int, signed: bool) -> Lanes:
    """An integer with other bits: cut off, or extended by its sign or zeros."""
    if x.element.width == bits:
        return x
    target = x.like(ir.IntType(bits))
    if x.element.width > bits:
        return x.new(x.b.trunc(x.value, target))
    return x.new((x.b.sext if signed else x.b.zext)(x.value, target))


