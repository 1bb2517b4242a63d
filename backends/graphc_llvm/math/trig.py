"""sin, cos and tan: reduction by pi / 2, then minimax polynomials on [-pi / 4, pi / 4].

With the remainder r + low: sin = r + r^3 S(r^2) + low cos(r), cos = 1 - r^2 / 2 + r^4 C(r^2) - low sin(r).
"""

from __future__ import annotations

from graphc_llvm.math.double_word import DoubleWord, divide, fast_two_sum
from graphc_llvm.math.lanes import Lanes, coefficients, fma, polynomial, where
from graphc_llvm.math.trig_reduction import reduce


def sine_of_remainder(r: Lanes, low: Lanes) -> DoubleWord:
    """sin(r + low) as the sum of r and a small term."""
    square = r * r
    tail = (r * square) * polynomial(square, coefficients("sin", r))
    return DoubleWord(r, tail + low * fma(square, -0.5, 1.0) if r.strict else tail)


def cosine_of_remainder(r: Lanes, low: Lanes) -> DoubleWord:
    """cos(r + low) as the sum of 1 - r^2 / 2 and a small term."""
    square = r * r
    half = square * 0.5
    head = 1.0 - half
    tail = (square * square) * polynomial(square, coefficients("cos", r))
    return DoubleWord(head, tail + (((1.0 - head) - half) - r * low) if r.strict else tail)


def select_and_negate(quadrant: Lanes, sine: Lanes, cosine: Lanes) -> Lanes:
    """Of sin and cos of the remainder, the one that is the sine in this quadrant, with its sign."""
    chosen = where((quadrant & 1).equals(0), sine, cosine)
    sign = (quadrant & 2) << (62 if sine.is_f64 else 30)
    return (chosen.bits() ^ sign).as_float()


def sin(x: Lanes) -> Lanes:
    """The sine; NaN for infinities."""
    quadrant, r, low = reduce(x)
    result = select_and_negate(quadrant, sum_of(sine_of_remainder(r, low)), sum_of(cosine_of_remainder(r, low)))
    # The reduction loses the sign of a zero.
    return where(x.equals(0.0), x, result)


def cos(x: Lanes) -> Lanes:
    """The cosine; NaN for infinities."""
    quadrant, r, low = reduce(x)
    return select_and_negate(quadrant + 1, sum_of(sine_of_remainder(r, low)), sum_of(cosine_of_remainder(r, low)))


def tan(x: Lanes) -> Lanes:
    """The tangent, as a quotient; NaN for infinities."""
    quadrant, r, low = reduce(x)
    sine, cosine = sine_of_remainder(r, low), cosine_of_remainder(r, low)
    even = (quadrant & 1).equals(0)
    if x.strict:
        sine, cosine = fast_two_sum(*sine), fast_two_sum(*cosine)
        top = DoubleWord(*(where(even, s, c) for s, c in zip(sine, cosine, strict=True)))
        bottom = DoubleWord(*(where(even, c, -s) for s, c in zip(sine, cosine, strict=True)))
        result = divide(top, bottom).high
    else:
        s, c = sum_of(sine), sum_of(cosine)
        result = where(even, s, c) / where(even, c, -s)
    return where(x.equals(0.0), x, result)


def sum_of(x: DoubleWord) -> Lanes:
    """high + low, rounded."""
    return x.high + x.low


