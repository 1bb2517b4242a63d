"""Operators that move elements without computing: views, padding, concatenation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim, ceildiv, minimum, product
from graphc.ir.types import TensorType, bool_
from graphc.ops.common import ALL, check_axes, check_axis, check_count, check_same_dtype

VIEW = frozenset({"view"})
Types = Sequence[TensorType]
Attributes = Mapping[str, Any]
Cotangents = Sequence[Value | None]


def _random(*shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(len(shape)).normal(size=shape) * 3)


def _nonnegative(inference: Inference, dims: Sequence[Dim], what: str) -> None:
    for d in dims:
        inference.at_most(0, d, what)


# reshape


def _infer_reshape(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    _nonnegative(inference, a["shape"], "shape")
    inference.equal(x.size, product(a["shape"]), f"element count of {x} and {list(a['shape'])}")
    return (x.with_shape(a["shape"]),)


def _reshape_samples() -> Iterable[Sample]:
    for before, after in (((2, 6), (3, 4)), ((4,), (2, 1, 2)), ((), (1, 1)), ((1,), ()), ((0, 3), (5, 0))):
        yield Sample((_random(*before),), {"shape": after})


# transpose


def _infer_transpose(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    check_count(a["permutation"], x.rank, "permutation")
    check_axes(a["permutation"], x.rank, "permutation")
    return (x.with_shape(x.shape[p] for p in a["permutation"]),)


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes another."""
    return tuple(sorted(range(len(permutation)), key=lambda i: permutation[i]))


