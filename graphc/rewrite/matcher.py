"""Matches patterns against graphs, with backtracking over alternatives and orders of commutative operands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from graphc.ir.graph import Node, Value
from graphc.ir.types import bf16
from graphc.rewrite.constants import splat_of
from graphc.rewrite.patterns import AnyPattern, Capture, Either, Op, Splat, Through


@dataclass(frozen=True)
class Match:
    """Where a pattern fits: its root, captured values, nodes and numbers, and the matched nodes.

    `inner` are matched nodes that the pattern doesn't declare shared, root included: their results must have no users
    outside of the match, but for the root's. `nodes` are all of them.
    """

    root: Node
    values: Mapping[str, Value] = field(default_factory=dict)
    named: Mapping[str, Node] = field(default_factory=dict)
    numbers: Mapping[str, float | int | bool] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    inner: frozenset[Node] = frozenset()

    def __getitem__(self, name: str) -> Value:
        """A captured value; raises KeyError where its alternative didn't match."""
        return self.values[name]

    def node(self, name: str) -> Node:
        """A node that the pattern keeps."""
        return self.named[name]

    def number(self, name: str) -> float | int | bool:
        """The number that a Splat kept."""
        return self.numbers[name]

    def leak(self) -> Value | None:
        """An inner value that something outside of the match reads; None if there is none."""
        known = set(self.nodes)
        for node in self.nodes:
            if node is self.root or node not in self.inner:
                continue
            for value in node.results:
                if any(use.user not in known for use in value.uses):
                    return value
        return None


def find_matches(pattern: AnyPattern, root: Node) -> Iterator[Match]:
    """Every way in which the pattern fits with `root` at its root, in the order of alternatives."""
    for value in root.results:
        yield from _match(pattern, value, Match(root))


def _match(pattern: AnyPattern, value: Value, state: Match) -> Iterator[Match]:
    match pattern:
        case Capture():
            yield from _capture(pattern, value, state)
        case Splat():
            yield from _splat(pattern, value, state)
        case Either():
            for alternative in pattern.alternatives:
                yield from _match(alternative, value, state)
        case Through():
            yield from _through(pattern, value, state)
        case Op():
            yield from _op(pattern, value, state)


def _capture(pattern: Capture, value: Value, state: Match) -> Iterator[Match]:
    if state.values.get(pattern.name, value) is not value or (pattern.where is not None and not pattern.where(value)):
        return
    state = replace(state, values={**state.values, pattern.name: value})
    if pattern.inner is None:
        yield state
    else:
        yield from _match(pattern.inner, value, state)


def _splat(pattern: Splat, value: Value, state: Match) -> Iterator[Match]:
    number = splat_of(value)
    if number is None or (pattern.value is not None and not _is_about(number, pattern.value, pattern.ulps, value)):
        return
    if pattern.name is not None:
        if state.numbers.get(pattern.name, number) != number:
            return
        state = replace(state, numbers={**state.numbers, pattern.name: number})
    yield state


def _is_about(number: float | int | bool, wanted: float | int | bool, ulps: int, value: Value) -> bool:
    """Whether `number` is `wanted` to that many ulps of the value's dtype."""
    dtype = value.type.dtype
    if not dtype.is_float:
        return number == wanted
    if number == wanted:
        return math.copysign(1, number) == math.copysign(1, wanted)
    eps = 2.0**-7 if dtype == bf16 else float(np.finfo(dtype.numpy).eps)
    return abs(float(number) - float(wanted)) <= ulps * eps * abs(float(wanted))


def _through(pattern: Through, value: Value, state: Match) -> Iterator[Match]:
    passed: list[Node] = []
    while True:
        yield from _match(pattern.inner, value, _with_nodes(state, passed, inner=True))
        producer = value.producer
        if producer is None or producer.op.name not in pattern.views:
            return
        passed.append(producer)
        value = producer.operands[0]


def _with_nodes(state: Match, nodes: Sequence[Node], *, inner: bool) -> Match:
    new = tuple(n for n in nodes if n not in state.nodes)
    return replace(state, nodes=(*state.nodes, *new), inner=state.inner.union(nodes) if inner else state.inner)


def _op(pattern: Op, value: Value, state: Match) -> Iterator[Match]:
    node = value.producer
    if node is None or node.op.name not in pattern.names or value.index != pattern.result:
        return
    if len(node.operands) != len(pattern.operands) or (pattern.where is not None and not pattern.where(node)):
        return
    if pattern.name is not None:
        if state.named.get(pattern.name, node) is not node:
            return
        state = replace(state, named={**state.named, pattern.name: node})
    state = _with_nodes(state, (node,), inner=not pattern.shared)
    orders = permutations(node.operands) if "commutative" in node.op.traits else (node.operands,)
    for operands in orders:
        yield from _operands(pattern.operands, operands, state)


def _operands(patterns: Sequence[AnyPattern], operands: Sequence[Value], state: Match) -> Iterator[Match]:
    if not patterns:
        yield state
        return
    for partial in _match(patterns[0], operands[0], state):
        yield from _operands(patterns[1:], operands[1:], partial)
