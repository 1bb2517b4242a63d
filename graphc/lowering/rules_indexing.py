"""Lowering of gathers: a load of an index, and a load at it whose bounds are checked."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.lowering.index_maps import Index
from graphc.lowering.loop_body import Operand
from graphc.lowering.nest import Demand, Nest, Rule, unsupported


def gather(nest: Nest, v: Value, demand: Demand) -> Operand:
    """x at the position that indices hold, along one axis."""
    assert v.producer is not None
    x, indices = v.producer.operands
    axis, count = v.producer["axis"], indices.type.rank
    before, at, after = demand.index[:axis], demand.index[axis : axis + count], demand.index[axis + count :]
    found = nest.position(nest.value(indices, demand.inner().at(at)), x.type.shape[axis])
    return _fetch(nest, v, x, demand, (*before, found, *after))


def take_along(nest: Nest, v: Value, demand: Demand) -> Operand:
    """x at its own position but for one axis, where indices say which."""
    assert v.producer is not None
    x, indices = v.producer.operands
    axis = v.producer["axis"]
    found = nest.position(nest.value(indices, demand.inner()), x.type.shape[axis])
    return _fetch(nest, v, x, demand, (*demand.index[:axis], found, *demand.index[axis + 1 :]))


def gather_nd(nest: Nest, v: Value, demand: Demand) -> Operand:
    """x at index vectors, the same batch axes in front of both."""
    assert v.producer is not None
    x, indices = v.producer.operands
    batch, lead = v.producer["batch_dims"], indices.type.rank - 1
    found = index_vector(nest, indices, demand.inner().at(demand.index[:lead]), x.type.shape[batch:])
    return _fetch(nest, v, x, demand, (*demand.index[:batch], *found, *demand.index[lead:]))


def index_vector(nest: Nest, indices: Value, demand: Demand, sizes: Sequence[Dim]) -> Index:
    """The positions that a vector along the last axis of `indices` holds, each in [0, size)."""
    depth = indices.type.shape[-1]
    assert isinstance(depth, int)
    vectors = (nest.value(indices, demand.at((*demand.index, i))) for i in range(depth))
    return tuple(nest.position(v, size) for v, size in zip(vectors, sizes, strict=False))


def _fetch(nest: Nest, v: Value, x: Value, demand: Demand, index: Index) -> Operand:
    """x[index], from memory: what computes x at a position that is data would have to check it."""
    if x not in nest.buffers:
        assert v.producer is not None
        raise unsupported(v.producer, "what is gathered from must be an operand of the fusion")
    return nest.value(x, demand.inner().at(index))


RULES: dict[str, Rule] = {"gather": gather, "take_along": take_along, "gather_nd": gather_nd}
