"""The rules of canonicalization: about views, and about the order of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim
from graphc.rewrite.constants import splat_of
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import Capture, Op, op
from graphc.rewrite.rules import Rule

X = Capture("x")


def _identity(name: str, equation: str, operator: str, where: Callable[[Node], bool]) -> Rule:
    """operator(x, ...) = x where the attributes say that nothing changes."""
    operands = (X, Capture("value")) if operator == "pad" else (X,)
    return Rule(name, equation, Op(operator, operands, where=where), lambda b, m: m.root.operands[0])


# Identities


def _same_type(node: Node) -> bool:
    return node.operands[0].type == node.result.type


def _keeps_order(node: Node) -> bool:
    return tuple(node["permutation"]) == tuple(range(len(node["permutation"])))


def _keeps_all(node: Node) -> bool:
    return _same_type(node) and all(s == 0 for s in node["starts"]) and all(s == 1 for s in node["strides"])


def _adds_nothing(node: Node) -> bool:
    return all(d == 0 for d in (*node["low"], *node["high"]))


def _reverses_nothing(node: Node) -> bool:
    return all(node.result.type.shape[a] == 1 for a in node["axes"])


IDENTITIES = (
    _identity("drop-reshape", "reshape(x) = x, same shape", "reshape", _same_type),
    _identity("drop-broadcast", "broadcast(x) = x, same shape", "broadcast", _same_type),
    _identity("drop-cast", "cast(x) = x, same type", "cast", _same_type),
    _identity("drop-transpose", "transpose(x) = x, axes in order", "transpose", _keeps_order),
    _identity("drop-slice", "x[0:n] = x", "slice", _keeps_all),
    _identity("drop-pad", "pad(x, 0) = x", "pad", _adds_nothing),
    _identity("drop-concat", "concat(x) = x", "concat", lambda n: len(n.operands) == 1),
    _identity("drop-reverse", "reverse(x) = x along dims of 1", "reverse", _reverses_nothing),
    _identity("drop-reduce-max", "max of nothing more = x", "reduce_max", lambda n: not n["axes"]),
    _identity("drop-reduce-min", "min of nothing more = x", "reduce_min", lambda n: not n["axes"]),
)

# Chains


def _inner(match: Match) -> Node:
    return match.node("inner")


def _merge_transposes(b: Builder, match: Match) -> Value:
    outer, inner = match.root["permutation"], _inner(match)["permutation"]
    return b.transpose(match["x"], [inner[i] for i in outer])


def _merge_broadcasts(b: Builder, match: Match) -> Value:
    outer, inner = match.root["axes"], _inner(match)["axes"]
    return b.broadcast(match["x"], match.root["shape"], [outer[i] for i in inner])


def _merge_slices(b: Builder, match: Match) -> Value:
    inner, outer = _inner(match), match.root
    starts, limits, strides = [], [], []
    for i in range(outer.result.type.rank):
        step = inner["strides"][i]
        start = inner["starts"][i] + outer["starts"][i] * step
        size = outer.result.type.shape[i]
        stride = step * outer["strides"][i]
        starts.append(start)
        strides.append(stride)
        limits.append(start + (size - 1) * stride + 1)
    return b.op("slice", match["x"], starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


def _not_empty(node: Node) -> bool:
    """Sizes of merged slices are computed from the last element, which has to be there."""
    return all(isinstance(d, int) and d > 0 for d in node.result.type.shape)


def _moves_nothing(node: Node) -> bool:
    """Whether the dims other than 1 keep their order."""
    shape = node.operands[0].type.shape
    moved = [i for i in node["permutation"] if shape[i] != 1]
    return not _keeps_order(node) and moved == sorted(moved)


def _repeats_ones(node: Node) -> bool:
    shape = node.operands[0].type.shape
    return any(d == 1 and node["shape"][a] != 1 for d, a in zip(shape, node["axes"], strict=True))


def _without_ones(b: Builder, match: Match) -> Value:
    node, x = match.root, match["x"]
    kept = [i for i, a in enumerate(node["axes"]) if x.type.shape[i] != 1 or node["shape"][a] == 1]
    squeezed = b.reshape(x, [x.type.shape[i] for i in kept])
    return b.broadcast(squeezed, node["shape"], [node["axes"][i] for i in kept])


def _adds_ones(node: Node) -> bool:
    x = node.operands[0].type
    if x.rank == 0:  # the canonical form of a repeated number is the broadcast of a scalar: see view-of-splat
        return False
    return not _same_type(node) and x.size == node.result.type.size and not _repeats_ones(node)


def _of_splat(node: Node) -> bool:
    """A view of one repeated number that isn't yet the plain broadcast of a scalar."""
    if splat_of(node.operands[0]) is None or node.result.type.rank == 0:
        return False
    return not (node.op.name == "broadcast" and node.operands[0].type.rank == 0)


