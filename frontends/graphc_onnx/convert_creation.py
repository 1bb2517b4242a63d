"""Tensors made from nothing: constants, ranges, fills, triangles, one-hot codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr, ceildiv, maximum
from graphc.ir.types import TensorType, i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import LARGEST_TENSOR, MOST_KNOWN_ELEMENTS, ONNX_DTYPES, Refused, Tensor
from graphc_onnx.tensors import tensor_to_numpy, type_name

# Fills of up to this many elements are kept as numbers, since they may be shapes.
_FEW = 1024


def _constant(c: Call) -> Tensor:
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                        ("value_ints", np.int64)):  # fmt: skip
        if (value := c.get(name)) is not None:
            return Tensor.of(np.array(value, dtype))
    if (value := c.get("value")) is not None:
        return Tensor.of(attribute_tensor(c, value))
    raise Refused("constants that are texts or sparse aren't supported")


def attribute_tensor(c: Call, tensor: TensorProto) -> np.ndarray:
    """The numbers of a tensor among the attributes."""
    if tensor.data_type not in ONNX_DTYPES:
        raise Refused(f"the element type {type_name(tensor.data_type)} isn't supported")
    if tensor.data_location == TensorProto.EXTERNAL:
        raise Refused("external data of an attribute isn't supported")
    return tensor_to_numpy(tensor, None, layer=c.layer)


def _constant_of_shape(c: Call) -> Value | Tensor:
    shape = tuple(c.sizes(0, "shape"))
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise c.wrong("a dim is negative", list(shape))
    given = c.get("value")
    value = np.zeros(1, np.float32) if given is None else attribute_tensor(c, given)
    if value.size != 1:
        raise c.wrong("the value must be one element", list(value.shape))
    fill = Tensor.of(value.reshape(()))
    return filled(c, fill, shape)


def filled(c: Call, fill: Tensor, shape: tuple[Dim, ...]) -> Value | Tensor:
    """One element repeated: as numbers where they are few, else as a broadcast."""
    known = c.contents.known(fill)
    sizes = [d for d in shape if isinstance(d, int)]
    if known is not None and known.dtype != object and len(sizes) == len(shape) and math.prod(sizes) <= _FEW:
        return Tensor.of(np.full(sizes, known))
    return c.b.broadcast(c.value(fill), shape, ())


def _range(c: Call) -> Value | Tensor:
    """start + i * delta while below (or above) the limit."""
    start, limit, delta = (c.size(i, what) for i, what in ((0, "start"), (1, "limit"), (2, "delta")))
    dtype = c.tensor(0).type.dtype
    if isinstance(delta, Expr):
        raise Refused("a dynamic delta isn't supported")
    if delta == 0:
        raise c.wrong("delta is 0")
    count: Dim
    if not isinstance(start, Expr) and not isinstance(limit, Expr):
        count = max(math.ceil((limit - start) / delta), 0)
        if count > LARGEST_TENSOR:
            raise c.wrong("the range is too large", count)
        if count <= MOST_KNOWN_ELEMENTS:
            positions = np.arange(count, dtype=np.float64 if dtype.is_float else np.int64)
            return Tensor.of((start + positions * delta).astype(dtype.numpy))
    elif dtype.is_float:
        raise Refused("a dynamic range of floats isn't supported")
    else:
        count = maximum(ceildiv(limit - start if delta > 0 else start - limit, abs(delta)), 0)
    steps = c.b.op("iota", dtype=dtype, shape=(count,), axis=0)
    if delta != 1:
        steps = c.scaled("mul", steps, delta)
    return c.binary("add", steps, c.b.reshape(c.x(0), ()))


def _eye_like(c: Call) -> Value:
    x = c.tensor(0)
    if x.rank != 2:
        raise c.wrong("the operand must be a matrix", x.type)
    dtype = x.type.dtype if c.get("dtype") is None else c.dtype(c.get("dtype"))
    return c.b.cast(_compare_diagonals(c, x.type, "eq", c.get("k")), dtype)


def _compare_diagonals(c: Call, type: TensorType, op: str, k: int) -> Value:
    """Whether column - row compares to k, for the last two axes of a type."""
    row, column = (c.b.op("iota", dtype=i64, shape=type.shape[-2:], axis=i) for i in (0, 1))
    return c.b.op(op, c.b.op("sub", column, row), c.b.full_like(k, row))


def _trilu(c: Call) -> Value:
    x = c.x()
    if x.type.rank < 2:
        raise c.wrong("x must have two axes or more", x.type)
    k = c.integer(1, "diagonal") if c.has(1) else 0
    k = max(min(k, 2**40), -(2**40))
    keep = _compare_diagonals(c, x.type, "ge" if c.get("upper") else "le", k)
    mask = c.b.broadcast(keep, x.type.shape, (x.type.rank - 2, x.type.rank - 1))
    return c.b.op("select", mask, x, c.b.full_like(0, x))


def _one_hot(c: Call) -> Value:
    indices, values = c.b.cast(c.x(0), i64), c.x(2)
    depth = c.size(1, "depth")
    if not isinstance(depth, Expr):
        depth = int(depth)
    rank = indices.type.rank
    axis = c.axis(c.get("axis"), rank + 1)
    shape = (*indices.type.shape[:axis], depth, *indices.type.shape[axis:])
    number = c.b.broadcast(c.b.reshape(c.b.op("dims", values=(depth,)), ()), indices.type.shape, ())
    negative = c.b.op("lt", indices, c.b.full_like(0, indices))
    wrapped = c.b.op("select", negative, c.b.op("add", indices, number), indices)
    others = [i for i in range(rank + 1) if i != axis]
    position = c.b.op("iota", dtype=i64, shape=shape, axis=axis)
    hot = c.b.op("eq", position, c.b.broadcast(wrapped, shape, others))
    off, on = (_element(c, values, i, shape) for i in (0, 1))
    return c.b.op("select", hot, on, off)


def _element(c: Call, values: Value, i: int, shape: tuple[Dim, ...]) -> Value:
    """Element i of a vector, repeated."""
    one = c.b.op("slice", values, starts=(i,), limits=(i + 1,), strides=(1,))
    return c.b.broadcast(c.b.reshape(one, ()), shape, ())


def _numbers_only(function: Any, what: str) -> Converter:
    """An operator whose result's size depends on data: only of data that is known."""

    def convert(c: Call) -> Tensor:
        return Tensor.of(function(c, c.numbers(0, what)))

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "Trilu": _trilu,
    "OneHot": _one_hot,
    "NonZero": _numbers_only(lambda c, x: np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1), "elements"),
}
