"""`value_and_grad` and `grad`: what they return, against torch and finite differences, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphc
from graphc.errors import GraphcError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.text import print_graph
from graphc.ir.types import f32, f64, i64
from graphc.ir.verifier import verify
from graphc.testing.gradients import check_gradient

MLP = """
graph @mlp(%x: f64[n,3], %w: f64[3,4], %v: f64[4,2], %label: i64[n]) where n <= 64 {
  %z: f64[n,4] = matmul(%x, %w) from "fc1"
  %h: f64[n,4] = tanh(%z) from "act"
  %y: f64[n,2] = matmul(%h, %v) from "fc2"
  return %y, %label
}
"""


def mlp() -> Graph:
    return graphc.parse_graph(MLP)


def arrays(graph: Graph, n: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [np.asarray(rng.normal(size=v.type.concrete({"n": n})), v.type.dtype.numpy) for v in graph.inputs]


def torch_gradients(inputs: list[np.ndarray]) -> list[np.ndarray]:
    x, w, v = (torch.tensor(a, requires_grad=True) for a in inputs[:3])
    (torch.tanh(x @ w) @ v).sum().backward()  # type: ignore[no-untyped-call]
    return [t.grad.numpy() for t in (x, w, v)]  # type: ignore[union-attr]


def test_the_outputs_come_first_then_a_gradient_for_each_float_input() -> None:
    graph = mlp()
    before = print_graph(graph)
    joint = graphc.value_and_grad(graph)
    verify(joint)
    assert print_graph(graph) == before
    assert [v.name for v in joint.inputs] == ["x", "w", "v", "label"]
    assert [v.name for v in joint.outputs] == ["y", "label", "grad.x", "grad.w", "grad.v"]
    assert [v.type for v in joint.outputs[2:]] == [v.type for v in graph.inputs[:3]]
    inputs = arrays(graph)
    results = interpret(joint, inputs)
    np.testing.assert_array_equal(results[0], interpret(graph, inputs)[0])
    for seen, expected in zip(results[2:], torch_gradients(inputs), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-13)


def test_only_the_gradients_that_are_asked_for_in_that_order() -> None:
    graph = mlp()
    backward = graphc.grad(graph, ["v", "x"])
    verify(backward)
    assert [v.name for v in backward.outputs] == ["grad.v", "grad.x"]
    inputs = arrays(graph)
    by_x, _, by_v = torch_gradients(inputs)
    for seen, expected in zip(interpret(backward, inputs), (by_v, by_x), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-13)
    assert [v.name for v in graphc.grad(graph, "w").outputs] == ["grad.w"]


def test_gradients_alone_leave_out_what_only_the_outputs_need() -> None:
    backward = graphc.grad(mlp(), "v")
    assert len([n for n in backward.nodes if n.op.name == "matmul" and n.origin == ("fc2",)]) == 0
    assert all(v.uses for n in backward.nodes for v in n.results)


def test_donations_stay_with_the_outputs_that_take_them() -> None:
    b = Builder()
    x = b.input("x", f64, (3,))
    graph = b.returns(b.op("sin", x), b.op("exp", x))
    graph.donations = [(0, 1)]
    joint, backward = graphc.value_and_grad(graph), graphc.grad(graph)
    verify(joint)
    verify(backward)
    assert joint.donations == [(0, 1)]
    assert backward.donations == []


def test_backward_nodes_have_the_layers_of_the_forward_ones() -> None:
    joint = graphc.value_and_grad(mlp(), "w")
    backward = joint.nodes[len(mlp()) :]
    assert {n.origin for n in backward if n.op.name not in ("constant", "broadcast")} == {("fc2",), ("act",), ("fc1",)}


def test_an_input_without_influence_gets_zeros() -> None:
    b = Builder()
    x, y = b.input("x", f32, (2, symbol("n"))), b.input("y", f32, ())
    graph = b.returns(b.op("floor", x), y)
    by_x, by_y = interpret(graphc.grad(graph), [np.ones((2, 3), np.float32), np.float32(1)])
    np.testing.assert_array_equal(by_x, np.zeros((2, 3), np.float32))
    assert by_y == 1


def test_an_output_that_is_returned_twice_counts_twice() -> None:
    b = Builder()
    x = b.input("x", f64, (3,))
    y = b.op("sin", x)
    (seen,) = interpret(graphc.grad(b.returns(y, y, x)), [np.arange(3.0)])
    np.testing.assert_allclose(seen, 2 * np.cos(np.arange(3.0)) + 1)


def test_one_value_may_be_the_gradient_of_several_inputs() -> None:
    b = Builder()
    x, y = b.input("x", f64, (3,)), b.input("y", f64, (3,))
    joint = graphc.value_and_grad(b.returns(b.op("exp", b.op("add", x, y))))
    _, by_x, by_y = interpret(joint, [np.ones(3), np.zeros(3)])
    np.testing.assert_array_equal(by_x, by_y)


def test_gradients_of_gradients() -> None:
    """The Hessian of sum(sin(x) * x**2), summed over rows, is that of the elements alone."""
    b = Builder()
    x = b.input("x", f64, (4,))
    graph = b.returns(b.op("mul", b.op("sin", x), b.op("mul", x, x)))
    at = np.linspace(-1, 2, 4)
    first, second, third = (
        graphc.grad(graph),
        graphc.grad(graphc.grad(graph)),
        graphc.grad(graphc.grad(graphc.grad(graph))),
    )
    t = torch.tensor(at, requires_grad=True)
    expected = torch.sin(t) * t**2
    for g in (first, second, third):
        verify(g)
        (expected,) = torch.autograd.grad(expected.sum(), t, create_graph=True)
        np.testing.assert_allclose(interpret(g, [at])[0], expected.detach().numpy(), rtol=1e-11, atol=1e-12)


def test_through_a_scan() -> None:
    cell = Builder(Graph("cell"))
    c, e, w = cell.input("c", f64, (3,)), cell.input("e", f64, (3,)), cell.input("w", f64, (3,))
    after = cell.op("tanh", cell.op("add", cell.op("mul", c, w), e))
    body = cell.returns(after, cell.op("mul", after, after))
    b = Builder(Graph("recurrent"), origin=("rnn",))
    start, xs, weight = b.input("start", f64, (3,)), b.input("xs", f64, (6, 3)), b.input("weight", f64, (3,))
    graph = b.returns(*b.ops("scan", start, xs, weight, body=body, carries=1, scanned=1))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=3), rng.normal(size=(6, 3)), rng.normal(size=3)]
    check_gradient(graph, inputs)
    verify(graphc.grad(graphc.value_and_grad(graph)))


def test_what_can_not_be_differentiated_by_is_said() -> None:
    with pytest.raises(GraphcError, match="no such input") as raised:
        graphc.grad(mlp(), ["x", "missing"])
    assert raised.value.seen == "'missing'"
    assert raised.value.expected == "x, w, v"
    with pytest.raises(GraphcError, match="float inputs") as raised:
        graphc.value_and_grad(mlp(), ["label"])
    assert raised.value.seen == "%label: i64[n]"
    with pytest.raises(GraphcError, match="nothing to differentiate by"):
        graphc.value_and_grad(mlp(), [])


def test_a_graph_without_float_outputs_has_no_gradient() -> None:
    b = Builder()
    x = b.input("x", f32, (3,))
    with pytest.raises(GraphcError, match="without a float output"):
        graphc.grad(b.returns(b.op("cast", x, dtype=i64)))


def test_every_operator_without_a_gradient_is_named_with_its_layer() -> None:
    b = Builder()
    x = b.input("x", f64, (3,))
    inner = Builder(Graph("body"))
    body = inner.returns(inner.op("neg", inner.input("v", f64, (3,))))
    found = []
    for layer in ("encoder/first", "encoder/second"):
        b.origin = (layer,)
        found.append(b.op("fusion", x, body=body))
    b.origin = ()
    with pytest.raises(UnsupportedOpError, match="autodiff doesn't support 2 nodes") as raised:
        graphc.grad(b.returns(b.op("mul", *found)))
    assert {(u.op, u.layer) for u in raised.value.unsupported} == {
        ("fusion", "encoder/first"),
        ("fusion", "encoder/second"),
    }


def test_compiles_to_the_interpreters_numbers() -> None:
    joint = graphc.value_and_grad(mlp(), ["w", "v"])
    inputs = arrays(joint, n=7)
    compiled = graphc.compile(joint, cache=False, threads=1)(*inputs)
    for seen, expected in zip(compiled, interpret(joint, inputs), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-13)
