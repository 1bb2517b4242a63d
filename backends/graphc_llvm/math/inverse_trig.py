"""asin, acos and atan: x + x^3 P(x^2), P minimax, on an interval about 0, the rest by symmetry."""

from __future__ import annotations

from graphc_llvm.math.double_word import fast_two_sum
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, where
from graphc_llvm.math.trig_reduction import HALF_PI


def cubic_tail(name: str, x: Lanes) -> Lanes:
    """x^3 P(x^2) with the polynomial `name`."""
    square = x * x
    return (x * square) * polynomial(square, coefficients(name, x))


def atan(x: Lanes) -> Lanes:
    """The arc tangent; beyond 1 it is pi / 2 - atan(1 / x)."""
    magnitude = x.abs()
    large = magnitude > 1.0
    t = where(large, -1.0 / magnitude, magnitude)
    high, low, _ = HALF_PI[x.element]
    tail = cubic_tail("atan", t)
    result = where(large, high + (t + (tail + low)), t + tail)
    return result.with_sign_of(x)


def halved(magnitude: Lanes) -> tuple[Lanes, Lanes]:
    """(s, s^3 P(s^2)) whose sum is asin(s), for s = sqrt((1 - magnitude) / 2); acos(magnitude) is twice that sum."""
    square = fma(magnitude, -0.5, 0.5)
    root = square.intrinsic("sqrt")
    return root, (root * square) * polynomial(square, coefficients("asin", magnitude))


def asin(x: Lanes) -> Lanes:
    """The arc sine; NaN outside [-1, 1]."""
    magnitude = x.abs()
    high, low, _ = HALF_PI[x.element]
    root, tail = halved(magnitude)
    head, lost = fast_two_sum(x.constant(high), -2.0 * root)
    outer = head - ((2.0 * tail - low) - lost)
    inner = magnitude + cubic_tail("asin", magnitude)
    return where(magnitude > 0.5, outer, inner).with_sign_of(x)


def acos(x: Lanes) -> Lanes:
    """The arc cosine; NaN outside [-1, 1]."""
    magnitude = x.abs()
    high, low, _ = HALF_PI[x.element]
    root, tail = halved(magnitude)
    near_one = 2.0 * (root + tail)
    near_minus_one = (2.0 * high - 2.0 * root) - (2.0 * tail - 2.0 * low)
    inner = high - (x - (low - cubic_tail("asin", x)))
    outer = where(x > 0.0, near_one, near_minus_one)
    return where(magnitude > 0.5, outer, inner)
