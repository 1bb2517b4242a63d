"""Reductions, positions of extremes, running sums, and the norms made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import product
from graphc.ir.types import f32
from graphc_onnx.call import Call, Converter

Reduction = Callable[[Call, Value, tuple[int, ...]], Value]


def _axes(c: Call, rank: int, since: int) -> tuple[int, ...] | None:
    """The axes: an attribute before version `since`, then operand 1; None where nothing is to be reduced."""
    given = (c.integers(1, "axes") if c.has(1) else None) if c.opset >= since else c.get("axes")
    if given:
        return tuple(sorted(c.axes(given, rank)))
    return None if c.get("noop_with_empty_axes", 0) else tuple(range(rank))


def _reduce(reduction: Reduction, since: int = 18) -> Converter:
    """Any reduction over axes, kept with size 1 where keepdims is set."""

    def convert(c: Call) -> Value:
        x = c.x()
        axes = _axes(c, x.type.rank, since)
        y = reduction(c, x, axes or ())
        if axes is None:
            return y
        return keep_axes(c, y, x, axes) if c.get("keepdims", 1) else y

    return convert


def keep_axes(c: Call, reduced: Value, x: Value, axes: Iterable[int]) -> Value:
    """A reduction of x with the reduced axes put back as 1."""
    gone = set(axes)
    return c.b.reshape(reduced, [1 if i in gone else d for i, d in enumerate(x.type.shape)])


def summed(c: Call, x: Value, axes: Iterable[int]) -> Value:
    """The sum over axes."""
    return c.b.op("reduce_sum", x, axes=tuple(axes))


def average(c: Call, x: Value, axes: Iterable[int]) -> Value:
    """The mean over axes; small floats are added up in f32, where their sum can't overflow."""
    axes = tuple(axes)
    dtype = x.type.dtype
    wide = c.b.cast(x, f32) if dtype.is_float and dtype.bytes == 2 else x
    total = summed(c, wide, axes)
    count = product(x.type.shape[i] for i in axes)
    if isinstance(count, int):
        divisor = c.b.full_like(count, total)
    else:
        scalar = c.b.cast(c.b.reshape(c.b.op("dims", values=(count,)), ()), total.type.dtype)
        divisor = c.b.broadcast(scalar, total.type.shape, ())
    return c.b.cast(c.b.op("div", total, divisor), dtype)


def lp_norm(c: Call, x: Value, p: float, axes: Iterable[int]) -> Value:
    """(sum |x|^p)^(1/p) over axes."""
    axes = tuple(axes)
    if not p > 0:
        raise c.wrong("p must be positive", p)
    if p == 1:
        return summed(c, c.b.op("abs", x), axes)
    if p == 2:
        return c.b.op("sqrt", summed(c, c.b.op("mul", x, x), axes))
    return c.scaled("pow", summed(c, c.scaled("pow", c.b.op("abs", x), p), axes), 1 / p)


