"""Elementwise operators: arithmetic, comparisons, logic, bits, casts and functions of one variable."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from graphc.ir.graph import Value
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Item, Refused


def _unary(op: str) -> Converter:
    return lambda c: c.b.op(op, c.x())


def _binary(op: str) -> Converter:
    return lambda c: c.binary(op, c.x(0), c.x(1))


def _variadic(op: str) -> Converter:
    """An operator folded over any number of operands, all broadcast."""
    return lambda c: reduce(lambda x, y: c.b.op(op, x, y), c.broadcast(*c.xs()))


def _mean(c: Call) -> Value:
    values = c.broadcast(*c.xs())
    total = reduce(lambda x, y: c.b.op("add", x, y), values)
    return c.scaled("div", total, len(values))


def _reciprocal(c: Call) -> Value:
    return c.b.op("div", c.b.full_like(1, c.x()), c.x())


def _mod(c: Call) -> Value:
    """C's fmod where `fmod` is set, as it must be for floats; else the sign of the divisor."""
    return c.binary("rem" if c.get("fmod", 0) else "mod", c.x(0), c.x(1))


def _pow(c: Call) -> Value:
    """The result has the base's type; an exponent of another type is converted."""
    x, y = c.x(0), c.x(1)
    if not x.type.dtype.is_float:
        return _integer_pow(c, x, y)
    known = c.known(1) if y.type.is_static and y.type.size == 1 else None
    if known is not None and known.dtype != object and y.type.rank <= x.type.rank:
        exponent = float(known.reshape(-1)[0])
        if exponent == 2.0:
            return c.b.op("mul", x, x)
        if exponent == 3.0:
            return c.b.op("mul", c.b.op("mul", x, x), x)
        if exponent == 0.5:
            return c.b.op("sqrt", x)
    return c.binary("pow", x, c.b.cast(y, x.type.dtype))


def _integer_pow(c: Call, x: Value, y: Value) -> Value:
    """Repeated squaring that wraps as integers do; refused unless the exponents are known and not negative."""
    exponents = c.numbers(1, "exponent of integers")
    if np.any(exponents < 0) or np.any(exponents != np.floor(exponents)):
        raise Refused("integers to a negative or broken power aren't supported")
    power, exponent = c.broadcast(x, c.b.constant(exponents.astype(np.int64)))
    one, unit = c.b.full_like(1, power), c.b.full_like(1, exponent)
    result, zero = one, c.b.full_like(0, exponent)
    for bit in range(int(exponents.max(initial=0)).bit_length()):
        here = c.b.op("bitwise_and", c.b.op("shift_right", exponent, c.b.full_like(bit, exponent)), unit)
        result = c.b.op("mul", result, c.b.op("select", c.b.op("ne", here, zero), power, one))
        power = c.b.op("mul", power, power)
    return result


def _bit_shift(c: Call) -> Value:
    return c.binary("shift_left" if c.get("direction") == "LEFT" else "shift_right", c.x(0), c.x(1))


def _where(c: Call) -> Value:
    return c.b.op("select", *c.broadcast(c.x(0), c.x(1), c.x(2)))


def _cast(c: Call) -> Value:
    return c.b.cast(c.x(), c.dtype(c.get("to")))


def _cast_like(c: Call) -> Value:
    return c.b.cast(c.x(0), c.tensor(1).type.dtype)


def _is_inf(c: Call) -> Value:
    x = c.x()
    zero = c.b.full_like(0, x)
    found = c.b.op("is_inf", x)
    if not c.get("detect_positive", 1):
        found = c.b.op("logical_and", found, c.b.op("lt", x, zero))
    if not c.get("detect_negative", 1):
        found = c.b.op("logical_and", found, c.b.op("gt", x, zero))
    return found


def _clip(c: Call) -> Value:
    """min and max are attributes before version 11, then operands; where min > max, max wins."""
    y = c.x()
    if c.opset < 11:
        bounds = [(op, c.b.scalar(c.get(name), y.type.dtype)) for op, name in (("max", "min"), ("min", "max"))]
    else:
        bounds = [(op, c.x(i)) for op, i in (("max", 1), ("min", 2)) if c.has(i)]
    for op, bound in bounds:
        y = c.binary(op, y, c.b.reshape(bound, ()))
    return y


def _relu(c: Call) -> Value:
    x = c.x()
    return c.b.op("relu", x) if x.type.dtype.is_float else c.b.op("max", x, c.b.full_like(0, x))


def _activation(op: str, **names: str) -> Converter:
    """A composite whose attributes are ONNX's under the given names."""

    def convert(c: Call) -> Value:
        attributes: dict[str, Any] = {ours: float(c.get(theirs)) for ours, theirs in names.items()}
        return c.b.op(op, c.x(), **attributes)

    return convert


def _gelu(c: Call) -> Value:
    approximate = c.get("approximate")
    if approximate not in ("none", "tanh"):
        raise c.wrong("unknown approximation", approximate, "none or tanh")
    return c.b.op("gelu", c.x(), approximate=approximate)


