"""Reads and writes at positions that are data: gathers and scatters. Indices must lie within the axis they index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import NumericError, ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import product
from graphc.ir.types import TensorType, i64
from graphc.ops.common import ALL, NUMBERS, check_axis, check_dtype, check_same_dtype, widened
from graphc.ops.movement import inverse

Types = Sequence[TensorType]
Attributes = Mapping[str, Any]
Arrays = Sequence[np.ndarray]
Cotangents = Sequence[Value | None]

INDEX = ("i32", "i64")
COMBINE: Mapping[str, np.ufunc | None] = {
    "set": None, "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def _check_indices(indices: np.ndarray, size: int, axis: int) -> None:
    bad = (indices < 0) | (indices >= size)
    if bad.any():
        raise NumericError(
            f"index into axis {axis} out of range", seen=indices[bad][0], expected=f"0 <= index < {size}"
        )


# gather


def _infer_gather(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, indices = types
    check_dtype(indices, INDEX, "indices")
    axis = check_axis(a["axis"], x.rank)
    return (x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)


def _gather(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
    _check_indices(x[1], x[0].shape[a["axis"]], a["axis"])
    return (np.take(x[0], x[1], a["axis"]),)


def _gather_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    """g added up at the indices, with the indexed axis in front so that a scatter_nd does it."""
    x, indices = node.operands
    axis, rank, count = node["axis"], x.type.rank, indices.type.rank
    front = (axis, *(i for i in range(rank) if i != axis))
    g_front = (*range(axis, axis + count), *range(axis), *range(axis + count, rank + count - 1))
    zeros = b.full(0, x.type.with_shape(x.type.shape[i] for i in front))
    at = b.reshape(indices, (*indices.type.shape, 1))
    summed = b.op("scatter_nd", zeros, at, b.transpose(g[0], g_front), combine="sum")
    return b.transpose(summed, inverse(front)), None


def _gather_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2))
    for indices, axis in (
        (np.array([2, 0, 2]), 0), (np.array([[1, 3], [0, 0]]), 1), (np.array(1), 2), (np.array([1, 0], np.int32), 2),
        (np.zeros((0,), np.int64), 1),
    ):  # fmt: skip
        yield Sample((x, indices), {"axis": axis})
    yield Sample((np.zeros((2, 0)), np.array([1])), {"axis": 0})


# take_along


def _infer_take_along(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, indices = types
    check_dtype(indices, INDEX, "indices")
    _check_along(inference, x, indices, a["axis"])
    return (x.with_shape(indices.shape),)


def _check_along(inference: Inference, x: TensorType, indices: TensorType, axis: int) -> None:
    if indices.rank != x.rank:
        raise ShapeError("indices must have the rank of x", seen=f"{x} and {indices}")
    check_axis(axis, x.rank)
    for i in range(x.rank):
        if i != axis:
            inference.at_most(indices.shape[i], x.shape[i], f"dim {i} of indices")


def _along(x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """The index of every element of x that `indices` points at: their own positions, but for the axis."""
    _check_indices(indices, x.shape[axis], axis)
    grid = list(np.ogrid[tuple(slice(d) for d in indices.shape)])
    grid[axis] = indices
    return tuple(grid)


def _take_along_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    x, indices = node.operands
    return b.op("scatter_along", b.full_like(0, x), indices, g[0], axis=node["axis"], combine="sum"), None


def _take_along_samples() -> Iterable[Sample]:
    x = np.random.default_rng(1).normal(size=(3, 4))
    yield Sample((x, np.array([[0, 2, 1, 1], [2, 2, 0, 1]])), {"axis": 0})
    yield Sample((x, np.array([[3, 3], [0, 1], [2, 0]], np.int32)), {"axis": 1})
    yield Sample((x, np.array([[1], [3]])), {"axis": 1})
    yield Sample((x, np.zeros((3, 0), np.int64)), {"axis": 1})


# gather_nd


def _infer_gather_nd(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, indices = types
    batch = a["batch_dims"]
    depth = _index_depth(x, indices, batch)
    lead = [
        inference.equal(p, q, f"batch dim {i}")
        for i, (p, q) in enumerate(zip(x.shape[:batch], indices.shape[:batch], strict=True))
    ]
    return (x.with_shape((*lead, *indices.shape[batch:-1], *x.shape[batch + depth :])),)


def _index_depth(x: TensorType, indices: TensorType, batch: int) -> int:
    """How many axes of x each index vector names."""
    check_dtype(indices, INDEX, "indices")
    if not 0 <= batch < max(indices.rank, 1):
        raise ShapeError("batch_dims out of range", seen=batch, expected=f"0 <= batch_dims < {indices.rank}")
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int) or indices.rank == 0 or not 1 <= depth <= x.rank - batch:
        raise ShapeError("last dim of indices must be the number of axes indexed", seen=f"{indices} into {x}")
    return depth


def _nd(x: np.ndarray, indices: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
    """The index of the slices of x that `indices` points at."""
    depth = indices.shape[-1]
    for i in range(depth):
        _check_indices(indices[..., i], x.shape[batch + i], batch + i)
    lead = np.ogrid[tuple(slice(d) for d in indices.shape[:-1])][:batch]
    return (*lead, *(indices[..., i] for i in range(depth)))


def _gather_nd_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    x, indices = node.operands
    batch, shape = node["batch_dims"], indices.type.shape
    dtype = indices.type.dtype
    lead = [b.op("iota", dtype=dtype, shape=(*shape[:-1], 1), axis=i) for i in range(batch)]
    full = b.op("concat", *lead, indices, axis=len(shape) - 1) if lead else indices
    return b.op("scatter_nd", b.full_like(0, x), full, g[0], combine="sum"), None


def _gather_nd_samples() -> Iterable[Sample]:
    x = np.random.default_rng(2).normal(size=(3, 4, 2))
    yield Sample((x, np.array([[0, 1], [2, 3], [0, 1]])))
    yield Sample((x, np.array([[0, 1, 1], [2, 3, 0]], np.int32)))
    yield Sample((x, np.array([[1], [3], [0]])), {"batch_dims": 1})
    yield Sample((x, np.array([[[1], [3]], [[0], [0]], [[2], [1]]])), {"batch_dims": 1})
    yield Sample((x, np.zeros((0, 2), np.int64)))


# scatters


def _check_combine(types: Types, combine: str) -> None:
    if combine not in COMBINE:
        raise ShapeError("unknown combine", seen=combine, expected=", ".join(COMBINE))
    x, indices, updates = types
    check_same_dtype((x, updates), "x and updates")
    check_dtype(indices, INDEX, "indices")
    if combine != "set":
        check_dtype(x, NUMBERS)


def _infer_scatter_along(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, indices, updates = types
    _check_combine(types, a["combine"])
    _check_along(inference, x, indices, a["axis"])
    inference.same_shape((indices, updates), "indices and updates")
    return (x,)


def _infer_scatter_nd(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, indices, updates = types
    _check_combine(types, a["combine"])
    depth = _index_depth(x, indices, 0)
    expected = x.with_shape((*indices.shape[:-1], *x.shape[depth:]))
    inference.same_shape((expected, updates), "slices and updates")
    return (x,)


def _scatter(x: np.ndarray, at: tuple[np.ndarray, ...], updates: np.ndarray, combine: str) -> np.ndarray:
    """A copy of x, combined with the updates one after another in row-major order."""
    result = x.copy()
    fold = COMBINE[combine]
    if fold is None:
        result[at] = updates
    else:
        fold.at(result, at, updates)
    return result


def _scatter_along(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
    return (_scatter(x[0], _along(x[0], x[1], a["axis"]), x[2], a["combine"]),)


def _scatter_nd(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
    return (_scatter(x[0], _nd(x[0], x[1], 0), x[2], a["combine"]),)


Scatter = Callable[[Value, Value, str], Value]
Take = Callable[[Value], Value]


def _scatter_along_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    indices, axis = node.operands[1], node["axis"]

    def scatter(x: Value, updates: Value, combine: str) -> Value:
        return b.op("scatter_along", x, indices, updates, axis=axis, combine=combine)

    return _scatter_gradient(b, node, g[0], scatter, lambda x: b.op("take_along", x, indices, axis=axis))


def _scatter_nd_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    indices = node.operands[1]

    def scatter(x: Value, updates: Value, combine: str) -> Value:
        return b.op("scatter_nd", x, indices, updates, combine=combine)

    return _scatter_gradient(b, node, g[0], scatter, lambda x: b.op("gather_nd", x, indices))


def _scatter_gradient(b: Builder, node: Node, g: Value, scatter: Scatter, take: Take) -> Cotangents:
    """The cotangents of x, indices and updates; `take` reads where `scatter` writes."""
    x, _, updates = node.operands
    match node["combine"]:
        case "set":
            dx, du = _set_gradient(b, g, updates, scatter, take)
        case "sum":
            dx, du = g, take(g)
        case "prod":
            dx, du = _prod_gradient(b, g, x, updates, scatter, take)
        case _:
            dx, du = _extreme_gradient(b, g, node, scatter, take)
    return dx, None, du


def _set_gradient(b: Builder, g: Value, updates: Value, scatter: Scatter, take: Take) -> tuple[Value, Value]:
    """Elements overwritten get nothing; of the updates of one element only the last gets its cotangent."""
    shape = updates.type.shape
    order = b.reshape(b.op("iota", dtype=i64, shape=(product(shape),), axis=0), shape)
    last = scatter(b.full(-1, g.type.with_dtype(i64)), order, "set")
    du = b.op("select", b.op("eq", take(last), order), take(g), b.full_like(0, updates))
    return scatter(g, b.full_like(0, updates), "set"), du


def _prod_gradient(b: Builder, g: Value, x: Value, updates: Value, scatter: Scatter, take: Take) -> tuple[Value, Value]:
    """g times the product of all other factors: with zeros counted and replaced by ones, so that none is divided by.

    Its own gradient is right where no factor is zero.
    """
    dx = b.op("mul", g, scatter(b.full_like(1, x), updates, "prod"))
    x_zero, x_safe = _without_zeros(b, x)
    u_zero, u_safe = _without_zeros(b, updates)
    zeros = take(scatter(x_zero, u_zero, "sum"))
    others = b.op("div", take(scatter(x_safe, u_safe, "prod")), u_safe)
    nonzero = b.op("eq", zeros, u_zero)
    return dx, b.op("mul", take(g), b.op("select", nonzero, others, b.full_like(0, updates)))


def _without_zeros(b: Builder, x: Value) -> tuple[Value, Value]:
    """(1 where x is 0 else 0, x with ones in place of zeros)."""
    is_zero = b.op("eq", x, b.full_like(0, x))
    return b.cast(is_zero, x.type.dtype), b.op("select", is_zero, b.full_like(1, x), x)


def _extreme_gradient(b: Builder, g: Value, node: Node, scatter: Scatter, take: Take) -> tuple[Value, Value]:
    """Equal shares to x and to all updates that equal the extreme."""
    x, _, updates = node.operands
    dtype, y = x.type.dtype, node.result
    from_x = b.cast(b.op("eq", x, y), dtype)
    from_updates = b.cast(b.op("eq", updates, take(y)), dtype)
    share = b.op("div", g, scatter(from_x, from_updates, "sum"))
    return b.op("mul", from_x, share), b.op("mul", from_updates, take(share))


def _scatter_along_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(3)
    x, updates = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    for combine in COMBINE:
        yield Sample((x, np.array([[0, 2, 1, 1], [2, 2, 0, 1]]), updates), {"axis": 0, "combine": combine})
    zeros = np.array([[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 1.5, 1.0]])
    yield Sample((x, np.array([[0, 2, 1, 1], [0, 2, 0, 1]]), zeros), {"axis": 0, "combine": "prod"})
    yield Sample((x, np.array([[3], [1]], np.int32), updates[:, :1]), {"axis": 1, "combine": "sum"})
    yield Sample((x, np.zeros((0, 4), np.int64), np.zeros((0, 4))), {"axis": 0, "combine": "max"})
    special = np.array([np.nan, 1.0, np.inf])
    yield Sample((special, np.array([0, 1, 1]), special), {"axis": 0, "combine": "max"}, differentiable=False)


def _scatter_nd_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(4)
    x, updates = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    for combine in COMBINE:
        yield Sample((x, np.array([[0], [2], [0]]), updates), {"combine": combine})
        yield Sample((x, np.array([[0, 1], [2, 3]], np.int32), updates[0, :2]), {"combine": combine})
    yield Sample((x, np.zeros((0, 1), np.int64), np.zeros((0, 4))), {"combine": "set"})


OPERATORS = (
    OpDef(
        name="gather",
        operands=("x", "indices"),
        attributes={"axis": Attribute("int")},
        infer=_infer_gather,
        reference=_gather,
        vjp=_gather_vjp,
        samples=_gather_samples,
        dtypes=ALL,
        doc="Slices of x along `axis` at indices (i32 or i64): [*x.shape[:axis], *indices.shape, *x.shape[axis+1:]].",
    ),
    OpDef(
        name="take_along",
        operands=("x", "indices"),
        attributes={"axis": Attribute("int")},
        infer=_infer_take_along,
        reference=lambda x, a: (x[0][_along(x[0], x[1], a["axis"])],),
        vjp=_take_along_vjp,
        samples=_take_along_samples,
        dtypes=ALL,
        doc="y[i0, i1, ...] = x[i0, ..., indices[i0, i1, ...], ...], the index at `axis` (ONNX GatherElements).",
    ),
    OpDef(
        name="gather_nd",
        operands=("x", "indices"),
        attributes={"batch_dims": Attribute("int", 0)},
        infer=_infer_gather_nd,
        reference=lambda x, a: (x[0][_nd(x[0], x[1], a["batch_dims"])],),
        vjp=_gather_nd_vjp,
        samples=_gather_nd_samples,
        dtypes=ALL,
        doc="Slices of x at index vectors (the last axis of indices); `batch_dims` axes go in step (ONNX GatherND).",
    ),
    OpDef(
        name="scatter_along",
        operands=("x", "indices", "updates"),
        attributes={"axis": Attribute("int"), "combine": Attribute("str", "set")},
        infer=_infer_scatter_along,
        reference=widened(_scatter_along),
        vjp=_scatter_along_vjp,
        samples=_scatter_along_samples,
        dtypes=NUMBERS,
        doc=(
            "x with updates combined into the elements that take_along would read: "
            "set (the last in row-major order wins), sum, prod, max or min."
        ),
    ),
    OpDef(
        name="scatter_nd",
        operands=("x", "indices", "updates"),
        attributes={"combine": Attribute("str", "set")},
        infer=_infer_scatter_nd,
        reference=widened(_scatter_nd),
        vjp=_scatter_nd_vjp,
        samples=_scatter_nd_samples,
        dtypes=NUMBERS,
        doc=(
            "x with updates combined into the slices that gather_nd would read: "
            "set (the last in row-major order wins), sum, prod, max or min."
        ),
    ),
)
