"""Activation functions: composites over elementwise operators, the same on every element."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Reference, Sample, Vjp
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, mul
from graphc.ops.by_decomposition import Compute, decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_dtype, widened
from graphc.ops.sampling import uniform
from graphc.ops.scalar_functions import erf, sigmoid

GELU_CUBIC = 0.044715
"""The coefficient of x**3 in the tanh form of gelu (Hendrycks and Gimpel, 2016)."""


def _infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return (check_dtype(types[0], FLOATS),)


def _gelu_infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    if a["approximate"] not in ("none", "tanh"):
        raise ShapeError("unknown approximation", seen=a["approximate"], expected="none or tanh")
    return (check_dtype(types[0], FLOATS),)


def _zeros(b: Builder, x: Value) -> Value:
    return b.full_like(0, x)


def _relu(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    return (b.op("max", xs[0], _zeros(b, xs[0])),)


def _relu_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """The cotangent where x > 0; zero at 0."""
    (x,), (g,) = node.operands, cotangents
    return (b.op("select", b.op("gt", x, _zeros(b, x)), g, _zeros(b, x)),)


def _leaky_relu(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = xs
    return (b.op("select", b.op("gt", x, _zeros(b, x)), x, mul(b, x, a["alpha"])),)


def _elu(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = xs
    # The minimum keeps expm1 finite where the other arm is chosen.
    low = mul(b, b.op("expm1", b.op("min", x, _zeros(b, x))), a["alpha"])
    return (b.op("select", b.op("gt", x, _zeros(b, x)), x, low),)


def _elu_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """The cotangent where x > 0, else times alpha * exp(x)."""
    (x,), (g,), zeros = node.operands, cotangents, _zeros(b, node.operands[0])
    slope = mul(b, b.op("exp", b.op("min", x, zeros)), node["alpha"])
    return (b.op("select", b.op("gt", x, zeros), g, mul(b, g, slope)),)


def _softplus(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = xs
    return (add(b, b.op("max", x, _zeros(b, x)), b.op("log1p", b.op("exp", b.op("neg", b.op("abs", x))))),)


def _softplus_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """The cotangent times sigmoid(x)."""
    return (mul(b, cotangents[0], b.op("sigmoid", node.operands[0])),)


def _silu(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = xs
    return (mul(b, x, b.op("sigmoid", x)),)


def _gelu(b: Builder, xs: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = xs
    if a["approximate"] == "none":
        bend = b.op("erf", mul(b, x, math.sqrt(0.5)))
    else:
        cubic = mul(b, mul(b, mul(b, x, x), x), GELU_CUBIC)
        bend = b.op("tanh", mul(b, add(b, x, cubic), math.sqrt(2 / math.pi)))
    return (mul(b, mul(b, x, 0.5), add(b, bend, 1.0)),)


def _gelu_reference(x: np.ndarray, a: Mapping[str, Any]) -> np.ndarray:
    if a["approximate"] == "none":
        bend = erf(x * math.sqrt(0.5)).astype(x.dtype)
    else:
        bend = np.tanh(math.sqrt(2 / math.pi) * (x + GELU_CUBIC * x**3))
    return np.asarray(x * 0.5 * (1 + bend))


def _elementwise(f: Any) -> Reference:
    return widened(lambda operands, a: (np.asarray(f(operands[0], a), dtype=operands[0].dtype),))


def _samples(**attributes: Any) -> Iterable[Sample]:
    yield Sample((uniform(3, 5, low=-4, high=4),), attributes)
    yield Sample((uniform(),), attributes)
    yield Sample((uniform(0, 2),), attributes)
    yield Sample((np.array([0.0, -0.0, np.nan, np.inf, 80.0, -80.0]),), attributes, differentiable=False)


def _declare(
    name: str,
    compute: Compute,
    reference: Any,
    doc: str,
    *,
    vjp: Vjp = vjp_by_decomposition,
    infer: Any = _infer,
    attributes: Mapping[str, Attribute] | None = None,
    choices: Sequence[Mapping[str, Any]] = ({},),
) -> OpDef:
    return OpDef(
        name=name,
        operands=("x",),
        attributes=attributes or {},
        infer=infer,
        reference=_elementwise(reference),
        vjp=vjp,
        decompose=decomposition(compute),
        samples=lambda: [s for choice in choices for s in _samples(**choice)],
        dtypes=FLOATS,
        doc=doc,
    )


OPERATORS = (
    _declare("relu", _relu, lambda x, a: np.maximum(x, 0), "max(x, 0); gradient 0 at 0. ONNX: Relu.", vjp=_relu_vjp),
    _declare(
        "leaky_relu",
        _leaky_relu,
        lambda x, a: np.where(x > 0, x, x * a["alpha"]),
        "x where x > 0, else alpha * x; its gradient at 0 is alpha. ONNX: LeakyRelu.",
        attributes={"alpha": Attribute("float", 0.01)},
        choices=({}, {"alpha": 0.3}),
    ),
    _declare(
        "elu",
        _elu,
        lambda x, a: np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0))),
        "x where x > 0, else alpha * (exp(x) - 1). ONNX: Elu. Source: Clevert et al., 2015.",
        vjp=_elu_vjp,
        attributes={"alpha": Attribute("float", 1.0)},
        choices=({}, {"alpha": 0.5}),
    ),
    _declare(
        "softplus",
        _softplus,
        lambda x, a: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        "log(1 + exp(x)), without overflow. ONNX: Softplus.",
        vjp=_softplus_vjp,
    ),
    _declare("silu", _silu, lambda x, a: x * sigmoid(x), "x * sigmoid(x). Source: Elfwing et al., 2017."),
    _declare(
        "gelu",
        _gelu,
        _gelu_reference,
        "x * (1 + erf(x / sqrt(2))) / 2, or with approximate=tanh x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2. "
        "ONNX: Gelu. Source: Hendrycks and Gimpel, 2016.",
        infer=_gelu_infer,
        attributes={"approximate": Attribute("str", "none")},
        choices=({}, {"approximate": "tanh"}),
    ),
)
