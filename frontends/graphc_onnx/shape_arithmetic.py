"""Arithmetic on shapes, done at import: small integer tensors whose contents are known, as numbers or as dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphc.ir.symbolic import Dim, Expr, bounds, floordiv, maximum, minimum, mod, nonnegative, product
from graphc.ir.types import DType, bool_, i64
from graphc_onnx.call import Call, Results
from graphc_onnx.imported import MOST_SYMBOLIC_ELEMENTS, ONNX_DTYPES, Tensor, is_too_long

Array = np.ndarray
Fold = Callable[[Call, list[Array]], tuple[Array | list[Array], DType]]


class _Undecided(Exception):
    """Nothing can be said about these dims: the node is converted as data."""


def fold_shapes(call: Call) -> Results:
    """The results of a node whose operands are all known small integers; None where it must be converted as data."""
    if call.op == "Shape":
        return _shape(call)
    if call.op == "Size":
        return Tensor.of_dims(_objects(product(call.tensor(0).type.shape)), i64)
    fold = _FOLDS.get(call.op)
    if fold is None:
        return None
    arrays: list[Array] = []
    for operand in call.operands:
        if not isinstance(operand, Tensor) or not _is_small(operand):
            return None
        known = call.contents.known(operand)
        if known is None:
            return None
        arrays.append(known.astype(object))
    try:
        with np.errstate(all="ignore"):
            results, dtype = fold(call, arrays)
        listed = results if isinstance(results, list) else [results]
        tensors = [Tensor.of_dims(_in_range(np.asarray(r, object), dtype), dtype) for r in listed]
    except (_Undecided, IndexError, ValueError):
        # What is wrong with the node, its conversion says.
        return None
    return list(tensors) if isinstance(results, list) else tensors[0]


def _is_small(tensor: Tensor) -> bool:
    size = tensor.type.size
    fits = isinstance(size, int) and size <= MOST_SYMBOLIC_ELEMENTS
    return fits and not tensor.type.dtype.is_float


def _objects(values: Any) -> Array:
    array = np.empty((len(values),) if isinstance(values, (list, tuple)) else (), object)
    array[...] = values
    return array


def _in_range(array: Array, dtype: DType) -> Array:
    """The array, if its numbers fit the type: what wraps is left to the operators."""
    if array.size > MOST_SYMBOLIC_ELEMENTS or any(is_too_long(d) for d in array.reshape(-1)):
        raise _Undecided
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        if any(not isinstance(d, Expr) and not info.min <= d <= info.max for d in array.reshape(-1)):
            raise _Undecided
    return array


def _shape(call: Call) -> Tensor:
    """Shape, with `start` and `end` clamped to the rank from version 15 on."""
    shape = call.tensor(0).type.shape
    rank = len(shape)
    start, end = call.get("start", 0), call.get("end", rank)
    low = min(max(start + rank if start < 0 else start, 0), rank)
    high = min(max(end + rank if end < 0 else end, 0), rank)
    return Tensor.of_dims(_objects(shape[low:high]), i64)


# Scalar rules


def _divide(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise _Undecided
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if not nonnegative(a) or not nonnegative(b - 1):
        raise _Undecided
    return floordiv(a, b)


def _modulo(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise _Undecided
        return a % b
    if not nonnegative(b - 1):
        raise _Undecided
    return mod(a, b)


def _equal(a: Dim, b: Dim) -> bool:
    if a == b:
        return True
    low, high = bounds(a - b)
    if (low is not None and low > 0) or (high is not None and high < 0):
        return False
    raise _Undecided


def _less(a: Dim, b: Dim) -> bool:
    if nonnegative(b - a - 1):
        return True
    if nonnegative(a - b):
        return False
    raise _Undecided


def _absolute(a: Dim) -> Dim:
    if isinstance(a, int):
        return abs(a)
    if not nonnegative(a):
        raise _Undecided
    return a


def _choose(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


# Folds: (call, operands) -> (results, dtype)


def _elementwise(function: Callable[..., Any], arity: int, dtype: DType | None = None, which: int = 0) -> Fold:
    """A scalar rule over broadcast operands; the result has `dtype`, or that of operand `which`."""
    apply = np.frompyfunc(function, arity, 1)

    def fold(call: Call, x: list[Array]) -> tuple[Array, DType]:
        result = x[0] if len(x) == 1 and arity == 2 else apply(*x[:arity])
        for extra in x[arity:]:  # Max, Min and Sum take any number
            result = apply(result, extra)
        return _as_array(result), dtype or call.tensor(which).type.dtype

    return fold


def _modulo_of(call: Call, x: list[Array]) -> tuple[Array, DType]:
    if call.get("fmod", 0):
        raise _Undecided
    return _elementwise(_modulo, 2)(call, x)  # type: ignore[return-value]


def _as_array(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else _objects(value)


def _cast(call: Call, x: list[Array]) -> tuple[Array, DType]:
    target = ONNX_DTYPES.get(call.get("to"))
    return _converted(x[0], call.tensor(0).type.dtype, target), target or i64


def _cast_like(call: Call, x: list[Array]) -> tuple[Array, DType]:
    target = call.tensor(1).type.dtype
    return _converted(x[0], call.tensor(0).type.dtype, target), target


def _converted(x: Array, source: DType, target: DType | None) -> Array:
    if target is None or target.is_float:
        raise _Undecided
    if target.is_bool and not source.is_bool:
        return _as_array(np.frompyfunc(lambda d: not _equal(d, 0), 1, 1)(x))
    return _as_array(np.frompyfunc(int, 1, 1)(x)) if source.is_bool and not target.is_bool else x


def _moved(function: Callable[[Call, list[Array]], Any]) -> Fold:
    """A rule that only moves elements of the first operand."""

    def fold(call: Call, x: list[Array]) -> tuple[Any, DType]:
        result = function(call, x)
        return (result if isinstance(result, list) else _as_array(result)), call.tensor(0).type.dtype

    return fold


def _plain(x: Array) -> list[int]:
    """Elements that must be numbers."""
    if any(isinstance(d, Expr) for d in x.reshape(-1)):
        raise _Undecided
    return [int(d) for d in x.reshape(-1)]


def _gather(call: Call, x: list[Array]) -> Any:
    index = np.array(_plain(x[1]), np.int64).reshape(x[1].shape)
    return np.take(x[0], index, axis=call.get("axis", 0))


def _slice(call: Call, x: list[Array]) -> Any:
    if call.opset < 10:
        starts, ends = list(call.get("starts")), list(call.get("ends"))
        axes, steps = list(call.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = _plain(x[1]), _plain(x[2])
        axes = _plain(x[3]) if len(x) > 3 else list(range(len(starts)))
        steps = _plain(x[4]) if len(x) > 4 else [1] * len(starts)
    index: list[Any] = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end before the first element, for a negative step, is what Python writes as None.
        last = None if step < 0 and end < -x[0].shape[axis] else end
        index[axis] = slice(start, last, step)
    return x[0][tuple(index)]


def _axes(call: Call, x: list[Array], rank: int) -> tuple[int, ...] | None:
    """The axes of Squeeze, Unsqueeze and reductions, from the front: an attribute, in newer opsets an operand."""
    given = _plain(x[1]) if len(x) > 1 else call.get("axes")
    return None if given is None else call.axes([int(a) for a in given], rank)


def _unsqueeze(call: Call, x: list[Array]) -> Any:
    count = len(_plain(x[1]) if len(x) > 1 else call.get("axes", ()))
    axes = _axes(call, x, x[0].ndim + count)
    return np.expand_dims(x[0], axes or ())


def _squeeze(call: Call, x: list[Array]) -> Any:
    return np.squeeze(x[0], _axes(call, x, x[0].ndim))


def _reshape(call: Call, x: list[Array]) -> Any:
    shape = _plain(x[1])
    if not call.get("allowzero", 0):
        shape = [x[0].shape[i] if d == 0 else d for i, d in enumerate(shape)]
    return x[0].reshape(shape)


def _expand(call: Call, x: list[Array]) -> Any:
    shape = np.broadcast_shapes(x[0].shape, tuple(_plain(x[1])))
    if np.prod(shape, dtype=object) > MOST_SYMBOLIC_ELEMENTS:
        raise _Undecided
    return np.broadcast_to(x[0], shape)


def _split(call: Call, x: list[Array]) -> Any:
    axis = call.axis(call.get("axis", 0), x[0].ndim)
    sizes = _plain(x[1]) if len(x) > 1 else list(call.get("split", ()))
    if not sizes or sum(sizes) != x[0].shape[axis] or len(sizes) != len(call.outputs):
        raise _Undecided
    return np.split(x[0], np.cumsum(sizes)[:-1], axis)


def _range(call: Call, x: list[Array]) -> tuple[Array, DType]:
    start, limit, step = (_plain(a)[0] for a in x)
    if step == 0 or len(range(start, limit, step)) > MOST_SYMBOLIC_ELEMENTS:
        raise _Undecided
    return _objects(list(range(start, limit, step))), call.tensor(0).type.dtype


def _reduce(function: Callable[[list[Dim]], Dim]) -> Fold:
    def fold(call: Call, x: list[Array]) -> tuple[Array, DType]:
        axes = _axes(call, x, x[0].ndim)
        keep = bool(call.get("keepdims", 1))
        if axes is not None and set(axes) != set(range(x[0].ndim)):
            raise _Undecided
        if axes == () or not x[0].size:
            raise _Undecided
        total = function(list(x[0].reshape(-1)))
        return np.full((1,) * x[0].ndim if keep else (), total, object), call.tensor(0).type.dtype

    return fold


_FOLDS: Mapping[str, Fold] = {
    "Add": _elementwise(lambda a, b: a + b, 2),
    "Sub": _elementwise(lambda a, b: a - b, 2),
    "Mul": _elementwise(lambda a, b: a * b, 2),
    "Div": _elementwise(_divide, 2),
    "Mod": _modulo_of,
    "Neg": _elementwise(lambda a: -a, 1),
    "Abs": _elementwise(_absolute, 1),
    "Min": _elementwise(minimum, 2),
    "Max": _elementwise(maximum, 2),
    "Sum": _elementwise(lambda a, b: a + b, 2),
    "Equal": _elementwise(_equal, 2, bool_),
    "Less": _elementwise(_less, 2, bool_),
    "Greater": _elementwise(lambda a, b: _less(b, a), 2, bool_),
    "LessOrEqual": _elementwise(lambda a, b: not _less(b, a), 2, bool_),
    "GreaterOrEqual": _elementwise(lambda a, b: not _less(a, b), 2, bool_),
    "And": _elementwise(lambda a, b: a and b, 2),
    "Or": _elementwise(lambda a, b: a or b, 2),
    "Not": _elementwise(lambda a: not a, 1),
    "Where": _elementwise(_choose, 3, which=1),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Identity": _moved(lambda call, x: x[0]),
    "Gather": _moved(_gather),
    "Concat": _moved(lambda call, x: np.concatenate(x, call.axis(call.get("axis"), x[0].ndim))),
    "Slice": _moved(_slice),
    "Unsqueeze": _moved(_unsqueeze),
    "Squeeze": _moved(_squeeze),
    "Reshape": _moved(_reshape),
    "Flatten": _moved(lambda call, x: x[0].reshape(int(np.prod(x[0].shape[: call.get("axis", 1)])), -1)),
    "Transpose": _moved(lambda call, x: x[0].transpose(call.get("perm"))),
    "Expand": _moved(_expand),
    "Split": _moved(_split),
    "Range": _range,
    "ReduceProd": _reduce(product),
    "ReduceSum": _reduce(lambda dims: sum(dims, 0)),
    "ReduceMax": _reduce(lambda dims: maximum(*dims)),
    "ReduceMin": _reduce(lambda dims: minimum(*dims)),
}
