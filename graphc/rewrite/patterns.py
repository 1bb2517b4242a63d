"""Patterns: trees of operators with captures, matched against the values of a graph from a root downwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphc.ir.graph import Node, Value

VIEWS = ("broadcast", "reshape")


@dataclass(frozen=True)
class Capture:
    """Any value (or one that `inner` matches), kept under `name`; the same name twice must be the same value."""

    name: str
    inner: Capture | Splat | Op | Either | Through | None = None
    where: Callable[[Value], bool] | None = None


@dataclass(frozen=True)
class Splat:
    """A constant of one repeated number, through views: `value`, to `ulps` of the dtype, or any; kept under `name`.

    Zeros have signs: 0.0 isn't -0.0.
    """

    value: float | int | bool | None = None
    name: str | None = None
    ulps: int = 0


@dataclass(frozen=True)
class Op:
    """A result of a node of one of the operators `op`, whose operands match in order.

    Operands of commutative operators match in either order. `where` tests the node; `name` keeps it; `shared` allows
    other users of its results, for rules that gain even if the node stays. `result` is which of the node's results.
    """

    op: str | tuple[str, ...]
    operands: tuple[Capture | Splat | Op | Either | Through, ...] = ()
    name: str | None = None
    where: Callable[[Node], bool] | None = None
    shared: bool = False
    result: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (self.op,) if isinstance(self.op, str) else self.op


@dataclass(frozen=True)
class Either:
    """The first of the alternatives that leads to a match of the whole."""

    alternatives: tuple[Capture | Splat | Op | Either | Through, ...]


@dataclass(frozen=True)
class Through:
    """What `inner` matches, itself or under any chain of the `views`: what they do is for the rule's check."""

    inner: Capture | Splat | Op | Either
    views: tuple[str, ...] = VIEWS


AnyPattern = Capture | Splat | Op | Either | Through


def op(
    name: str | tuple[str, ...],
    *operands: AnyPattern,
    keep: str | None = None,
    where: Callable[[Node], bool] | None = None,
    shared: bool = False,
    result: int = 0,
) -> Op:
    """Op(name, operands, ...), written as an application."""
    return Op(name, operands, keep, where, shared, result)


def about(value: float) -> Splat:
    """A repeated number that is `value` as an exporter may have rounded it."""
    return Splat(value, ulps=4)


def either(*alternatives: AnyPattern) -> Either:
    """Either(alternatives)."""
    return Either(alternatives)


def views(inner: Capture | Splat | Op | Either) -> Through:
    """`inner`, perhaps broadcast or reshaped."""
    return Through(inner)


def roots(pattern: AnyPattern) -> tuple[str, ...]:
    """The names of the operators that can stand at the root of a match; raises ValueError where any value can."""
    match pattern:
        case Op():
            return pattern.names
        case Either():
            return tuple(dict.fromkeys(n for p in pattern.alternatives for n in roots(p)))
        case Capture() if pattern.inner is not None:
            return roots(pattern.inner)
    raise ValueError("a rule's pattern must have an operator at its root")
