"""Reductions, indexing and sorting in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.types import i64
from graphc_onnx.export_scope import Name
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import Refused

_COMBINE = {"set": "none", "sum": "add", "prod": "mul", "max": "max", "min": "min"}


def _reduce(op: str) -> Exporter:
    def export(c: ExportedNode) -> Name:
        if not c["axes"]:
            return c.x()
        return c.op(op, [c.x(), c.scope.integers(c["axes"])], keepdims=0)

    return export


def _arg(op: str) -> Exporter:
    return lambda c: c.op(op, [c.x()], axis=c["axis"], keepdims=0)


def _cumsum(c: ExportedNode) -> Name:
    axis = c.scope.scalar(c["axis"], i64)
    return c.op("CumSum", [c.x(), axis], exclusive=int(c["exclusive"]), reverse=int(c["reverse"]))


def _gather(op: str) -> Exporter:
    return lambda c: c.op(op, c.xs(), axis=c["axis"])


def _gather_nd(c: ExportedNode) -> Name:
    return c.op("GatherND", [c.x(0), c.scope.cast(c.x(1), i64)], batch_dims=c["batch_dims"])


def _scatter_along(c: ExportedNode) -> Name:
    return c.op("ScatterElements", c.xs(), axis=c["axis"], reduction=_COMBINE[c["combine"]])


def _scatter_nd(c: ExportedNode) -> Name:
    indices = c.scope.cast(c.x(1), i64)
    return c.op("ScatterND", [c.x(0), indices, c.x(2)], reduction=_COMBINE[c["combine"]])


def _sort(c: ExportedNode) -> Sequence[Name]:
    """All elements, the largest or the smallest first; equal ones in their order."""
    x = c.x()
    if x.rank == 0:
        raise Refused("ONNX sorts along an axis")
    return _top(c, x, c.scope.size(x.shape[c["axis"]]), c["descending"])


def _top_k(c: ExportedNode) -> Sequence[Name]:
    return _top(c, c.x(), c.scope.size(c["k"]), c["largest"])


def _top(c: ExportedNode, x: Name, k: Name, largest: bool) -> Sequence[Name]:
    types = [v.type for v in c.node.results]
    return c.scope.ops("TopK", [x, k], *types, axis=c["axis"], largest=int(largest), sorted=1)


EXPORTERS: Mapping[str, Exporter] = {
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumsum,
    "gather": _gather("Gather"),
    "take_along": _gather("GatherElements"),
    "gather_nd": _gather_nd,
    "scatter_along": _scatter_along,
    "scatter_nd": _scatter_nd,
    "sort": _sort,
    "top_k": _top_k,
}
