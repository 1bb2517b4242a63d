"""Gathers and scatters, top-k, and selection by position. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Refused

_COMBINE = {"none": "set", "add": "sum", "mul": "prod", "max": "max", "min": "min"}


def wrapped(c: Call, index: int, sizes: Sequence[Dim]) -> Value:
    """An operand of indices, counted from the front: into an axis of sizes[0], or for index vectors into all axes."""
    tensor = c.tensor(index)
    known = c.known(index)
    static = all(isinstance(d, int) for d in sizes)
    if known is not None and known.dtype != object and static:
        size = np.array(sizes, np.int64) if len(sizes) > 1 else np.int64(sizes[0])  # type: ignore[arg-type]
        if np.any((known < -size) | (known >= size)):
            raise c.wrong("an index is out of range", _first_outside(known, size), f"within {list(sizes)}")
        if not np.any(known < 0):
            return c.x(index)
        return c.b.constant(np.where(known < 0, known + size, known).astype(known.dtype))
    indices = c.value(tensor)
    if not indices.type.dtype.is_integer:
        raise c.wrong("indices must be integers", indices.type)
    ends = c.b.cast(c.b.op("dims", values=tuple(sizes)), indices.type.dtype)
    if len(sizes) == 1:
        ends = c.b.broadcast(c.b.reshape(ends, ()), indices.type.shape, ())
    else:
        ends = c.b.broadcast(ends, indices.type.shape, (indices.type.rank - 1,))
    negative = c.b.op("lt", indices, c.b.full_like(0, indices))
    return c.b.op("select", negative, c.b.op("add", indices, ends), indices)


def _first_outside(known: np.ndarray, size: np.ndarray | np.int64) -> object:
    return known[(known < -size) | (known >= size)].reshape(-1)[0]


def _gather(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    return c.b.op("gather", x, wrapped(c, 1, x.type.shape[axis : axis + 1]), axis=axis)


def _gather_elements(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    return c.b.op("take_along", x, wrapped(c, 1, x.type.shape[axis : axis + 1]), axis=axis)


def _gather_nd(c: Call) -> Value:
    x = c.x()
    batch = int(c.get("batch_dims", 0))
    depth = _depth(c, 1)
    if batch < 0 or batch + depth > x.type.rank:
        raise c.wrong("index vectors have more entries than x has axes", c.tensor(1).type, x.type)
    return c.b.op("gather_nd", x, wrapped(c, 1, x.type.shape[batch : batch + depth]), batch_dims=batch)


def _depth(c: Call, index: int) -> int:
    """How many axes the index vectors name."""
    shape = c.tensor(index).type.shape
    depth = shape[-1] if shape else 0
    if isinstance(depth, Expr) or depth < 1:
        raise Refused("index vectors of dynamic or zero length aren't supported")
    return depth


def _scatter_elements(c: Call) -> Value:
    x, updates = c.x(0), c.x(2)
    axis = c.axis(c.get("axis"), x.type.rank)
    indices = wrapped(c, 1, x.type.shape[axis : axis + 1])
    return c.b.op("scatter_along", x, indices, updates, axis=axis, combine=_combine(c))


def _combine(c: Call) -> str:
    reduction = c.get("reduction", "none")
    if reduction not in _COMBINE:
        raise c.wrong("unknown reduction", reduction, ", ".join(_COMBINE))
    return _COMBINE[reduction]


def _scatter_nd(c: Call) -> Value:
    x, updates = c.x(0), c.x(2)
    depth = _depth(c, 1)
    if depth > x.type.rank:
        raise c.wrong("index vectors have more entries than x has axes", c.tensor(1).type, x.type)
    return c.b.op("scatter_nd", x, wrapped(c, 1, x.type.shape[:depth]), updates, combine=_combine(c))


def _top_k(c: Call) -> list[Value]:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    k = int(c.get("k")) if c.opset < 10 else c.size(1, "k")
    if isinstance(k, int) and k < 0:
        raise c.wrong("k is negative", k)
    return list(c.b.ops("top_k", x, axis=axis, k=k, largest=bool(c.get("largest", 1))))


def _compress(c: Call) -> Value:
    """Slices where a condition holds, which must be known: it says how many there are."""
    x = c.x()
    axis = c.get("axis")
    if axis is None:
        x, axis = c.b.reshape(x, (x.type.size,)), 0
    kept = np.flatnonzero(c.numbers(1, "condition"))
    return c.b.op("gather", x, c.b.constant(kept.astype(np.int64)), axis=c.axis(axis, x.type.rank))


def _tensor_scatter(c: Call) -> Value:
    """A cache with an update written at each batch's position along an axis."""
    cache, update = c.x(0), c.x(1)
    rank = cache.type.rank
    axis = c.axis(c.get("axis"), rank)
    if axis == 0 or update.type.rank != rank:
        raise c.wrong("the axis can't be the batch, and the ranks must agree", f"{cache.type} and {update.type}")
    shape = update.type.shape
    position = c.b.op("iota", dtype=i64, shape=shape, axis=axis)
    if c.has(2):
        start = c.b.broadcast(c.b.cast(c.x(2), i64), shape, (0,))
        position = c.b.op("add", position, start)
    if c.get("mode") == "circular":
        size = c.b.reshape(c.b.op("dims", values=(cache.type.shape[axis],)), ())
        position = c.b.op("mod", position, c.b.broadcast(size, shape, ()))
    return c.b.op("scatter_along", cache, position, update, axis=axis, combine="set")


CONVERTERS: Mapping[str, Converter] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "TopK": _top_k,
    "Compress": _compress,
}
