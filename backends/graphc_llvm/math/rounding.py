"""floor, ceil, round to even, sqrt, rsqrt: one instruction each, or nearly."""

from __future__ import annotations

from graphc_llvm.math.lanes import Lanes


def floor(x: Lanes) -> Lanes:
    """The largest integer not above x."""
    return x.intrinsic("floor")


def ceil(x: Lanes) -> Lanes:
    """The smallest integer not below x."""
    return x.intrinsic("ceil")


def round_to_even(x: Lanes) -> Lanes:
    """The nearest integer; a tie goes to the even one."""
    return x.intrinsic("roundeven")


def sqrt(x: Lanes) -> Lanes:
    """The square root, correctly rounded; NaN for x < 0."""
    return x.intrinsic("sqrt")


def rsqrt(x: Lanes) -> Lanes:
    """1 / sqrt(x), two roundings; infinite at 0."""
    return 1.0 / x.intrinsic("sqrt")
