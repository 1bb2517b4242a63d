"""Batch normalization by the batch's own statistics, as training runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, bf16, f16, f32
from graphc.ops.arithmetic import add, count, div, mul, spread, sub
from graphc.ops.by_decomposition import decomposition, wide
from graphc.ops.common import FLOATS, check_axis, check_dtype, check_same_dtype, small_float
from graphc.ops.sampling import uniform


def _infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_same_dtype(types)
    x = check_dtype(types[0], FLOATS)
    channels = x.shape[check_axis(a["axis"], x.rank)]
    for t in types[1:]:
        if t.rank != 1:
            raise ShapeError("parameters of channels have rank 1", seen=t)
        inference.equal(channels, t.shape[0], "channels and their parameters")
    statistic = TensorType(f32 if x.dtype in (f16, bf16) else x.dtype, (channels,))
    return (x, statistic, statistic)


def _others(x: Value, axis: int) -> tuple[int, ...]:
    """The axes that statistics are taken over."""
    return tuple(i for i in range(x.type.rank) if i != axis)


def _over_count(b: Builder, total: Value, x: Value, axes: Sequence[int]) -> Value:
    """A sum over axes of x, for each channel, divided by the number of its elements."""
    n = count(b, [x.type.shape[i] for i in axes], total.type.dtype)
    return div(b, total, b.broadcast(n, total.type.shape, ()))


def _compute(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, scale, bias = operands
    channel, axes = (a["axis"],), _others(x, a["axis"])
    mean = _over_count(b, b.op("reduce_sum", x, axes=axes), x, axes)
    centred = sub(b, x, spread(b, mean, x, channel))
    variance = _over_count(b, b.op("reduce_sum", mul(b, centred, centred), axes=axes), x, axes)
    factor = mul(b, scale, b.op("rsqrt", add(b, variance, a["epsilon"])))
    y = add(b, mul(b, centred, spread(b, factor, x, channel)), spread(b, bias, x, channel))
    return y, mean, variance


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    dtype = operands[0].dtype
    x, scale, bias = (v.astype(np.float32) if small_float(v.dtype) else v for v in operands)
    axes = tuple(i for i in range(x.ndim) if i != a["axis"])
    along = [-1 if i == a["axis"] else 1 for i in range(x.ndim)]
    n = x.dtype.type(x.size // x.shape[a["axis"]] if x.shape[a["axis"]] else 0)
    mean = x.sum(axes) / n
    centred = x - mean.reshape(along)
    variance = (centred * centred).sum(axes) / n
    factor = scale / np.sqrt(variance + x.dtype.type(a["epsilon"]))
    return ((centred * factor.reshape(along) + bias.reshape(along)).astype(dtype), mean, variance)


def _vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """With h = (x - mean) / deviation: dscale = sum(dy h), dbias = sum(dy), and
    dx = scale / deviation * (dy - mean(dy) - h mean(dy h)), plus what reaches x through the returned statistics."""
    axis, dtype = node["axis"], node.operands[0].type.dtype
    x, scale, dy = (b.cast(v, wide(dtype)) for v in (*node.operands[:2], cotangents[0]))
    mean, variance = node.results[1:]
    channel, axes = (axis,), _others(x, axis)
    inverse = b.op("rsqrt", add(b, variance, node["epsilon"]))
    centred = sub(b, x, spread(b, mean, x, channel))
    normalized = mul(b, centred, spread(b, inverse, x, channel))
    dscale = b.op("reduce_sum", mul(b, dy, normalized), axes=axes)
    dbias = b.op("reduce_sum", dy, axes=axes)
    shared = add(
        b,
        spread(b, _over_count(b, dbias, x, axes), x, channel),
        mul(b, normalized, spread(b, _over_count(b, dscale, x, axes), x, channel)),
    )
    dx = mul(b, sub(b, dy, shared), spread(b, mul(b, scale, inverse), x, channel))
    if not _is_zero(cotangents[1]):
        dx = add(b, dx, spread(b, _over_count(b, cotangents[1], x, axes), x, channel))
    if not _is_zero(cotangents[2]):
        twice = mul(b, _over_count(b, cotangents[2], x, axes), 2)
        dx = add(b, dx, mul(b, centred, spread(b, twice, x, channel)))
    return [b.cast(v, dtype) for v in (dx, dscale, dbias)]


def _is_zero(value: Value) -> bool:
    """Whether a value is a broadcast 0, as the cotangent of a result is that nothing depends on."""
    while value.producer is not None and value.producer.op.name == "broadcast":
        value = value.producer.operands[0]
    node = value.producer
    return node is not None and node.op.name == "constant" and not node["value"].array.any()


def _samples() -> Iterable[Sample]:
    for shape, axis in (((2, 3, 4, 5), 1), ((2, 4, 5, 3), 3), ((4, 3), 1), ((7,), 0), ((2, 3, 33), 1), ((0, 3, 2), 1)):
        parameters = (uniform(shape[axis], seed=1), uniform(shape[axis], seed=2))
        # Of one element a channel, or of none, the gradient is that of a division by the epsilon's root, or of 0.
        smooth = 0 not in shape and len(shape) > 1
        yield Sample((uniform(*shape), *parameters), {"axis": axis, "epsilon": 1e-5}, differentiable=smooth)
    yield Sample((uniform(6, 2) + 3, uniform(2, seed=1), uniform(2, seed=2)), {"axis": 1, "epsilon": 1e-3})


OPERATORS = (
    OpDef(
        name="batch_norm_training",
        operands=("x", "scale", "bias"),
        results=("y", "mean", "variance"),
        attributes={"axis": Attribute("int", 1), "epsilon": Attribute("float", 1e-5)},
        infer=_infer,
        reference=_reference,
        vjp=_vjp,
        decompose=decomposition(_compute),
        samples=_samples,
        dtypes=FLOATS,
        doc="""y = (x - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + bias[c], and the statistics it used.

        Channels along `axis`; mean and variance, [C], are those of the other axes, the variance the population's. They are
        f32 where x is f16 or bf16. ONNX: BatchNormalization in training mode. Source: Ioffe and Szegedy, 2015.""",
    ),
)
