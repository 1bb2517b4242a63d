"""Argument reduction for sin, cos and tan: x = n pi / 2 + r, |r| <= pi / 4, to nearly twice the working precision.

Up to 2^20 pi / 2 is subtracted as a sum of three floats (Cody and Waite). Beyond, which is rare, each such lane goes
through one function per module that multiplies by the bits of 2 / pi that matter (Payne and Hanek).
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import llvmlite.ir as ir

from graphc_llvm import emit
from graphc_llvm.math.double_word import DoubleWord, fast_two_sum, multiply, two_sum
from graphc_llvm.math.lanes import Lanes, fma

HALF_PI = {
    emit.F32: (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    emit.F64: (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
}
"""pi / 2 as a sum of floats; the first product below is exact, as in `exp`."""
CODY_WAITE_LIMIT = 2.0**20
WORDS = 20
FUNCTION = "graphc.remainder_by_half_pi"
RESULT = ir.LiteralStructType([emit.F64, emit.F64, emit.I64])


class Remainder(NamedTuple):
    """x = quadrant pi / 2 + r + low; only the last two bits of `quadrant`, an integer, count."""

    quadrant: Lanes
    r: Lanes
    low: Lanes


def reduce(x: Lanes) -> Remainder:
    """The remainder of x by pi / 2; NaN for infinities. Appends blocks to the function."""
    near, far = reduce_near(x), is_far(x)
    if not isinstance(x.type, ir.VectorType):
        return reduce_lane(x, near, far)
    b = x.b
    before = b.block
    with b.if_then(emit.reduce_vector(b, "or", far.value), likely=False):
        vectors = [part.value for part in near]
        with emit.fold_range(b, emit.i64(0), emit.i64(x.type.count), initial=vectors, name="lane") as loop:
            lane_x, *lane_near = (x.new(b.extract_element(v, loop.index)) for v in (x.value, *loop.carried))
            reduced = reduce_lane(lane_x, Remainder(*lane_near), is_far(lane_x))
            loop.update([b.insert_element(v, r.value, loop.index) for v, r in zip(loop.carried, reduced, strict=True)])
        inside = b.block
    return merge(near, before, [x.new(v) for v in loop.results], inside)


def is_far(x: Lanes) -> Lanes:
    """Lanes that `reduce_near` isn't for."""
    magnitude = x.abs()
    return (magnitude >= CODY_WAITE_LIMIT) & (magnitude < math.inf)


def reduce_lane(x: Lanes, near: Remainder, far: Lanes) -> Remainder:
    """`near`, or what the function for large arguments gives where `far` is set, for one lane."""
    b = x.b
    before = b.block
    with b.if_then(far.value, likely=False):
        argument = x.value if x.is_f64 else b.fpext(x.value, emit.F64)
        result = b.call(far_function(b.module), [argument])
        high, low, quadrant = (b.extract_value(result, i) for i in range(3))
        if not x.is_f64:
            wide = high
            high = b.fptrunc(wide, emit.F32)
            low = b.fptrunc(b.fadd(b.fsub(wide, b.fpext(high, emit.F64)), low), emit.F32)
            quadrant = b.trunc(quadrant, emit.I32)
        inside = b.block
    return merge(near, before, [x.new(v) for v in (quadrant, high, low)], inside)


def merge(old: Remainder, before: ir.Block, new: list[Lanes], inside: ir.Block) -> Remainder:
    """`new` if control came through `inside`, else `old`."""
    merged = []
    for without, with_ in zip(old, new, strict=True):
        phi = without.b.phi(without.type)
        phi.add_incoming(without.value, before)
        phi.add_incoming(with_.value, inside)
        merged.append(without.new(phi))
    return Remainder(*merged)


def reduce_near(x: Lanes) -> Remainder:
    """The remainder for |x| < 2^20."""
    first, second, third = HALF_PI[x.element]
    n = (x * (2.0 / math.pi)).intrinsic("roundeven")
    quadrant = (n + 1.5 * 2.0**x.mantissa_bits).bits()
    exact = fma(n, -first, x)
    if not x.strict:
        return Remainder(quadrant, fma(n, -third, fma(n, -second, exact)), x.constant(0.0))
    product = n * second
    r, lost = two_sum(exact, -product)
    # What the product lost, then the third part.
    low = fma(n, -third, lost - fma(n, second, -product))
    return Remainder(quadrant, *fast_two_sum(r, low))


