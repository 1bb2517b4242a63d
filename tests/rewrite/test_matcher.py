"""Patterns against graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import bf16, f32, i64
from graphc.rewrite.constants import depends_on_constants_alone, splat_of
from graphc.rewrite.matcher import Match, find_matches
from graphc.rewrite.patterns import AnyPattern, Capture, Op, Splat, about, either, op, roots, views
from graphc.rewrite.views import axes_from, is_kept_reduction, repeats_before, without_leading

X = Capture("x")


@pytest.fixture
def b() -> Builder:
    return Builder(Graph())


def _match(pattern: AnyPattern, value: Value) -> Match | None:
    assert value.producer is not None
    return next(find_matches(pattern, value.producer), None)


def test_operators_operands_and_captures(b: Builder) -> None:
    x, y = b.input("x", f32, (3,)), b.input("y", f32, (3,))
    root = b.op("sub", b.op("exp", x), y)
    match = _match(op("sub", op("exp", X, keep="exp"), Capture("y")), root)
    assert match is not None
    assert match["x"] is x
    assert match["y"] is y
    assert match.node("exp").op.name == "exp"
    assert _match(op("sub", X, op("exp", Capture("y"))), root) is None
    assert _match(op(("add", "sub"), X, X), root) is None  # one name, two values


def test_commutative_operands_match_in_either_order(b: Builder) -> None:
    x = b.input("x", f32, (3,))
    pattern = op("add", op("exp", X), X)
    assert _match(pattern, b.op("add", x, b.op("exp", x))) is not None
    assert _match(op("sub", op("exp", X), X), b.op("sub", x, b.op("exp", x))) is None


def test_alternatives_backtrack(b: Builder) -> None:
    """The first alternative fits below, and the whole only with the second."""
    x, y = b.input("x", f32, (3,)), b.input("y", f32, (3,))
    root = b.op("mul", b.op("add", x, y), y)
    match = _match(op("mul", either(op("add", X, Capture("z")), op("add", Capture("z"), X)), X), root)
    assert match is not None
    assert match["x"] is y
    assert match["z"] is x


def test_attributes_are_tested(b: Builder) -> None:
    x = b.input("x", f32, (3, 4))
    root = b.op("reduce_sum", x, axes=(1,))
    assert _match(op("reduce_sum", X, where=lambda n: n["axes"] == (1,)), root) is not None
    assert _match(op("reduce_sum", X, where=lambda n: n["axes"] == (0,)), root) is None


def test_numbers_match_through_views(b: Builder) -> None:
    x = b.input("x", f32, (3, 4))
    root = b.op("mul", x, b.full_like(0.5, x))
    assert _match(op("mul", X, Splat(0.5)), root) is not None
    assert _match(op("mul", X, Splat(0.25)), root) is None
    match = _match(op("mul", X, Splat(name="c")), root)
    assert match is not None and match.number("c") == 0.5


def test_numbers_match_as_exporters_round_them(b: Builder) -> None:
    root2 = math.sqrt(2)
    for dtype, number in ((f32, 1.4142135), (f32, root2), (bf16, root2)):
        x = b.input("x", dtype, (3,))
        root = b.op("mul", x, b.full_like(number, x))
        assert _match(op("mul", X, about(root2)), root) is not None
    x = b.input("x", f32, (3,))
    near = b.op("mul", x, b.full_like(1.41421, x))
    assert _match(op("mul", X, about(root2)), near) is None
    assert _match(op("mul", X, Splat(root2)), b.op("mul", x, b.full_like(root2, x))) is None  # without ulps: to the bit


def test_zeros_have_signs(b: Builder) -> None:
    x = b.input("x", f32, (3,))
    root = b.op("add", x, b.full_like(-0.0, x))
    assert _match(op("add", X, Splat(0.0)), root) is None
    assert _match(op("add", X, Splat(-0.0)), root) is not None


def test_views_are_looked_through(b: Builder) -> None:
    x = b.input("x", f32, (3, 4))
    kept = b.reduce("reduce_max", x, (1,), keep=True)
    again = b.broadcast(b.reshape(b.op("reduce_max", x, axes=(1,)), (3, 1)), (3, 4), (0, 1))
    for spread in (kept, again):
        match = _match(op("sub", X, views(op("reduce_max", X, keep="max"))), b.op("sub", x, spread))
        assert match is not None
        assert "broadcast" in {n.op.name for n in match.inner}


def test_other_result_of_a_node_is_not_the_first(b: Builder) -> None:
    x = b.input("x", f32, (3,))
    values, indices = b.ops("sort", x, axis=0)
    assert _match(op("exp", op("sort", X)), b.op("exp", values)) is not None
    cast = b.op("cast", indices, dtype=f32)
    assert _match(op("cast", op("sort", X)), cast) is None
    assert _match(op("cast", op("sort", X, result=1)), cast) is not None


def test_leaks_are_found(b: Builder) -> None:
    x = b.input("x", f32, (3,))
    inner = b.op("exp", x)
    root = b.op("neg", inner)
    b.returns(root)
    pattern = op("neg", op("exp", X))
    match = _match(pattern, root)
    assert match is not None and match.leak() is None
    b.returns(root, inner)
    match = _match(pattern, root)
    assert match is not None and match.leak() is inner
    shared = _match(op("neg", op("exp", X, shared=True)), root)
    assert shared is not None and shared.leak() is None


def test_roots_are_operators() -> None:
    assert roots(either(op("add", X, X), Op(("mul", "add")))) == ("add", "mul")
    with pytest.raises(ValueError, match="operator at its root"):
        roots(X)


def test_splats(b: Builder) -> None:
    x = b.input("x", f32, (2,))
    assert splat_of(b.constant(np.full((2, 3), 7))) == 7
    assert splat_of(b.constant(np.array([1.0, 2.0]))) is None
    assert splat_of(b.constant(np.array([0.0, -0.0]))) is None
    assert splat_of(b.constant(np.zeros((0,)))) is None
    assert splat_of(x) is None
    assert splat_of(b.transpose(b.full(True, x.type.with_shape((2, 3))), (1, 0))) is not None


def test_constant_cones(b: Builder) -> None:
    x, c = b.input("x", f32, (2,)), b.constant(np.ones(2, np.float32))
    assert depends_on_constants_alone(b.op("exp", c))
    assert not depends_on_constants_alone(b.op("add", c, x))


# Axes through views


def test_axes_are_followed(b: Builder) -> None:
    x = b.input("x", f32, (2, 3, 4))
    total = b.op("reduce_sum", x, axes=(1,))
    scaled = b.op("div", total, b.full_like(3, total))
    spread = b.broadcast(b.op("rsqrt", b.reshape(scaled, (2, 1, 4))), (2, 3, 4), (0, 1, 2))
    assert axes_from(spread, total) == {0: 0, 1: 2}
    assert is_kept_reduction(spread, total, (1,))
    wrong = b.broadcast(total, (2, 4, 4), (0, 1))
    assert not is_kept_reduction(wrong, total, (1,))
    mixed = b.reshape(total, (4, 2))
    assert axes_from(mixed, total) is None
    assert axes_from(b.op("add", total, total), total) == {0: 0, 1: 1}
    assert axes_from(b.op("add", total, b.input("y", f32, (2, 4))), total) is None


def test_parameters_of_trailing_axes(b: Builder) -> None:
    scale = b.input("scale", f32, (4,))
    spread = b.broadcast(scale, (2, 3, 4), (2,))
    assert repeats_before(spread, 2) and without_leading(b, spread, 2) is scale
    assert not repeats_before(b.broadcast(b.input("r", f32, (3,)), (2, 3, 4), (1,)), 2)
    assert not repeats_before(b.input("full", f32, (2, 3, 4)), 2)
    part = without_leading(b, spread, 1)
    assert str(part.type) == "f32[3,4]"
    number = b.full(2, part.type.with_shape((2, 3, 4)).with_dtype(i64))
    assert splat_of(without_leading(b, number, 1)) == 2
