"""`if` and `while`, interpreted and compiled, against Python's; their gradients against torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import graphc
from graphc.errors import NumericError, ShapeError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.text import print_graph
from graphc.ir.types import bool_, f32, f64, i64
from graphc.ir.verifier import verify


def region(name: str, types: dict[str, tuple], emit: Callable[..., tuple[Value, ...]]) -> Graph:
    b = Builder(Graph(name))
    return b.returns(*emit(b, *(b.input(k, *t) for k, t in types.items())))


def one(b: Builder) -> Value:
    return b.scalar(1, i64)


def chosen() -> Graph:
    """sin(x) * w where the sum of x is positive, else x**2; the other value too, returned as it is."""
    n = symbol("n")
    types = {"x": (f64, (n,)), "w": (f64, (n,))}
    then = region("then", types, lambda b, x, w: (b.op("mul", b.op("sin", x), w), w))
    otherwise = region("otherwise", types, lambda b, x, w: (b.op("mul", x, x), x))
    b = Builder(Graph("chosen"), origin=("gate",))
    x, w = b.input("x", f64, (n,)), b.input("w", f64, (n,))
    condition = b.op("gt", b.op("reduce_sum", x, axes=(0,)), b.scalar(0, f64))
    return b.returns(*b.ops("if", condition, x, w, then=then, otherwise=otherwise))


@pytest.mark.parametrize("sign", [1, -1])
def test_one_branch_is_run(sign: int) -> None:
    graph = graphc.value_and_grad(chosen())
    verify(graph)
    x, w = sign * np.linspace(0.5, 2, 7), np.linspace(-1, 1, 7)
    tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
    expected = (torch.sin(tx) * tw, tw) if sign > 0 else (tx * tx, tx)
    by_x, by_w = torch.autograd.grad(
        sum(e.sum() for e in expected), (tx, tw), materialize_grads=True, allow_unused=True
    )
    wanted = [t.detach().numpy() for t in (*expected, by_x, by_w)]
    for outputs in (interpret(graph, [x, w]), graphc.compile(graph, cache=False)(x, w)):
        for seen, e in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(seen, e, rtol=1e-13, atol=1e-14)


def test_the_other_branch_may_be_what_has_no_value() -> None:
    """10 / n where n isn't 0: a division that is never made raises nothing."""
    types = {"n": (i64, ())}
    then = region("then", types, lambda b, n: (b.op("div", b.scalar(10, i64), n),))
    otherwise = region("otherwise", types, lambda b, n: (n,))
    b = Builder()
    n = b.input("n", i64, ())
    graph = b.returns(b.op("if", b.op("ne", n, b.scalar(0, i64)), n, then=then, otherwise=otherwise))
    compiled = graphc.compile(graph, cache=False)
    for at, expected in ((0, 0), (3, 3), (-2, -5)):
        assert interpret(graph, [np.array(at)])[0] == expected
        assert compiled(np.array(at)) == expected


def power(max_trips: int = -1) -> Graph:
    """x times w until its norm is above 100, and how often."""
    types = {"x": (f64, (3,)), "n": (i64, ()), "w": (f64, (3,))}

    def small(b: Builder, x: Value, n: Value, w: Value) -> tuple[Value, ...]:
        return (b.op("lt", b.op("reduce_sum", b.op("mul", x, x), axes=(0,)), b.scalar(1e4, f64)),)

    def step(b: Builder, x: Value, n: Value, w: Value) -> tuple[Value, ...]:
        return b.op("mul", x, w), b.op("add", n, one(b))

    b = Builder(Graph("power"), origin=("loop",))
    x, w = b.input("x", f64, (3,)), b.input("w", f64, (3,))
    loop = {"condition": region("small", types, small), "body": region("step", types, step)}
    return b.returns(*b.ops("while", x, b.scalar(0, i64), w, **loop, carries=2, max_trips=max_trips))


