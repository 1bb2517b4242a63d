"""exp, expm1 and sigmoid.

exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2, |r| <= ln 2 / 2; ln 2 is a sum of two floats, and the
first fma is exact, because its result is a multiple of the last bit of both terms and has no more bits than they.
exp(r) = 1 + r + r^2 P(r) with P minimax.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from graphc_llvm import emit
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, power_of_two, where

LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH = {emit.F32: 0.6931471824645996, emit.F64: 0.6931471805599453}
LN2_LOW = {emit.F32: -1.9046542121259336e-09, emit.F64: 2.3190468138462996e-17}
"""ln 2 - LN2_HIGH."""
LOWEST = {emit.F32: -104.0, emit.F64: -746.0}
"""exp rounds to 0 from here down."""
HIGHEST = {emit.F32: 90.0, emit.F64: 711.0}
"""exp, and even exp / 2, overflows from here up."""
OVERFLOW = {emit.F32: 89.0, emit.F64: 710.0}
"""exp overflows from here up, and round(x / ln 2) is the largest exponent still."""
SATURATED = {emit.F32: -20.0, emit.F64: -40.0}
"""expm1 rounds to -1 from here down."""
DENORMAL_SHIFT = {emit.F32: 30, emit.F64: 60}


class Reduced(NamedTuple):
    """x = n ln 2 + r."""

    n: Lanes
    r: Lanes
    error: Lanes
    """What rounding r lost, for those who can use it."""


def reduce(x: Lanes) -> Reduced:
    """n = round(x / ln 2) and the rest r."""
    n = (x * LOG2_E).intrinsic("roundeven")
    first = fma(n, -LN2_HIGH[x.element], x)
    r = fma(n, -LN2_LOW[x.element], first)
    return Reduced(n, r, fma(n, -LN2_LOW[x.element], first - r))


def series(r: Lanes) -> Lanes:
    """exp(r) - 1 - r for |r| <= ln 2 / 2."""
    return (r * r) * polynomial(r, coefficients("exp", r))


def scaled_exp(x: Lanes, scale: float = 1.0, correction: Lanes | None = None) -> Lanes:
    """exp(x + correction) * scale over the whole range, denormals and NaN included; scale is 1 or 1/2, the correction
    so small that its square doesn't count."""
    x = x.at_most(HIGHEST[x.element]).at_least(LOWEST[x.element])
    n, r, error = reduce(x)
    tail = series(r)
    if correction is not None:
        correction = error + correction
        tail = tail + fma(correction, r + tail, correction)
    p = (r + tail) + 1.0
    # n reaches from below the smallest exponent to above the largest, so 2^n is built as 2^(n + shift) * 2^-shift.
    shift = DENORMAL_SHIFT[x.element]
    negative = x < 0.0
    offset = where(negative, x.constant(float(shift)), -float(shift))
    rest = where(negative, x.constant(scale * 2.0**-shift), scale * 2.0**shift)
    return p * power_of_two(n + offset) * rest


def exp(x: Lanes) -> Lanes:
    """e^x."""
    return scaled_exp(x)


def exp_of_nonpositive(x: Lanes) -> Lanes:
    """e^x for x <= 0 or NaN; cheaper than `exp`."""
    shift = DENORMAL_SHIFT[x.element]
    n, r, _ = reduce(x.at_least(LOWEST[x.element]))
    return ((r + series(r)) + 1.0) * power_of_two(n + float(shift)) * 2.0**-shift


def exp_of_nonpositive_or_zero(x: Lanes) -> Lanes:
    """e^x for x <= 0 or NaN, and 0 where that is no normal number; within 4 ulp, and the cheapest."""
    # The sum's low bits are n + bias, which the shift makes 2^n: 0 for n = -bias, to which x is cut off.
    shifter = 1.5 * 2.0**x.mantissa_bits + x.bias
    x = x.at_least(-x.bias / LOG2_E)
    shifted = fma(x, LOG2_E, shifter)
    n = shifted - shifter
    r = fma(n, -LN2_LOW[x.element], fma(n, -LN2_HIGH[x.element], x))
    p = fma(fma(polynomial(r, coefficients("exp", r)), r, 1.0), r, 1.0)
    return p * (shifted.bits() << x.mantissa_bits).as_float()


def expm1(x: Lanes) -> Lanes:
    """e^x - 1, accurate near 0."""
    bounded = x.at_most(OVERFLOW[x.element]).at_least(SATURATED[x.element])
    n, r, error = reduce(bounded)
    p = r + (series(r) + error)
    # With half of 2^n the largest results don't overflow on the way.
    half = power_of_two(n - 1.0)
    result = fma(half, p, half - 0.5) * 2.0
    return where(n.equals(0.0), p, result).with_sign_of(x)


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e^-x), as e^x / (1 + e^x) where x < 0, so that nothing overflows or cancels."""
    t = exp_of_nonpositive(-x.abs())
    numerator = where(x < 0.0, t, 1.0)
    total = t + 1.0
    if not x.strict:
        return numerator / total
    # One correction for the rounding of 1 + t and of the quotient.
    inverse = 1.0 / total
    quotient = numerator * inverse
    rest = fma(-quotient, total, numerator) - quotient * (t - (total - 1.0))
    return fma(rest, inverse, quotient)