def _splat(b: Builder, match: Match) -> Value:
    x = match["x"]
    number = splat_of(x)
    assert number is not None
    return b.full(number, match.root.result.type)


def _transposed_broadcast(b: Builder, match: Match) -> Value:
    inner, permutation = _inner(match), match.root["permutation"]
    shape: Sequence[Dim] = match.root.result.type.shape
    axes = [permutation.index(a) for a in inner["axes"]]
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return b.broadcast(b.transpose(match["x"], order), shape, sorted(axes))


CHAINS = (
    Rule(
        "merge-reshapes",
        "reshape(reshape(x)) = reshape(x)",
        op("reshape", op("reshape", X, shared=True)),
        lambda b, m: b.reshape(m["x"], m.root["shape"]),
    ),
    Rule(
        "merge-transposes",
        "transpose(transpose(x, p), q) = transpose(x, p[q])",
        op("transpose", op("transpose", X, keep="inner", shared=True)),
        _merge_transposes,
    ),
    Rule(
        "merge-broadcasts",
        "broadcast(broadcast(x, a), b) = broadcast(x, b[a])",
        op("broadcast", op("broadcast", X, keep="inner", shared=True)),
        _merge_broadcasts,
    ),
    Rule(
        "merge-slices",
        "x[a:b:s][c:d:t] = x[a + c*s : ... : s*t]",
        op("slice", op("slice", X, keep="inner", shared=True), where=_not_empty),
        _merge_slices,
    ),
    Rule(
        "transpose-to-reshape",
        "transpose(x) = reshape(x) where only dims of 1 move",
        op("transpose", X, where=_moves_nothing),
        lambda b, m: b.reshape(m["x"], m.root.result.type.shape),
    ),
    Rule(
        "broadcast-without-ones",
        "broadcast(x) = broadcast(reshape(x)) without the dims of 1 that it repeats",
        op("broadcast", X, where=_repeats_ones),
        _without_ones,
    ),
    Rule(
        "broadcast-to-reshape",
        "broadcast(x) = reshape(x) where it only adds dims of 1",
        op("broadcast", X, where=_adds_ones),
        lambda b, m: b.reshape(m["x"], m.root["shape"]),
    ),
    Rule(
        "view-of-splat",
        "view(full(c)) = full(c)",
        op(("reshape", "transpose", "slice", "broadcast"), X, where=_of_splat),
        _splat,
    ),
    Rule(
        "transposed-broadcast",
        "transpose(broadcast(x)) = broadcast(transpose(x))",
        op("transpose", op("broadcast", X, keep="inner", shared=True)),
        _transposed_broadcast,
    ),
)

# Order of operands

ORDERED = (
    "add", "mul", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
)  # fmt: skip
"""Commutative down to the bits: max and min aren't, of zeros with different signs."""


def _constant_first(node: Node) -> bool:
    a, b = (splat_of(v) is not None for v in node.operands)
    return a and not b


CONSTANT_LAST = Rule(
    "constant-last",
    "f(c, x) = f(x, c) for commutative f",
    op(ORDERED, Capture("c"), Capture("x"), where=_constant_first),
    lambda b, m: b.op(m.root.op, m.root.operands[1], m.root.operands[0], **m.root.attributes),
)

RULES = (*IDENTITIES, *CHAINS, CONSTANT_LAST)
