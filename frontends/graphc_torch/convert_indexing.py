"""Gathers and scatters, embeddings, advanced indexing, sorting. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import fx

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import i64
from graphc_torch.call import Call, Converter, contents
from graphc_torch.refused import Refused


def wrapped(c: Call, indices: Value, size: Dim) -> Value:
    """Indices into an axis, counted from the front."""
    if indices.type.dtype.is_bool:
        raise Refused("selecting by a mask isn't supported: its size depends on the data of a run")
    known = contents(indices)
    if known is not None and isinstance(size, int):
        return (
            c.b.constant(np.where(known < 0, known + size, known).astype(known.dtype)) if (known < 0).any() else indices
        )
    if _never_negative(indices):
        return indices
    indices = c.b.cast(indices, i64)
    end = c.b.broadcast(c.dim_value(size, i64), indices.type.shape, ())
    negative = c.b.op("lt", indices, c.b.full_like(0, indices))
    return c.b.op("select", negative, c.b.op("add", indices, end), indices)


def _never_negative(x: Value) -> bool:
    """Whether a value is a rearranged count from 0, or one of known numbers that aren't negative."""
    while (node := x.producer) is not None:
        if node.op.name == "iota":
            return True
        if node.op.name == "constant":
            return bool((node["value"].array >= 0).all())
        if node.op.name not in ("reshape", "broadcast", "transpose", "slice"):
            return False
        x = node.operands[0]
    return False


def _as_index(c: Call, indices: Value) -> Value:
    """Indices in a type that indexing takes."""
    return indices if indices.type.dtype.name in ("i32", "i64") else c.b.cast(indices, i64)


def _embedding(c: Call) -> Value:
    """Rows of a table; torch takes no negative indices here, and learns nothing for the row that pads."""
    if c.training and c.get("scale_grad_by_freq"):
        raise Refused("gradients scaled by how often a row is read aren't supported")
    index = _as_index(c, c.x("indices"))
    rows = c.b.op("gather", c.x("weight"), index, axis=0)
    padding = int(c.get("padding_idx", -1))
    if not c.training or padding < 0:
        return rows
    pads = c.b.op("eq", index, c.b.full_like(padding, index))
    pads = c.b.broadcast(pads, rows.type.shape, range(index.type.rank))
    return c.b.op("select", pads, c.b.op("stop_gradient", rows), rows)


def _index_select(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("dim"), x.type.rank)
    index = _as_index(c, c.x("index"))
    return c.b.op("gather", x, c.b.reshape(index, (index.type.size,)), axis=axis)


def _gather(c: Call) -> Value:
    """Axes of the indices may be shorter than those of x."""
    x, index = c.x(), _as_index(c, c.x("index"))
    if x.type.rank == 0:
        return c.b.broadcast(x, index.type.shape, ())
    axis = c.axis(c.get("dim"), x.type.rank)
    for i, (have, want) in enumerate(zip(x.type.shape, index.type.shape, strict=True)):
        if i != axis and have != want:
            x = c.part(x, i, 0, want)
    return c.b.op("take_along", x, index, axis=axis)


# Advanced indexing


def _indexed(c: Call, x: Value) -> tuple[list[int], list[Value]]:
    """The axes of x that are indexed, and their indices broadcast to one shape."""
    axes, indices = [], []
    for i, node in enumerate(c.raw("indices")):
        if isinstance(node, fx.Node):
            axes.append(i)
            indices.append(_as_index(c, wrapped(c, c.value(node, "index"), x.type.shape[i])))
    rank = max(v.type.rank for v in indices)
    shape: list[Dim] = [1] * rank
    for v in indices:
        for i, d in enumerate(v.type.shape, rank - v.type.rank):
            shape[i] = d if shape[i] == 1 else shape[i]
    return axes, [c.broadcast(v, shape) for v in indices]


def _vectors(c: Call, indices: Sequence[Value]) -> Value:
    """The indices as vectors along a new last axis."""
    parts = [c.b.reshape(c.b.cast(v, i64), (*v.type.shape, 1)) for v in indices]
    return c.concat(parts, parts[0].type.rank - 1)


