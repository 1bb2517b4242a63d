"""Tensors made of nothing: constants, ranges, and triangles cut out of others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from graphc.ir.graph import Value
from graphc.ir.types import i64
from graphc_torch.call import Call, Converter


def _full(c: Call) -> Value:
    type = c.type()
    name = "fill_value" if c.has("fill_value") else "value"
    return c.b.broadcast(c.b.cast(c.number(c.raw(name), type.dtype), type.dtype), type.shape, ())


def _filled(number: int) -> Converter:
    return lambda c: c.b.full(number, c.type())


def _fill(c: Call) -> Value:
    type = c.type()
    return c.operand("value", type.dtype, type.shape)


def _arange(c: Call) -> Value:
    """start + i * step."""
    type = c.type()
    start, step = c.raw("start") if c.has("start") else 0, c.get("step", 1)
    computed = type.dtype if type.dtype.is_float else i64
    y = c.b.op("iota", dtype=computed, shape=type.shape, axis=0)
    if isinstance(step, fx.Node) or step != 1:
        y = c.b.op("mul", y, c.b.broadcast(c.number(step, computed), type.shape, ()))
    if isinstance(start, fx.Node) or start != 0:
        y = c.b.op("add", y, c.b.broadcast(c.number(start, computed), type.shape, ()))
    return c.b.cast(y, type.dtype)


def _scalar(c: Call) -> Value:
    return c.number(c.raw("s"), c.type().dtype)


def _eye(c: Call) -> Value:
    type = c.type()
    row, column = (c.b.op("iota", dtype=i64, shape=type.shape, axis=i) for i in (0, 1))
    return c.b.cast(c.b.op("eq", row, column), type.dtype)


def _triangle(op: str) -> Converter:
    """The elements with column - row <= (or >=) diagonal; zero elsewhere."""

    def convert(c: Call) -> Value:
        x = c.x()
        square = x.type.shape[-2:]
        row, column = (c.b.op("iota", dtype=i64, shape=square, axis=i) for i in (0, 1))
        limit = c.b.broadcast(c.number(c.get("diagonal", 0), i64), square, ())
        inside = c.b.op(op, c.b.op("sub", column, row), limit)
        return c.b.op("select", c.broadcast(inside, x.type.shape), x, c.b.full_like(0, x))

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "full": _full,
    "full_like": _full,
    "new_full": _full,
    "zeros": _filled(0),
    "zeros_like": _filled(0),
    "new_zeros": _filled(0),
    "ones": _filled(1),
    "ones_like": _filled(1),
    "new_ones": _filled(1),
    # What has no contents yet may have any.
    "empty.memory_format": _filled(0),
    "empty_like": _filled(0),
    "new_empty": _filled(0),
    "empty_permuted": _filled(0),
    "new_empty_strided": _filled(0),
    "fill": _fill,
    "arange": _arange,
    "scalar_tensor": _scalar,
    "eye": _eye,
    "tril": _triangle("le"),
    "triu": _triangle("ge"),
}
