"""Algebra that holds for real numbers: roundings, and zeros' signs, may differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.constants import splat_of
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import Capture, Splat, op
from graphc.rewrite.regions import rewrite_regions
from graphc.rewrite.rules import Rule


@dataclass(frozen=True)
class Reassociate:
    """Cheaper forms of float arithmetic with other roundings; does nothing in strict numerics."""

    name: ClassVar[str] = "reassociate"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if context.numerics == "strict":
            return PassResult(False)
        inside = rewrite_regions(graph, context, lambda region, inner: bool(apply_rules(region, RULES, inner)))
        counts = apply_rules(graph, RULES, context)
        return PassResult(inside or bool(counts), counts)


X = Capture("x")


def _float(node: Node) -> bool:
    return node.result.type.dtype.is_float


def _is_splat(value: Value) -> bool:
    return splat_of(value) is not None


def _has_power(node: Node) -> bool:
    return _float(node) and splat_of(node.operands[1]) in (-1, 2, 3, 4)


def _power(b: Builder, m: Match) -> Value:
    x, n = m["x"], m.number("n")
    if n == -1:
        return b.op("div", b.full_like(1, x), x)
    square = b.op("mul", x, x)
    if n == 2:
        return square
    return b.op("mul", square, x) if n == 3 else b.op("mul", square, square)


def _is_ordinary(number: float | int | bool | None) -> bool:
    """Whether a number and its inverse are far from overflow and underflow, in any float type."""
    return number is not None and math.isfinite(number) and 2.0**-13 <= abs(number) <= 2.0**13


def _by_ordinary(node: Node) -> bool:
    return _float(node) and _is_ordinary(splat_of(node.operands[1]))


def _inverse(b: Builder, m: Match) -> Value:
    return b.op("mul", m["x"], b.full_like(1 / float(m.number("c")), m["x"]))


def _combine(name: str, sign: str) -> Rule:
    """Two ordinary constants, one after the other, become one."""

    def both(node: Node) -> bool:
        return _float(node) and any(_is_ordinary(splat_of(v)) for v in node.operands)

    return Rule(
        f"{name}-constants",
        f"(x {sign} c) {sign} d = x {sign} (c {sign} d)",
        op(name, op(name, X, Capture("c", where=_is_splat), where=both), Capture("d", where=_is_splat), where=both),
        lambda b, m: b.op(name, m["x"], b.op(name, m["c"], m["d"])),
    )


RULES = (
    Rule(
        "power",
        "x ** n = a few products, for n in -1, 2, 3, 4",
        op("pow", X, Splat(name="n"), where=_has_power),
        _power,
    ),
    Rule("over-constant", "x / c = x * (1 / c)", op("div", X, Splat(name="c"), where=_by_ordinary), _inverse),
    Rule("plus-zero", "x + 0 = x", op("add", X, Splat(0.0), where=_float), lambda b, m: m["x"]),
    Rule(
        "over-root",
        "x / sqrt(y) = x * rsqrt(y)",
        op("div", X, op("sqrt", Capture("y")), where=_float),
        lambda b, m: b.op("mul", m["x"], b.op("rsqrt", m["y"])),
    ),
    _combine("add", "+"),
    _combine("mul", "*"),
)
