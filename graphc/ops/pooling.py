"""Maximum and average pooling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import div
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, NUMBERS, check_dtype, widened
from graphc.ops.windows import WINDOW_ATTRIBUTES, WINDOW_MAX, WINDOW_SUM, WindowSpec, taps, window_samples


def _slide(a: Mapping[str, Any]) -> dict[str, Any]:
    return {k: a[k] for k in WINDOW_ATTRIBUTES}


def _max_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return WINDOW_MAX.infer(inference, types, a)[:1]


def _max_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    fill = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    views = [view for _, view in taps(x, WindowSpec.from_attributes(a), fill)]
    return (np.maximum.reduce(views),)


def _max_decompose(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    return b.ops("window_max", operands[0], **_slide(a))[:1]


def _average_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_dtype(types[0], FLOATS)
    return WINDOW_SUM.infer(inference, types, a)


def _average_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    spec = WindowSpec.from_attributes(a)
    (total,) = WINDOW_SUM.reference(operands, a)
    if a["count_include_pad"]:
        return (total / x.dtype.type(np.prod(spec.window)),)
    ones = np.ones([n if i in spec.axes else 1 for i, n in enumerate(x.shape)], x.dtype)
    return (total / WINDOW_SUM.reference((ones,), a)[0],)


def _average(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = operands
    total = b.op("window_sum", x, **_slide(a))
    if a["count_include_pad"] or not any(a["padding"]):
        return (div(b, total, float(np.prod(a["window"]))),)
    ones = b.full(1, x.type.with_shape(n if i in a["axes"] else 1 for i, n in enumerate(x.type.shape)))
    counts = b.op("window_sum", ones, **_slide(a))
    return (div(b, total, b.broadcast(counts, total.type.shape, range(x.type.rank))),)


def _average_samples() -> Iterable[Sample]:
    for sample in window_samples():
        for include in (False, True):
            yield Sample(sample.operands, {**sample.attributes, "count_include_pad": include})


def _max_samples() -> Iterable[Sample]:
    yield from window_samples()
    x = np.array([1.0, np.nan, 2.0, 3.0, -np.inf, -np.inf, 0.0])
    slide = {"axes": (0,), "window": (2,), "strides": (1,), "padding": (1, 0), "dilation": (1,)}
    yield Sample((x,), slide, differentiable=False)


OPERATORS = (
    OpDef(
        name="max_pool",
        operands=("x",),
        attributes=WINDOW_ATTRIBUTES,
        infer=_max_infer,
        reference=_max_reference,
        vjp=vjp_by_decomposition,
        decompose=decomposition(_max_decompose),
        samples=_max_samples,
        dtypes=NUMBERS,
        doc="""Values of `window_max`: maximum over sliding windows; NaN wins, padding never does. ONNX: MaxPool.""",
    ),
    OpDef(
        name="average_pool",
        operands=("x",),
        attributes={**WINDOW_ATTRIBUTES, "count_include_pad": Attribute("bool", False)},
        infer=_average_infer,
        reference=widened(_average_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_average),
        samples=_average_samples,
        dtypes=FLOATS,
        doc="""`window_sum` by the number of elements in the window: those inside of x; all with `count_include_pad`.

        A window without an element inside of x has no mean: NaN. ONNX: AveragePool.""",
    ),
)
