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
    return tl.where(x > 0, 1, tl.where(x < 0, -1, tl.where(x == 0, 0, x))).to(x.dtype)


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
    """The hyperbolic tangent; in f32 a Taylor polynomial near 0, where the quotient of exponentials cancels."""
    if x.dtype == tl.float64:
        e = expm1(-2.0 * tl.abs(x))
        return tl.where(x == 0, x, tl.where(x < 0, e, -e) / (e + 2.0))
    s = x * x
    small = x + x * s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835 - s * (1382 / 155925)))))
    e = exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    return tl.where(x == 0, x, tl.where(tl.abs(x) < 0.4, small, tl.where(x < 0, -large, large)))


@triton.jit
def expm1(x):
    """e**x - 1; in f32 a Taylor polynomial of the fraction of ln 2, scaled."""
    if x.dtype == tl.float64:
        half = tl.exp(0.5 * x)
        small = x * (1.0 + x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x / 720)))))
        return tl.where(tl.abs(x) < 1e-3, small, (half - 1.0) * (half + 1.0))
    y = tl.where(x > 89.0, 89.0, tl.where(x < -104.0, -104.0, x))
    n = tl.floor(y * LOG2_E + 0.5)
    r = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, y))
    tail = 1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * (1 / 40320))))))
    fraction = tl.fma(r * r, tail, r)
    half = tl.floor(n * 0.5)
    power, rest = tl.exp2(half), tl.exp2(n - half)
    near = tl.fma(power * rest, fraction, power * rest - 1.0)
    result = tl.where(n > 120.0, (1.0 + fraction) * power * rest, near)
    return tl.where((x == 0) | (x != x), x, tl.where(n == 0, fraction, result))


@triton.jit
def log1p(x):
    """log(1 + x): the logarithm of the rounded sum, and what rounding took."""
    u = 1.0 + x
    result = tl.log(u) + (x - (u - 1.0)) / u
    return tl.where((u == 1.0) | (x == float("inf")), x, tl.where(u == 0.0, float("-inf"), result))


@triton.jit
def softplus(x):
    """log(1 + e**x)."""
    return maximum(x, tl.zeros_like(x)) + log1p(exp(-tl.abs(x)))


@triton.jit
def power(x, y):
    """x ** y in f64, so that the error of the logarithm, which y multiplies, stays far below f32's."""
    a, b = tl.broadcast(x.to(tl.float64), y.to(tl.float64))
    size = tl.abs(a)
    result = tl.exp(b * tl.log(tl.where(size == 0, 1.0, size)))
    result = tl.where(size == 0, tl.where(b < 0, float("inf"), 0.0), result)
    endless = tl.abs(b) == float("inf")
    limit = tl.where(size == 1.0, 1.0, tl.where((size > 1.0) == (b > 0), float("inf"), 0.0))
    result = tl.where(endless & (a == a), limit, result)
    whole = (tl.floor(b) == b) | endless
    odd = whole & (tl.abs(b) < 9007199254740992.0) & (b - 2.0 * tl.floor(b * 0.5) == 1.0)
    result = tl.where(odd & is_negative(a), -result, result)
    finite = tl.abs(a) < float("inf")
    result = tl.where((a < 0) & finite & (whole == 0), float("nan"), result)
    result = tl.where((a != a) | (b != b), float("nan"), result)
    return tl.where((b == 0) | (a == 1.0), 1.0, result).to(x.dtype)


@triton.jit
def is_negative(x):
    """Whether the sign is set, of -0 too."""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True) < 0
    else:
        return x.to(tl.int32, bitcast=True) < 0


@triton.jit
def sinh(x):
    """The hyperbolic sine, from e**|x| - 1, which doesn't cancel near 0."""
    e = expm1(tl.minimum(tl.abs(x), 80.0))
    near = 0.5 * (e + e / (e + 1.0))
    a = tl.abs(x).to(tl.float64)
    far = (0.5 * tl.exp(tl.minimum(a, 200.0))).to(x.dtype)
    result = tl.where(tl.abs(x) < 20.0, near, far)
    return tl.where(x != x, x, tl.where(is_negative(x), -result, result))


@triton.jit
def cosh(x):
    """The hyperbolic cosine in f64, which holds e**|x| wherever f32 holds the result."""
    a = tl.abs(x).to(tl.float64)
    e = tl.exp(tl.where(a > 200.0, 200.0, a))
    return (0.5 * (e + 1.0 / e)).to(x.dtype)


