"""Gradients of convolutions as convolutions: the same numbers, without borders and strides."""

import numpy as np
import pytest

from graphc import run_passes
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import f64
from graphc.ops import find_operator
from graphc.testing.gradients import forward_graph

PASSES = ["channels-last", "convolution-gradients"]


def operators(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


@pytest.mark.parametrize("name", ["conv_input_grad", "conv_weight_grad"])
def test_the_samples_keep_their_values(name):
    for sample in find_operator(name).samples():
        graph = forward_graph(find_operator(name), sample)
        expected = interpret(graph, sample.operands)
        for y, e in zip(interpret(run_passes(graph, PASSES), sample.operands), expected, strict=True):
            np.testing.assert_allclose(y, e, rtol=1e-12, atol=1e-12, err_msg=str(sample.attributes))


def input_grad(size, rows, window, **attributes) -> Graph:
    b = Builder(Graph("g"))
    dy, w = b.input("dy", f64, (2, *rows, 3)), b.input("w", f64, (*window, 4, 3))
    n = len(rows)
    given = {"strides": (1,) * n, "padding": (0,) * 2 * n, "dilation": (1,) * n, **attributes}
    return b.returns(
        b.op("conv_input_grad", dy, w, input_size=size, layout="channels_last", kernel_layout="io", **given)
    )


@pytest.mark.parametrize(
    ("size", "rows", "window", "attributes"),
    [
        ((9, 9), (5, 5), (3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1)}),
        ((8, 8), (4, 4), (3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1)}),  # a row that nothing reads
        ((8, 6), (4, 3), (1, 1), {"strides": (2, 2)}),  # phases of zeros
        ((10,), (4,), (5,), {"strides": (3,), "padding": (2, 2)}),
        ((11,), (5,), (2,), {"strides": (2,), "padding": (0, 0)}),
        ((7,), (9,), (3,), {"padding": (2, 2)}),
        ((6,), (10,), (3,), {"padding": (3, 3)}),  # more padding than the window reaches: dy is cut
        ((12,), (3,), (3,), {"strides": (4,), "padding": (1, 1)}),
    ],
)
def test_sizes_strides_and_paddings(size, rows, window, attributes):
    graph = input_grad(size, rows, window, **attributes)
    rng = np.random.default_rng(0)
    given = [rng.normal(size=v.type.concrete({})) for v in graph.inputs]
    rewritten = run_passes(graph, ["convolution-gradients"])
    assert "conv_input_grad" not in operators(rewritten)
    np.testing.assert_allclose(interpret(rewritten, given)[0], interpret(graph, given)[0], rtol=1e-12, atol=1e-12)


def test_weights_sums_lose_their_borders():
    b = Builder(Graph("g"))
    x, dy = b.input("x", f64, (2, 5, 6, 3)), b.input("dy", f64, (2, 3, 6, 4))
    attributes = {"strides": (2, 1), "padding": (1, 1, 0, 2), "dilation": (1, 1), "layout": "channels_last"}
    graph = b.returns(b.op("conv_weight_grad", x, dy, kernel_size=(3, 3), kernel_layout="io", **attributes))
    rewritten = run_passes(graph, ["convolution-gradients"])
    (node,) = (n for n in rewritten.nodes if n.op.name == "conv_weight_grad")
    assert node["padding"] == (0, 0, 0, 0)
    rng = np.random.default_rng(0)
    given = [rng.normal(size=v.type.concrete({})) for v in graph.inputs]
    np.testing.assert_allclose(interpret(rewritten, given)[0], interpret(graph, given)[0], rtol=1e-12, atol=1e-12)


def test_a_symbolic_size_stays_where_the_stride_needs_it():
    size = symbol("s", 4, 64)
    plain = input_grad((size + 2,), (size,), (3,))
    assert "conv_input_grad" not in operators(run_passes(plain, ["convolution-gradients"]))
    strided = input_grad((2 * size + 1,), (size,), (3,), strides=(2,))
    assert "conv_input_grad" in operators(run_passes(strided, ["convolution-gradients"]))


def test_dilation_with_stride_stays():
    graph = input_grad((9,), (3,), (3,), strides=(2,), dilation=(2,))
    assert operators(run_passes(graph, ["convolution-gradients"])) == ["conv_input_grad"]
