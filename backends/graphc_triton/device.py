"""Functions that generated kernels call: what Triton's language lacks, or defines otherwise than graphc does.

Imported by generated source alone. Everything here runs in Triton's interpreter too, so it holds no inline assembly and no
libdevice.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN2_HIGH = tl.constexpr(0.693145751953125)
LN2_LOW = tl.constexpr(1.428606765330187e-06)

INTEGER_DIVISION = tl.constexpr(1)
BAD_INDEX = tl.constexpr(2)


@triton.jit
def maximum(x, y):
    """The larger one; NaN where either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """The smaller one; NaN where either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_max(x, axis: tl.constexpr):
    """The largest element along an axis, which is kept; NaN where there is one."""
    if x.dtype.is_floating():
        top = tl.max(tl.where(x == x, x, float("-inf")), axis, keep_dims=True)
        return tl.where(tl.max((x != x).to(tl.int32), axis, keep_dims=True) > 0, float("nan"), top)
    else:
        return tl.max(x, axis, keep_dims=True)


@triton.jit
def row_min(x, axis: tl.constexpr):
    """The smallest element along an axis, which is kept; NaN where there is one."""
    if x.dtype.is_floating():
        bottom = tl.min(tl.where(x == x, x, float("inf")), axis, keep_dims=True)
        return tl.where(tl.max((x != x).to(tl.int32), axis, keep_dims=True) > 0, float("nan"), bottom)
    else:
        return tl.min(x, axis, keep_dims=True)


@triton.jit
def _times(x, y):
    return x * y


@triton.jit
def row_prod(x, axis: tl.constexpr):
    """The product along an axis, which is kept."""
    return tl.reduce(x, axis, _times, keep_dims=True)


@triton.jit
def extreme_at(best, at, axis: tl.constexpr, largest: tl.constexpr, worst: tl.constexpr):
    """Where along an axis, which is kept, the first extreme lies, of candidates `best` at positions `at` (-1: none).

    A NaN is extreme; nothing is worse than `worst`.
    """
    exists = at >= 0
    nan = exists & (best != best)
    some_nan = tl.max(nan.to(tl.int32), axis, keep_dims=True) > 0
    number = tl.where(exists & (best == best), best, worst)
    top = tl.max(number, axis, keep_dims=True) if largest else tl.min(number, axis, keep_dims=True)
    chosen = tl.where(some_nan, nan, exists & (best == top))
    last = 9223372036854775807
    first = tl.min(tl.where(chosen, at, last), axis, keep_dims=True)
    return tl.where(first == last, -1, first)


@triton.jit
def floor_div(x, y):
    """x // y rounded down, y > 0."""
    quotient = x // y
    return tl.where(x - quotient * y < 0, quotient - 1, quotient)


@triton.jit
def floor_mod(x, y):
    """x - y * floor(x / y), y > 0."""
    rest = x % y
    return tl.where(rest < 0, rest + y, rest)


@triton.jit
def sign(x):
    """-1, 0 or 1; a NaN stays."""
    return tl.where(x > 0, 1, tl.where(x < 0, -1, x)).to(x.dtype)


@triton.jit
def round_even(x):
    """The nearest integer, ties to even."""
    whole = tl.floor(x)
    rest = x - whole
    odd = whole - 2 * tl.floor(whole * 0.5) != 0
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), whole + 1, whole)


@triton.jit
def exp(x):
    """e**x; in f32 reduced to a fraction of ln 2, so that the error doesn't grow with x."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    y = tl.where(x > 89.0, 89.0, tl.where(x < -104.0, -104.0, x))
    n = tl.floor(y * LOG2_E + 0.5)
    rest = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, y))
    half = tl.floor(n * 0.5)
    return tl.exp2(rest * LOG2_E) * tl.exp2(half) * tl.exp2(n - half)


@triton.jit
def sigmoid(x):
    """1 / (1 + e**-x), from a power that can't overflow."""
    e = exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(x):
    """The hyperbolic tangent for f32: a Taylor polynomial near 0, where the quotient of exponentials cancels."""
    s = x * x
    small = x + x * s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835 - s * (1382 / 155925)))))
    e = exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.4, small, tl.where(x < 0, -large, large))


@triton.jit
def floor_remainder(x, y):
    """The remainder that has the sign of y."""
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@triton.jit
def float_to_int(x, dtype: tl.constexpr, low: tl.constexpr, high: tl.constexpr):
    """x truncated to an integer in [low, high], those beyond at the border; 0 for NaN."""
    within = tl.where((x > low) & (x < high), x, 0).to(dtype)
    bottom = tl.full([], low, dtype)
    top = tl.full([], high, dtype)
    return tl.where(x >= high, top, tl.where(x <= low, bottom, within))


@triton.jit
def report(status_ptr, bad, code: tl.constexpr):
    """Sets the kernel's status where something is bad."""
    tl.store(status_ptr + tl.zeros_like(bad).to(tl.int32), code, mask=bad)
