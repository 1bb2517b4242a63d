"""Pooling: windows and whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr, product
from graphc.ir.types import i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_movement import padded
from graphc_onnx.convert_reduce import average, lp_norm
from graphc_onnx.imported import Refused
from graphc_onnx.sliding import Sliding, sliding, spatial_dims


def _attributes(frame: Sliding) -> dict[str, Any]:
    return {
        "axes": tuple(range(2, 2 + len(frame.window))), "window": frame.window, "strides": frame.strides,
        "padding": frame.padding, "dilation": frame.dilation,
    }  # fmt: skip


def _frame(c: Call, x: Value) -> Sliding:
    return sliding(c, x, c.get("kernel_shape"))


def _rounded_up(c: Call, x: Value, frame: Sliding) -> Sliding:
    """The frame with as much padding at the end as ceil_mode adds: a last window that starts inside counts too."""
    if not c.get("ceil_mode", 0) or c.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return frame
    padding = list(frame.padding)
    for i, size in enumerate(spatial_dims(c, x)):
        padding[2 * i + 1] += _extra(size, frame, i)
    return replace(frame, padding=tuple(padding))


def _extra(size: Dim, frame: Sliding, i: int) -> int:
    low, high = frame.padding[2 * i : 2 * i + 2]
    stride, extent = frame.strides[i], frame.extent(i)
    if isinstance(size, Expr):
        if high + stride > extent:
            raise Refused("ceil_mode over a dynamic axis isn't supported where a window could lie in the padding alone")
        return stride - 1
    rest = size + low + high - extent
    count = -(-rest // stride) + 1
    if (count - 1) * stride >= size + low:
        count -= 1
    return max((count - 1) * stride - rest, 0)


def _max_pool(c: Call) -> list[Value | None]:
    x = c.x()
    frame = _rounded_up(c, x, _frame(c, x))
    if len(c.outputs) < 2 or not c.outputs[1]:
        return [c.b.op("max_pool", x, **_attributes(frame))]
    values, positions = c.b.ops("window_max", x, **_attributes(frame))
    if c.get("storage_order", 0):
        positions = _column_major(c, positions, x.type.shape[2:])
    image = c.b.op("iota", dtype=i64, shape=(product(x.type.shape[:2]),), axis=0)
    image = c.b.broadcast(c.b.reshape(image, x.type.shape[:2]), positions.type.shape, (0, 1))
    size = c.b.cast(c.b.reshape(c.b.op("dims", values=(product(x.type.shape[2:]),)), ()), i64)
    start = c.b.op("mul", image, c.b.broadcast(size, image.type.shape, ()))
    return [values, c.b.op("add", start, positions)]


def _column_major(c: Call, positions: Value, sizes: tuple[Dim, ...]) -> Value:
    """Row-major positions in an image counted with the first spatial axis running fastest."""
    rest, result = positions, c.b.full_like(0, positions)
    for axis in reversed(range(len(sizes))):
        size, weight = (_number(c, d, positions) for d in (sizes[axis], product(sizes[:axis])))
        result = c.b.op("add", result, c.b.op("mul", c.b.op("rem", rest, size), weight))
        rest = c.b.op("div", rest, size)
    return result


def _number(c: Call, d: Dim, like: Value) -> Value:
    """A dim as a tensor of the type of `like`."""
    scalar = c.b.reshape(c.b.op("dims", values=(d,)), ())
    return c.b.broadcast(c.b.cast(scalar, like.type.dtype), like.type.shape, ())


def _average_pool(c: Call) -> Value:
    x = c.x()
    frame = _frame(c, x)
    ceiled = _rounded_up(c, x, frame)
    include = bool(c.get("count_include_pad", 0))
    if include and ceiled != frame:
        # What ceil_mode adds isn't counted even here: so the padding is made real, and what is left is not counted.
        low, high = ([0, 0, *frame.padding[side::2]] for side in (0, 1))
        x = padded(c, x, c.b.scalar(0, x.type.dtype), low, high)
        real = tuple(p - q for p, q in zip(ceiled.padding, frame.padding, strict=True))
        return c.b.op("average_pool", x, count_include_pad=False, **_attributes(replace(frame, padding=real)))
    return c.b.op("average_pool", x, count_include_pad=include, **_attributes(ceiled))


def _lp_pool(c: Call) -> Value:
    """(sum |x|^p)^(1/p)."""
    x, p = c.x(), float(c.get("p"))
    if not p > 0:
        raise c.wrong("p must be positive", p)
    frame = _rounded_up(c, x, _frame(c, x))
    powers = c.scaled("pow", c.b.op("abs", x), p)
    return c.scaled("pow", c.b.op("window_sum", powers, **_attributes(frame)), 1 / p)


def _global(c: Call, x: Value, reduced: Value) -> Value:
    """A reduction over the spatial axes, which stay with size 1."""
    return c.b.reshape(reduced, (*x.type.shape[:2], *(1 for _ in x.type.shape[2:])))


def _global_average_pool(c: Call) -> Value:
    x = c.x()
    return _global(c, x, average(c, x, range(2, x.type.rank)))


def _global_max_pool(c: Call) -> Value:
    x = c.x()
    return _global(c, x, c.b.op("reduce_max", x, axes=tuple(range(2, x.type.rank))))


def _global_lp_pool(c: Call) -> Value:
    x = c.x()
    return _global(c, x, lp_norm(c, x, float(c.get("p")), range(2, x.type.rank)))


def _max_unpool(c: Call) -> Value:
    """Zeros with each element put where its maximum was found; indices count over the whole unpadded result."""
    x, indices = c.x(0), c.x(1)
    sizes = spatial_dims(c, x)
    frame = _frame(c, x)
    plain = (
        *x.type.shape[:2],
        *(
            (d - 1) * frame.strides[i] + frame.window[i] - frame.padding[2 * i] - frame.padding[2 * i + 1]
            for i, d in enumerate(sizes)
        ),
    )
    shape = tuple(c.sizes(2, "output shape")) if c.has(2) else plain
    flat = c.b.full(0, x.type.with_shape((product(plain),)))
    filled = c.b.op(
        "scatter_along", flat, c.b.reshape(indices, (indices.type.size,)), c.b.reshape(x, (x.type.size,)), axis=0
    )
    y = c.b.reshape(filled, plain)
    more = [a - b for a, b in zip(shape, plain, strict=True)]
    return padded(c, y, c.b.scalar(0, y.type.dtype), [0] * len(plain), more)


CONVERTERS: Mapping[str, Converter] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "GlobalLpPool": _global_lp_pool,
    "MaxUnpool": _max_unpool,
}
