"""Elementwise operators in ONNX, which broadcasts: operands stay as narrow as they are."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.types import DTYPES, DType, bool_
from graphc_onnx.export_scope import Name
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import broadcast_shape

_SAME_NAME = (
    "abs", "sign", "floor", "ceil", "round", "sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
    "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "add", "sub", "mul", "div", "pow", "max",
    "relu", "softplus",
)  # fmt: skip

_NAMES = {
    **{name: name.capitalize() for name in _SAME_NAME},
    "logical_not": "Not", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "bitwise_not": "BitwiseNot",
    "bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor", "is_nan": "IsNaN",
    "is_inf": "IsInf", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "select": "Where",
}  # fmt: skip


def pointwise(c: ExportedNode, op: str, *operands: Name, dtype: DType | None = None, **attributes: int | float) -> Name:
    """A node over operands of shapes that broadcast; of the first result's element type where none is given."""
    shape = broadcast_shape([o.shape for o in operands])
    return c.scope.op(op, operands, dtype or c.type.dtype, shape, **attributes)


def _plain(op: str) -> Exporter:
    return lambda c: pointwise(c, op, *(c.loose(i) for i in range(len(c.node.operands))))


def number(c: ExportedNode, value: float | bool, like: Name) -> Name:
    """A number of the element type of a tensor."""
    return c.scope.scalar(value, like.dtype)


def _neg(c: ExportedNode) -> Name:
    x = c.loose()
    return pointwise(c, "Sub", number(c, 0, x), x) if x.dtype.kind == "uint" else pointwise(c, "Neg", x)


def _ne(c: ExportedNode) -> Name:
    return pointwise(c, "Not", pointwise(c, "Equal", c.loose(0), c.loose(1)))


def _rsqrt(c: ExportedNode) -> Name:
    return pointwise(c, "Reciprocal", pointwise(c, "Sqrt", c.loose()))


def _expm1(c: ExportedNode) -> Name:
    """Near 0, where exp(x) - 1 cancels, 2 t / (1 - t) with t = tanh(x / 2)."""
    x = c.loose()
    one, two = number(c, 1, x), number(c, 2, x)
    t = pointwise(c, "Tanh", pointwise(c, "Div", x, two))
    near = pointwise(c, "Div", pointwise(c, "Mul", two, t), pointwise(c, "Sub", one, t))
    far = pointwise(c, "Sub", pointwise(c, "Exp", x), one)
    return pointwise(c, "Where", pointwise(c, "Less", pointwise(c, "Abs", x), one, dtype=bool_), near, far)


def _log1p(c: ExportedNode) -> Name:
    """Near 0, where 1 + x rounds, 2 atanh(x / (2 + x))."""
    x = c.loose()
    one, two = number(c, 1, x), number(c, 2, x)
    ratio = pointwise(c, "Div", x, pointwise(c, "Add", two, x))
    near = pointwise(c, "Mul", two, pointwise(c, "Atanh", ratio))
    far = pointwise(c, "Log", pointwise(c, "Add", one, x))
    small = pointwise(c, "Less", pointwise(c, "Abs", x), number(c, 0.5, x), dtype=bool_)
    return pointwise(c, "Where", small, near, far)


def _rem(c: ExportedNode) -> Name:
    """Of integers x - x / y * y: runtimes compute their Mod with the dividend's sign in floats."""
    x, y = c.loose(0), c.loose(1)
    if x.dtype.is_float:
        return pointwise(c, "Mod", x, y, fmod=1)
    return pointwise(c, "Sub", x, pointwise(c, "Mul", pointwise(c, "Div", x, y), y))


def _mod(c: ExportedNode) -> Name:
    """ONNX has the divisor's sign for integers alone."""
    x, y = c.loose(0), c.loose(1)
    if not x.dtype.is_float:
        return pointwise(c, "Mod", x, y)
    rest, zero = _rem(c), number(c, 0, x)
    signs = (pointwise(c, "Less", v, zero, dtype=bool_) for v in (rest, y))
    other = pointwise(c, "Xor", *signs, dtype=bool_)
    some = pointwise(c, "Not", pointwise(c, "Equal", rest, zero, dtype=bool_), dtype=bool_)
    moved = pointwise(c, "Add", rest, y)
    return pointwise(c, "Where", pointwise(c, "And", other, some, dtype=bool_), moved, rest)


def _min(c: ExportedNode) -> Name:
    """Of a maximum and a number, Clip, which runtimes fuse with what is before it."""
    x, high = c.node.operands
    inner = x.producer
    if inner is not None and inner.op.name == "max" and not c.name(high).shape:
        bounded, low = inner.operands
        if bounded in c and low in c and not c.name(low).shape:
            y = c.name(bounded)
            return c.scope.op("Clip", [y, c.name(low), c.name(high)], y.dtype, y.shape)
    return pointwise(c, "Min", c.loose(0), c.loose(1))


def _shift_left(c: ExportedNode) -> Name:
    """x * 2^n, which wraps as bits do; ONNX shifts unsigned integers alone."""
    x, n = c.loose(0), c.loose(1)
    if x.dtype.kind == "uint":
        return pointwise(c, "BitShift", x, n, direction="LEFT")  # type: ignore[arg-type]
    power = _shifted(c, c.scope.scalar(1, _unsigned(x.dtype)), n, "LEFT")
    return pointwise(c, "Mul", x, c.scope.cast(power, x.dtype))


def _shift_right(c: ExportedNode) -> Name:
    """Of a negative x the inverse of its inverse's shift, so that the sign stays."""
    x, n = c.loose(0), c.loose(1)
    if x.dtype.kind == "uint":
        return pointwise(c, "BitShift", x, n, direction="RIGHT")  # type: ignore[arg-type]
    negative = pointwise(c, "Less", x, number(c, 0, x), dtype=bool_)
    bits = pointwise(c, "Where", negative, pointwise(c, "BitwiseNot", x), x)
    moved = c.scope.cast(_shifted(c, c.scope.cast(bits, _unsigned(x.dtype)), n, "RIGHT"), x.dtype)
    return pointwise(c, "Where", negative, pointwise(c, "BitwiseNot", moved), moved)


def _shifted(c: ExportedNode, x: Name, n: Name, direction: str) -> Name:
    n = c.scope.cast(n, x.dtype)
    return pointwise(c, "BitShift", x, n, dtype=x.dtype, direction=direction)  # type: ignore[arg-type]


def _unsigned(dtype: DType) -> DType:
    return DTYPES["u" + dtype.name[1:]]


def _cast(c: ExportedNode) -> Name:
    return c.scope.cast(c.loose(), c["dtype"])


def _with_attributes(op: str, **names: str) -> Exporter:
    """An operator whose attributes are given other names."""
    return lambda c: pointwise(c, op, c.loose(), **{theirs: c[ours] for theirs, ours in names.items()})


EXPORTERS: Mapping[str, Exporter] = {
    **{ours: _plain(theirs) for ours, theirs in _NAMES.items()},
    "neg": _neg,
    "ne": _ne,
    "rsqrt": _rsqrt,
    "expm1": _expm1,
    "log1p": _log1p,
    "rem": _rem,
    "mod": _mod,
    "min": _min,
    "shift_left": _shift_left,
    "shift_right": _shift_right,
    "cast": _cast,
    "leaky_relu": _with_attributes("LeakyRelu", alpha="alpha"),
    "elu": _with_attributes("Elu", alpha="alpha"),
    "gelu": _with_attributes("Gelu", approximate="approximate"),
}
