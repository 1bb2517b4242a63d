"""Penalties on parameters: terms of the loss that `compile_training(..., penalty=)` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ops.arithmetic import add, mul
from graphc.training.losses.loss import reduced


@dataclass(frozen=True)
class L1:
    """strength * the sum of |p| over the elements of the parameters whose names fit a pattern; its gradient at 0 is 0."""

    strength: float
    parameters: Sequence[str] = ("*",)

    def __call__(self, b: Builder, parameters: Mapping[str, Value]) -> Value:
        totals = [reduced(b, b.op("abs", p), "sum") for p in _chosen(self.parameters, parameters)]
        return mul(b, reduce(lambda x, y: add(b, x, y), totals), self.strength)


@dataclass(frozen=True)
class L2:
    """strength / 2 * the sum of p^2: the same as an optimizer's coupled weight decay of that strength."""

    strength: float
    parameters: Sequence[str] = ("*",)

    def __call__(self, b: Builder, parameters: Mapping[str, Value]) -> Value:
        totals = [reduced(b, mul(b, p, p), "sum") for p in _chosen(self.parameters, parameters)]
        return mul(b, reduce(lambda x, y: add(b, x, y), totals), self.strength / 2)


@dataclass(frozen=True)
class ElasticNet:
    """`L1` and `L2` together. Source: Zou and Hastie, 2005."""

    l1: float
    l2: float
    parameters: Sequence[str] = ("*",)

    def __call__(self, b: Builder, parameters: Mapping[str, Value]) -> Value:
        parts = (L1(self.l1, self.parameters), L2(self.l2, self.parameters))
        return add(b, *(part(b, parameters) for part in parts))


def _chosen(patterns: Sequence[str], parameters: Mapping[str, Value]) -> list[Value]:
    """Raises GraphcError for a pattern that names no parameter."""
    if isinstance(patterns, str):  # whose letters would be patterns
        raise GraphcError("a penalty takes a tuple of patterns", seen=repr(patterns))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise GraphcError("no trained parameter has such a name", seen=pattern, expected=", ".join(parameters))
    return [v for name, v in parameters.items() if any(fnmatchcase(name, p) for p in patterns)]
