"""Elementwise operators: arithmetic with torch's promotion, comparisons, logic, bits, casts and functions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import fx

from graphc.ir.graph import Value
from graphc.ir.types import u8
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused

# Arithmetic: operands are promoted to the result's type.


def promoted(c: Call, *names: str) -> list[Value]:
    """The arguments in the result's element type and shape."""
    type = c.type()
    return [c.operand(name, type.dtype, type.shape) for name in names]


def _unary(op: str) -> Converter:
    """A function of one variable; integers are converted to the result's floats first."""
    return lambda c: c.b.op(op, *promoted(c, "self"))


def _binary(op: str, on_bools: str | None = None) -> Converter:
    def convert(c: Call) -> Value:
        x, y = promoted(c, "self", "other")
        return c.b.op(on_bools if on_bools and x.type.dtype.is_bool else op, x, y)

    return convert


def _with_alpha(op: str, *, swapped: bool = False) -> Converter:
    """self + alpha * other, or self - alpha * other; `swapped` for other - alpha * self."""

    def convert(c: Call) -> Value:
        x, y = promoted(c, *(("other", "self") if swapped else ("self", "other")))
        alpha = c.get("alpha", 1)
        if isinstance(alpha, fx.Node):
            raise Refused("a factor alpha that is dynamic isn't supported")
        if alpha != 1:
            y = c.scaled("mul", y, alpha)
        return c.b.op("logical_or" if op == "add" and x.type.dtype.is_bool else op, x, y)

    return convert


def _div(c: Call) -> Value:
    x, y = promoted(c, "self", "other")
    rounding = c.get("rounding_mode")
    if rounding is None:
        return c.b.op("div", x, y)
    return _floor_quotient(c, x, y) if rounding == "floor" else _truncated_quotient(c, x, y)


def _truncated_quotient(c: Call, x: Value, y: Value) -> Value:
    quotient = c.b.op("div", x, y)
    if not x.type.dtype.is_float:
        return quotient
    up = c.b.op("lt", quotient, c.b.full_like(0, quotient))
    return c.b.op("select", up, c.b.op("ceil", quotient), c.b.op("floor", quotient))


def _floor_quotient(c: Call, x: Value, y: Value) -> Value:
    """The whole quotient that goes with the remainder of the divisor's sign."""
    exact = c.b.op("div", c.b.op("sub", x, c.b.op("mod", x, y)), y)
    if not x.type.dtype.is_float:
        return exact
    zero = c.b.op("eq", y, c.b.full_like(0, y))
    return c.b.op("select", zero, c.b.op("div", x, y), c.b.op("round", exact))


def _pow(c: Call) -> Value:
    """Powers; a known exponent that is a small whole number is made of products."""
    exponent = None if c.is_tensor("exponent") else c.get("exponent")
    type = c.type()
    if isinstance(exponent, (int, float)) and c.is_tensor("self"):
        base = c.operand("self", type.dtype, type.shape)
        found = _known_power(c, base, float(exponent))
        if found is not None:
            return found
    if not type.dtype.is_float:
        raise Refused("integers to a power that isn't a small known number aren't supported")
    return c.b.op("pow", *promoted(c, "self", "exponent"))


def _known_power(c: Call, x: Value, exponent: float) -> Value | None:
    if exponent in (0.5, -0.5) and x.type.dtype.is_float:
        return c.b.op("sqrt" if exponent > 0 else "rsqrt", x)
    if exponent in (-1.0, -2.0) and x.type.dtype.is_float:
        return c.b.op("div", c.b.full_like(1, x), x if exponent == -1 else c.b.op("mul", x, x))
    whole = exponent == int(exponent) and 0 <= exponent <= (4 if x.type.dtype.is_float else 63)
    if not whole:
        return None
    result, power, left = None, x, int(exponent)
    while left:
        if left & 1:
            result = power if result is None else c.b.op("mul", result, power)
        left >>= 1
        power = c.b.op("mul", power, power) if left else power
    return c.b.full_like(1, x) if result is None else result