@pytest.mark.parametrize(("max_trips", "expected"), [(-1, 8), (20, 8), (5, 5), (0, 0)])
def test_a_loop_runs_until_its_condition_or_its_bound_ends_it(max_trips: int, expected: int) -> None:
    graph = power(max_trips)
    x, w = np.array([1.0, 0.5, -0.3]), np.array([1.8, 1.5, -1.2])
    for run in (lambda *a: interpret(graph, a), graphc.compile(graph, cache=False)):
        y, n = run(x, w)
        assert n == expected
        np.testing.assert_allclose(y, x * w**expected, rtol=1e-13)


@pytest.mark.parametrize("max_trips", [12, 5])
def test_a_loop_with_a_bound_has_a_gradient(max_trips: int) -> None:
    graph = graphc.value_and_grad(power(max_trips))
    verify(graph)
    x, w = np.array([1.0, 0.5, -0.3]), np.array([1.8, 1.5, -1.2])
    n = min(max_trips, 8)
    tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
    y = tx * tw**n
    wanted = [t.detach().numpy() for t in (y, torch.tensor(n), *torch.autograd.grad(y.sum(), (tx, tw)))]
    for outputs in (interpret(graph, [x, w]), graphc.compile(graph, cache=False)(x, w)):
        for seen, e in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(seen, e, rtol=1e-12)


def test_steps_that_are_not_taken_make_no_nan() -> None:
    """The loop ends before the square root of a negative number, whose gradient has no value."""
    types = {"x": (f64, ())}
    positive = region("positive", types, lambda b, x: (b.op("gt", x, b.scalar(0, f64)),))
    root = region("root", types, lambda b, x: (b.op("sub", b.op("sqrt", x), b.scalar(0.9, f64)),))
    b = Builder()
    x = b.input("x", f64, ())
    graph = graphc.grad(b.returns(b.op("while", x, condition=positive, body=root, carries=1, max_trips=6)))
    at = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y = at
    while y > 0:
        y = torch.sqrt(y) - 0.9
    y.backward()
    np.testing.assert_allclose(interpret(graph, [np.array(2.0)])[0], at.grad, rtol=1e-13)


def test_a_loop_without_a_bound_refuses_its_gradient_by_name() -> None:
    with pytest.raises(UnsupportedOpError, match="max_trips") as raised:
        graphc.grad(power())
    assert [(u.op, u.layer) for u in raised.value.unsupported] == [("while", "loop")]


def collatz() -> Graph:
    """Steps of n -> n / 2 or 3 n + 1 until 1: a branch in a loop in a loop over 1 .. last."""
    number = {"n": (i64, ())}
    half = region("half", number, lambda b, n: (b.op("div", n, b.scalar(2, i64)),))
    triple = region("triple", number, lambda b, n: (b.op("add", b.op("mul", n, b.scalar(3, i64)), one(b)),))
    state = {"n": (i64, ()), "steps": (i64, ())}

    def step(b: Builder, n: Value, steps: Value) -> tuple[Value, ...]:
        even = b.op("eq", b.op("bitwise_and", n, one(b)), b.scalar(0, i64))
        return b.op("if", even, n, then=half, otherwise=triple), b.op("add", steps, one(b))

    inner = {
        "condition": region("unfinished", state, lambda b, n, steps: (b.op("gt", n, one(b)),)),
        "body": region("step", state, step),
    }
    outer = {"at": (i64, ()), "longest": (i64, ()), "last": (i64, ())}

    def start(b: Builder, at: Value, longest: Value, last: Value) -> tuple[Value, ...]:
        _, steps = b.ops("while", at, b.scalar(0, i64), **inner, carries=2)
        return b.op("add", at, one(b)), b.op("max", longest, steps)

    b = Builder(Graph("collatz"))
    last = b.input("last", i64, ())
    loop = {
        "condition": region("more", outer, lambda b, at, longest, last: (b.op("le", at, last),)),
        "body": region("start", outer, start),
    }
    return b.returns(b.ops("while", one(b), b.scalar(0, i64), last, **loop, carries=2)[1])