def _hard_sigmoid(c: Call) -> Value:
    """max(0, min(1, alpha * x + beta))."""
    y = c.scaled("add", c.scaled("mul", c.x(), c.get("alpha")), c.get("beta"))
    return c.scaled("min", c.scaled("max", y, 0), 1)


def _hard_swish(c: Call) -> Value:
    """x * max(0, min(1, x / 6 + 1/2))."""
    x = c.x()
    gate = c.scaled("add", c.scaled("mul", x, 1 / 6), 0.5)
    return c.b.op("mul", x, c.scaled("min", c.scaled("max", gate, 0), 1))


def _prelu(c: Call) -> Value:
    x, slope = c.x(0), c.x(1)
    shape = x.type.shape
    if slope.type.rank > x.type.rank:
        raise c.wrong("the slope has more axes than x", slope.type, x.type)
    scaled = c.b.op("mul", x, c.b.broadcast(slope, shape, range(x.type.rank - slope.type.rank, x.type.rank)))
    return c.b.op("select", c.b.op("lt", x, c.b.full_like(0, x)), scaled, x)


def _swish(c: Call) -> Value:
    x = c.x()
    alpha = c.get("alpha", 1.0)
    return c.b.op("silu", x) if alpha == 1 else c.b.op("mul", x, c.b.op("sigmoid", c.scaled("mul", x, alpha)))


def _selu(c: Call) -> Value:
    return c.scaled("mul", c.b.op("elu", c.x(), alpha=float(c.get("alpha"))), c.get("gamma"))


def _celu(c: Call) -> Value:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    x, alpha = c.x(), c.get("alpha")
    return c.scaled("mul", c.b.op("elu", c.scaled("div", x, alpha), alpha=1.0), alpha)


def _thresholded_relu(c: Call) -> Value:
    x = c.x()
    return c.b.op("select", c.scaled("gt", x, c.get("alpha")), x, c.b.full_like(0, x))


def _softsign(c: Call) -> Value:
    x = c.x()
    return c.b.op("div", x, c.scaled("add", c.b.op("abs", x), 1))


def _mish(c: Call) -> Value:
    x = c.x()
    return c.b.op("mul", x, c.b.op("tanh", c.b.op("softplus", x)))


def _shrink(c: Call) -> Value:
    """x + bias where x < -lambd, x - bias where x > lambd, else 0."""
    x = c.x()
    bias, limit = c.get("bias"), c.get("lambd")
    inside = c.b.op("select", c.scaled("gt", x, limit), c.scaled("sub", x, bias), c.b.full_like(0, x))
    return c.b.op("select", c.scaled("lt", x, -limit), c.scaled("add", x, bias), inside)


def _identity(c: Call) -> Item | None:
    return c.operands[0]


CONVERTERS: Mapping[str, Converter] = {
    **{
        onnx: _unary(ours)
        for onnx, ours in (
            ("Neg", "neg"), ("Abs", "abs"), ("Floor", "floor"), ("Ceil", "ceil"), ("Round", "round"), ("Sqrt", "sqrt"),
            ("Exp", "exp"), ("Log", "log"), ("Sin", "sin"), ("Cos", "cos"), ("Tan", "tan"), ("Asin", "asin"),
            ("Acos", "acos"), ("Atan", "atan"), ("Sinh", "sinh"), ("Cosh", "cosh"), ("Tanh", "tanh"),
            ("Asinh", "asinh"), ("Acosh", "acosh"), ("Atanh", "atanh"), ("Erf", "erf"), ("Sigmoid", "sigmoid"),
            ("Not", "logical_not"), ("BitwiseNot", "bitwise_not"), ("IsNaN", "is_nan"), ("Sign", "sign"),
            ("Softplus", "softplus"),
        )
    },
    **{
        onnx: _binary(ours)
        for onnx, ours in (
            ("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "div"), ("And", "logical_and"),
            ("Or", "logical_or"), ("Xor", "logical_xor"), ("BitwiseAnd", "bitwise_and"), ("BitwiseOr", "bitwise_or"),
            ("BitwiseXor", "bitwise_xor"), ("Equal", "eq"), ("Less", "lt"), ("LessOrEqual", "le"), ("Greater", "gt"),
            ("GreaterOrEqual", "ge"),
        )
    },
    "Max": _variadic("max"),
    "Min": _variadic("min"),
    "Sum": _variadic("add"),
    "Mean": _mean,
    "Reciprocal": _reciprocal,
    "Mod": _mod,
    "Pow": _pow,
    "BitShift": _bit_shift,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "IsInf": _is_inf,
    "Clip": _clip,
    "Relu": _relu,
    "LeakyRelu": _activation("leaky_relu", alpha="alpha"),
    "Elu": _activation("elu", alpha="alpha"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "PRelu": _prelu,
    "Swish": _swish,
    "Selu": _selu,
    "Celu": _celu,
    "ThresholdedRelu": _thresholded_relu,
    "Softsign": _softsign,
    "Mish": _mish,
    "Shrink": _shrink,
    "Identity": _identity,
}  # fmt: skip