def _extreme(op: str, nothing: float) -> Reduction:
    """The greatest or smallest element; over no elements what any other would replace."""

    def reduction(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
        if any(x.type.shape[i] == 0 for i in axes):
            kept = [d for i, d in enumerate(x.type.shape) if i not in axes]
            return c.b.full(_limit(x, nothing), x.type.with_shape(kept))
        return c.b.op(op, x, axes=axes)

    return reduction


def _limit(x: Value, nothing: float) -> float | int | bool:
    dtype = x.type.dtype
    if dtype.is_float:
        return nothing
    if dtype.is_bool:
        return nothing > 0
    info = np.iinfo(dtype.numpy)
    return int(info.max if nothing > 0 else info.min)


def _l2(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    """The root of the sum of squares; of integers computed as floats."""
    if x.type.dtype.is_float:
        return lp_norm(c, x, 2, axes)
    return c.b.cast(lp_norm(c, c.b.cast(x, f32), 2, axes), x.type.dtype)


def _log_sum_exp(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    """log(sum(exp(x))), shifted by the greatest element where that is finite."""
    if any(d == 0 for d in x.type.shape):
        return c.b.op("log", summed(c, c.b.op("exp", x), axes))
    top = c.b.op("reduce_max", x, axes=axes)
    infinite = c.b.op("is_inf", top)
    top = c.b.op("select", infinite, c.b.full_like(0, top), top)
    kept = [i for i in range(x.type.rank) if i not in axes]
    shifted = c.b.op("sub", x, c.b.broadcast(top, x.type.shape, kept))
    return c.b.op("add", c.b.op("log", summed(c, c.b.op("exp", shifted), axes)), top)


def _arg(op: str) -> Converter:
    """The position of an extreme: the first, or with select_last_index the last."""

    def convert(c: Call) -> Value:
        x = c.x()
        axis = c.axis(c.get("axis"), x.type.rank)
        if c.get("select_last_index", 0):
            found = c.b.op(op, c.b.op("reverse", x, axes=(axis,)), axis=axis)
            last = c.b.reshape(c.b.op("dims", values=(x.type.shape[axis] - 1,)), ())
            found = c.b.op("sub", c.b.broadcast(last, found.type.shape, ()), found)
        else:
            found = c.b.op(op, x, axis=axis)
        return keep_axes(c, found, x, (axis,)) if c.get("keepdims") else found

    return convert


def _running(op: str) -> Converter:
    def convert(c: Call) -> Value:
        x = c.x()
        axis = c.axis(c.integer(1, "axis"), x.type.rank)
        return c.b.op(op, x, axis=axis, exclusive=bool(c.get("exclusive")), reverse=bool(c.get("reverse")))

    return convert


def _hardmax(c: Call) -> Value:
    """1 at the first greatest element along the axis, else 0."""
    x = c.x()
    if c.opset < 13:
        return coerced(c, x, c.get("axis"), lambda y: _one_hot_of_max(c, y, 1))
    return _one_hot_of_max(c, x, c.axis(c.get("axis"), x.type.rank))


def _one_hot_of_max(c: Call, x: Value, axis: int) -> Value:
    best = c.b.op("argmax", x, axis=axis)
    others = [i for i in range(x.type.rank) if i != axis]
    position = c.b.op("iota", dtype=best.type.dtype, shape=x.type.shape, axis=axis)
    return c.b.cast(c.b.op("eq", position, c.b.broadcast(best, x.type.shape, others)), x.type.dtype)


def coerced(c: Call, x: Value, axis: int, apply: Callable[[Value], Value]) -> Value:
    """A function of matrices, applied to x as one: the axes before `axis` are rows, the others columns."""
    at = x.type.rank if axis == x.type.rank else c.axis(axis, x.type.rank)
    shape = x.type.shape
    return c.b.reshape(apply(c.b.reshape(x, (product(shape[:at]), product(shape[at:])))), shape)


def _softmax(op: str) -> Converter:
    """Along one axis; before version 13 over all axes from `axis` on."""

    def convert(c: Call) -> Value:
        x = c.x()
        axis = c.get("axis")
        if c.opset < 13:
            at = c.axis(axis, x.type.rank)
            if at == x.type.rank - 1:
                return c.b.op(op, x, axis=at)
            return coerced(c, x, axis, lambda y: c.b.op(op, y, axis=1))
        return c.b.op(op, x, axis=c.axis(axis, x.type.rank))

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "ReduceSum": _reduce(summed, since=13),
    "ReduceMean": _reduce(average),
    "ReduceMax": _reduce(_extreme("reduce_max", -np.inf)),
    "ReduceMin": _reduce(_extreme("reduce_min", np.inf)),
    "ReduceProd": _reduce(lambda c, x, axes: c.b.op("reduce_prod", x, axes=axes)),
    "ReduceL1": _reduce(lambda c, x, axes: summed(c, c.b.op("abs", x), axes)),
    "ReduceL2": _reduce(_l2),
    "ReduceSumSquare": _reduce(lambda c, x, axes: summed(c, c.b.op("mul", x, x), axes)),
    "ReduceLogSum": _reduce(lambda c, x, axes: c.b.op("log", summed(c, x, axes))),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "CumSum": _running("cumsum"),
    "CumProd": _running("cumprod"),
    "Hardmax": _hardmax,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
}
