"""Normalization: over trailing axes, over groups of channels, and by given statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim, floordiv, mod
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, mean, mul, spread, sub
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_axis, check_dtype, check_same_dtype, widened
from graphc.ops.sampling import uniform


def _check_floats(types: Sequence[TensorType]) -> None:
    check_same_dtype(types)
    check_dtype(types[0], FLOATS)


def _scaled_by(b: Builder, x: Value, epsilon: float, mean_square: Value) -> Value:
    """x / sqrt(mean_square + epsilon)."""
    return mul(b, x, b.op("rsqrt", add(b, mean_square, epsilon)))


def _normalized(b: Builder, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over axes."""
    centred = sub(b, x, mean(b, x, axes))
    return _scaled_by(b, centred, epsilon, mean(b, mul(b, centred, centred), axes))


def _normalize(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + x.dtype.type(epsilon)))


# Over trailing axes


def _trailing_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    _check_floats(types)
    x, axis = types[0], check_axis(a["axis"], types[0].rank)
    for t in types[1:]:
        inference.same_shape([x.with_shape(x.shape[axis:]), t], "normalized dims and parameters")
    return (x,)


def _layer_norm(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, scale, bias = operands
    axes = range(a["axis"], x.type.rank)
    y = _normalized(b, x, axes, a["epsilon"])
    return (add(b, mul(b, y, spread(b, scale, x, axes)), spread(b, bias, x, axes)),)


def _layer_norm_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, scale, bias = operands
    return (_normalize(x, tuple(range(a["axis"], x.ndim)), a["epsilon"]) * scale + bias,)


def _rms_norm(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, scale = operands
    axes = range(a["axis"], x.type.rank)
    y = _scaled_by(b, x, a["epsilon"], mean(b, mul(b, x, x), axes))
    return (mul(b, y, spread(b, scale, x, axes)),)


def _rms_norm_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, scale = operands
    square = (x * x).mean(tuple(range(a["axis"], x.ndim)), keepdims=True)
    return (x / np.sqrt(square + x.dtype.type(a["epsilon"])) * scale,)


def _trailing_samples(parameters: int) -> Iterable[Sample]:
    for shape, axis in (((3, 8), 1), ((2, 3, 33), 2), ((2, 3, 4), 1), ((5,), 0), ((0, 4), 1)):
        ps = [uniform(*shape[axis:], seed=1 + i) for i in range(parameters)]
        yield Sample((uniform(*shape), *ps), {"axis": axis, "epsilon": 1e-5})
    offset = uniform(2, 16) + 3
    yield Sample((offset, *(uniform(16, seed=1 + i) for i in range(parameters))), {"axis": 1, "epsilon": 1e-3})


# Over channels


def _channel_parameters(inference: Inference, channels: Dim, types: Sequence[TensorType]) -> None:
    for t in types:
        if t.rank != 1:
            raise ShapeError("parameters of channels have rank 1", seen=t)
        inference.equal(channels, t.shape[0], "channels and their parameters")


def _group_norm_infer(
    inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    _check_floats(types)
    x = types[0]
    if x.rank < 2:
        raise ShapeError("group_norm takes (N, C, *)", seen=x)
    if a["groups"] < 1 or mod(x.shape[1], a["groups"]) != 0:
        raise ShapeError("channels must be a multiple of groups", seen=f"{x.shape[1]} in {a['groups']} groups")
    _channel_parameters(inference, x.shape[1], types[1:])
    return (x,)


def _group_norm(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, scale, bias = operands
    n, c, *rest = x.type.shape
    groups = b.reshape(x, (n, a["groups"], floordiv(c, a["groups"]), *rest))
    y = b.reshape(_normalized(b, groups, range(2, groups.type.rank), a["epsilon"]), x.type.shape)
    return (add(b, mul(b, y, spread(b, scale, x, (1,))), spread(b, bias, x, (1,))),)


def _along(v: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return v.reshape([-1 if i == axis else 1 for i in range(rank)])


def _group_norm_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, scale, bias = operands
    groups = x.reshape(x.shape[0], a["groups"], x.shape[1] // a["groups"], *x.shape[2:])
    y = _normalize(groups, tuple(range(2, groups.ndim)), a["epsilon"]).reshape(x.shape)
    return (y * _along(scale, x.ndim, 1) + _along(bias, x.ndim, 1),)


def _group_norm_samples() -> Iterable[Sample]:
    for shape, groups in (((2, 6, 4, 3), 3), ((2, 4, 5), 1), ((1, 4, 3, 3), 4), ((3, 8), 2), ((0, 4, 2), 2)):
        parameters = (uniform(shape[1], seed=1), uniform(shape[1], seed=2))
        yield Sample((uniform(*shape), *parameters), {"groups": groups, "epsilon": 1e-5})


def _batch_norm_infer(
    inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    _check_floats(types)
    x = types[0]
    _channel_parameters(inference, x.shape[check_axis(a["axis"], x.rank)], types[1:])
    return (x,)


def _batch_norm(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, scale, bias, means, variance = operands
    factor = _scaled_by(b, scale, a["epsilon"], variance)
    centred = sub(b, x, spread(b, means, x, (a["axis"],)))
    return (add(b, mul(b, centred, spread(b, factor, x, (a["axis"],))), spread(b, bias, x, (a["axis"],))),)


def _batch_norm_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, scale, bias, means, variance = operands
    factor = scale / np.sqrt(variance + x.dtype.type(a["epsilon"]))
    offset, factor, bias = (_along(v, x.ndim, a["axis"]) for v in (means, factor, bias))
    return ((x - offset) * factor + bias,)


def _batch_norm_samples() -> Iterable[Sample]:
    for shape, axis in (((2, 3, 4, 5), 1), ((2, 4, 5, 3), 3), ((4, 3), 1), ((2, 3, 0), 1)):
        c = shape[axis]
        ps = (uniform(c, seed=1), uniform(c, seed=2), uniform(c, seed=3), uniform(c, seed=4, low=0.1))
        yield Sample((uniform(*shape), *ps), {"axis": axis, "epsilon": 1e-5})


_EPSILON = Attribute("float", 1e-5)

OPERATORS = (
    OpDef(
        name="layer_norm",
        operands=("x", "scale", "bias"),
        attributes={"axis": Attribute("int"), "epsilon": _EPSILON},
        infer=_trailing_infer,
        reference=widened(_layer_norm_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_layer_norm),
        samples=lambda: _trailing_samples(2),
        dtypes=FLOATS,
        doc="""(x - mean) / sqrt(variance + epsilon) * scale + bias, statistics over the axes from `axis` on.

        scale and bias have the shape of those axes. The variance is that of the population. ONNX: LayerNormalization.
        Source: Ba et al., 2016.""",
    ),
    OpDef(
        name="rms_norm",
        operands=("x", "scale"),
        attributes={"axis": Attribute("int"), "epsilon": _EPSILON},
        infer=_trailing_infer,
        reference=widened(_rms_norm_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_rms_norm),
        samples=lambda: _trailing_samples(1),
        dtypes=FLOATS,
        doc="""x / sqrt(mean(x^2) + epsilon) * scale, the mean over the axes from `axis` on, whose shape scale has.

        ONNX: RMSNormalization. Source: Zhang and Sennrich, 2019.""",
    ),
    OpDef(
        name="group_norm",
        operands=("x", "scale", "bias"),
        attributes={"groups": Attribute("int"), "epsilon": _EPSILON},
        infer=_group_norm_infer,
        reference=widened(_group_norm_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_group_norm),
        samples=_group_norm_samples,
        dtypes=FLOATS,
        doc="""(x - mean) / sqrt(variance + epsilon) * scale[c] + bias[c] for x (N, C, *).

        Statistics are those of each sample's `groups` groups of C / groups neighbouring channels; as many groups as
        channels make instance normalization. ONNX: GroupNormalization from version 21. Source: Wu and He, 2018.""",
    ),
    OpDef(
        name="batch_norm",
        operands=("x", "scale", "bias", "mean", "variance"),
        attributes={"axis": Attribute("int", 1), "epsilon": _EPSILON},
        infer=_batch_norm_infer,
        reference=widened(_batch_norm_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_batch_norm),
        samples=_batch_norm_samples,
        dtypes=FLOATS,
        doc="""(x - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + bias[c], channels along `axis`: inference only.

        ONNX: BatchNormalization. Source: Ioffe and Szegedy, 2015.""",
    ),
)
