"""Integer arithmetic that can't trap: truncated division and its remainder, Python's modulo, shifts by any count."""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir

from graphc_llvm import emit
from graphc_llvm.math.lanes import Lanes, where

Fault = Callable[[ir.IRBuilder, ir.Value], None]
"""Called with the builder and the mask (i1 or a vector of i1) of lanes whose operands have no result."""


def smallest(x: Lanes) -> int:
    """The most negative value of the type of x, signed."""
    return -(1 << (int(x.element.width) - 1))


def maximum(x: Lanes, y: Lanes, signed: bool) -> Lanes:
    """The larger."""
    return x.new(emit.binary(x.b, "smax" if signed else "umax", x.value, y.value))


def minimum(x: Lanes, y: Lanes, signed: bool) -> Lanes:
    """The smaller."""
    return x.new(emit.binary(x.b, "smin" if signed else "umin", x.value, y.value))


def absolute(x: Lanes, signed: bool) -> Lanes:
    """|x|; the smallest integer stays."""
    return where(x < 0, -x, x) if signed else x


def sign(x: Lanes, signed: bool) -> Lanes:
    """-1, 0 or 1."""
    one = x.constant(1)
    return where(x.equals(0), 0, where(x < 0, -1, one) if signed else one)


def divide(x: Lanes, y: Lanes, signed: bool, fault: Fault | None) -> Lanes:
    """x / y, truncated; where it has no value, x and a fault."""
    return quotient_and_remainder(x, y, signed, fault)[0]


def rem(x: Lanes, y: Lanes, signed: bool, fault: Fault | None) -> Lanes:
    """The remainder of the truncated division, with the sign of x; 0 and a fault where that has no value."""
    return quotient_and_remainder(x, y, signed, fault)[1]


def mod(x: Lanes, y: Lanes, signed: bool, fault: Fault | None) -> Lanes:
    """The remainder of the floored division, with the sign of y; 0 and a fault where that has no value."""
    rest = rem(x, y, signed, fault)
    if not signed:
        return rest
    return where(rest.compare("!=", 0) & ((rest ^ y) < 0), rest + y, rest)


def quotient_and_remainder(x: Lanes, y: Lanes, signed: bool, fault: Fault | None) -> tuple[Lanes, Lanes]:
    """The truncated division; x / 0 and MIN / -1 are faults, and divide by 1 instead, so that nothing traps."""
    unsafe = y.equals(0)
    if signed:
        unsafe = unsafe | (x.equals(smallest(x)) & y.equals(-1))
    if fault is not None:
        fault(x.b, unsafe.value)
    divisor = where(unsafe, 1, y)
    quotient = truncated_quotient(x, divisor, signed)
    return quotient, x - quotient * divisor


def truncated_quotient(x: Lanes, y: Lanes, signed: bool) -> Lanes:
    """x / y for divisors that can't trap."""
    b, bits = x.b, x.element.width
    if bits == 64 or not isinstance(x.type, ir.VectorType) or isinstance(y.value, ir.Constant):
        return x.new((b.sdiv if signed else b.udiv)(x.value, y.value))
    # No machine divides vectors of integers. A quotient of floats truncates to the right integer, because one that
    # isn't an integer differs from the next by 2^-bits of it or more, and the mantissa is longer than that.
    float_type = x.like(emit.F32 if bits <= 16 else emit.F64)
    if signed:
        ratio = b.fdiv(b.sitofp(x.value, float_type), b.sitofp(y.value, float_type))
        return x.new(b.fptosi(ratio, x.type))
    ratio = b.fdiv(b.uitofp(x.value, float_type), b.uitofp(y.value, float_type))
    return x.new(b.fptoui(ratio, x.type))


def shift_left(x: Lanes, count: Lanes) -> Lanes:
    """x << count; 0 for a count that is negative or not below the width."""
    inside = in_range(x, count)
    return where(inside, x << where(inside, count, 0), 0)


def shift_right(x: Lanes, count: Lanes, signed: bool) -> Lanes:
    """x >> count, arithmetic for signed types; a count out of range shifts everything out."""
    inside = in_range(x, count)
    if signed:
        return x >> where(inside, count, x.element.width - 1)
    return where(inside, x.logical_shift_right(where(inside, count, 0)), 0)


def in_range(x: Lanes, count: Lanes) -> Lanes:
    """Counts that LLVM's shifts define."""
    return count.new(count.b.icmp_unsigned("<", count.value, count.lift(x.element.width)))
