"""Scans joined, and sums taken out of them: the same numbers, from fewer steps' work."""

import numpy as np
import pytest

import graphc
from graphc import run_passes
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import f64
from graphc.ops import find_operator
from graphc.ops.sampling import uniform

STEPS, BATCH, IN, HIDDEN = 5, 3, 4, 6


def cell(name: str = "cell") -> Graph:
    """h' = tanh(x w + h u), and h' as y."""
    b = Builder(Graph(name))
    h, x = b.input("h", f64, (BATCH, HIDDEN)), b.input("x", f64, (BATCH, IN))
    w, u = b.input("w", f64, (IN, HIDDEN)), b.input("u", f64, (HIDDEN, HIDDEN))
    total = b.op("add", b.op("matmul", x, w), b.op("matmul", h, u))
    after = b.op("tanh", total)
    return b.returns(after, after)


def network() -> Graph:
    b = Builder(Graph("net"))
    h, x = b.input("h", f64, (BATCH, HIDDEN)), b.input("x", f64, (STEPS, BATCH, IN))
    w, u = b.input("w", f64, (IN, HIDDEN)), b.input("u", f64, (HIDDEN, HIDDEN))
    last, ys = b.ops("scan", h, x, w, u, body=cell(), carries=1, scanned=1)
    return b.returns(last, b.op("mul", ys, ys))


def arrays(graph: Graph) -> list[np.ndarray]:
    return [uniform(*v.type.concrete({}), seed=i) for i, v in enumerate(graph.inputs)]


def scans(graph: Graph) -> list:
    return [n for n in graph.nodes if n.op.name == "scan"]


PASSES = ["decompose", "simplify-algebra", "cse", "join-scans", "hoist-sums", "dce"]


def test_a_gradient_runs_its_recurrence_once_and_multiplies_once():
    graph = graphc.value_and_grad(network())
    before = run_passes(graph, PASSES[:3])
    after = run_passes(graph, PASSES)
    assert len(scans(before)) == 3  # forward, forward with what is kept, backward
    assert len(scans(after)) == 2
    backward = scans(after)[1]
    assert backward["carries"] == scans(before)[2]["carries"] - 2  # the sums for w and u
    for y, e in zip(interpret(after, arrays(graph)), interpret(graph, arrays(graph)), strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_gradients_of_recurrent_layers_keep_their_values(name):
    sample = next(s for s in find_operator(name).samples() if s.differentiable)
    b = Builder(Graph(name))
    operands = [b.input(f"x{i}", f64, x.shape) if x.dtype.kind == "f" else b.constant(x) for i, x in enumerate(sample.operands)]
    graph = graphc.value_and_grad(b.returns(*b.ops(name, *operands, **sample.attributes)))
    given = [x.astype(np.float64) for x in sample.operands if x.dtype.kind == "f"]
    after = run_passes(graph, PASSES)
    assert len(scans(after)) < len(scans(run_passes(graph, PASSES[:3])))
    for y, e in zip(interpret(after, given), interpret(graph, given), strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-10, atol=1e-10)


def two(second: Graph, *, reverse: bool = False) -> Graph:
    b = Builder(Graph("two"))
    h, x = b.input("h", f64, (BATCH, HIDDEN)), b.input("x", f64, (STEPS, BATCH, IN))
    w, u = b.input("w", f64, (IN, HIDDEN)), b.input("u", f64, (HIDDEN, HIDDEN))
    one = b.ops("scan", h, x, w, u, body=cell(), carries=1, scanned=1)
    other = b.ops("scan", h, x, w, u, body=second, carries=1, scanned=1, reverse=reverse)
    return b.returns(*one, *other)


def test_equal_scans_of_other_bodies_are_joined():
    body = cell("more")
    body.set_outputs((body.outputs[0], body.inputs[0]))  # y is the carry before
    graph = two(body)
    joined = run_passes(graph, ["join-scans"])
    assert len(scans(joined)) == 1
    for y, e in zip(interpret(joined, arrays(graph)), interpret(graph, arrays(graph)), strict=True):
        np.testing.assert_array_equal(y, e)


def test_scans_that_carry_on_differently_stay_two():
    body = cell("other")
    b = Builder(body)
    body.set_outputs((b.op("neg", body.outputs[0]), body.outputs[1]))
    assert len(scans(run_passes(two(body), ["join-scans"]))) == 2


def test_scans_of_two_directions_stay_two():
    assert len(scans(run_passes(two(cell(), reverse=True), ["join-scans"]))) == 2


def test_a_scan_of_the_others_results_stays():
    b = Builder(Graph("chain"))
    h, x = b.input("h", f64, (BATCH, HIDDEN)), b.input("x", f64, (STEPS, BATCH, IN))
    w, u = b.input("w", f64, (IN, HIDDEN)), b.input("u", f64, (HIDDEN, HIDDEN))
    last, _ = b.ops("scan", h, x, w, u, body=cell(), carries=1, scanned=1)
    moved = b.op("add", u, b.broadcast(b.op("reduce_sum", last, axes=(0, 1)), u.type.shape, ()))
    graph = b.returns(*b.ops("scan", h, x, w, moved, body=cell(), carries=1, scanned=1))
    assert len(scans(run_passes(graph, ["join-scans"]))) == 2


def summing(returned: str = "") -> Graph:
    """s' = s + x^T x of each step, which returns one of these as well."""
    body = Builder(Graph("gram"))
    s, x = body.input("s", f64, (IN, IN)), body.input("x", f64, (BATCH, IN))
    product = body.op("dot", x, x, lhs_contract=(0,), rhs_contract=(0,))
    after = body.op("add", s, product)
    body.returns(after, *{"": [], "before": [s], "after": [after], "product": [product]}[returned])
    b = Builder(Graph("sum"))
    s, x = b.input("s", f64, (IN, IN)), b.input("x", f64, (STEPS, BATCH, IN))
    return b.returns(*b.ops("scan", s, x, body=body.graph, carries=1, scanned=1))


@pytest.mark.parametrize("returned", ["before", "after", "product"])
def test_a_sum_that_a_step_returns_stays(returned):
    assert scans(run_passes(summing(returned), ["hoist-sums"]))[0]["carries"] == 1


def test_a_sum_alone_leaves_the_scan():
    graph = summing()
    after = run_passes(graph, ["hoist-sums", "dce"])
    assert not scans(after)
    np.testing.assert_allclose(interpret(after, arrays(graph))[0], interpret(graph, arrays(graph))[0], rtol=1e-12)
