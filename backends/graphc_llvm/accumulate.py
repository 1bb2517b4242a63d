"""Accumulators of reductions: their start, one step, and how several become one; scalars and vectors alike.

A step's order is: the accumulator comes before the new element, so "first wins" in argmax means that ties keep the
accumulator. f16 and bf16 accumulate in f32. A NaN wins in max, min, argmax and argmin, the first one in the latter two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import llvmlite.ir as ir

from graphc.ir.types import DType, f32, i64
from graphc.lowering.loop_body import ReduceKind
from graphc_llvm.emit import binary, constant, i32, is_float, reduce_vector
from graphc_llvm.values import ssa_type

Accumulator = list[ir.Value]
"""One value; for argmax and argmin the extreme and its position."""


def accumulator_dtype(dtype: DType) -> DType:
    """The type in which values of `dtype` are accumulated."""
    return f32 if dtype.is_float and dtype.bytes == 2 else dtype


def start(kind: ReduceKind, dtype: DType, width: int, partial: bool = False) -> Accumulator:
    """The identity of the reduction of values of `dtype`, in `width` lanes (a scalar where 1).

    partial: not all elements take part. Position -1 then says that none has yet. Where all do, position 0 serves: no
    element wins over the identity only if all equal it.
    """
    type_ = ssa_type(accumulator_dtype(dtype), width)
    match kind:
        case "sum":
            return [constant(type_, 0)]
        case "prod":
            return [constant(type_, 1)]
        case "max" | "argmax":
            first = [constant(type_, _lowest(dtype))]
        case "min" | "argmin":
            first = [constant(type_, _highest(dtype))]
    return first if kind in ("max", "min") else [*first, constant(ssa_type(i64, width), -1 if partial else 0)]


def _lowest(dtype: DType) -> float:
    if dtype.is_float:
        return -math.inf
    return -(2 ** (8 * dtype.bytes - 1)) if dtype.kind == "int" else 0


def _highest(dtype: DType) -> float:
    if dtype.is_float:
        return math.inf
    if dtype.is_bool:
        return 1
    return 2 ** (8 * dtype.bytes - (1 if dtype.kind == "int" else 0)) - 1


def step(
    b: ir.IRBuilder,
    kind: ReduceKind,
    dtype: DType,
    acc: Accumulator,
    x: ir.Value,
    position: ir.Value | None = None,
    partial: bool = False,
) -> Accumulator:
    """The accumulator after one more element, which in argmax and argmin has a position."""
    match kind:
        case "sum":
            return [b.fadd(acc[0], x) if is_float(x.type) else b.add(acc[0], x)]
        case "prod":
            return [b.fmul(acc[0], x) if is_float(x.type) else b.mul(acc[0], x)]
        case "max" | "min":
            return [_extreme(b, kind, dtype, acc[0], x)]
    assert position is not None
    wins = _wins(b, kind, dtype, acc[0], x)
    if partial:
        wins = b.or_(wins, _none_yet(b, acc))
    return [b.select(wins, x, acc[0]), b.select(wins, position, acc[1])]


def _none_yet(b: ir.IRBuilder, acc: Accumulator) -> ir.Value:
    return b.icmp_signed("<", acc[1], constant(acc[1].type, 0))


def _extreme(b: ir.IRBuilder, kind: str, dtype: DType, acc: ir.Value, x: ir.Value) -> ir.Value:
    if is_float(x.type):
        better = b.select(b.fcmp_ordered(">" if kind == "max" else "<", x, acc), x, acc)
        return b.select(b.fcmp_unordered("uno", x, x), x, better)
    if dtype.is_bool:
        return b.or_(acc, x) if kind == "max" else b.and_(acc, x)
    return binary(b, ("s" if dtype.kind == "int" else "u") + kind, acc, x)


def _wins(b: ir.IRBuilder, kind: str, dtype: DType, acc: ir.Value, x: ir.Value) -> ir.Value:
    """Whether x is strictly more extreme than what was found before."""
    sign = ">" if kind == "argmax" else "<"
    if is_float(x.type):
        new_nan = b.and_(b.fcmp_unordered("uno", x, x), b.fcmp_ordered("ord", acc, acc))
        return b.or_(b.fcmp_ordered(sign, x, acc), new_nan)
    return b.icmp_signed(sign, x, acc) if dtype.kind == "int" else b.icmp_unsigned(sign, x, acc)


def merge(b: ir.IRBuilder, kind: ReduceKind, dtype: DType, x: Accumulator, y: Accumulator) -> Accumulator:
    """Two accumulators of disjoint parts as one; in argmax and argmin the smaller position wins ties."""
    if len(x) == 1:
        return step(b, kind, dtype, x, y[0])
    wins = _wins(b, kind, dtype, x[0], y[0])
    if is_float(x[0].type):
        both_nan = b.and_(b.fcmp_unordered("uno", x[0], x[0]), b.fcmp_unordered("uno", y[0], y[0]))
        tie = b.or_(b.fcmp_ordered("==", x[0], y[0]), both_nan)
    else:
        tie = b.icmp_signed("==", x[0], y[0])
    wins = b.or_(wins, b.and_(tie, b.icmp_signed("<", y[1], x[1])))
    # Without any element yet, x loses and y can't win.
    wins = b.and_(b.or_(wins, _none_yet(b, x)), b.not_(_none_yet(b, y)))
    return [b.select(wins, y[0], x[0]), b.select(wins, y[1], x[1])]


def merge_all(b: ir.IRBuilder, kind: ReduceKind, dtype: DType, parts: Sequence[Accumulator]) -> Accumulator:
    """Several accumulators as one, pairwise in a fixed order."""
    current = list(parts)
    while len(current) > 1:
        pairs = [merge(b, kind, dtype, x, y) for x, y in zip(current[::2], current[1::2], strict=False)]
        current = pairs + current[len(pairs) * 2 :]
    return current[0]


def across_lanes(b: ir.IRBuilder, kind: ReduceKind, dtype: DType, acc: Accumulator) -> Accumulator:
    """The accumulator of a vector's lanes as one scalar accumulator."""
    x = acc[0]
    if not isinstance(x.type, ir.VectorType):
        return acc
    if kind in ("sum", "prod"):
        float_, integer = ("fadd", "add") if kind == "sum" else ("fmul", "mul")
        return [reduce_vector(b, float_ if is_float(x.type) else integer, x)]
    if dtype.is_bool:
        return [reduce_vector(b, "or" if kind == "max" else "and", x)]
    if len(acc) == 1 and not is_float(x.type):
        return [reduce_vector(b, ("s" if dtype.kind == "int" else "u") + kind, x)]
    width = x.type.count
    while width > 1:
        half = width // 2
        low = [_part(b, v, 0, half) for v in acc]
        high = [_part(b, v, half, half) for v in acc]
        acc = merge(b, kind, dtype, low, high)
        width = half
    return [b.extract_element(v, i32(0)) if isinstance(v.type, ir.VectorType) else v for v in acc]


def _part(b: ir.IRBuilder, v: ir.Value, first: int, count: int) -> ir.Value:
    mask = ir.Constant(ir.VectorType(i32(0).type, count), list(range(first, first + count)))
    return b.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), mask)


def keep_lanes(b: ir.IRBuilder, mask: ir.Value, new: Accumulator, old: Accumulator) -> Accumulator:
    """The new accumulator where the mask is on, the old one elsewhere."""
    return [b.select(mask, n, o) for n, o in zip(new, old, strict=True)]

