"""Reductions over axes, positions of extremes, and running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import NumericError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import product
from graphc.ir.types import TensorType, i64
from graphc.ops.common import ALL, NUMBERS, check_axes, check_axis, check_dtype, widened
from graphc.ops.movement import inverse

Types = Sequence[TensorType]
Attributes = Mapping[str, Any]
Arrays = Sequence[np.ndarray]


def _random(*shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(len(shape)).permutation(int(np.prod(shape))).reshape(shape) * 0.7 - 1.3)


def _axes_samples(*, empty: bool) -> Iterable[Sample]:
    for shape, axes in (((2, 3, 4), (1,)), ((2, 3, 4), (0, 2)), ((3,), (0,)), ((), ()), ((2, 2), ()), ((0, 3), (1,))):
        yield Sample((_random(*shape),), {"axes": axes})
    if empty:
        yield Sample((np.zeros((0, 3)),), {"axes": (0,)})
    for special in ((1.0, np.nan), (np.inf, 2.0), (np.inf, -np.inf), (0.0, -0.0)):
        yield Sample((np.array(special),), {"axes": (0,)}, differentiable=False)
    yield Sample((np.array([[2**31 - 1, 5], [3, 2**31 - 1]], np.int32),), {"axes": (0,)}, differentiable=False)
    yield Sample((np.array([[2**63 - 1, 5], [3, -(2**63)]], np.int64),), {"axes": (1,)}, differentiable=False)


def _infer_reduce(dtypes: Sequence[str]) -> Callable[..., tuple[TensorType, ...]]:
    def infer(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
        x = check_dtype(types[0], dtypes)
        axes = check_axes(a["axes"], x.rank)
        return (x.with_shape(d for i, d in enumerate(x.shape) if i not in axes),)

    return infer


def _accumulator(x: np.ndarray) -> np.dtype:
    """Floats accumulate in f64, so that the reference errs by the final rounding alone; integers in their own type."""
    return np.dtype(np.float64) if x.dtype.kind == "f" else x.dtype


def _folded(fold: np.ufunc) -> Callable[[Arrays, Attributes], tuple[np.ndarray, ...]]:
    def compute(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
        return (np.asarray(fold.reduce(x[0], axis=tuple(a["axes"]), dtype=_accumulator(x[0]))).astype(x[0].dtype),)

    return widened(compute)


def _extreme(fold: np.ufunc) -> Callable[[Arrays, Attributes], tuple[np.ndarray, ...]]:
    def compute(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
        _refuse_empty([x[0].shape[i] for i in a["axes"]])
        return (np.asarray(fold.reduce(x[0], axis=tuple(a["axes"]))),)

    return widened(compute)


def _refuse_empty(dims: Sequence[int]) -> None:
    if 0 in dims:
        raise NumericError("an extreme of no elements has no value", seen=f"reduced dims {list(dims)}")


def _kept(node: Node) -> tuple[int, ...]:
    return tuple(i for i in range(node.operands[0].type.rank) if i not in node["axes"])


def _sum_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    return (b.broadcast(g[0], node.operands[0].type.shape, _kept(node)),)


def _prod_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    """g times the product of all other elements, from running products on both sides: exact at zeros."""
    (x,) = node.operands
    kept, axes, shape = _kept(node), node["axes"], x.type.shape
    order = (*kept, *axes)
    last = b.transpose(x, order)
    flat = b.reshape(last, (*(shape[i] for i in kept), product(shape[i] for i in axes)))
    before = b.op("cumprod", flat, axis=len(kept), exclusive=True)
    after = b.op("cumprod", flat, axis=len(kept), exclusive=True, reverse=True)
    spread = b.broadcast(g[0], flat.type.shape, range(len(kept)))
    others = b.op("mul", spread, b.op("mul", before, after))
    return (b.transpose(b.reshape(others, last.type.shape), inverse(order)),)


def _extreme_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    """Equal shares to all elements that equal the extreme."""
    (x,) = node.operands
    shape, kept = x.type.shape, _kept(node)
    chosen = b.cast(b.op("eq", x, b.broadcast(node.result, shape, kept)), x.type.dtype)
    count = b.op("reduce_sum", chosen, axes=node["axes"])
    return (b.op("mul", chosen, b.broadcast(b.op("div", g[0], count), shape, kept)),)


# argmax, argmin


def _infer_arg(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    x = check_dtype(types[0], NUMBERS)
    axis = check_axis(a["axis"], x.rank)
    return (TensorType(i64, (*x.shape[:axis], *x.shape[axis + 1 :])),)


def _position(find: Callable[..., Any]) -> Callable[[Arrays, Attributes], tuple[np.ndarray, ...]]:
    def compute(x: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
        _refuse_empty([x[0].shape[a["axis"]]])
        return (np.asarray(find(x[0], axis=a["axis"]), np.int64),)

    return widened(compute)


def _arg_samples() -> Iterable[Sample]:
    for shape, axis in (((2, 3, 4), 1), ((2, 3), 0), ((1,), 0), ((0, 3), 1)):
        yield Sample((_random(*shape),), {"axis": axis})
    for values in ((1.0, 3.0, 3.0), (2.0, np.nan, np.nan, 5.0), (np.inf, -np.inf), (0.0, -0.0)):
        yield Sample((np.array(values),), {"axis": 0})


# cumsum, cumprod


def _infer_running(_: Inference, types: Types, a: Attributes) -> tuple[TensorType, ...]:
    check_axis(a["axis"], types[0].rank)
    return (check_dtype(types[0], NUMBERS),)


def _running(fold: np.ufunc) -> Callable[[Arrays, Attributes], tuple[np.ndarray, ...]]:
    def compute(operands: Arrays, a: Attributes) -> tuple[np.ndarray, ...]:
        x = np.moveaxis(operands[0], a["axis"], 0)
        x = x[::-1] if a["reverse"] else x
        if a["exclusive"]:
            x = np.concatenate([np.full_like(x[:1], fold.identity), x[:-1]])
        y = fold.accumulate(x, axis=0, dtype=_accumulator(x))
        y = y[::-1] if a["reverse"] else y
        return (np.moveaxis(y, 0, a["axis"]).astype(x.dtype),)

    return widened(compute)


def _cumsum_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    return (_running_back(b, node, g[0]),)


def _running_back(b: Builder, node: Node, x: Value) -> Value:
    return b.op("cumsum", x, axis=node["axis"], exclusive=node["exclusive"], reverse=not node["reverse"])


def _cumprod_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value]:
    """The backward cumsum of g*y over x; the first zero takes the products without it, what comes after it nothing.

    Its own gradient is right where no factor is zero.
    """
    (x,) = node.operands
    zero, one, dtype = b.full_like(0, x), b.full_like(1, x), x.type.dtype
    is_zero = b.op("eq", x, zero)
    zeros = b.op("cumsum", b.cast(is_zero, dtype), axis=node["axis"], reverse=node["reverse"])
    first = b.op("logical_and", is_zero, b.op("eq", zeros, one))
    without = b.op("cumprod", b.op("select", first, one, x), **node.attributes)
    at_first = _running_back(b, node, b.op("mul", g[0], without))
    elsewhere = b.op("div", _running_back(b, node, b.op("mul", g[0], node.result)), b.op("select", is_zero, one, x))
    after = b.op("ge", zeros, one)
    return (b.op("select", first, at_first, b.op("select", after, zero, elsewhere)),)


def _running_samples() -> Iterable[Sample]:
    for exclusive in (False, True):
        for reverse in (False, True):
            options = {"exclusive": exclusive, "reverse": reverse}
            yield Sample((_random(2, 4) + 0.1,), {"axis": 1, **options})
            yield Sample((_random(3, 2) + 0.1,), {"axis": 0, **options})
            yield Sample((np.array([[2.0, 0.0, 3.0, -1.0], [0.0, 2.0, 0.0, 1.5]]),), {"axis": 1, **options})
            yield Sample((np.zeros((0, 2)),), {"axis": 0, **options})
    yield Sample((np.array([1.0, np.nan, 2.0, np.inf]),), {"axis": 0}, differentiable=False)
    yield Sample((np.array([2**31 - 1, 5, 7], np.int32),), {"axis": 0}, differentiable=False)


_REDUCE = {"axes": Attribute("ints")}
_RUNNING = {"axis": Attribute("int"), "exclusive": Attribute("bool", False), "reverse": Attribute("bool", False)}

OPERATORS = (
    OpDef(
        name="reduce_sum",
        operands=("x",),
        attributes=_REDUCE,
        infer=_infer_reduce(NUMBERS),
        reference=_folded(np.add),
        vjp=_sum_vjp,
        samples=lambda: _axes_samples(empty=True),
        dtypes=NUMBERS,
        doc="The sum over `axes`, which are dropped; 0 of no elements. f16 and bf16 compute in f32; integers wrap.",
    ),
    OpDef(
        name="reduce_prod",
        operands=("x",),
        attributes=_REDUCE,
        infer=_infer_reduce(NUMBERS),
        reference=_folded(np.multiply),
        vjp=_prod_vjp,
        samples=lambda: _axes_samples(empty=True),
        dtypes=NUMBERS,
        doc="The product over `axes`, which are dropped; 1 of no elements. f16 and bf16 compute in f32; integers wrap.",
    ),
    *(
        OpDef(
            name=f"reduce_{name}",
            operands=("x",),
            attributes=_REDUCE,
            infer=_infer_reduce(ALL),
            reference=_extreme(fold),
            vjp=_extreme_vjp,
            samples=lambda: _axes_samples(empty=False),
            dtypes=ALL,
            doc=f"The {word} over `axes`, which are dropped; NaN where there is one; {of_bool}. No elements: raises.",
        )
        for name, fold, word, of_bool in (
            ("max", np.maximum, "greatest", "any of bools"),
            ("min", np.minimum, "smallest", "all of bools"),
        )
    ),
    *(
        OpDef(
            name=f"arg{name}",
            operands=("x",),
            attributes={"axis": Attribute("int")},
            infer=_infer_arg,
            reference=_position(find),
            vjp=NOT_DIFFERENTIABLE,
            samples=_arg_samples,
            dtypes=NUMBERS,
            doc=f"Index (i64) of the {word} element along `axis`, the first of equals, or of NaN. No elements: raises.",
        )
        for name, find, word in (("max", np.argmax, "greatest"), ("min", np.argmin, "smallest"))
    ),
    OpDef(
        name="cumsum",
        operands=("x",),
        attributes=_RUNNING,
        infer=_infer_running,
        reference=_running(np.add),
        vjp=_cumsum_vjp,
        samples=_running_samples,
        dtypes=NUMBERS,
        doc="Sum of the elements up to each along `axis` (from the end if `reverse`), without it if `exclusive`.",
    ),
    OpDef(
        name="cumprod",
        operands=("x",),
        attributes=_RUNNING,
        infer=_infer_running,
        reference=_running(np.multiply),
        vjp=_cumprod_vjp,
        samples=_running_samples,
        dtypes=NUMBERS,
        doc="Product of the elements up to each along `axis` (from the end if `reverse`), without it if `exclusive`.",
    ),
)
