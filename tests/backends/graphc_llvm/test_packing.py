"""Packing of weights: the graph means what it meant, pack is computed once, unpack is only an index map."""

from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import DType, bf16, f32, f64, i32
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import PassContext, PassManager
from graphc.testing.conformance import difference
from graphc.testing.random_graphs import random_inputs
from graphc_llvm.packing import Pack
from graphc_llvm.panels import Panels
from graphc_llvm.target import NAMED_TARGETS

PACK = Pack(NAMED_TARGETS["x86-64-v4"])
V4 = NAMED_TARGETS["x86-64-v4"]
PAIRS = Pack(replace(V4, features=V4.features | {"avx512bf16"}))


def random(*shape: int, dtype: DType = f32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype.numpy)


def packed(graph: Graph, pack: Pack = PACK) -> tuple[Graph, dict[str, int | str]]:
    copy, _ = graph.clone()
    (record,) = PassManager([pack], verify="full").run(copy, PassContext())
    dims = dict.fromkeys(graph.symbols(), 3)
    inputs = random_inputs(graph, dims)
    for seen, want in zip(interpret(copy, inputs), interpret(graph, inputs), strict=True):
        assert difference(seen, want) is None
    return copy, dict(record.stats)


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("shape", [(7, 1), (7, 15), (7, 16), (5, 33), (3, 3, 4, 20), (1, 64)])
@pytest.mark.parametrize("outer", [0, 1])
def test_unpacking_what_was_packed_gives_the_array(shape: tuple[int, ...], width: int, outer: int) -> None:
    form = Panels(shape, width, outer)
    b = Builder()
    w = b.input("w", f32, shape)
    packed = form.pack(b, w)
    graph = b.returns(packed, form.unpack(b, packed))
    array = random(*shape)
    in_panels, again = interpret(graph, [array])
    np.testing.assert_array_equal(again, array)
    panels = -(-shape[-1] // width)
    assert in_panels.shape == (*shape[:outer], panels, *shape[outer:-1], width)
    for column in range(shape[-1]):
        lane = np.take(np.take(in_panels, column // width, axis=outer), column % width, axis=-1)
        np.testing.assert_array_equal(lane, array[..., column])


def matmul(m: int | object, k: int, n: int, dtype: DType = f32, transposed: bool = False) -> Graph:
    b = Builder()
    x = b.input("x", dtype, (m, k))  # type: ignore[arg-type]
    if transposed:
        w = b.constant(random(n, k, dtype=dtype))
        return b.returns(b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(1,)))
    return b.returns(b.op("matmul", x, b.constant(random(k, n, dtype=dtype))))


def primitive(graph: Graph) -> Graph:
    return graphc.run_passes(graph, ["decompose", "canonicalize"])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 17, 64, 100])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_weights_of_products_are_packed(n: int, dtype: DType, transposed: bool) -> None:
    graph, stats = packed(primitive(matmul(symbol("m"), 9, n, dtype, transposed)))
    assert stats["packed"] == 1
    assert [n.op.name for n in graph.nodes].count("materialize") == 1


def test_packing_moves_to_prepare_and_unpacking_into_the_product() -> None:
    graph, _ = packed(primitive(matmul(5, 9, 100)))
    prepare, main, weights = split_prepare(graph)
    assert "materialize" in [n.op.name for n in prepare.nodes]
    assert "materialize" not in [n.op.name for n in main.nodes]
    assert [w.type.shape for w in weights] == [(9, 100)]
    assert [v.type.shape for v in main.inputs] == [(5, 9), prepare.outputs[0].type.shape]


