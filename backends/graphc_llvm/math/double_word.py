"""Numbers as unevaluated sums high + low of two floats, for steps that need more than the working precision."""

from __future__ import annotations

from typing import NamedTuple

from graphc_llvm.math.lanes import Lanes, fma


class DoubleWord(NamedTuple):
    """high + low with |low| at most half an ulp of high, or a little more."""

    high: Lanes
    low: Lanes


def two_sum(x: Lanes, y: Lanes | float) -> DoubleWord:
    """x + y exactly (Knuth)."""
    other = y if isinstance(y, Lanes) else x.constant(y)
    total = x + other
    part = total - x
    return DoubleWord(total, (x - (total - part)) + (other - part))


def fast_two_sum(x: Lanes, y: Lanes) -> DoubleWord:
    """x + y exactly, where |x| >= |y| or x = 0 (Dekker)."""
    total = x + y
    return DoubleWord(total, y - (total - x))


def two_product(x: Lanes, y: Lanes | float) -> DoubleWord:
    """x * y exactly, barring underflow."""
    high = x * y
    return DoubleWord(high, fma(x, y, -high))


def add(x: DoubleWord, y: DoubleWord) -> DoubleWord:
    """x + y to nearly twice the working precision, if their sum doesn't cancel."""
    total, error = two_sum(x.high, y.high)
    return fast_two_sum(total, error + (x.low + y.low))


def multiply(x: DoubleWord, y: DoubleWord) -> DoubleWord:
    """x * y to nearly twice the working precision."""
    high, low = two_product(x.high, y.high)
    return fast_two_sum(high, low + fma(x.high, y.low, x.low * y.high))


def divide(x: DoubleWord, y: DoubleWord) -> DoubleWord:
    """x / y to nearly twice the working precision."""
    quotient = x.high / y.high
    rest = fma(-quotient, y.high, x.high) + (x.low - quotient * y.low)
    return fast_two_sum(quotient, rest / y.high)


def square_root(x: DoubleWord) -> DoubleWord:
    """The square root of x > 0 to nearly twice the working precision."""
    root = x.high.intrinsic("sqrt")
    rest = fma(-root, root, x.high) + x.low
    return fast_two_sum(root, rest / (root + root))
