"""Lowering of reductions, contractions and windows: a scalar reduced over the nest's reduction axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim, free_symbols, product
from graphc.ir.types import DType, bool_, i64
from graphc.lowering.index_maps import inserted, linear_index
from graphc.lowering.loop_body import Operand, Range
from graphc.lowering.nest import Demand, Nest, Rule, carrier, unsupported
from graphc.ops.contraction import free_axes
from graphc.ops.windows import WindowSpec


def reduction(kind: Literal["sum", "prod", "max", "min"]) -> Rule:
    """reduce_<kind>."""

    def rule(nest: Nest, v: Value, demand: Demand) -> Operand:
        node = reducing(nest, v, demand)
        (x,), axes = node.operands, node["axes"]
        positions = nest.reduction_axes(node, [x.type.shape[a] for a in sorted(axes)])
        element = nest.value(x, demand.inner().at(inserted(demand.index, sorted(axes), positions)))
        return nest.rounded(nest.reduce(kind, carrier(v.type.dtype), element, positions), v.type.dtype)

    return rule


def arg_extreme(kind: Literal["argmax", "argmin"]) -> Rule:
    """argmax and argmin over one axis."""

    def rule(nest: Nest, v: Value, demand: Demand) -> Operand:
        node = reducing(nest, v, demand)
        (x,), axis = node.operands, node["axis"]
        positions = nest.reduction_axes(node, [x.type.shape[axis]])
        element = nest.value(x, demand.inner().at(inserted(demand.index, [axis], positions)))
        return nest.reduce(kind, i64, element, positions)

    return rule


def running(kind: Literal["sum", "prod"]) -> Rule:
    """cumsum and cumprod: a reduction up to here over the nest's scan axis, which `lower` made to walk as they want."""

    def rule(nest: Nest, v: Value, demand: Demand) -> Operand:
        node = v.producer
        assert node is not None
        (x,), axis = node.operands, node["axis"]
        index, predicate, otherwise = list(demand.index), demand.predicate, demand.otherwise
        if node["exclusive"]:
            index[axis] = index[axis] + (1 if node["reverse"] else -1)
            predicate = (*predicate, Range(index[axis], 0, x.type.shape[axis]))
            otherwise = (0 if kind == "sum" else 1) * (1.0 if v.type.dtype.is_float else 1)
        element = nest.value(x, Demand(tuple(index), predicate, otherwise))
        return nest.rounded(nest.reduce(kind, carrier(v.type.dtype), element, [demand.index[axis]]), v.type.dtype)

    return rule


def dot(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The sum of products over the contracted axes."""
    node = reducing(nest, v, demand)
    lhs, rhs = node.operands
    lhs_batch, rhs_batch = node["lhs_batch"], node["rhs_batch"]
    lhs_contract, rhs_contract = node["lhs_contract"], node["rhs_contract"]
    lhs_free = free_axes(lhs.type.rank, lhs_batch, lhs_contract)
    rhs_free = free_axes(rhs.type.rank, rhs_batch, rhs_contract)
    positions = nest.reduction_axes(node, [lhs.type.shape[a] for a in lhs_contract])
    m = len(lhs_batch) + len(lhs_free)
    batch, rows, columns = demand.index[: len(lhs_batch)], demand.index[len(lhs_batch) : m], demand.index[m:]

    def index(
        batched: tuple[int, ...], free: tuple[int, ...], at: tuple[Dim, ...], contracted: tuple[int, ...]
    ) -> Demand:
        axes = dict(zip((*batched, *free, *contracted), (*batch, *at, *positions), strict=True))
        return demand.inner().at([axes[i] for i in range(len(axes))])

    a = nest.value(lhs, index(lhs_batch, lhs_free, rows, lhs_contract))
    b = nest.value(rhs, index(rhs_batch, rhs_free, columns, rhs_contract))
    return sum_of_products(nest, v.type.dtype, a, b, positions)


def sum_of_products(nest: Nest, dtype: DType, a: Operand, b: Operand, positions: Sequence[Dim]) -> Operand:
    """The contraction form: mul of two elements, reduce sum."""
    wide = carrier(dtype)
    return nest.rounded(nest.reduce("sum", wide, nest.apply("mul", wide, [a, b], wide), positions), dtype)


def window(nest: Nest, v: Value, demand: Demand) -> Operand:
    """window_sum, and both results of window_max."""
    node = reducing(nest, v, demand)
    (x,), spec, dtype = node.operands, WindowSpec.from_attributes(node.attributes), v.type.dtype
    positions = nest.reduction_axes(node, spec.window)
    index, inside = list(demand.index), []
    for i, (axis, t) in enumerate(zip(spec.axes, positions, strict=True)):
        index[axis] = index[axis] * spec.strides[i] - spec.padding[2 * i] + t * spec.dilation[i]
        inside.append(Range(index[axis], 0, x.type.shape[axis]))
    wide = carrier(x.type.dtype)
    if node.op.name == "window_sum":
        padding: Operand = 0.0 if dtype.is_float else 0
    else:
        padding = _lowest(wide)
    element = nest.value(x, Demand(tuple(index), (*demand.predicate, *inside), padding))
    if node.op.name == "window_sum":
        return nest.rounded(nest.reduce("sum", wide, element, positions), dtype)
    if v.index == 0:
        return nest.reduce("max", wide, element, positions)
    return _where_found(nest, spec, x, demand, nest.reduce("argmax", i64, element, positions, tuple(inside)))


def _where_found(nest: Nest, spec: WindowSpec, x: Value, demand: Demand, found: Operand) -> Operand:
    """The position within the windowed axes of x, from the one within the window."""
    sizes = [x.type.shape[a] for a in spec.axes]
    offset = nest.value_symbol(found, product(spec.window))
    at: list[Dim] = []
    for i, axis in enumerate(spec.axes):
        t: Dim = offset // product(spec.window[i + 1 :])
        t = t % spec.window[i] if i else t
        at.append(demand.index[axis] * spec.strides[i] - spec.padding[2 * i] + t * spec.dilation[i])
    position = nest.integer(linear_index(at, sizes))
    if any(spec.padding) and max(spec.dilation) > 1:  # only then can a window lie in padding alone
        nowhere = nest.apply("lt", bool_, [found, 0], i64)
        position = nest.apply("select", i64, [nowhere, 0, position], i64)
    return position


def _lowest(dtype: DType) -> Operand:
    return -float("inf") if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def reducing(nest: Nest, v: Value, demand: Demand) -> Node:
    """The producer; raises UnsupportedOpError where its own element depends on the nest's reduction axes."""
    assert v.producer is not None
    inner = {a.name for a in nest.axes if a.kind != "parallel"}
    if any(s.name in inner for e in demand.index for s in free_symbols(e)):
        raise unsupported(v.producer, "a reduction inside of another needs a nest of its own")
    return v.producer


RULES: dict[str, Rule] = {
    "reduce_sum": reduction("sum"),
    "reduce_prod": reduction("prod"),
    "reduce_max": reduction("max"),
    "reduce_min": reduction("min"),
    "argmax": arg_extreme("argmax"),
    "argmin": arg_extreme("argmin"),
    "cumsum": running("sum"),
    "cumprod": running("prod"),
    "dot": dot,
    "window_sum": window,
    "window_max": window,
}