@triton.jit
def asinh(x):
    """The inverse of sinh."""
    a = tl.abs(x).to(tl.float64)
    result = log1p(a + a * a / (1.0 + tl.sqrt(a * a + 1.0))).to(x.dtype)
    result = tl.where(a == float("inf"), float("inf"), result)
    return tl.where(is_negative(x), -result, result)


@triton.jit
def acosh(x):
    """The inverse of cosh; NaN below 1."""
    a = x.to(tl.float64) - 1.0
    result = log1p(a + tl.sqrt(a * (a + 2.0)))
    return tl.where(x < 1.0, float("nan"), tl.where(a == float("inf"), a, result)).to(x.dtype)


@triton.jit
def atanh(x):
    """The inverse of tanh; NaN beyond 1."""
    a = tl.abs(x).to(tl.float64)
    result = (0.5 * log1p(2.0 * a / (1.0 - a))).to(x.dtype)
    result = tl.where(a == 1.0, float("inf"), tl.where(a > 1.0, float("nan"), result))
    return tl.where(is_negative(x), -result, result)


@triton.jit
def tan(x):
    """The tangent in f64, so that neither sine nor cosine loses its digits near its zeros."""
    a = x.to(tl.float64)
    return (tl.sin(a) / tl.cos(a)).to(x.dtype)


@triton.jit
def _arc(a):
    """The arc tangent, in f64 to f32's precision, of what isn't negative: a polynomial below tan(pi/8).

    Source of the coefficients: Moshier, Cephes, atanf.
    """
    far, middle = a > 2.414213562373095, a > 0.4142135623730950
    y = tl.where(far, -1.0 / tl.where(far, a, 1.0), tl.where(middle, (a - 1.0) / (a + 1.0), a))
    start = tl.where(far, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    z = y * y
    tail = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    return start + (y + y * z * tail)


@triton.jit
def atan(x):
    """The arc tangent for f32."""
    a = tl.abs(x).to(tl.float64)
    result = _arc(tl.where(a == float("inf"), 1e300, a)).to(x.dtype)
    return tl.where(is_negative(x), -result, result)


@triton.jit
def asin(x):
    """The arc sine for f32; NaN beyond 1."""
    a = tl.abs(x).to(tl.float64)
    inside = a < 1.0
    result = _arc(a / tl.sqrt(tl.where(inside, 1.0 - a * a, 1.0)))
    result = tl.where(inside, result, tl.where(a == 1.0, 1.5707963267948966, float("nan"))).to(x.dtype)
    return tl.where(is_negative(x), -result, result)


@triton.jit
def acos(x):
    """The arc cosine for f32; NaN beyond 1."""
    a = x.to(tl.float64)
    inside = (a > -1.0) & (a <= 1.0)
    result = 2.0 * _arc(tl.sqrt(tl.where(inside, (1.0 - a) / tl.where(inside, 1.0 + a, 1.0), 0.0)))
    return tl.where(inside, result, tl.where(a == -1.0, 3.141592653589793, float("nan"))).to(x.dtype)


@triton.jit
def shift_left(x, count):
    """x << count; 0 where count isn't in [0, bits)."""
    x, count = tl.broadcast(x, count)
    inside = (count >= 0) & (count < x.dtype.primitive_bitwidth)
    return tl.where(inside, x << tl.where(inside, count, 0), 0)


@triton.jit
def shift_right(x, count):
    """x >> count; a count that isn't in [0, bits) leaves the sign alone."""
    x, count = tl.broadcast(x, count)
    inside = (count >= 0) & (count < x.dtype.primitive_bitwidth)
    return tl.where(inside, x >> tl.where(inside, count, 0), tl.where(x < 0, -1, 0))


@triton.jit
def comes_before(y, j, x, k, descending: tl.constexpr):
    """Whether y, at place j, is sorted before x, at place k: NaN is the greatest, equals stay in order."""
    if x.dtype.is_floating():
        a = y.to(tl.float32) if x.dtype.primitive_bitwidth < 32 else y
        b = x.to(tl.float32) if x.dtype.primitive_bitwidth < 32 else x
        equal = (a == b) | ((a != a) & (b != b))
        less = (a < b) | ((a == a) & (b != b))
    else:
        equal, less = y == x, y < x
    greater = (less == 0) & (equal == 0)
    return ((greater if descending else less) | (equal & (j < k))).to(tl.int32)


@triton.jit
def floor_remainder(x, y):
    """The remainder that has the sign of y, a zero too."""
    rest = x % y
    if x.dtype.is_floating():
        rest = tl.where(rest == 0, tl.where(y < 0, -0.0, 0.0), rest)
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
