"""Operators that make tensors of nothing, and that move elements, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import i64
from graphc_onnx.export_scope import Name
from graphc_onnx.exported_node import ExportedNode, Exporter

_LARGEST_RANGE = 1 << 12
"""Elements of a range that is stored instead of computed."""


def _constant(c: ExportedNode) -> Name:
    found = c.scope.constant(c["value"].array, c.node.result.name)
    if c["value"].is_weight and len(c.node.result.uses) > 1:
        c.scope.names.shared.add(found.text)
    return found


def _iota(c: ExportedNode) -> Name:
    """A range along the axis, which repeats along the others."""
    dtype, shape, axis = c["dtype"], c["shape"], c["axis"]
    n = shape[axis]
    behind = range(1, len(shape) - axis)
    if isinstance(n, int) and n <= _LARGEST_RANGE:
        line = c.scope.constant(np.arange(n).astype(dtype.numpy))
    else:
        limit = c.scope.squeeze(c.scope.size(n), 0)
        zero, one = (c.scope.scalar(v, i64) for v in (0, 1))
        line = c.scope.cast(c.scope.op("Range", [zero, limit, one], i64, (n,)), dtype)
    return c.scope.unsqueeze(line, list(behind))


def _dims(c: ExportedNode) -> Name:
    return c.scope.sizes(c["values"])


def _broadcast(c: ExportedNode) -> Name:
    """Axes of size 1, where the result repeats; those in front are left to ONNX's broadcasting."""
    x, axes = c.loose(), c["axes"]
    places = axes[len(axes) - x.rank :]
    if not places:
        return x
    rank = len(c["shape"])
    return c.scope.unsqueeze(x, [i - places[0] for i in range(places[0], rank) if i not in places])


def _slice(c: ExportedNode) -> Name:
    x = c.x()
    parts = zip(c["starts"], c["limits"], c["strides"], x.shape, strict=True)
    axes = [i for i, (start, limit, stride, d) in enumerate(parts) if start != 0 or stride != 1 or limit != d]
    if not axes:
        return x
    bounds = (c.scope.sizes([c[n][i] for i in axes]) for n in ("starts", "limits"))
    return c.op("Slice", [x, *bounds, c.scope.integers(axes), c.scope.integers([c["strides"][i] for i in axes])])


def _reverse(c: ExportedNode) -> Name:
    axes: Sequence[int] = c["axes"]
    if not axes:
        return c.x()
    bounds = (c.scope.integers([n] * len(axes)) for n in (-1, np.iinfo(np.int64).min))
    return c.op("Slice", [c.x(), *bounds, c.scope.integers(axes), c.scope.integers([-1] * len(axes))])


def _pad(c: ExportedNode) -> Name:
    padding: tuple[Dim, ...] = (*c["low"], *c["high"])
    if not any(isinstance(d, Expr) or d for d in padding):
        return c.x()
    return c.op("Pad", [c.x(0), c.scope.sizes(padding), c.x(1)])


EXPORTERS: Mapping[str, Exporter] = {
    "constant": _constant,
    "iota": _iota,
    "dims": _dims,
    "broadcast": _broadcast,
    "reshape": lambda c: c.scope.reshape(c.x(), c["shape"]),
    "materialize": lambda c: c.loose(),
    "transpose": lambda c: c.scope.transpose(c.x(), c["permutation"]),
    "slice": _slice,
    "reverse": _reverse,
    "pad": _pad,
    "concat": lambda c: c.op("Concat", c.xs(), axis=c["axis"]),
}
