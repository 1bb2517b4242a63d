"""Small expressions that decompositions and gradients are written in."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, product
from graphc.ir.types import DType


def mul(b: Builder, x: Value, y: Value | float) -> Value:
    """x * y."""
    return b.op("mul", x, _like(b, y, x))


def add(b: Builder, x: Value, y: Value | float) -> Value:
    """x + y."""
    return b.op("add", x, _like(b, y, x))


def sub(b: Builder, x: Value, y: Value | float) -> Value:
    """x - y."""
    return b.op("sub", x, _like(b, y, x))


def div(b: Builder, x: Value, y: Value | float) -> Value:
    """x / y."""
    return b.op("div", x, _like(b, y, x))


def one_minus(b: Builder, x: Value) -> Value:
    """1 - x."""
    return b.op("sub", b.full_like(1, x), x)


def _like(b: Builder, y: Value | float, x: Value) -> Value:
    return y if isinstance(y, Value) else b.full_like(y, x)


def count(b: Builder, dims: Sequence[Dim], dtype: DType) -> Value:
    """The number of elements of a tensor with those dims, of rank 0; a constant where they are known."""
    size = product(dims)
    if isinstance(size, int):
        return b.scalar(size, dtype)
    return b.cast(b.reshape(b.op("dims", values=(size,)), ()), dtype)


def mean(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes, which stay, with the shape of `x`."""
    total = b.op("reduce_sum", x, axes=tuple(axes))
    n = b.broadcast(count(b, [x.type.shape[i] for i in axes], x.type.dtype), total.type.shape, ())
    return spread(b, div(b, total, n), x, [i for i in range(x.type.rank) if i not in axes])


def spread(b: Builder, v: Value, x: Value, axes: Sequence[int]) -> Value:
    """`v` with the shape of `x`, its axes at those axes of it."""
    return b.broadcast(v, x.type.shape, axes)
