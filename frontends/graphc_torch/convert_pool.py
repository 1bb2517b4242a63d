"""Pooling: windows, and means over equal shares of an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import f32
from graphc_torch.call import Call, Converter
from graphc_torch.convert_reduce import average
from graphc_torch.refused import Refused


def _numbers(c: Call, name: str, rank: int, default: Sequence[int]) -> tuple[int, ...]:
    """A number for each spatial axis; one stands for all."""
    given = c.get(name, ())
    values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if not values:
        return tuple(default)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


def _windows(c: Call, x: Value, rank: int) -> dict[str, Any]:
    """The attributes of a window over the last `rank` axes; torch's ceil_mode becomes padding at the end."""
    window = _numbers(c, "kernel_size", rank, ())
    strides = _numbers(c, "stride", rank, window)
    dilation = _numbers(c, "dilation", rank, (1,) * rank)
    pads = _numbers(c, "padding", rank, (0,) * rank)
    sizes = x.type.shape[-rank:]
    outputs = c.node.meta["val"]
    counts = c.type(0 if isinstance(outputs, (tuple, list)) else None).shape[-rank:]
    padding: list[int] = []
    for i in range(rank):
        extent = (window[i] - 1) * dilation[i] + 1
        extra = _missing(c, sizes[i], counts[i], strides[i], extent, pads[i]) if c.get("ceil_mode") else 0
        padding += (pads[i], pads[i] + extra)
    return {
        "axes": tuple(range(x.type.rank - rank, x.type.rank)), "window": window, "strides": strides,
        "padding": tuple(padding), "dilation": dilation,
    }  # fmt: skip


def _missing(c: Call, size: Dim, count: Dim, stride: int, extent: int, pad: int) -> int:
    """What the last window reaches beyond the padded axis."""
    if isinstance(size, Expr) or isinstance(count, Expr):
        raise Refused("ceil_mode over a dynamic axis isn't supported")
    return max((count - 1) * stride + extent - size - 2 * pad, 0)


def _trimmed(x: Value, frame: Mapping[str, Any]) -> dict[str, Any]:
    """The windows without what lies behind the axis in all of them, for pools that don't count padding.

    A model for large images that is given a small one has windows of mostly that.
    """
    window, padding = list(frame["window"]), list(frame["padding"])
    for i, axis in enumerate(frame["axes"]):
        size, low, high = x.type.shape[axis], *padding[2 * i : 2 * i + 2]
        if isinstance(size, int) and frame["dilation"][i] == 1:
            beyond = min(max(window[i] - size - low, 0), high)
            window[i] -= beyond
            padding[2 * i + 1] -= beyond
    return {**frame, "window": tuple(window), "padding": tuple(padding)}


def _max_pool(rank: int) -> Converter:
    return lambda c: c.b.op("max_pool", c.x(), **_trimmed(c.x(), _windows(c, c.x(), rank)))


def _max_pool_with_indices(rank: int) -> Converter:
    """Values, and their positions in the image, counted row by row."""

    def convert(c: Call) -> Sequence[Value | None]:
        indices_read = any(u.args[1] == 1 and u.users for u in c.node.users)
        if not indices_read:
            return [_max_pool(rank)(c), None]  # type: ignore[list-item]
        return list(c.b.ops("window_max", c.x(), **_windows(c, c.x(), rank)))

    return convert


def _average_pool(rank: int) -> Converter:
    def convert(c: Call) -> Value:
        x = c.x()
        frame = _windows(c, x, rank)
        include, divisor = bool(c.get("count_include_pad", True)), c.get("divisor_override")
        if divisor is not None:
            return c.scaled("div", c.b.op("window_sum", x, **frame), divisor)
        pads = _numbers(c, "padding", rank, (0,) * rank)
        given = tuple(p for n in pads for p in (n, n))
        if include and frame["padding"] != given:
            # What ceil_mode adds isn't counted even here: so the padding is made real, and what is left isn't counted.
            low = [0] * (x.type.rank - rank) + list(pads)
            x = c.b.op("pad", x, c.b.scalar(0, x.type.dtype), low=tuple(low), high=tuple(low)) if any(low) else x
            extra = tuple(a - b for a, b in zip(frame["padding"], given, strict=True))
            frame, include = {**frame, "padding": extra}, False
        return c.b.op("average_pool", x, count_include_pad=include, **(frame if include else _trimmed(x, frame)))

    return convert


