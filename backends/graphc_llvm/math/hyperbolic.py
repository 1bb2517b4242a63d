"""sinh, cosh, tanh and their inverses.

Near 0 the odd functions are x + x^3 P(x^2), farther out they are made of e^|x|. The inverses are logarithms of
arguments held as double words, which keeps them accurate where the argument is near 1.
"""

from __future__ import annotations

import math

from graphc_llvm import emit
from graphc_llvm.math.double_word import DoubleWord, add, divide, fast_two_sum, square_root, two_product, two_sum
from graphc_llvm.math.exp import reduce, scaled_exp, series
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, power_of_two, where
from graphc_llvm.math.log import log_of_double_word

TANH_ONE = {emit.F32: 9.02, emit.F64: 20.0}
"""tanh rounds to 1 from here up."""
HUGE = {emit.F32: 2.0**30, emit.F64: 2.0**60}
"""From here up sqrt(x^2 +- 1) is x."""
TINY = {emit.F32: 2.0**-13, emit.F64: 2.0**-28}
"""Up to here asinh and atanh are x."""


def odd_series(name: str, x: Lanes) -> Lanes:
    """x + x^3 P(x^2) with the polynomial `name`."""
    square = x * x
    return fma(x * square, polynomial(square, coefficients(name, x)), x)


def sinh(x: Lanes) -> Lanes:
    """(e^x - e^-x) / 2."""
    magnitude = x.abs()
    half = scaled_exp(magnitude, 0.5)
    return where(magnitude < 1.0, odd_series("sinh", magnitude), half - 0.25 / half).with_sign_of(x)


def cosh(x: Lanes) -> Lanes:
    """(e^x + e^-x) / 2."""
    half = scaled_exp(x.abs(), 0.5)
    return half + 0.25 / half


def tanh(x: Lanes) -> Lanes:
    """(e^x - e^-x) / (e^x + e^-x)."""
    magnitude = x.abs().at_most(TANH_ONE[x.element])
    n, r, _ = reduce(magnitude + magnitude)
    power, tail = power_of_two(n), series(r)
    if not x.strict:
        grown = fma(power, r + tail, power - 1.0)  # e^(2 |x|) - 1
        return (grown / (grown + 2.0)).with_sign_of(x)
    grown = ((r + tail) + 1.0) * power
    return where(magnitude < 0.6, odd_series("tanh", magnitude), 1.0 - 2.0 / (grown + 1.0)).with_sign_of(x)


def asinh(x: Lanes) -> Lanes:
    """log(x + sqrt(x^2 + 1))."""
    magnitude = x.abs()
    huge, tiny = magnitude > HUGE[x.element], magnitude < TINY[x.element]
    bounded = where(huge, 1.0, magnitude)
    square, error = two_product(bounded, bounded)
    one = DoubleWord(x.constant(1.0), x.constant(0.0))
    root = square_root(add(one, DoubleWord(square, error)))
    result = log_of_root(magnitude, root, huge)
    # Infinity and NaN are left as they are.
    return where(tiny, magnitude, where(magnitude < math.inf, result, magnitude)).with_sign_of(x)


def acosh(x: Lanes) -> Lanes:
    """log(x + sqrt(x^2 - 1)); NaN for x < 1."""
    huge, one = x > HUGE[x.element], x.equals(1.0)
    bounded = where(huge, 2.0, where(one, 2.0, x))
    square, error = two_product(bounded, bounded)
    total, lost = two_sum(square, -1.0)
    root = square_root(fast_two_sum(total, lost + error))
    result = where(one, 0.0, log_of_root(x, root, huge))
    return where(x >= 1.0, where(x < math.inf, result, x), math.nan)


def log_of_root(x: Lanes, root: DoubleWord, huge: Lanes) -> Lanes:
    """log(x + root), or log(2 x) in the lanes that are `huge`."""
    total, error = two_sum(x, root.high)
    argument = DoubleWord(where(huge, x, total), where(huge, 0.0, error + root.low))
    return log_of_double_word(argument, where(huge, x.constant(1.0), 0.0))


def atanh(x: Lanes) -> Lanes:
    """log((1 + x) / (1 - x)) / 2; infinite at 1, NaN beyond."""
    magnitude = x.abs()
    inside = magnitude < 1.0
    bounded = where(inside, magnitude, 0.5)
    one = x.constant(1.0)
    ratio = divide(fast_two_sum(one, bounded), fast_two_sum(one, -bounded))
    result = log_of_double_word(ratio) * 0.5
    outside = where(magnitude.equals(1.0), x.constant(math.inf), math.nan)
    return where(magnitude < TINY[x.element], x, where(inside, result, outside).with_sign_of(x))