def _index(c: Call) -> Value:
    """The indexed axes give way to those of the indices: in their place where they are neighbours, else in front."""
    x = c.x()
    axes, indices = _indexed(c, x)
    if len(axes) == 1:
        return c.b.op("gather", x, indices[0], axis=axes[0])
    rest = [i for i in range(x.type.rank) if i not in axes]
    y = c.b.op("gather_nd", c.b.transpose(x, (*axes, *rest)), _vectors(c, indices))
    if axes != list(range(axes[0], axes[0] + len(axes))) or axes[0] == 0:
        return y
    depth, before = indices[0].type.rank, axes[0]
    order = [*range(depth, depth + before), *range(depth), *range(depth + before, y.type.rank)]
    return c.b.transpose(y, order)


def _index_put(c: Call) -> Value:
    """x with values written (or added) where `index` would read."""
    x = c.x()
    axes, indices = _indexed(c, x)
    rest = [i for i in range(x.type.rank) if i not in axes]
    order = (*axes, *rest)
    moved = c.b.transpose(x, order)
    values = c.b.cast(c.x("values"), x.type.dtype)
    neighbours = axes == list(range(axes[0], axes[0] + len(axes)))
    depth, before = indices[0].type.rank, axes[0] if neighbours else 0
    others = [x.type.shape[i] for i in rest]
    read = (*others[:before], *indices[0].type.shape, *others[before:])
    values = c.broadcast(values, read)
    values = c.b.transpose(
        values, [*range(before, before + depth), *range(before), *range(before + depth, values.type.rank)]
    )
    combine = "sum" if c.get("accumulate") else "set"
    y = c.b.op("scatter_nd", moved, _vectors(c, indices), values, combine=combine)
    return c.b.transpose(y, [order.index(i) for i in range(x.type.rank)])


# Scatters along an axis

_COMBINE = {"sum": "sum", "add": "sum", "prod": "prod", "multiply": "prod", "amax": "max", "amin": "min"}


def _scatter(c: Call) -> Value:
    x, index = c.x(), _as_index(c, c.x("index"))
    axis = c.axis(c.get("dim"), x.type.rank)
    if c.has("src"):
        updates = c.b.cast(c.x("src"), x.type.dtype)
        for i, (have, want) in enumerate(zip(updates.type.shape, index.type.shape, strict=True)):
            if have != want:
                updates = c.part(updates, i, 0, want)
    else:
        updates = c.operand("value", x.type.dtype, index.type.shape)
    if c.get("include_self") is False:
        raise Refused("leaving out the elements that were there isn't supported")
    reduction = c.get("reduce")
    if c.op.startswith("scatter_add"):
        reduction = "sum"
    if reduction is not None and reduction not in _COMBINE:
        raise Refused(f"scattering by {reduction} isn't supported")
    combine = "set" if reduction is None else _COMBINE[reduction]
    return c.b.op("scatter_along", x, index, updates, axis=axis, combine=combine)


# Sorting


def _top_k(c: Call) -> list[Value]:
    x = c.x()
    axis = c.axis(c.get("dim", -1), x.type.rank)
    return list(c.b.ops("top_k", x, axis=axis, k=c.size("k"), largest=bool(c.get("largest", True))))


def _sort(c: Call) -> list[Value]:
    x = c.x()
    axis = c.axis(c.get("dim", -1), x.type.rank)
    return list(c.b.ops("sort", x, axis=axis, descending=bool(c.get("descending"))))


CONVERTERS: Mapping[str, Converter] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "gather": _gather,
    "index.Tensor": _index,
    "index_put": _index_put,
    "scatter.src": _scatter,
    "scatter.value": _scatter,
    "scatter.reduce": _scatter,
    "scatter.value_reduce": _scatter,
    "scatter_add": _scatter,
    "scatter_reduce.two": _scatter,
    "topk": _top_k,
    "sort": _sort,
    "argsort": lambda c: _sort(c)[1],
}
