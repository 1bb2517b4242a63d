"""Follows axes through broadcasts and reshapes, for checks of rules that look through them."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim
from graphc.rewrite.constants import splat_of


def axes_from(value: Value, source: Value) -> dict[int, int] | None:
    """{axis of `source`: axis of `value`} for its dims other than 1, where `value` is `source` spread out.

    Between them may be broadcasts, reshapes that add or drop dims of 1, and elementwise nodes whose other operands are
    splats. None where anything else is.
    """
    path: list[Node] = []
    while value is not source:
        node = value.producer
        if node is None:
            return None
        if "elementwise" in node.op.traits:
            followed = [v for v in dict.fromkeys(node.operands) if splat_of(v) is None]
            if len(followed) != 1:
                return None
            value = followed[0]
            continue
        if node.op.name not in ("broadcast", "reshape"):
            return None
        path.append(node)
        value = node.operands[0]
    axes = {i: i for i, d in enumerate(source.type.shape) if d != 1}
    for node in reversed(path):
        step = _step(node)
        if step is None:
            return None
        axes = {i: step[a] for i, a in axes.items()}
    return axes


def _step(node: Node) -> dict[int, int] | None:
    before, after = node.operands[0].type.shape, node.result.type.shape
    if node.op.name == "broadcast":
        return {i: axis for i, axis in enumerate(node["axes"]) if before[i] != 1}
    return moved_by_reshape(before, after)


def moved_by_reshape(before: Sequence[Dim], after: Sequence[Dim]) -> dict[int, int] | None:
    """{axis before: axis after} for dims other than 1, where the reshape only adds or drops dims of 1; else None."""
    old = [i for i, d in enumerate(before) if d != 1]
    new = [i for i, d in enumerate(after) if d != 1]
    if [before[i] for i in old] != [after[i] for i in new]:
        return None
    return dict(zip(old, new, strict=True))


def is_kept_reduction(value: Value, reduced: Value, axes: Sequence[int]) -> bool:
    """Whether `value` is a reduction over `axes` (dropped), spread back along them."""
    found = axes_from(value, reduced)
    if found is None:
        return False
    kept = [i for i in range(value.type.rank) if i not in axes]
    return len(kept) == reduced.type.rank and all(kept[i] == axis for i, axis in found.items())


def repeats_before(value: Value, first: int) -> bool:
    """Whether `value` is visibly the same at every position of the axes before `first`: `without_leading` applies."""
    if first == 0 or splat_of(value) is not None:
        return True
    node = value.producer
    if node is None or node.op.name != "broadcast":
        return False
    x = node.operands[0]
    return all(axis >= first or x.type.shape[i] == 1 for i, axis in enumerate(node["axes"]))


def without_leading(b: Builder, value: Value, first: int) -> Value:
    """The dims of `value` from axis `first` on, of what `repeats_before` holds for."""
    trailing = value.type.shape[first:]
    if first == 0:
        return value
    number = splat_of(value)
    if number is not None:
        return b.broadcast(b.scalar(number, value.type.dtype), trailing, ())
    node = value.producer
    assert node is not None
    x = node.operands[0]
    kept = [i for i, d in enumerate(x.type.shape) if d != 1]
    squeezed = b.reshape(x, [x.type.shape[i] for i in kept])
    return b.broadcast(squeezed, trailing, [node["axes"][i] - first for i in kept])
