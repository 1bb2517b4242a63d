"""Rules that lift activation functions from the pieces that exporters write them in."""

from __future__ import annotations

import math

from graphc.rewrite.patterns import AnyPattern, Capture, Either, Op, Splat, about, either, op
from graphc.rewrite.rules import Rule

X = Capture("x")


def _product(a: AnyPattern, b: AnyPattern, c: AnyPattern) -> Either:
    """a * b * c in every association."""
    return either(
        op("mul", op("mul", a, b), c),
        op("mul", op("mul", a, c), b),
        op("mul", a, op("mul", b, c)),
    )


def _scaled(x: AnyPattern, factor: float) -> Either:
    """x * factor or x / (1 / factor)."""
    return either(op("mul", x, about(factor)), op("div", x, about(1 / factor)))


def _gelu(bend: AnyPattern) -> Either:
    """x * (1 + bend) / 2."""
    one_more = op("add", bend, Splat(1.0))
    return either(_product(X, Splat(0.5), one_more), op("div", op("mul", X, one_more), Splat(2.0)))


def _cubic() -> Either:
    """0.044715 * x**3, and the forms that give it with fewer operators."""
    square = either(op("mul", X, X), op("pow", X, Splat(2.0)))
    cube = either(op("pow", X, Splat(3.0)), op("mul", square, X))
    c = about(0.044715)
    return either(op("mul", cube, c), _product(c, X, square), op("mul", op("mul", op("mul", X, c), X), X))


def _tanh_argument() -> Either:
    """sqrt(2/pi) * (x + 0.044715 * x**3)."""
    factor = about(math.sqrt(2 / math.pi))
    square = either(op("mul", X, X), op("pow", X, Splat(2.0)))
    c = about(0.044715)
    bent = op("add", either(op("mul", square, c), _product(c, X, X)), Splat(1.0))
    return either(op("mul", op("add", X, _cubic()), factor), _product(factor, X, bent))


def _one_plus_exp() -> Op:
    return op("add", op("exp", op("neg", X)), Splat(1.0))


SIGMOID = Rule(
    "lift-sigmoid",
    "1 / (1 + exp(-x)) = sigmoid(x)",
    op("div", Splat(1.0), _one_plus_exp()),
    lambda b, m: b.op("sigmoid", m["x"]),
)

SILU = Rule(
    "lift-silu",
    "x * sigmoid(x) = x / (1 + exp(-x)) = silu(x)",
    either(op("mul", X, op("sigmoid", X)), op("div", X, _one_plus_exp())),
    lambda b, m: b.op("silu", m["x"]),
)

GELU = Rule(
    "lift-gelu",
    "x * (1 + erf(x / sqrt(2))) / 2 = gelu(x)",
    _gelu(op("erf", _scaled(X, math.sqrt(0.5)))),
    lambda b, m: b.op("gelu", m["x"]),
)

GELU_TANH = Rule(
    "lift-gelu-tanh",
    "x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3))) / 2 = gelu(x, tanh)",
    _gelu(op("tanh", _tanh_argument())),
    lambda b, m: b.op("gelu", m["x"], approximate="tanh"),
)

RULES = (SIGMOID, SILU, GELU, GELU_TANH)