def _transpose_samples() -> Iterable[Sample]:
    for shape, permutation in (((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((), ()), ((3, 0), (1, 0)), ((2, 3), (0, 1))):
        yield Sample((_random(*shape),), {"permutation": permutation})


# broadcast


def _infer_broadcast(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    shape, axes = a["shape"], a["axes"]
    check_count(axes, x.rank, "axes")
    check_axes(axes, len(shape))
    if list(axes) != sorted(axes):
        raise ShapeError("axes must increase", seen=list(axes))
    _nonnegative(inference, shape, "shape")
    for i, axis in enumerate(axes):
        if x.shape[i] != 1:
            inference.equal(x.shape[i], shape[axis], f"dim {i} of {x} and dim {axis} of {list(shape)}")
    return (x.with_shape(shape),)


def _broadcast(x: Sequence[np.ndarray], a: Attributes) -> tuple[np.ndarray, ...]:
    aligned = [1] * len(a["shape"])
    for i, axis in enumerate(a["axes"]):
        aligned[axis] = x[0].shape[i]
    return (np.broadcast_to(x[0].reshape(aligned), a["shape"]),)


def _broadcast_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    """The sum over every axis along which an element was repeated."""
    (x,) = node.operands
    shape, axes = node["shape"], node["axes"]
    kept = [axes[i] for i, d in enumerate(x.type.shape) if d != 1 or shape[axes[i]] == 1]
    dx = b.op("reduce_sum", g[0], axes=tuple(i for i in range(len(shape)) if i not in kept))
    return (b.reshape(dx, x.type.shape),)


def _broadcast_samples() -> Iterable[Sample]:
    for x, shape, axes in (
        ((3,), (2, 3), (1,)), ((2, 1), (2, 4), (0, 1)), ((), (2, 2), ()), ((2, 3), (2, 5, 3), (0, 2)),
        ((1,), (0,), (0,)), ((1, 1), (1, 1), (0, 1)), ((2,), (2,), (0,)), ((0, 2), (0, 3, 2), (0, 2)),
    ):  # fmt: skip
        yield Sample((_random(*x),), {"shape": shape, "axes": axes})


# slice


def _infer_slice(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    result = []
    for name in ("starts", "limits", "strides"):
        check_count(a[name], x.rank, name)
    for i, (start, limit, stride) in enumerate(zip(a["starts"], a["limits"], a["strides"], strict=True)):
        if stride < 1:
            raise ShapeError("stride must be positive", seen=stride)
        inference.at_most(0, start, f"start {i}")
        inference.at_most(start, limit, f"start and limit {i}")
        inference.at_most(limit, x.shape[i], f"limit {i} of {x}")
        result.append(ceildiv(limit - start, stride))
    return (x.with_shape(result),)


def _slice(x: Sequence[np.ndarray], a: Attributes) -> tuple[np.ndarray, ...]:
    ranges = zip(a["starts"], a["limits"], a["strides"], strict=True)
    return (x[0][tuple(slice(start, limit, stride) for start, limit, stride in ranges)],)


def _slice_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    """g spread out by the strides, then padded with zeros to the operand's shape."""
    (x,) = node.operands
    spread, low, high = g[0], [], []
    for i, (start, stride) in enumerate(zip(node["starts"], node["strides"], strict=True)):
        length = node.result.type.shape[i]
        if stride > 1:
            spread = _spread(b, spread, i, stride)
            length = minimum(length * stride, x.type.shape[i] - start)
            spread = cut(b, spread, i, 0, length)
        low.append(start)
        high.append(x.type.shape[i] - start - length)
    return (b.op("pad", spread, b.scalar(0, x.type.dtype), low=tuple(low), high=tuple(high)),)


def _spread(b: Builder, x: Value, axis: int, stride: int) -> Value:
    """Element i at stride * i along an axis of stride times the length, zeros between."""
    shape = x.type.shape
    apart = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    low = (0,) * (len(shape) + 1)
    high = tuple(stride - 1 if i == axis + 1 else 0 for i in range(len(shape) + 1))
    padded = b.op("pad", apart, b.scalar(0, x.type.dtype), low=low, high=high)
    return b.reshape(padded, (*shape[:axis], shape[axis] * stride, *shape[axis + 1 :]))


def cut(b: Builder, x: Value, axis: int, start: Dim, limit: Dim) -> Value:
    """x[..., start:limit, ...] along one axis; x itself where that is all of it."""
    shape = x.type.shape
    if start == 0 and limit == shape[axis]:
        return x
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    limits = tuple(limit if i == axis else d for i, d in enumerate(shape))
    return b.op("slice", x, starts=starts, limits=limits, strides=(1,) * len(shape))


def _slice_samples() -> Iterable[Sample]:
    for shape, starts, limits, strides in (
        ((4, 5), (1, 0), (3, 5), (1, 2)), ((7,), (1,), (6,), (3,)), ((6,), (2,), (6,), (2,)), ((3,), (2,), (2,), (1,)),
        ((), (), (), ()), ((0, 3), (0, 1), (0, 3), (1, 1)), ((5,), (0,), (5,), (7,)),
    ):  # fmt: skip
        yield Sample((_random(*shape),), {"starts": starts, "limits": limits, "strides": strides})


# pad


def _infer_pad(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x, value = types
    check_same_dtype(types)
    if value.rank != 0:
        raise ShapeError("value must have rank 0", seen=value)
    for name in ("low", "high"):
        check_count(a[name], x.rank, name)
        _nonnegative(inference, a[name], name)
    return (x.with_shape(low + d + high for low, d, high in zip(a["low"], x.shape, a["high"], strict=True)),)


def _pad(x: Sequence[np.ndarray], a: Attributes) -> tuple[np.ndarray, ...]:
    edges = list(zip(a["low"], x[0].shape, a["high"], strict=True))
    result = np.full([low + d + high for low, d, high in edges], x[1], x[0].dtype)
    result[tuple(slice(low, low + d) for low, d, _ in edges)] = x[0]
    return (result,)


def _pad_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    x, value = node.operands
    low = node["low"]
    limits = tuple(p + d for p, d in zip(low, x.type.shape, strict=True))
    dx = b.op("slice", g[0], starts=low, limits=limits, strides=(1,) * x.type.rank)
    inside = b.full(True, x.type.with_dtype(bool_))
    outside = b.op("pad", inside, b.scalar(False, bool_), low=low, high=node["high"])
    borders = b.op("select", outside, b.full_like(0, g[0]), g[0])
    return dx, b.op("reduce_sum", borders, axes=tuple(range(value.type.rank, x.type.rank)))


def _pad_samples() -> Iterable[Sample]:
    for shape, low, high in (
        ((2, 3), (1, 0), (0, 2)), ((), (), ()), ((0, 2), (1, 0), (1, 1)), ((3,), (0,), (0,)), ((2, 2), (2, 1), (1, 3)),
    ):  # fmt: skip
        yield Sample((_random(*shape), np.array(1.5)), {"low": low, "high": high})


# concat


def _infer_concat(inference: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    if not types:
        raise ShapeError("needs at least one operand")
    check_same_dtype(types)
    axis = check_axis(a["axis"], types[0].rank)
    one: Dim = 1
    rest = inference.same_shape([t.with_shape(_replaced(t.shape, axis, one)) for t in types], "operands")
    total: Dim = 0
    for t in types:
        total = total + t.shape[axis]
    return (types[0].with_shape(_replaced(rest, axis, total)),)


def _replaced(shape: Sequence[Dim], axis: int, dim: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], dim, *shape[axis + 1 :])


def _concat_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Cotangents:
    axis = node["axis"]
    pieces, start = [], 0
    for x in node.operands:
        limit: Any = start + x.type.shape[axis]
        pieces.append(cut(b, g[0], axis, start, limit))
        start = limit
    return pieces


def _concat_samples() -> Iterable[Sample]:
    yield Sample((_random(2, 3), _random(2, 1), _random(2, 2)), {"axis": 1})
    yield Sample((_random(2, 3), _random(0, 3)), {"axis": 0})
    yield Sample((_random(4),), {"axis": 0})


# reverse


def _infer_reverse(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    check_axes(a["axes"], types[0].rank)
    return (types[0],)


def _materialize_samples() -> Iterable[Sample]:
    for shape in ((2, 3), (), (0, 2)):
        yield Sample((_random(*shape),))


def _reverse_samples() -> Iterable[Sample]:
    for shape, axes in (((2, 3), (1,)), ((2, 3), (0, 1)), ((3,), ()), ((), ()), ((0, 2), (0,))):
        yield Sample((_random(*shape),), {"axes": axes})


OPERATORS = (
    OpDef(
        name="reshape",
        operands=("x",),
        attributes={"shape": Attribute("dims")},
        infer=_infer_reshape,
        reference=lambda x, a: (x[0].reshape(a["shape"]),),
        vjp=lambda b, node, g: (b.reshape(g[0], node.operands[0].type.shape),),
        samples=_reshape_samples,
        traits=VIEW,
        dtypes=ALL,
        doc="The elements of x in row-major order, with another shape of the same size.",
    ),
    OpDef(
        name="transpose",
        operands=("x",),
        attributes={"permutation": Attribute("ints")},
        infer=_infer_transpose,
        reference=lambda x, a: (x[0].transpose(a["permutation"]),),
        vjp=lambda b, node, g: (b.transpose(g[0], inverse(node["permutation"])),),
        samples=_transpose_samples,
        traits=VIEW,
        dtypes=ALL,
        doc="Axis i of the result is axis permutation[i] of x.",
    ),
    OpDef(
        name="broadcast",
        operands=("x",),
        attributes={"shape": Attribute("dims"), "axes": Attribute("ints")},
        infer=_infer_broadcast,
        reference=_broadcast,
        vjp=_broadcast_vjp,
        samples=_broadcast_samples,
        traits=VIEW,
        dtypes=ALL,
        doc="Axis i of x stands at axis axes[i] (increasing) of `shape`, with the same dim, or with dim 1 and repeats.",
    ),
    OpDef(
        name="slice",
        operands=("x",),
        attributes={"starts": Attribute("dims"), "limits": Attribute("dims"), "strides": Attribute("ints")},
        infer=_infer_slice,
        reference=_slice,
        vjp=_slice_vjp,
        samples=_slice_samples,
        traits=VIEW,
        dtypes=ALL,
        doc="x[start:limit:stride, ...] with 0 <= start <= limit <= dim and stride > 0 for each axis.",
    ),
    OpDef(
        name="pad",
        operands=("x", "value"),
        attributes={"low": Attribute("dims"), "high": Attribute("dims")},
        infer=_infer_pad,
        reference=_pad,
        vjp=_pad_vjp,
        samples=_pad_samples,
        dtypes=ALL,
        doc="x with `low` elements of the rank-0 `value` before and `high` after it along each axis.",
    ),
    OpDef(
        name="concat",
        operands=("*operands",),
        attributes={"axis": Attribute("int")},
        infer=_infer_concat,
        reference=lambda x, a: (np.concatenate(x, a["axis"]),),
        vjp=_concat_vjp,
        samples=_concat_samples,
        dtypes=ALL,
        doc="The operands one after another along `axis`; all other dims are equal.",
    ),
    OpDef(
        name="reverse",
        operands=("x",),
        attributes={"axes": Attribute("ints")},
        infer=_infer_reverse,
        reference=lambda x, a: (np.flip(x[0], a["axes"]),),
        vjp=lambda b, node, g: (b.op("reverse", g[0], axes=node["axes"]),),
        samples=_reverse_samples,
        traits=VIEW,
        dtypes=ALL,
        doc="x with the order of elements turned around along `axes`.",
    ),
    OpDef(
        name="materialize",
        operands=("x",),
        infer=lambda _, types, a: (types[0],),
        reference=lambda x, a: (x[0],),
        vjp=lambda b, node, g: (g[0],),
        samples=_materialize_samples,
        dtypes=ALL,
        doc="x itself, laid out in memory in the row-major order of its shape: no view is fused through it.",
    ),
)
