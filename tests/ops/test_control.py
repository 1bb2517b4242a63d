"""`scan` against a plain loop, and its gradient against PyTorch's through an unrolled one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import symbol
from graphc.ir.text import print_graph
from graphc.ir.types import f64, i64
from graphc.ir.verifier import verify
from graphc.ops import find_operator
from graphc.ops.by_decomposition import backpropagate


def running_product() -> Graph:
    """c' = c * x + w; y = c."""
    b = Builder(Graph("body"))
    c, x, w = (b.input(n, f64, (2,)) for n in "cxw")
    return b.returns(b.op("add", b.op("mul", c, x), w), c)


@pytest.mark.parametrize("reverse", [False, True])
def test_value_and_gradient_equal_an_unrolled_loop(reverse: bool) -> None:
    rng = np.random.default_rng(0)
    c, xs, w, g_c, g_y = (rng.normal(size=s) for s in ((2,), (4, 2), (2,), (2,), (4, 2)))
    b = Builder()
    n = symbol("n")
    values = [b.input("c", f64, (2,)), b.input("xs", f64, (n, 2)), b.input("w", f64, (2,))]
    node = b.emit("scan", values, body=running_product(), carries=1, scanned=1, reverse=reverse)
    given = [b.input("g_c", f64, (2,)), b.input("g_y", f64, (n, 2))]
    graph = b.returns(*node.results, *find_operator("scan").vjp(b, node, given))
    verify(graph)
    seen = interpret(graph, [c, xs, w, g_c, g_y])

    tensors = [torch.from_numpy(x).requires_grad_() for x in (c, xs, w)]
    state, ys = tensors[0], [torch.empty(0)] * 4
    for t in reversed(range(4)) if reverse else range(4):
        ys[t] = state
        state = state * tensors[1][t] + tensors[2]
    results = (state, torch.stack(ys))
    wanted = torch.autograd.grad(results, tensors, [torch.from_numpy(g) for g in (g_c, g_y)])
    for s, e in zip(seen, (*results, *wanted), strict=True):
        np.testing.assert_allclose(s, e.detach().numpy(), rtol=1e-13)


def test_gradient_of_the_gradient_equals_torch() -> None:
    """d/dw of the sum of the gradients of xs: through the backward scan, and the forward one whose carries it reads."""
    c, xs, w = (np.random.default_rng(i).normal(size=s) for i, s in enumerate(((2,), (3, 2), (2,))))
    b = Builder()
    values = [b.input("c", f64, (2,)), b.input("xs", f64, (3, 2)), b.input("w", f64, (2,))]
    node = b.emit("scan", values, body=running_product(), carries=1, scanned=1)
    d_xs = find_operator("scan").vjp(b, node, [b.full_like(1, v) for v in node.results])[1]
    nodes = b.graph.nodes
    found = backpropagate(b, nodes, {d_xs: b.full_like(1, d_xs)}, values)
    (seen,) = interpret(b.returns(found[values[2]]), [c, xs, w])

    def sum_of_gradients(w: torch.Tensor) -> torch.Tensor:
        x, state, ys = torch.from_numpy(xs).requires_grad_(), torch.from_numpy(c), []
        for t in range(3):
            ys.append(state)
            state = state * x[t] + w
        total = state.sum() + torch.stack(ys).sum()
        return torch.autograd.grad(total, x, create_graph=True)[0].sum()

    wanted = torch.autograd.functional.jacobian(sum_of_gradients, torch.from_numpy(w)).numpy()
    np.testing.assert_allclose(seen, wanted, rtol=1e-12)


def test_round_trips_as_text() -> None:
    b = Builder()
    values = [b.input("c", f64, (2,)), b.input("xs", f64, (3, 2)), b.input("w", f64, (2,))]
    graph = b.returns(*b.ops("scan", *values, body=running_product(), carries=1, scanned=1, reverse=True))
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text


def test_refuses_operands_that_do_not_fit_the_body() -> None:
    b = Builder()
    c, xs, n = b.input("c", f64, (3,)), b.input("xs", f64, (4, 2)), b.input("n", i64, ())
    with pytest.raises(ShapeError, match="don't fit the body"):
        b.emit("scan", [c, xs, c], body=running_product(), carries=1, scanned=1)
    with pytest.raises(ShapeError, match="needs a scanned operand"):
        b.emit("scan", [c], body=running_product(), carries=1, scanned=0)
    with pytest.raises(ShapeError, match="axis of time"):
        b.emit("scan", [c, n, c], body=running_product(), carries=1, scanned=1)
