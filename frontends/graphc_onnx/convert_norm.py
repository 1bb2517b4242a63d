"""Normalization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir.graph import Value
from graphc.ir.types import DType
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_reduce import average, keep_axes, lp_norm
from graphc_onnx.imported import Refused, broadcast_to


def _batch_normalization(c: Call) -> list[Value]:
    """By the stored statistics, or in training by the batch's, towards which the stored ones move."""
    x, dtype = c.x(), c.tensor(0).type.dtype
    learned = c.mode.learned
    if (c.get("training_mode", 0) or any(c.outputs[1:])) and learned is None and not c.mode.evaluating:
        raise Refused("training mode isn't supported in inference")
    if c.get("spatial", 1) == 0:
        raise Refused("statistics for each position (spatial=0) aren't supported")
    options: dict[str, Any] = {"axis": 1 if x.type.rank > 1 else 0, "epsilon": float(c.get("epsilon"))}
    scale, bias = (c.b.cast(c.x(i), dtype) for i in (1, 2))
    stored = [c.x(i) for i in (3, 4)]
    if learned is None or not (c.get("training_mode", 0) or learned.owns(c.tensor(3))):
        y = c.b.op("batch_norm", x, scale, bias, *(c.b.cast(v, dtype) for v in stored), **options)
        return [y, *stored][: len(c.outputs)]
    learned.check_outside_of_regions(c.b)
    y, *batch = c.b.ops("batch_norm_training", x, scale, bias, **options)
    moved = [_moved(c, old, new) for old, new in zip(stored, batch, strict=True)]
    for i, new in zip((3, 4), moved, strict=True):
        learned.update(c.tensor(i), new)
    return [y, *moved][: len(c.outputs)]


def _moved(c: Call, stored: Value, batch: Value) -> Value:
    """stored * momentum + batch * (1 - momentum); no gradient passes."""
    momentum = float(c.get("momentum"))
    batch = c.b.cast(c.b.op("stop_gradient", batch), stored.type.dtype)
    return c.b.op("add", c.scaled("mul", stored, momentum), c.scaled("mul", batch, 1 - momentum))


def _layer_normalization(c: Call) -> list[Value | None]:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    shape = x.type.shape[axis:]
    scale = broadcast_to(c.b, c.x(1), shape)
    bias = broadcast_to(c.b, c.x(2), shape) if c.has(2) else c.b.full(0, x.type.with_shape(shape))
    y = c.b.op("layer_norm", x, scale, bias, axis=axis, epsilon=float(c.get("epsilon")))
    if not any(c.outputs[1:]):
        return [y]
    return [y, *_statistics(c, x, axis)]


def _statistics(c: Call, x: Value, axis: int) -> list[Value]:
    """Mean and inverse deviation, in the type of the computation."""
    axes = range(axis, x.type.rank)
    wide = c.b.cast(x, _stash(c))
    mean = keep_axes(c, average(c, wide, axes), wide, axes)
    centred = c.binary("sub", wide, mean)
    variance = keep_axes(c, average(c, c.b.op("mul", centred, centred), axes), wide, axes)
    return [mean, c.b.op("rsqrt", c.scaled("add", variance, c.get("epsilon")))]


def _stash(c: Call) -> DType:
    return c.dtype(c.get("stash_type", 1))


def _rms_normalization(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    scale = broadcast_to(c.b, c.x(1), x.type.shape[axis:])
    return c.b.op("rms_norm", x, scale, axis=axis, epsilon=float(c.get("epsilon")))


def _instance_normalization(c: Call) -> Value:
    x = c.x()
    channels = x.type.shape[1] if x.type.rank > 1 else None
    if not isinstance(channels, int):
        raise Refused("a dynamic number of channels isn't supported")
    return c.b.op("group_norm", x, c.x(1), c.x(2), groups=channels, epsilon=float(c.get("epsilon")))


def _group_normalization(c: Call) -> Value:
    """Scale and bias are one for each channel; before version 21 one for each group."""
    x, scale, bias = c.x(0), c.x(1), c.x(2)
    groups = int(c.get("num_groups"))
    channels = x.type.shape[1] if x.type.rank > 1 else None
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise c.wrong("channels must be a multiple of num_groups", x.type, groups)
    if c.opset < 21:
        each = (groups, channels // groups)
        scale, bias = (c.b.reshape(c.b.broadcast(p, each, (0,)), (channels,)) for p in (scale, bias))
    return c.b.op("group_norm", x, scale, bias, groups=groups, epsilon=float(c.get("epsilon")))


def _mean_variance_normalization(c: Call) -> Value:
    """(x - mean) / (deviation + 1e-9) over axes."""
    x = c.x()
    axes = c.axes(c.get("axes"), x.type.rank)
    centred = c.binary("sub", x, keep_axes(c, average(c, x, axes), x, axes))
    variance = average(c, c.b.op("mul", centred, centred), axes)
    deviation = c.scaled("add", c.b.op("sqrt", variance), 1e-9)
    return c.binary("div", centred, keep_axes(c, deviation, x, axes))


def _lp_normalization(c: Call) -> Value:
    """x by its norm along the axis; 0 where that is 0."""
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    norm = broadcast_to(c.b, keep_axes(c, lp_norm(c, x, float(c.get("p")), (axis,)), x, (axis,)), x.type.shape)
    zero = c.b.full_like(0, x)
    return c.b.op("select", c.b.op("eq", norm, zero), zero, c.b.op("div", x, norm))


def _lrn(c: Call) -> Value:
    return c.b.op(
        "lrn", c.x(), size=int(c.get("size")), alpha=float(c.get("alpha")), beta=float(c.get("beta")),
        bias=float(c.get("bias")),
    )  # fmt: skip


CONVERTERS: Mapping[str, Converter] = {
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "InstanceNormalization": _instance_normalization,
    "GroupNormalization": _group_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "LpNormalization": _lp_normalization,
    "LRN": _lrn,
}