@cache
def two_over_pi() -> tuple[int, ...]:
    """2 / pi in words of 64 bits, a word of zeros (the integer part) first."""
    bits = 64 * WORDS + 64
    one = 1 << bits

    def arctangent_of_inverse(n: int) -> int:
        total, power, k = 0, one // n, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
        return total

    pi = 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239))  # Machin
    ratio = ((2 << bits) << (64 * (WORDS - 1))) // pi
    return tuple((ratio >> (64 * (WORDS - 1 - i))) & (2**64 - 1) for i in range(WORDS))


def far_function(module: ir.Module) -> ir.Function:
    """The module's function f64 x -> (r, low, quadrant), for finite |x| >= 2^20; emitted on first use."""
    known = module.globals.get(FUNCTION)
    if known is not None:
        return known
    function = ir.Function(module, ir.FunctionType(RESULT, [emit.F64]), FUNCTION)
    function.linkage = "internal"
    for attribute in ("noinline", "nounwind", "cold"):
        function.attributes.add(attribute)
    words = ir.ArrayType(emit.I64, WORDS)
    table = ir.GlobalVariable(module, words, f"{FUNCTION}.bits")
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(words, list(two_over_pi()))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    emit_far_function(b, function.args[0], table)
    return function


def emit_far_function(b: ir.IRBuilder, argument: ir.Value, table: ir.Value) -> None:
    """Payne-Hanek: with |x| = m 2^e, the product of m and 192 bits of 2 / pi, modulo 4, as a fixed-point number."""
    i128, i192 = ir.IntType(128), ir.IntType(192)
    x = Lanes(b, argument)
    bits = x.bits()
    exponent = (bits.logical_shift_right(52) & 0x7FF) - 1075
    mantissa = (bits & (2**52 - 1)) | 2**52
    # Bits of 2 / pi above the window give multiples of 4 in the product.
    position = exponent + 62
    index, shift = position >> 6, position & 63
    word = [emit.load(b, emit.offset(b, table, (index + k).value, emit.I64), emit.I64) for k in range(4)]
    window = [emit.call_intrinsic(b, "llvm.fshl.i64", emit.I64, [word[k], word[k + 1], shift.value]) for k in range(3)]
    wide = b.zext(mantissa.value, i128)
    product = b.zext(b.mul(wide, b.zext(window[2], i128)), i192)
    product = b.add(product, b.shl(b.zext(b.mul(wide, b.zext(window[1], i128)), i192), ir.Constant(i192, 64)))
    product = b.add(product, b.shl(b.zext(b.mul(mantissa.value, window[0]), i192), ir.Constant(i192, 128)))
    # The product has 190 fraction bits: round to the nearest quadrant, keep the signed rest.
    rounded = b.lshr(b.add(product, ir.Constant(i192, 1 << 189)), ir.Constant(i192, 190))
    quadrant = x.new(b.trunc(rounded, emit.I64))
    rest = b.shl(product, ir.Constant(i192, 2))
    negative = b.icmp_signed("<", rest, ir.Constant(i192, 0))
    rest = b.select(negative, b.neg(rest), rest)
    top = b.trunc(b.lshr(rest, ir.Constant(i192, 64)), i128)
    zeros = emit.call_intrinsic(b, "llvm.ctlz.i128", i128, [top, ir.Constant(emit.I1, 0)])
    normal = b.shl(top, zeros)
    high_bits = x.new(b.trunc(b.lshr(normal, ir.Constant(i128, 75)), emit.I64))
    low_bits = x.new(b.trunc(b.lshr(normal, ir.Constant(i128, 22)), emit.I64)) & (2**53 - 1)
    scale = ((1023 - 53 - x.new(b.trunc(zeros, emit.I64))) << 52).as_float()
    fraction = DoubleWord(high_bits.to_float(emit.F64) * scale, low_bits.to_float(emit.F64) * scale * 2.0**-53)
    first, second, _ = HALF_PI[emit.F64]
    r = multiply(fraction, DoubleWord(x.constant(first), x.constant(second)))
    flip = b.xor(negative, (x < 0.0).value)
    result = ir.Constant(RESULT, ir.Undefined)
    for i, part in enumerate(r):
        result = b.insert_value(result, b.select(flip, (-part).value, part.value), i)
    turned = b.select((x < 0.0).value, (-quadrant).value, quadrant.value)
    b.ret(b.insert_value(result, turned, 2))
