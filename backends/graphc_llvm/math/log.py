"""log and log1p, and the logarithm of a double word that the inverse hyperbolic functions need.

x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); log(x) = k ln 2 + (f - f^2 / 2 + f^3 P(f)), P minimax. f is exact.
"""

from __future__ import annotations

import math

from graphc_llvm import emit
from graphc_llvm.math.double_word import DoubleWord, fast_two_sum, two_sum
from graphc_llvm.math.exp import LN2_HIGH, LN2_LOW
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, power_of_two, where

SMALLEST_NORMAL = {emit.F32: 2.0**-126, emit.F64: 2.0**-1022}
INFINITY_BITS = {emit.F32: 0x7F800000, emit.F64: 0x7FF0000000000000}
ROOT_HALF_BITS = {emit.F32: 0x3F3504F3, emit.F64: 0x3FE6A09E667F3BCD}
"""The bits of sqrt(1/2)."""


def split(x: Lanes) -> tuple[Lanes, Lanes]:
    """(k, m) with x = 2^k m and m in [sqrt(1/2), sqrt(2)), k as a float; x positive, finite and normal."""
    bits, places, bias = x.bits(), x.mantissa_bits, x.bias
    # Subtracting the bits of sqrt(1/2) carries out of the mantissa exactly where m >= sqrt(1/2).
    biased = (bits + ((bias << places) - ROOT_HALF_BITS[x.element])).logical_shift_right(places)
    k = (biased | x.constant(2.0**places).bits()).as_float() - (2.0**places + bias)
    return k, (bits + (bias << places) - (biased << places)).as_float()


def split_any(x: Lanes) -> tuple[Lanes, Lanes]:
    """`split` for positive x, denormals too."""
    tiny = x < SMALLEST_NORMAL[x.element]
    lift = x.mantissa_bits + 2
    k, m = split(where(tiny, x * 2.0**lift, x))
    return where(tiny, k - float(lift), k), m


def log_of_split(k: Lanes, f: Lanes, correction: Lanes | float = 0.0) -> Lanes:
    """k ln 2 + log(1 + f) + correction, for 1 + f in [sqrt(1/2), sqrt(2))."""
    tail = (f * f) * fma(f, polynomial(f, coefficients("log", f)), -0.5)
    if isinstance(correction, Lanes):
        tail = tail + correction
    return fma(k, LN2_HIGH[f.element], f + fma(k, LN2_LOW[f.element], tail))


def with_special_cases(x: Lanes, result: Lanes) -> Lanes:
    """`result`, or what log gives for x = 0 (-inf), x < 0 (NaN), inf and NaN."""
    bits = x.bits() - 1
    ordinary = x.new(x.b.icmp_unsigned("<", bits.value, bits.lift(INFINITY_BITS[x.element] - 1)))
    special = where(x.equals(0.0), -math.inf, where(x < 0.0, math.nan, x))
    return where(ordinary, result, special)


def log(x: Lanes) -> Lanes:
    """The natural logarithm."""
    k, m = split_any(x)
    return with_special_cases(x, log_of_split(k, m - 1.0))


def log1p(x: Lanes) -> Lanes:
    """log(1 + x), accurate near 0."""
    total, error = two_sum(x, 1.0)
    k, m = split(total)
    f = (m - 1.0) + error * power_of_two(-k.at_most(x.bias - 1.0))
    # The sum loses the sign of a zero.
    return where(x.equals(0.0), x, with_special_cases(total, log_of_split(k, f)))


def log_of_double_word(x: DoubleWord, doublings: Lanes | float = 0.0) -> Lanes:
    """log(2^doublings (high + low)) for normal, finite high > 0, accurate near 1 to the working precision."""
    k, m = split(x.high)
    f, low = fast_two_sum(m - 1.0, x.low * power_of_two(-k.at_most(m.bias - 1.0)))
    return log_of_split(k + doublings, f, low / (f + 1.0))
