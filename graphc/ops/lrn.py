"""Local response normalization across channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, div, mul
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_dtype, widened
from graphc.ops.sampling import uniform
from graphc.ops.windows import WINDOW_SUM


def _infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    (x,) = types
    if x.rank < 2:
        raise ShapeError("lrn takes (N, C, *)", seen=x)
    if a["size"] < 1:
        raise ShapeError("lrn's size must be positive", seen=a["size"])
    return (check_dtype(x, FLOATS),)


def _neighbours(size: int) -> dict[str, Any]:
    """The window over channels; of an even size, the longer half follows."""
    return {
        "axes": (1,), "window": (size,), "strides": (1,), "padding": ((size - 1) // 2, size // 2), "dilation": (1,),
    }  # fmt: skip


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    (square,) = WINDOW_SUM.reference((x * x,), _neighbours(a["size"]))
    return (x / (a["bias"] + a["alpha"] / a["size"] * square) ** a["beta"],)


def _decompose(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = operands
    square = b.op("window_sum", mul(b, x, x), **_neighbours(a["size"]))
    base = add(b, mul(b, square, a["alpha"] / a["size"]), a["bias"])
    return (div(b, x, b.op("pow", base, b.full_like(a["beta"], base))),)


def _samples() -> Iterable[Sample]:
    for shape, size in (((2, 7, 3, 2), 5), ((1, 6, 4), 2), ((2, 3), 1), ((1, 2, 2, 2), 5), ((0, 3, 2), 3)):
        yield Sample((uniform(*shape),), {"size": size, "alpha": 0.3, "beta": 0.75, "bias": 1.5})


OPERATORS = (
    OpDef(
        name="lrn",
        operands=("x",),
        attributes={
            "size": Attribute("int"), "alpha": Attribute("float", 1e-4), "beta": Attribute("float", 0.75),
            "bias": Attribute("float", 1.0),
        },
        infer=_infer,
        reference=widened(_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_decompose),
        samples=_samples,
        dtypes=FLOATS,
        doc="""x / (bias + alpha / size * sum of x^2 over channels c - (size-1)//2 .. c + size//2) ^ beta.

        x is (N, C, *). ONNX: LRN. Source: Krizhevsky et al., 2012.""",
    ),
)  # fmt: skip