def conv(groups: int, layout: str = "channels_last", channels: int = 12) -> Graph:
    b = Builder()
    last = layout == "channels_last"
    x = b.input("x", f32, (1, 5, 5, channels) if last else (1, channels, 5, 5))
    w = b.constant(random(3, 3, channels // groups, 24))
    form = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": groups}
    return b.returns(b.op("conv", x, w, layout=layout, kernel_layout="io", **form))


@pytest.mark.parametrize("groups", [1, 3])
def test_kernels_of_convolutions_are_packed(groups: int) -> None:
    _, stats = packed(conv(groups))
    assert stats["packed"] == 1


def weight_gradient(channels: int, dtype: DType = f32, images: int = 4, **changed: object) -> Graph:
    b = Builder()
    form = {"strides": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), **changed}
    dy = 2 if form["strides"] == (2, 2) else 3
    x, g = b.input("x", dtype, (images, 5, 5, channels)), b.input("g", dtype, (images, dy, dy, channels + 1))
    form |= {"layout": "channels_last", "kernel_layout": "io", "kernel_size": (3, 3), "wide": dtype == bf16}
    return b.returns(b.op("conv_weight_grad", x, g, **form))


@pytest.mark.parametrize("changed", [{}, {"strides": (2, 2)}])
@pytest.mark.parametrize("images", [4, 5])
def test_gradients_of_convolutions_weights_sum_over_images_innermost(changed: dict[str, object], images: int) -> None:
    graph = weight_gradient(32, bf16, images, **changed)
    after, stats = packed(graph, PAIRS)
    assert stats["packed"] == 1
    copies = [n.result.type.shape for n in after.nodes if n.op.name == "materialize"]
    positions = graph.inputs[1].type.shape[1]
    assert copies == [(1, 5, 5, (images + 1) // 2, 32, 2), (1, positions, positions, (images + 1) // 2, 48, 2)]


def test_when_gradients_of_weights_are_packed() -> None:
    for graph, pack, yes in (
        (weight_gradient(16), PACK, False),  # too few readings of what would be copied, without pairs
        (weight_gradient(128), PACK, True),
        (weight_gradient(16, bf16), PACK, False),
        (weight_gradient(4, bf16), PAIRS, False),
        (weight_gradient(16, bf16, images=2), PAIRS, False),
    ):
        assert packed(graph, pack)[1]["packed"] == yes


def test_a_padded_copy_is_made_once_in_the_form_that_is_read() -> None:
    graph = weight_gradient(16, bf16)
    (node,) = graph.nodes
    b = Builder(graph, before=node)
    ones = (0, 1, 1, 0)
    small = b.op("slice", graph.inputs[0], starts=ones, limits=(4, 4, 4, 16), strides=(1, 1, 1, 1))
    padded = b.op("materialize", b.op("pad", small, b.scalar(0, bf16), low=ones, high=ones))
    made = b.op("conv_weight_grad", padded, graph.inputs[1], **node.attributes)
    graph.replace_uses(node.result, made)
    graph.erase(node)
    after = graphc.run_passes(packed(graph, PAIRS)[0], ["dce"])
    assert [n.op.name for n in after.nodes].count("materialize") == 2


def test_what_stays_as_it_is() -> None:
    b = Builder()
    x, y = b.input("x", f32, (5, 9)), b.input("y", f32, (9, 7))
    runtime = b.returns(b.op("dot", x, y, lhs_contract=(1,), rhs_contract=(0,)))
    for graph in (conv(12), conv(1, "channels_first"), primitive(matmul(5, 9, 7, i32)), runtime):
        after, stats = packed(graph)
        assert (stats["packed"], stats["transposed"]) == (0, 0)
        assert graphc.print_graph(after) == graphc.print_graph(graph)


def test_a_runtime_operand_whose_columns_are_not_dense_is_transposed() -> None:
    b = Builder()
    x, y = b.input("x", f32, (5, 9)), b.input("y", f32, (7, 9))
    graph, stats = packed(b.returns(b.op("dot", x, y, lhs_contract=(1,), rhs_contract=(1,))))
    assert (stats["packed"], stats["transposed"]) == (0, 1)
    assert [n.op.name for n in graph.nodes] == ["transpose", "materialize", "dot"]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_that_is_read_transposed_changes_sides(transposed: bool) -> None:
    """As the gradient of a dense layer's weight: panels are cut along what its readers have last."""
    b = Builder()
    x, g = b.input("x", bf16, (4, 16, 64)), b.input("g", bf16, (4, 16, 80))
    dot = b.op("dot", x, g, lhs_contract=(0, 1), rhs_contract=(0, 1), wide=True)
    read = b.op("neg", b.transpose(dot, (1, 0)))
    graph = b.returns(read) if transposed else b.returns(read, b.op("exp", dot))
    after, stats = packed(graph, PAIRS)
    assert stats["packed"] == 1
    (product,) = [n for n in after.nodes if n.op.name == "dot"]
    assert product.result.type.shape == ((80, 64) if transposed else (64, 80))


def test_what_a_loop_multiplies_by_is_packed_once_outside() -> None:
    inner = Builder(Graph("step"))
    h, x = inner.input("h", f32, (3, 8)), inner.input("x", f32, (3, 8))
    w = inner.input("w", f32, (8, 8))
    y = inner.op("add", inner.op("dot", h, w, lhs_contract=(1,), rhs_contract=(1,)), x)
    body = inner.returns(y, y)
    b = Builder()
    xs, h0 = b.input("xs", f32, (symbol("t"), 3, 8)), b.input("h0", f32, (3, 8))
    graph = b.returns(*b.ops("scan", h0, xs, b.constant(random(8, 8)), body=body, carries=1, scanned=1))
    after, stats = packed(graph)
    assert stats["packed"] == 1
    (scan,) = [n for n in after.nodes if n.op.name == "scan"]
    assert "materialize" not in [n.op.name for n in scan["body"].nodes]
    assert "materialize" in [n.op.name for n in after.nodes]
