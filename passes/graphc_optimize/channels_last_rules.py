"""How each operator runs with channels last: which operands and results change layout, and how its attributes do.

A tensor [N, C, *spatial] of rank 3 or more is "first" as it stands and "last" as [N, *spatial, C].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ops import activations

Port = Literal["first", "last", "own"]
"""A layout that an operand or result has for certain, or ("own") the one that its node is given."""

FIRST: Port = "first"
OWN: Port = "own"

ACTIVATIONS = frozenset(op.name for op in activations.OPERATORS)
"""Composites that are elementwise too."""

Emit = Callable[[Builder, Node, Sequence[Value]], Sequence[Value]]


@dataclass(frozen=True)
class Rule:
    """A node's ports, and how to emit it in "last", from operands in the layouts of their ports to results likewise."""

    operands: tuple[Port, ...]
    results: tuple[Port, ...]
    emit: Emit


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation from [N, C, *spatial] to [N, *spatial, C]."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation from [N, *spatial, C] to [N, C, *spatial]."""
    return (0, rank - 1, *range(1, rank - 1))


def moved(axis: int, rank: int) -> int:
    """Where an axis of the first layout is in the last."""
    return to_last(rank).index(axis)


def rule_of(node: Node) -> Rule | None:
    """How the node runs with channels last; None where it has to stay as it is."""
    rank = max((v.type.rank for v in (*node.operands, *node.results)), default=0)
    if rank < 3:
        return None
    if "elementwise" in node.op.traits or node.op.name in ACTIVATIONS:
        return Rule(_own(len(node.operands)), ("own",), _same)
    make = _RULES.get(node.op.name)
    return None if make is None else make(node)


def _own(count: int) -> tuple[Port, ...]:
    return (OWN,) * count


def _own_then_first(count: int) -> tuple[Port, ...]:
    return (OWN, *((FIRST,) * (count - 1)))


def _emit(b: Builder, node: Node, operands: Sequence[Value], **changed: Any) -> Sequence[Value]:
    return b.emit(node.op, operands, **{**node.attributes, **changed}).results


def _same(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
    return _emit(b, node, operands)


# Convolutions ask for it


def _convolution(node: Node) -> Rule | None:
    if node["layout"] != "channels_first":
        return None
    return Rule(("last", "first"), ("last",), _emit_convolution)


def _emit_convolution(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
    x, w = operands
    if node["kernel_layout"] == "oi":
        w = b.transpose(w, (*range(2, w.type.rank), 1, 0))
    return _emit(b, node, (x, w), layout="channels_last", kernel_layout="io")


def _weight_grad(node: Node) -> Rule | None:
    if node["layout"] != "channels_first":
        return None
    return Rule(("last", "last"), ("first",), _emit_weight_grad)


def _emit_weight_grad(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
    (dw,) = _emit(b, node, operands, layout="channels_last", kernel_layout="io")
    rank = dw.type.rank
    return (dw if node["kernel_layout"] == "io" else b.transpose(dw, (rank - 1, rank - 2, *range(rank - 2))),)


# Operators with an axis, or an entry for each


def _with_axis(node: Node) -> Rule:
    ports: tuple[Port, ...] = tuple("own" if v.type.rank >= 3 else "first" for v in node.operands)
    return Rule(ports, _own(len(node.results)), _emit_axis)


def _emit_axis(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
    return _emit(b, node, operands, axis=moved(node["axis"], node.results[0].type.rank))


def _per_axis(*names: str) -> Callable[[Node], Rule]:
    """Attributes `names` have an entry for each axis of the first operand."""

    def emit(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
        order = to_last(operands[0].type.rank)
        return _emit(b, node, operands, **{n: tuple(node[n][i] for i in order) for n in names})

    def make(node: Node) -> Rule:
        return Rule(_own_then_first(len(node.operands)), ("own",), emit)

    return make


def _with_axes(node: Node) -> Rule | None:
    """`axes` that keep their order, along with whatever has an entry for each of them."""
    rank = node.operands[0].type.rank
    axes = tuple(moved(a, rank) for a in node["axes"])
    if list(axes) != sorted(axes):
        return None
    ports = _own_then_first(len(node.operands))
    return Rule(ports, _own(len(node.results)), lambda b, n, operands: _emit(b, n, operands, axes=axes))


def _reverse(node: Node) -> Rule:
    axes = tuple(moved(a, node.result.type.rank) for a in node["axes"])
    return Rule((OWN,), (OWN,), lambda b, n, operands: _emit(b, n, operands, axes=axes))


def _reduction(node: Node) -> Rule | None:
    """A reduction whose remaining axes keep their order gives the same result from either layout."""
    rank = node.operands[0].type.rank
    axes = tuple(sorted(moved(a, rank) for a in node["axes"]))
    kept = [moved(a, rank) for a in range(rank) if a not in node["axes"]]
    if kept != sorted(kept):
        return None
    return Rule(("own",), ("first",), lambda b, n, operands: _emit(b, n, operands, axes=axes))


def _reshape(node: Node) -> Rule | None:
    """A reshape of the spatial axes alone."""
    before, after = node.operands[0].type.shape, node.result.type.shape
    if len(before) < 3 or len(after) < 3 or before[:2] != after[:2]:
        return None
    shape = tuple(after[i] for i in to_last(len(after)))
    return Rule((OWN,), (OWN,), lambda b, n, operands: _emit(b, n, operands, shape=shape))


def _gather(node: Node) -> Rule | None:
    """One of the rows along an axis for each of a list of indices."""
    if node.operands[1].type.rank != 1:
        return None
    return Rule(("own", "first"), ("own",), _emit_axis)


def _broadcast(node: Node) -> Rule | None:
    rank = node.result.type.rank
    if rank < 3:
        return None
    same_rank = node.operands[0].type.rank == rank
    return Rule(("own" if same_rank else "first",), ("own",), _emit_broadcast)


def _emit_broadcast(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
    (x,) = operands
    rank = len(node["shape"])
    axes = tuple(moved(a, rank) for a in node["axes"]) if x.type.rank < rank else tuple(range(rank))
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    shape = tuple(node["shape"][i] for i in to_last(rank))
    return (b.op("broadcast", b.transpose(x, order), shape=shape, axes=tuple(sorted(axes))),)


_RULES: dict[str, Callable[[Node], Rule | None]] = {
    "conv": _convolution,
    "conv_input_grad": _convolution,
    "conv_weight_grad": _weight_grad,
    "batch_norm": _with_axis,
    "softmax": _with_axis,
    "log_softmax": _with_axis,
    "cumsum": _with_axis,
    "cumprod": _with_axis,
    "concat": _with_axis,
    "slice": _per_axis("starts", "limits", "strides"),
    "pad": _per_axis("low", "high"),
    "gather": _gather,
    "reverse": _reverse,
    "resize": _with_axes,
    "window_max": _with_axes,
    "window_sum": _with_axes,
    "max_pool": _with_axes,
    "average_pool": _with_axes,
    "reduce_sum": _reduction,
    "reduce_prod": _reduction,
    "reduce_max": _reduction,
    "reduce_min": _reduction,
    "broadcast": _broadcast,
    "reshape": _reshape,
}
