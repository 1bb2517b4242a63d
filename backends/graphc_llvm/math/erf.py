"""erf, as x times one polynomial in x^2: no division, no exponential, no branch.

erf(x) / x is an entire function of x^2; expanded about the middle of the interval on which erf hasn't yet reached 1,
it has small coefficients, so that the plain polynomial is accurate to a few units in the last place from end to end.
Near 0, where shifting x^2 to the middle rounds too much, there is a second polynomial, but for f32 in fast numerics.
"""

from __future__ import annotations

from graphc_llvm import emit
from graphc_llvm.math.double_word import two_product
from graphc_llvm.math.lanes import Lanes, coefficients, fma, horner, where

SCALE = {emit.F32: 133 / 1024, emit.F64: 29 / 512}
"""w = SCALE x^2 - 1 is in [-1, 1] up to where erf is within half an ulp of 1; the polynomial's interval ends there."""
NEAR_MIDDLE = {emit.F32: 1.125, emit.F64: 1.5}
"""The second polynomial is one in x^2 - NEAR_MIDDLE, and serves x^2 < 2 NEAR_MIDDLE."""


def erf(x: Lanes) -> Lanes:
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    magnitude = x.abs()
    square = magnitude * magnitude
    result = inner(magnitude, square).at_most(1.0)
    return where(square > 2.0 / SCALE[x.element], 1.0, result).with_sign_of(x)


def inner(x: Lanes, square: Lanes) -> Lanes:
    """erf(x) where the polynomial's interval reaches; `square` is x^2, and x >= 0."""
    scale, middle, terms = SCALE[x.element], NEAR_MIDDLE[x.element], coefficients("erf", x)
    w = fma(square, scale, -1.0)
    rest = horner(w, terms[1:])  # two chains would cancel each other at the far end
    ratio = fma(w, rest, terms[0])
    if not x.strict and not x.is_f64:
        return x * ratio
    # What the last operations lose is added again: in w + 1, whose power -1/2 the ratio nearly is, and in the products.
    above = w + 1.0
    shift = fma(square, scale, -above) / above
    lost = fma(shift * -0.5, ratio, fma(w, rest, terms[0] - ratio))
    far = two_product(x, ratio)
    near = x * horner(square - middle, coefficients("erf_near_zero", x))
    return where(square < 2.0 * middle, near, far.high + fma(x, lost, far.low))
