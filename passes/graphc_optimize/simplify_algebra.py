"""Algebra that holds down to the bits, NaN, infinities and signed zeros included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.types import DType
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc.rewrite.constants import splat_of
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import AnyPattern, Capture, Splat, either, op
from graphc.rewrite.regions import rewrite_regions
from graphc.rewrite.rules import Rule


@dataclass(frozen=True)
class SimplifyAlgebra:
    """Drops and shortens arithmetic where that changes no bit of any result; `reassociate` has what isn't so exact."""

    name: ClassVar[str] = "simplify-algebra"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inside = rewrite_regions(graph, context, lambda region, inner: bool(apply_rules(region, RULES, inner)))
        counts = apply_rules(graph, RULES, context)
        return PassResult(inside or bool(counts), counts)


X, Y = Capture("x"), Capture("y")


def _float(node: Node) -> bool:
    return node.result.type.dtype.is_float


def _integer(node: Node) -> bool:
    return node.result.type.dtype.is_integer


def _signed(node: Node) -> bool:
    return node.result.type.dtype.kind != "uint"


def _to_x(name: str, equation: str, pattern: AnyPattern) -> Rule:
    return Rule(name, equation, pattern, lambda b, m: m["x"])


def _to_number(name: str, equation: str, pattern: AnyPattern, number: float | int | bool) -> Rule:
    return Rule(name, equation, pattern, lambda b, m: b.full(number, m.root.result.type))


NEUTRAL = (
    _to_x("times-one", "x * 1 = x", op("mul", X, Splat(1))),
    _to_x("over-one", "x / 1 = x", op("div", X, Splat(1))),
    _to_x("minus-zero", "x - 0 = x", op("sub", X, Splat(0.0))),
    _to_x("plus-negative-zero", "x + (-0.0) = x", op("add", X, Splat(-0.0), where=_float)),
    _to_x("plus-zero", "x + 0 = x for integers", op("add", X, Splat(0), where=_integer)),
    _to_x("power-one", "x ** 1 = x", op("pow", X, Splat(1))),
    _to_x("and-true", "x and true = x", op("logical_and", X, Splat(True))),
    _to_x("or-false", "x or false = x", op("logical_or", X, Splat(False))),
)

ABSORBING = (
    _to_number("times-zero", "x * 0 = 0 for integers", op("mul", X, Splat(0), where=_integer), 0),
    _to_number("minus-itself", "x - x = 0 for integers", op("sub", X, X, where=_integer), 0),
    _to_number("and-false", "x and false = false", op("logical_and", X, Splat(False)), False),
    _to_number("or-true", "x or true = true", op("logical_or", X, Splat(True)), True),
)

REPEATED = (
    _to_x("max-of-itself", "max(x, x) = x", op("max", X, X)),
    _to_x("min-of-itself", "min(x, x) = x", op("min", X, X)),
    _to_x("and-of-itself", "x and x = x", op("logical_and", X, X)),
    _to_x("or-of-itself", "x or x = x", op("logical_or", X, X)),
    _to_x("neg-neg", "-(-x) = x", op("neg", op("neg", X, shared=True))),
    _to_x("not-not", "not not x = x", op("logical_not", op("logical_not", X, shared=True))),
    Rule(
        "abs-of-sign",
        "|-x| = ||x|| = |x| for signed numbers",
        op("abs", op(("neg", "abs"), X, shared=True), where=_signed),
        lambda b, m: b.op("abs", m["x"]),
    ),
    Rule(
        "same-extremum",
        "max(max(x, y), y) = max(x, y), and min alike",
        either(*(op(f, Capture("inner", op(f, X, Y, shared=True)), Y) for f in ("max", "min"))),
        lambda b, m: m["inner"],
    ),
)


# select


def _chosen(b: Builder, m: Match) -> Value:
    return m["x"] if m.number("condition") else m["y"]


CHOICES = (
    Rule("select-constant", "select(true, x, y) = x", op("select", Splat(name="condition"), X, Y), _chosen),
    _to_x("select-same", "select(c, x, x) = x", op("select", Capture("c"), X, X)),
    Rule(
        "select-not",
        "select(not c, x, y) = select(c, y, x)",
        op("select", op("logical_not", Capture("c"), shared=True), X, Y),
        lambda b, m: b.op("select", m["c"], m["y"], m["x"]),
    ),
)


# Numbers


def _by_power_of_two(node: Node) -> bool:
    """Such a division is a multiplication bit for bit, where the inverse is a normal number of any float type."""
    number = splat_of(node.operands[1])
    if not _float(node) or number is None or not math.isfinite(number):
        return False
    mantissa, exponent = math.frexp(number)
    return abs(mantissa) == 0.5 and -13 <= exponent <= 14


def _wider(inner: DType, outer: DType) -> bool:
    """Whether every element of `outer` is one of `inner` too."""
    floats = ("f16", "bf16")
    if outer.kind == inner.kind:
        return inner.bytes >= outer.bytes and not (outer.name in floats and inner.name in floats and outer != inner)
    if outer.is_bool:
        return True
    if outer.kind == "uint" and inner.kind == "int":
        return inner.bytes > outer.bytes
    return False


def _there_and_back(node: Node) -> bool:
    inner = node.operands[0].producer
    return (
        inner is not None
        and inner.op.name == "cast"
        and inner.operands[0].type == node.result.type
        and _wider(inner.result.type.dtype, node.result.type.dtype)
    )


def _sum_of_constants(b: Builder, m: Match) -> Value:
    total = b.op("add", m["c"], m["d"])
    return b.op("add", m["x"], total)


def _is_splat(value: Value) -> bool:
    return splat_of(value) is not None


NUMBERS = (
    Rule("times-minus-one", "x * (-1) = -x", op("mul", X, Splat(-1)), lambda b, m: b.op("neg", m["x"])),
    Rule(
        "over-power-of-two",
        "x / 2^k = x * 2^-k",
        op("div", X, Splat(name="c"), where=_by_power_of_two),
        lambda b, m: b.op("mul", m["x"], b.full_like(1 / float(m.number("c")), m["x"])),
    ),
    _to_x(
        "cast-back",
        "cast(cast(x)) = x through a wider type",
        op("cast", op("cast", X, shared=True), where=_there_and_back),
    ),
    Rule(
        "add-constants",
        "(x + c) + d = x + (c + d) for integers",
        op(
            "add",
            op("add", X, Capture("c", where=_is_splat), shared=True),
            Capture("d", where=_is_splat),
            where=_integer,
        ),
        _sum_of_constants,
    ),
)

RULES = (*NEUTRAL, *ABSORBING, *REPEATED, *CHOICES, *NUMBERS)
