"""Pairs of bf16: AVX-512's dot product, which adds two products to each f32 of a vector.

`vdpbf16ps` rounds each product's sum to nearest even, takes denormals of operands for zeros, and flushes those of results:
values below 2^-126 count as 0. NaN and infinity go through.
"""

from __future__ import annotations

import llvmlite.ir as ir

from graphc_llvm.emit import BF16, F16, F32, I16, I32, call_intrinsic, constant, convert_float, i32, load, splat


def add_pairs(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """z[i] + x[2i] * y[2i] + x[2i+1] * y[2i+1], for vectors of bf16 and z of f32."""
    bits = 32 * z.type.count
    return call_intrinsic(b, f"llvm.x86.avx512bf16.dpbf16ps.{bits}", z.type, [z, x, y])


def splat_pair(b: ir.IRBuilder, pointer: ir.Value, lanes: int, other: ir.Value | None = None) -> ir.Value:
    """The two bf16 at `pointer`, or those at `pointer` and `other`, `lanes` times."""
    if other is None:
        pair = b.load(pointer, align=2, typ=I32)
    else:
        low, high = (b.zext(b.load(p, align=2, typ=I16), I32) for p in (pointer, other))
        pair = b.or_(low, b.shl(high, i32(16)))
    return b.bitcast(splat(b, pair, lanes), ir.VectorType(BF16, 2 * lanes))


def splat_wide(b: ir.IRBuilder, pointer: ir.Value, element: ir.Type, type_: ir.VectorType) -> ir.Value:
    """The scalar at `pointer` in each lane of a vector of floats as wide or wider.

    A bf16 is repeated in each half of a lane, and shifted in all lanes at once: shorter than widening it before.
    """
    if element == BF16 and type_.element == F32:
        bits = splat(b, load(b, pointer, I16), 2 * type_.count)
        lanes = ir.VectorType(I32, type_.count)
        return b.bitcast(b.shl(b.bitcast(bits, lanes), constant(lanes, 16)), type_)
    if element == F16:  # which few targets have in registers
        bits = splat(b, load(b, pointer, I16), type_.count)
        return convert_float(b, b.bitcast(bits, ir.VectorType(F16, type_.count)), type_.element)
    return convert_float(b, splat(b, load(b, pointer, element), type_.count), type_.element)


def round_to_bf16(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The bits of the nearest bf16 of each f32, ties to even, by one instruction, which takes denormals for zeros."""
    narrow = b.fptrunc(x, ir.VectorType(BF16, x.type.count))
    return b.bitcast(narrow, ir.VectorType(I16, x.type.count))