# Comparisons, logic and bits


def _compare(op: str) -> Converter:
    """Operands in the type that torch promotes both to."""

    def convert(c: Call) -> Value:
        dtype, shape = c.common_dtype("self", "other"), c.type().shape
        x, y = (c.operand(name, dtype, shape) for name in ("self", "other"))
        if dtype.is_bool and op not in ("eq", "ne"):
            x, y = (c.b.cast(v, u8) for v in (x, y))
        return c.b.op(op, x, y)

    return convert


def truth(c: Call, x: Value) -> Value:
    """Whether each element isn't zero."""
    return x if x.type.dtype.is_bool else c.b.op("ne", x, c.b.full_like(0, x))


def _logical(op: str) -> Converter:
    def convert(c: Call) -> Value:
        names = [n for n in ("self", "other") if c.has(n)]
        return c.b.op(op, *(c.broadcast(truth(c, c.x(n)), c.type().shape) for n in names))

    return convert


def _bitwise_not(c: Call) -> Value:
    x = c.x()
    return c.b.op("logical_not" if x.type.dtype.is_bool else "bitwise_not", x)


def _where(c: Call) -> Value:
    type = c.type()
    condition = c.broadcast(truth(c, c.x("condition")), type.shape)
    return c.b.op("select", condition, *promoted(c, "self", "other"))


def _masked_fill(c: Call) -> Value:
    type = c.type()
    mask = c.broadcast(c.x("mask"), type.shape)
    return c.b.op("select", mask, *promoted(c, "value", "self"))


def _is_infinite(c: Call) -> Value:
    x = c.x()
    return c.b.op("is_inf", x) if x.type.dtype.is_float else c.b.full(False, c.type())


def _is_nan(c: Call) -> Value:
    x = c.x()
    return c.b.op("is_nan", x) if x.type.dtype.is_float else c.b.full(False, c.type())


# Casts


def _cast(c: Call) -> Value:
    """Another element type; copies to other devices and layouts are copies of the same contents."""
    x = c.x()
    dtype = c.type().dtype
    return truth(c, x) if dtype.is_bool else c.b.cast(x, dtype)


def _copy(c: Call) -> Value:
    """The contents of another tensor in place of those that were there."""
    type = c.type()
    return c.operand("src", type.dtype, type.shape)


def identity(c: Call) -> Value:
    """The argument as it is."""
    return c.x()


# Functions made of others


def _clamp(c: Call) -> Value:
    """min(max(x, low), high): where low > high, high wins."""
    type = c.type()
    y = c.operand("self", type.dtype, type.shape)
    for name, op in (("min", "max"), ("min_val", "max"), ("max", "min"), ("max_val", "min")):
        if c.has(name):
            y = c.b.op(op, y, c.operand(name, type.dtype, type.shape))
    return y


def _relu(c: Call) -> Value:
    x = c.x()
    return c.b.op("relu", x) if x.type.dtype.is_float else c.b.op("max", x, c.b.full_like(0, x))


def _relu6(c: Call) -> Value:
    return c.scaled("min", c.scaled("max", c.x(), 0), 6)


def _hard_sigmoid(c: Call, x: Value) -> Value:
    """min(max(x + 3, 0), 6) / 6."""
    return c.scaled("div", c.scaled("min", c.scaled("max", c.scaled("add", x, 3), 0), 6), 6)


def _hard_swish(c: Call) -> Value:
    return c.b.op("mul", c.x(), _hard_sigmoid(c, c.x()))


def _leaky_relu(c: Call) -> Value:
    return c.b.op("leaky_relu", c.x(), alpha=float(c.get("negative_slope", 0.01)))


def _elu(c: Call) -> Value:
    """scale * (x where x > 0, else alpha * (exp(input_scale * x) - 1))."""
    x = c.x()
    alpha, scale, inner = (float(c.get(n, 1)) for n in ("alpha", "scale", "input_scale"))
    if inner != 1:
        raise Refused("an input scale isn't supported")
    y = c.b.op("elu", x, alpha=alpha)
    return y if scale == 1 else c.scaled("mul", y, scale)


