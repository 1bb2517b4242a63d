"""pow: e^(y log |x|) with the logarithm as a double word, and the special cases of C's pow, which NumPy shares.

For f64, log((1 + s) / (1 - s)) = 2 s + 2/3 s^3 + s^5 P(s^2) with the first two terms in double words, so that the error
of y log |x|, which becomes a relative error of the result, stays under half an ulp. f32 is computed in f64.
"""

from __future__ import annotations

import math

from graphc_llvm import emit
from graphc_llvm.math.double_word import DoubleWord, add, divide, fast_two_sum, multiply, two_product, two_sum
from graphc_llvm.math.exp import LN2_HIGH, LN2_LOW, scaled_exp
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, where
from graphc_llvm.math.log import log, split_any

TWO_THIRDS_LOW = 3.700743415417188e-17


def power(x: Lanes, y: Lanes) -> Lanes:
    """x to the power y."""
    if x.is_f64:
        return with_special_cases(x, y, power_of_magnitude(x.abs(), y))
    wide_x, wide_y = (v.new(v.b.fpext(v.value, v.like(emit.F64))) for v in (x, y))
    magnitude = scaled_exp(wide_y * log(wide_x.abs()))
    result = with_special_cases(wide_x, wide_y, magnitude)
    return x.new(x.b.fptrunc(result.value, x.type))


def power_of_magnitude(x: Lanes, y: Lanes) -> Lanes:
    """x^y in f64 for x > 0 and finite; unspecified for other x."""
    logarithm = precise_log(x)
    high, low = two_product(logarithm.high, y)
    # Where the product overflows, its rounding error is no number.
    correction = where(high.abs() < 2.0**20, fma(logarithm.low, y, low), 0.0)
    return scaled_exp(high, correction=correction)


def precise_log(x: Lanes) -> DoubleWord:
    """log(x) for finite x > 0 in f64 with a relative error of about 2^-63."""
    k, m = split_any(x)
    s = divide(DoubleWord(m - 1.0, x.constant(0.0)), two_sum(m, 1.0))
    square = multiply(s, s)
    two_thirds = DoubleWord(x.constant(2.0 / 3.0), x.constant(TWO_THIRDS_LOW))
    cubic = multiply(multiply(s, square), two_thirds)
    rest = (s.high * square.high) * (square.high * polynomial(square.high, coefficients("log_ratio", x)))
    series = add(DoubleWord(s.high + s.high, s.low + s.low), DoubleWord(cubic.high, cubic.low + rest))
    high, low = two_product(k, LN2_HIGH[x.element])
    return add(fast_two_sum(high, fma(k, LN2_LOW[x.element], low)), series)


def with_special_cases(x: Lanes, y: Lanes, magnitude: Lanes) -> Lanes:
    """x^y from |x|^y, which is valid where x is finite and not 0."""
    absolute = x.abs()
    grows = (absolute > 1.0) ^ (y < 0.0)
    extreme = where(grows, x.constant(math.inf), 0.0)
    result = where(absolute.equals(0.0) | absolute.equals(math.inf), extreme, magnitude)
    result = where(absolute.equals(1.0), 1.0, result)
    half = y * 0.5
    integer = y.equals(y.intrinsic("floor"))
    odd = integer & half.compare("!=", half.intrinsic("floor"))
    result = where(odd, result.with_sign_of(x), result)
    result = where((x < 0.0) & (x > -math.inf) & ~integer, math.nan, result)
    result = where(x.is_nan() | y.is_nan(), math.nan, result)
    return where(x.equals(1.0) | y.equals(0.0), 1.0, result)
