"""Sorting along an axis, and its first few elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, i64
from graphc.ops.common import NUMBERS, check_axis, check_dtype, widened
from graphc.ops.movement import cut

Types = Sequence[TensorType]
Attributes = Mapping[str, Any]


def _infer_sort(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x = check_dtype(types[0], NUMBERS)
    check_axis(a["axis"], x.rank)
    return x, x.with_dtype(i64)


def _sort(operands: Sequence[np.ndarray], a: Attributes) -> tuple[np.ndarray, ...]:
    x, axis = operands[0], a["axis"]
    if a["descending"]:  # stable: sorted from the end, then turned around, equals keep their order
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def _infer_top_k(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x = check_dtype(types[0], NUMBERS)
    axis = check_axis(a["axis"], x.rank)
    inference.at_most(0, a["k"], "k")
    inference.at_most(a["k"], x.shape[axis], "k")
    y = x.with_shape((*x.shape[:axis], a["k"], *x.shape[axis + 1 :]))
    return y, y.with_dtype(i64)


def _top_k(operands: Sequence[np.ndarray], a: Attributes) -> tuple[np.ndarray, ...]:
    results = _sort(operands, {"axis": a["axis"], "descending": a["largest"]})
    return tuple(np.take(y, np.arange(a["k"]), a["axis"]) for y in results)


def _decompose_top_k(b: Builder, node: Node) -> Sequence[Value]:
    axis = node["axis"]
    both = b.ops("sort", *node.operands, axis=axis, descending=node["largest"])
    return [cut(b, y, axis, 0, node["k"]) for y in both]


def _vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    """Each cotangent of the values back to where its value came from."""
    (x,) = node.operands
    return (b.op("scatter_along", b.full_like(0, x), node.results[1], g[0], axis=node["axis"], combine="set"),)


def _arrays() -> Iterable[tuple[np.ndarray, int, bool]]:
    """(array, axis, whether a gradient exists there)."""
    rng = np.random.default_rng(6)
    yield rng.permutation(24).reshape(2, 4, 3) * 0.5, 1, True
    yield rng.permutation(6).reshape(3, 2) * 1.5, 0, True
    yield np.array([2.0, 1.0, 2.0, 1.0, 2.0]), 0, False
    yield np.array([1.0, np.nan, -np.inf, np.nan, 0.0, -0.0, np.inf]), 0, False
    yield np.array([2**63 - 1, -(2**63), 0]), 0, False
    yield np.zeros((2, 0)), 0, False


def _sort_samples() -> Iterable[Sample]:
    for x, axis, differentiable in _arrays():
        for descending in (False, True):
            yield Sample((x,), {"axis": axis, "descending": descending}, differentiable)


def _top_k_samples() -> Iterable[Sample]:
    for x, axis, differentiable in _arrays():
        for k in (1, 2) if x.shape[axis] > 1 else (0,):
            yield Sample((x,), {"axis": axis, "k": k, "largest": k == 1}, differentiable)


OPERATORS = (
    OpDef(
        name="sort",
        operands=("x",),
        results=("values", "indices"),
        attributes={"axis": Attribute("int"), "descending": Attribute("bool", False)},
        infer=_infer_sort,
        reference=widened(_sort),
        vjp=_vjp,
        samples=_sort_samples,
        dtypes=NUMBERS,
        doc="x sorted along `axis` and each value's index there (i64); stable; NaN counts as the greatest.",
    ),
    OpDef(
        name="top_k",
        operands=("x",),
        results=("values", "indices"),
        attributes={"axis": Attribute("int"), "k": Attribute("dim"), "largest": Attribute("bool", True)},
        infer=_infer_top_k,
        reference=widened(_top_k),
        vjp=_vjp,
        decompose=_decompose_top_k,
        samples=_top_k_samples,
        dtypes=NUMBERS,
        doc="The k greatest (or smallest) elements along `axis`, in order, and their indices; ties and NaN as in sort.",
    ),
)