def _selu(c: Call) -> Value:
    """Source: Klambauer et al., 2017."""
    return c.scaled("mul", c.b.op("elu", c.x(), alpha=1.6732632423543772), 1.0507009873554805)


def _celu(c: Call) -> Value:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    x, alpha = c.x(), float(c.get("alpha", 1))
    return c.scaled("mul", c.b.op("elu", c.scaled("div", x, alpha), alpha=1.0), alpha)


def _softplus(c: Call) -> Value:
    """log(1 + exp(beta x)) / beta, and x where beta x > threshold."""
    x = c.x()
    beta, threshold = float(c.get("beta", 1)), float(c.get("threshold", 20))
    y = c.scaled("div", c.b.op("softplus", c.scaled("mul", x, beta)), beta)
    return c.b.op("select", c.scaled("gt", c.scaled("mul", x, beta), threshold), x, y)


def _gelu(c: Call) -> Value:
    return c.b.op("gelu", c.x(), approximate=c.get("approximate", "none"))


def _mish(c: Call) -> Value:
    x = c.x()
    return c.b.op("mul", x, c.b.op("tanh", c.b.op("softplus", x)))


def _log_sigmoid(c: Call) -> Value:
    return c.b.op("neg", c.b.op("softplus", c.b.op("neg", c.x())))


def _prelu(c: Call) -> Value:
    """x where x > 0, else x times its channel's slope."""
    x, slope = c.x(), c.x("weight")
    channels = (1,) if x.type.rank > 1 and slope.type.rank else ()
    slope = c.b.reshape(slope, (slope.type.size,) if channels else ())
    spread = c.b.broadcast(slope, x.type.shape, channels)
    return c.b.op("select", c.b.op("gt", x, c.b.full_like(0, x)), x, c.b.op("mul", x, spread))


def _prelu_kernel(c: Call) -> Value:
    """The same, its slope already in the rank of x."""
    x = c.x()
    return c.b.op(
        "select", c.b.op("gt", x, c.b.full_like(0, x)), x, c.b.op("mul", x, c.broadcast(c.x("weight"), x.type.shape))
    )


def _glu(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("dim", -1), x.type.rank)
    half = c.type().shape[axis]
    return c.b.op("mul", c.part(x, axis, 0, half), c.b.op("sigmoid", c.part(x, axis, half, x.type.shape[axis])))


def _log(base: float) -> Converter:
    return lambda c: c.scaled("mul", c.b.op("log", *promoted(c, "self")), 1 / math.log(base))


def _exp2(c: Call) -> Value:
    (x,) = promoted(c, "self")
    return c.b.op("exp", c.scaled("mul", x, math.log(2)))


def _reciprocal(c: Call) -> Value:
    (x,) = promoted(c, "self")
    return c.b.op("div", c.b.full_like(1, x), x)


def _trunc(c: Call) -> Value:
    x = c.x()
    if not x.type.dtype.is_float:
        return x
    return c.b.op("select", c.b.op("lt", x, c.b.full_like(0, x)), c.b.op("ceil", x), c.b.op("floor", x))


def _whole(op: str) -> Converter:
    """A rounding, which leaves integers as they are."""
    return lambda c: c.b.op(op, c.x()) if c.x().type.dtype.is_float else c.x()


def _lerp(c: Call) -> Value:
    """self + weight * (end - self)."""
    x, end, weight = promoted(c, "self", "end", "weight")
    return c.b.op("add", x, c.b.op("mul", weight, c.b.op("sub", end, x)))


def _addc(op: str) -> Converter:
    """self + value * (tensor1 op tensor2)."""

    def convert(c: Call) -> Value:
        x, first, second = promoted(c, "self", "tensor1", "tensor2")
        inner = c.b.op(op, first, second)
        return c.b.op("add", x, inner if c.get("value", 1) == 1 else c.scaled("mul", inner, c.get("value")))

    return convert


