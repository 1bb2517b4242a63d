"""Sequences of tensors: known in number and order at import, they leave no trace in the graph."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Value
from graphc.ir.symbolic import Expr
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_movement import concatenate, part
from graphc_onnx.imported import Item, Refused, Tensor

_MOST_PARTS = 4096


def _construct(c: Call) -> tuple[Tensor, ...]:
    return tuple(c.tensor(i) for i in range(len(c.operands)))


def _at(c: Call) -> Item:
    sequence = c.sequence(0)
    return sequence[_position(c, 1, len(sequence))]


def _position(c: Call, index: int, count: int) -> int:
    return c.axis(c.integer(index, "position"), count)


def _insert(c: Call) -> tuple[Tensor, ...]:
    sequence = list(c.sequence(0))
    at = c.integer(2, "position") if c.has(2) else len(sequence)
    if not -len(sequence) <= at <= len(sequence):
        raise c.wrong("the position is out of range", at, f"-{len(sequence)} to {len(sequence)}")
    sequence.insert(at, c.tensor(1))  # as in Python, -1 is before the last
    return tuple(sequence)


def _erase(c: Call) -> tuple[Tensor, ...]:
    sequence = list(c.sequence(0))
    del sequence[_position(c, 1, len(sequence)) if c.has(1) else -1]
    return tuple(sequence)


def _concat(c: Call) -> Value:
    """All tensors along an axis, or with new_axis one after another along a new one."""
    values = [c.value(t) for t in c.sequence(0)]
    if not values or any(v.type.rank != values[0].type.rank for v in values):
        raise c.wrong("the sequence is empty, or its tensors differ in rank")
    rank, new = values[0].type.rank, bool(c.get("new_axis", 0))
    axis = c.axis(c.get("axis"), rank + new)
    if new:
        values = [c.b.reshape(v, (*v.type.shape[:axis], 1, *v.type.shape[axis:])) for v in values]
    return concatenate(c, values, axis)


def _split(c: Call) -> tuple[Tensor, ...]:
    """Parts of given sizes, or of size 1, with the axis dropped unless keepdims is set."""
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    whole = x.type.shape[axis]
    if isinstance(whole, Expr):
        raise Refused("splitting a dynamic axis isn't supported")
    drop = not c.has(1) and not c.get("keepdims", 1)
    if not c.has(1) or c.tensor(1).rank == 0:
        size = c.integer(1, "size of parts") if c.has(1) else 1
        if size < 1:
            raise c.wrong("parts must have a positive size", size)
        if whole // size > _MOST_PARTS:
            raise Refused(f"a sequence of more than {_MOST_PARTS} tensors isn't supported")
        sizes = [min(size, whole - start) for start in range(0, whole, size)]
    else:
        sizes = list(c.integers(1, "sizes of parts"))
    if sum(sizes) != whole or min(sizes, default=0) < 0:
        raise c.wrong("the parts don't add up to the axis", sizes, whole)
    parts, start = [], 0
    for size in sizes:
        piece = part(c, x, axis, start, start + size)
        if drop:
            piece = c.b.reshape(piece, (*piece.type.shape[:axis], *piece.type.shape[axis + 1 :]))
        parts.append(Tensor(piece.type, value=piece))
        start += size
    return tuple(parts)


def _length(c: Call) -> Tensor:
    return c.known_scalar(len(c.sequence(0)))


CONVERTERS: Mapping[str, Converter] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": lambda c: (),
    "SequenceAt": _at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
}