def test_branches_and_loops_inside_of_loops(cache_folder: Path) -> None:
    graph = collatz()
    assert interpret(graph, [np.array(30)])[0] == 111  # the longest way from a number up to 30 is that from 27
    for _ in range(2):  # the second time from the cache
        compiled = graphc.compile(graph)
        assert compiled(np.array(30)) == 111
    assert compiled.report.cached


def test_a_bool_carry_is_a_condition() -> None:
    state = {"go": (bool_, ()), "x": (f32, (2,))}

    def step(b: Builder, go: Value, x: Value) -> tuple[Value, ...]:
        y = b.op("add", x, x)
        return b.op("lt", b.reduce("reduce_max", y, (0,)), b.scalar(10, f32)), y

    loop = {"condition": region("same", state, lambda b, go, x: (go,)), "body": region("double", state, step)}
    b = Builder()
    go, x = b.input("go", bool_, ()), b.input("x", f32, (2,))
    graph = b.returns(*b.ops("while", go, x, **loop, carries=2))
    compiled = graphc.compile(graph, cache=False)
    for first, expected in ((True, 12.0), (False, 1.5)):
        inputs = [np.array(first), np.array([1.5, -1], np.float32)]
        for y in (interpret(graph, inputs)[1], compiled(*inputs)[1]):
            assert y[0] == expected


def test_what_goes_wrong_inside_is_told_with_its_layer() -> None:
    types = {"n": (i64, ())}
    b = Builder(Graph("then"), origin=("inner/div",))
    n = b.input("n", i64, ())
    then = b.returns(b.op("div", n, b.op("sub", n, n)))
    otherwise = region("otherwise", types, lambda b, n: (n,))
    b = Builder(origin=("gate",))
    go, n = b.input("go", bool_, ()), b.input("n", i64, ())
    graph = b.returns(b.op("if", go, n, then=then, otherwise=otherwise))
    with pytest.raises(NumericError, match="division"):
        interpret(graph, [np.array(True), np.array(1)])
    with pytest.raises(NumericError, match="division") as raised:
        graphc.compile(graph, cache=False)(np.array(True), np.array(1))
    assert raised.value.layer == "gate"


@pytest.mark.parametrize("build", [chosen, power, collatz])
def test_text_round_trips(build: Callable[[], Graph]) -> None:
    text = print_graph(build())
    assert print_graph(graphc.parse_graph(text)) == text


def test_regions_that_do_not_fit_are_refused() -> None:
    double = region("double", {"x": (f64, (2,))}, lambda b, x: (b.op("add", x, x),))
    total = region("total", {"x": (f64, (2,))}, lambda b, x: (b.op("reduce_sum", x, axes=(0,)),))
    b = Builder()
    go, x, y = b.input("go", bool_, ()), b.input("x", f64, (2,)), b.input("y", f64, (3,))
    with pytest.raises(ShapeError, match="one bool"):
        b.op("if", x, x, then=double, otherwise=double)
    with pytest.raises(ShapeError, match="same types"):
        b.op("if", go, x, then=double, otherwise=total)
    with pytest.raises(ShapeError, match="don't fit `then`"):
        b.op("if", go, y, then=double, otherwise=double)
    with pytest.raises(ShapeError, match="one bool"):
        b.op("while", x, condition=total, body=double, carries=1)
    true = region("true", {"x": (f64, (2,))}, lambda b, x: (b.scalar(True, bool_),))
    with pytest.raises(ShapeError, match="carries' types"):
        b.op("while", x, condition=true, body=total, carries=1)
    with pytest.raises(ShapeError, match="more carries"):
        b.op("while", x, condition=true, body=double, carries=2)
    with pytest.raises(ShapeError, match="never"):
        b.op("while", x, condition=true, body=double, carries=1, max_trips=-2)