def _detach(c: Call) -> Value:
    """The same numbers; in training, none of whose gradient passes."""
    return c.b.op("stop_gradient", c.x()) if c.training and c.x().type.dtype.is_float else c.x()


def _round(c: Call) -> Value:
    if c.get("decimals"):
        raise Refused("rounding to decimals isn't supported")
    return c.b.op("round", c.x()) if c.x().type.dtype.is_float else c.x()


def _nan_to_num(c: Call) -> Value:
    x = c.x()
    if not x.type.dtype.is_float:
        return x
    largest = float(torch.finfo(c.node.meta["val"].dtype).max)
    high, low = c.get("posinf", largest), c.get("neginf", -largest)
    zero = c.b.full_like(0, x)
    infinite = c.b.op("select", c.b.op("gt", x, zero), c.b.full_like(high, x), c.b.full_like(low, x))
    y = c.b.op("select", c.b.op("is_inf", x), infinite, x)
    return c.b.op("select", c.b.op("is_nan", x), c.b.full_like(c.get("nan", 0.0), x), y)


CONVERTERS: Mapping[str, Converter] = {
    **{
        name: _unary(name)
        for name in (
            "neg", "abs", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan",
            "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "sign", "silu",
        )
    },
    "mul": _binary("mul", "logical_and"),
    "maximum": _binary("max"),
    "minimum": _binary("min"),
    "max.other": _binary("max"),
    "min.other": _binary("min"),
    "remainder": _binary("mod"),
    "fmod": _binary("rem"),
    "bitwise_and": _binary("bitwise_and", "logical_and"),
    "bitwise_or": _binary("bitwise_or", "logical_or"),
    "bitwise_xor": _binary("bitwise_xor", "logical_xor"),
    "__and__": _binary("bitwise_and", "logical_and"),
    "__or__": _binary("bitwise_or", "logical_or"),
    "__xor__": _binary("bitwise_xor", "logical_xor"),
    "bitwise_left_shift": _binary("shift_left"),
    "bitwise_right_shift": _binary("shift_right"),
    "__lshift__": _binary("shift_left"),
    "__rshift__": _binary("shift_right"),
    "add": _with_alpha("add"),
    "sub": _with_alpha("sub"),
    "rsub": _with_alpha("sub", swapped=True),
    "div": _div,
    "true_divide": _div,
    "floor_divide": lambda c: _floor_quotient(c, *promoted(c, "self", "other")),
    "pow": _pow,
    **{name: _compare(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: _logical(name) for name in ("logical_and", "logical_or", "logical_xor", "logical_not")},
    "bitwise_not": _bitwise_not,
    "where.self": _where,
    "where.ScalarOther": _where,
    "where.ScalarSelf": _where,
    "where.Scalar": _where,
    "masked_fill": _masked_fill,
    "isinf": _is_infinite,
    "isnan": _is_nan,
    "to": _cast,
    "_to_copy": _cast,
    "type_as": _cast,
    "copy": _copy,
    **dict.fromkeys(("clone", "alias", "contiguous", "lift_fresh_copy", "lift_fresh", "positive"), identity),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "hardtanh": _clamp,
    "relu": _relu,
    "relu6": _relu6,
    "hardsigmoid": lambda c: _hard_sigmoid(c, c.x()),
    "hardswish": _hard_swish,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "softplus": _softplus,
    "gelu": _gelu,
    "mish": _mish,
    "log_sigmoid": _log_sigmoid,
    "prelu": _prelu,
    "_prelu_kernel": _prelu_kernel,
    "glu": _glu,
    "log2": _log(2),
    "log10": _log(10),
    "exp2": _exp2,
    "reciprocal": _reciprocal,
    "trunc": _trunc,
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "round": _round,
    "lerp": _lerp,
    "addcmul": _addc("mul"),
    "addcdiv": _addc("div"),
    "detach": _detach,
    "nan_to_num": _nan_to_num,
}  # fmt: skip
