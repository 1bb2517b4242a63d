"""The remainders of floats: `rem` with the sign of the dividend (C's fmod), `mod` with the divisor's (Python's %).

Both are exact. Where |x / y| has too many bits for one quotient, multiples of y 2^j are subtracted first, in a loop
that ends after one round for quotients under 2^21 (f32) or 2^50 (f64).
"""

from __future__ import annotations

import math

import llvmlite.ir as ir

from graphc_llvm import emit
from graphc_llvm.math.lanes import Lanes, fma, power_of_two, where
from graphc_llvm.math.log import SMALLEST_NORMAL


def rem(x: Lanes, y: Lanes) -> Lanes:
    """x - y trunc(x / y), exactly; NaN where x is infinite or y is 0."""
    b, magnitude, divisor = x.b, x.abs(), y.abs()
    valid = (magnitude < math.inf) & (divisor > 0.0)
    start, divisor = where(valid, magnitude, 0.0), where(valid, divisor, 1.0)
    low_exponent = exponent(divisor)
    before, body, after = b.block, b.append_basic_block("rem.body"), b.append_basic_block("rem.exit")
    b.cbranch(any_lane(start >= divisor), body, after)
    b.position_at_end(body)
    phi = b.phi(x.type)
    rest = x.new(phi)
    reduced = subtract_multiple(rest, divisor, low_exponent)
    phi.add_incoming(start.value, before)
    phi.add_incoming(reduced.value, b.block)
    b.cbranch(any_lane(reduced >= divisor), body, after)
    b.position_at_end(after)
    result = b.phi(x.type)
    result.add_incoming(start.value, before)
    result.add_incoming(reduced.value, body)
    return where(valid, x.new(result).with_sign_of(x), math.nan)


def mod(x: Lanes, y: Lanes) -> Lanes:
    """x - y floor(x / y) as Python and NumPy define it: the result has the sign of y, a zero too."""
    rest = rem(x, y)
    moved = where((rest < 0.0) ^ (y < 0.0), rest + y, rest)
    return where(rest.equals(0.0), x.constant(0.0).with_sign_of(y), moved)


def exponent(x: Lanes) -> Lanes:
    """floor(log2(x)) as a float for x > 0 and finite, denormals too."""
    tiny = x < SMALLEST_NORMAL[x.element]
    lift = x.mantissa_bits + 2
    raised = where(tiny, x * 2.0**lift, x)
    biased = raised.bits().logical_shift_right(x.mantissa_bits) | x.constant(2.0**x.mantissa_bits).bits()
    unbiased = biased.as_float() - (2.0**x.mantissa_bits + x.bias)
    return where(tiny, unbiased - float(lift), unbiased)


def subtract_multiple(rest: Lanes, divisor: Lanes, low_exponent: Lanes) -> Lanes:
    """`rest` less as large a multiple of `divisor` as one exact fma can take away; 0 <= rest, rest may be < divisor."""
    excess = exponent(rest) - low_exponent - float(rest.mantissa_bits - 1)
    shift = where(excess > 0.0, excess, 0.0)
    half = (shift * 0.5).intrinsic("floor")
    raised = divisor * power_of_two(half) * power_of_two(shift - half)
    quotient = (rest / raised).intrinsic("trunc")
    left = fma(-quotient, raised, rest)
    # The division may have rounded up to the next integer.
    left = where(left < 0.0, left + raised, left)
    return where(rest >= divisor, left, rest)


def any_lane(mask: Lanes) -> ir.Value:
    """Whether any lane is on, as an i1."""
    return emit.reduce_vector(mask.b, "or", mask.value) if isinstance(mask.type, ir.VectorType) else mask.value
