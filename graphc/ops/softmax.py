"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import div, mul, sub
from graphc.ops.by_decomposition import decomposition
from graphc.ops.common import FLOATS, check_axis, check_dtype, widened
from graphc.ops.sampling import uniform


def _infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_axis(a["axis"], types[0].rank)
    return (check_dtype(types[0], FLOATS),)


def _below_maximum(b: Builder, x: Value, axis: int) -> Value:
    return sub(b, x, b.reduce("reduce_max", x, (axis,), keep=True))


def _softmax(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    e = b.op("exp", _below_maximum(b, xs[0], a["axis"]))
    return (div(b, e, b.reduce("reduce_sum", e, (a["axis"],), keep=True)),)


def _log_softmax(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    low = _below_maximum(b, xs[0], a["axis"])
    total = b.op("log", b.op("reduce_sum", b.op("exp", low), axes=(a["axis"],)))
    return (sub(b, low, b.broadcast(total, low.type.shape, [i for i in range(low.type.rank) if i != a["axis"]])),)


def _softmax_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """y * (g - sum(g * y))."""
    y, (g,) = node.result, cotangents
    return (mul(b, y, sub(b, g, b.reduce("reduce_sum", mul(b, g, y), (node["axis"],), keep=True))),)


def _log_softmax_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """g - exp(y) * sum(g)."""
    y, (g,) = node.result, cotangents
    return (sub(b, g, mul(b, b.op("exp", y), b.reduce("reduce_sum", g, (node["axis"],), keep=True))),)


def _softmax_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    e = np.exp(x - x.max(a["axis"], keepdims=True))
    return (e / e.sum(a["axis"], keepdims=True),)


def _log_softmax_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    low = x - x.max(a["axis"], keepdims=True)
    return (low - np.log(np.exp(low).sum(a["axis"], keepdims=True)),)


def _samples() -> Iterable[Sample]:
    yield Sample((uniform(3, 7, low=-5, high=5),), {"axis": 1})
    yield Sample((uniform(2, 5, 3),), {"axis": 1})
    yield Sample((uniform(4, 2, 1),), {"axis": 0})
    yield Sample((uniform(2, 3, 1),), {"axis": 2})
    yield Sample((uniform(33),), {"axis": 0})
    yield Sample((uniform(0, 3),), {"axis": 1})
    edges = [[0.0, -np.inf, 1.0], [1e4, -1e4, 0.0], [np.nan, 0.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 1.0]]
    yield Sample((np.array(edges),), {"axis": 1}, differentiable=False)


OPERATORS = (
    OpDef(
        name="softmax",
        operands=("x",),
        attributes={"axis": Attribute("int")},
        infer=_infer,
        reference=widened(_softmax_reference),
        vjp=_softmax_vjp,
        decompose=decomposition(_softmax),
        samples=_samples,
        dtypes=FLOATS,
        doc="exp(x - max(x)) / sum(exp(x - max(x))) along `axis`; NaN where all are -inf. ONNX: Softmax from 13.",
    ),
    OpDef(
        name="log_softmax",
        operands=("x",),
        attributes={"axis": Attribute("int")},
        infer=_infer,
        reference=widened(_log_softmax_reference),
        vjp=_log_softmax_vjp,
        decompose=decomposition(_log_softmax),
        samples=_samples,
        dtypes=FLOATS,
        doc="x - max(x) - log(sum(exp(x - max(x)))) along `axis`. ONNX: LogSoftmax from 13.",
    ),
)