def _adaptive_average(c: Call) -> Value:
    """Output i of n is the mean of elements floor(i * size / n) to ceil((i + 1) * size / n)."""
    x = c.x()
    wanted = c.type().shape
    rank = len(c.raw("output_size"))
    axes = tuple(range(x.type.rank - rank, x.type.rank))
    if all(wanted[i] == 1 for i in axes):
        return c.keep(average(c, x, axes), x, axes)
    for axis in axes:
        if wanted[axis] != x.type.shape[axis]:
            x = _shares(c, x, axis, wanted[axis])
    return x


def _shares(c: Call, x: Value, axis: int, wanted: Dim) -> Value:
    size = x.type.shape[axis]
    if wanted == 1:
        return c.keep(average(c, x, (axis,)), x, (axis,))
    if isinstance(size, Expr) or isinstance(wanted, Expr):
        raise Refused("adaptive pooling of a dynamic axis to more than one element isn't supported")
    if size % wanted == 0:
        shape = (*x.type.shape[:axis], wanted, size // wanted, *x.type.shape[axis + 1 :])
        return average(c, c.b.reshape(x, shape), (axis + 1,))
    weights = np.zeros((wanted, size), np.float32)
    for i in range(wanted):
        low, high = i * size // wanted, -(-(i + 1) * size // wanted)
        weights[i, low:high] = 1 / (high - low)
    wide = c.b.cast(x, f32) if x.type.dtype.bytes == 2 else x
    y = c.b.op(
        "dot", wide, c.b.cast(c.b.constant(weights), wide.type.dtype), lhs_contract=(axis,), rhs_contract=(1,)
    )  # fmt: skip
    order = [i if i < axis else (x.type.rank - 1 if i == axis else i - 1) for i in range(x.type.rank)]
    return c.b.cast(c.b.transpose(y, order), x.type.dtype)


def _adaptive_max(c: Call) -> Sequence[Value | None]:
    """Windows of equal size; positions aren't counted."""
    x = c.x()
    rank = len(c.raw("output_size"))
    window = []
    for size, wanted in zip(x.type.shape[-rank:], c.type(0).shape[-rank:], strict=True):
        if isinstance(size, Expr) or isinstance(wanted, Expr) or size % wanted:
            raise Refused("adaptive pooling to windows of different sizes isn't supported")
        window.append(size // wanted)
    frame: dict[str, Any] = {
        "axes": tuple(range(x.type.rank - rank, x.type.rank)), "window": tuple(window), "strides": tuple(window),
        "padding": (0,) * (2 * rank), "dilation": (1,) * rank,
    }  # fmt: skip
    return [c.b.op("max_pool", x, **frame), None]


CONVERTERS: Mapping[str, Converter] = {
    "max_pool1d": _max_pool(1),
    "max_pool2d": _max_pool(2),
    "max_pool3d": _max_pool(3),
    "max_pool2d_with_indices": _max_pool_with_indices(2),
    "max_pool3d_with_indices": _max_pool_with_indices(3),
    "avg_pool1d": _average_pool(1),
    "avg_pool2d": _average_pool(2),
    "avg_pool3d": _average_pool(3),
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
    "adaptive_avg_pool3d": _adaptive_average,
    "_adaptive_avg_pool2d": _adaptive_average,
    "_adaptive_avg_pool3d": _adaptive_average,
    "adaptive_max_pool2d": _adaptive_max,
}
