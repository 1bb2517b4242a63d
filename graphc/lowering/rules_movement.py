"""Lowering of operators that move elements: they ask their operand at another index, or at none where it has no element."""

from __future__ import annotations

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.lowering.index_maps import reshape_index
from graphc.lowering.loop_body import Operand, Predicate, Range
from graphc.lowering.nest import Demand, Nest, Rule, carrier


def reshape(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element at the same row-major position."""
    (x,) = _operands(v)
    return nest.value(x, demand.at(reshape_index(demand.index, v.type.shape, x.type.shape)))


def transpose(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element with its index put back in the operand's order."""
    (x,) = _operands(v)
    assert v.producer is not None
    at = dict(zip(v.producer["permutation"], demand.index, strict=True))
    return nest.value(x, demand.at([at[i] for i in range(x.type.rank)]))


def materialize(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element itself: what the operator asks for is where the fusion ends."""
    (x,) = _operands(v)
    return nest.value(x, demand)


def broadcast(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element without the axes that are new, at 0 along those that repeat."""
    (x,) = _operands(v)
    assert v.producer is not None
    index: list[Dim] = [
        0 if d == 1 else demand.index[axis] for d, axis in zip(x.type.shape, v.producer["axes"], strict=True)
    ]
    return nest.value(x, demand.at(index))


def slice_(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element at start + stride * index."""
    (x,) = _operands(v)
    assert v.producer is not None
    starts, strides = v.producer["starts"], v.producer["strides"]
    return nest.value(x, demand.at([s + i * k for s, i, k in zip(starts, demand.index, strides, strict=True)]))


def reverse(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element counted from the end along the axes."""
    (x,) = _operands(v)
    assert v.producer is not None
    axes = v.producer["axes"]
    index = [d - 1 - i if k in axes else i for k, (i, d) in enumerate(zip(demand.index, x.type.shape, strict=True))]
    return nest.value(x, demand.at(index))


def pad(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The operand's element where there is one, else the value."""
    x, filler = _operands(v)
    assert v.producer is not None
    index = [i - low for i, low in zip(demand.index, v.producer["low"], strict=True)]
    inside = tuple(Range(i, 0, d) for i, d in zip(index, x.type.shape, strict=True))
    outside = nest.value(filler, Demand((), demand.predicate))
    result = nest.value(x, Demand(tuple(index), (*demand.predicate, *inside), outside))
    if demand.otherwise is None or demand.otherwise == outside:
        return result
    return nest.select(demand.predicate, result, demand.otherwise, carrier(v.type.dtype))


def concat(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The element of the operand in whose range the index lies: each later choice stands where an earlier one fails."""
    assert v.producer is not None
    axis, outer = v.producer["axis"], demand.predicate
    ends: list[Dim] = [0]
    for x in v.producer.operands:
        ends.append(ends[-1] + x.type.shape[axis])
    result = demand.otherwise
    for k in reversed(range(len(v.producer.operands))):
        x = v.producer.operands[k]
        e = demand.index[axis] - ends[k]
        index = (*demand.index[:axis], e, *demand.index[axis + 1 :])
        here: Predicate = (Range(e, 0, x.type.shape[axis]),)
        result = nest.value(x, Demand(index, (*outer, *here), result))
    assert result is not None
    return result


def _operands(v: Value) -> tuple[Value, ...]:
    assert v.producer is not None
    return v.producer.operands


VIEWS: dict[str, Rule] = {
    "materialize": materialize,
    "reshape": reshape,
    "transpose": transpose,
    "broadcast": broadcast,
    "slice": slice_,
    "reverse": reverse,
    "pad": pad,
    "concat": concat,
}
"""Rules that hand the predicate and what stands where it fails on to their operand's load."""
