"""Batch normalization into its neighbours, and what it refuses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import bf16, f32
from graphc_optimize.fold_batch_norm import FoldBatchNorm

N = symbol("n")
RNG = np.random.default_rng(0)


def _weight(b: Builder, *shape: int) -> Value:
    return b.constant(RNG.standard_normal(shape).astype(np.float32))


def _norm(b: Builder, x: Value, axis: int = 1, variance: Value | None = None) -> Value:
    c = x.type.shape[axis]
    assert isinstance(c, int)
    v = variance if variance is not None else b.constant(RNG.uniform(0.5, 2, c).astype(np.float32))
    scale, bias, mean = (_weight(b, c) for _ in range(3))
    return b.op("batch_norm", x, scale, bias, mean, v, axis=axis, epsilon=1e-3)


def _conv(b: Builder, x: Value, w: Value, *, groups: int = 1, pad: int = 1, **extra: object) -> Value:
    spatial = x.type.rank - 2
    return b.op(
        extra.pop("op", "conv"), x, w, strides=(1,) * spatial, padding=(pad,) * 2 * spatial, dilation=(1,) * spatial,
        groups=groups, **extra,
    )  # fmt: skip


def _bias(b: Builder, y: Value, axis: int = 1) -> Value:
    c = y.type.shape[axis]
    assert isinstance(c, int)
    return b.op("add", y, b.broadcast(_weight(b, c), y.type.shape, (axis,)))


def _ops(graph: Graph) -> Counter[str]:
    return Counter(n.op.name for n in graph.nodes)


def _folded(graph: Graph, layer: str) -> None:
    """The graph is one layer and one addition, besides arithmetic on constants."""
    assert "batch_norm" not in _ops(graph)
    y = graph.outputs[0].producer
    assert y is not None and y.op.name == "add"
    assert y.operands[0].producer is not None and y.operands[0].producer.op.name == layer


# After a layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_after_convolution(groups: int, bias: bool, run_passes) -> None:
    b = Builder(Graph(), origin=("conv",))
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4 // groups, 3, 3), groups=groups)
    y = _bias(b, y) if bias else y
    b.origin = ("norm",)
    graph, context = run_passes(b.returns(_norm(b, y)), FoldBatchNorm())
    _folded(graph, "conv")
    assert context.refusals == []
    assert set(graph.outputs[0].producer.origin) == {"conv", "norm"}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel_layout", ["oi", "io"])
def test_after_transposed_convolution(groups: int, kernel_layout: str, run_passes) -> None:
    b = Builder(Graph())
    shape = (4, 6 // groups, 3, 3) if kernel_layout == "oi" else (3, 3, 6 // groups, 4)
    x = b.input("x", f32, (N, 4, 5, 5))
    y = _conv(
        b, x, _weight(b, *shape), groups=groups, op="conv_input_grad", input_size=(5, 5), kernel_layout=kernel_layout
    )
    graph, _ = run_passes(b.returns(_norm(b, y)), FoldBatchNorm())
    _folded(graph, "conv_input_grad")


def test_after_channels_last_convolution(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N, 5, 5, 4))
    y = _conv(b, x, _weight(b, 3, 3, 4, 8), layout="channels_last", kernel_layout="io")
    graph, _ = run_passes(b.returns(_norm(b, y, axis=3)), FoldBatchNorm())
    _folded(graph, "conv")


def test_after_linear_layers(run_passes) -> None:
    for layer in ("matmul", "dot"):
        b = Builder(Graph())
        x, w = b.input("x", f32, (N, 4)), _weight(b, 4, 6)
        y = b.op("matmul", x, w) if layer == "matmul" else b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,))
        graph, _ = run_passes(b.returns(_norm(b, _bias(b, y))), FoldBatchNorm())
        _folded(graph, layer)


def test_weight_of_transposed_linear_layer(run_passes) -> None:
    b = Builder(Graph())
    y = b.op("dot", b.input("x", f32, (N, 4)), _weight(b, 6, 4), lhs_contract=(1,), rhs_contract=(1,))
    graph, _ = run_passes(b.returns(_norm(b, y)), FoldBatchNorm())
    _folded(graph, "dot")


def test_two_norms_fold_one_after_the_other(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3))
    graph, _ = run_passes(b.returns(_norm(b, _norm(b, y))), FoldBatchNorm())
    _folded(graph, "conv")


# Before a layer


@pytest.mark.parametrize("groups", [1, 2])
def test_before_convolution_without_padding(groups: int, run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N, 4, 5, 5))
    graph, _ = run_passes(
        b.returns(_conv(b, _norm(b, x), _weight(b, 8, 4 // groups, 3, 3), groups=groups, pad=0)), FoldBatchNorm()
    )
    _folded(graph, "conv")


def test_before_linear_layers(run_passes) -> None:
    for layer in ("matmul", "dot"):
        b = Builder(Graph())
        x, w = _norm(b, b.input("x", f32, (N, 4))), _weight(b, 4, 6)
        y = b.op("matmul", x, w) if layer == "matmul" else b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,))
        graph, _ = run_passes(b.returns(y), FoldBatchNorm())
        _folded(graph, layer)


# Refused


def _refused(run_passes, graph: Graph, reason: str) -> Graph:
    """The norm became an affine function, left of the layer or right of it, and the context says why no more."""
    after, context = run_passes(graph, FoldBatchNorm())
    assert "batch_norm" not in _ops(after)
    assert any(reason in str(r) for r in context.refusals), context.refusals
    weights = [n.operands[1].producer for n in after.nodes if n.op.name == "conv"]
    assert weights and not any(w is not None and w.op.name == "mul" for w in weights)
    return after


def test_padding_before_the_layer_is_refused(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, _norm(b, b.input("x", f32, (N, 4, 5, 5))), _weight(b, 8, 4, 3, 3), pad=1)
    _refused(run_passes, b.returns(y), "pads with zeros")


def test_shared_weight_is_refused(run_passes) -> None:
    b = Builder(Graph())
    x, w = b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3)
    graph = b.returns(_norm(b, _conv(b, x, w)), _conv(b, b.op("exp", x), w))
    _refused(run_passes, graph, "is shared")


def test_layer_used_elsewhere_is_refused(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3))
    _refused(run_passes, b.returns(_norm(b, y), b.op("exp", y)), "is used elsewhere")


def test_layer_that_is_an_output_is_refused(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3))
    _refused(run_passes, b.returns(y, _norm(b, y)), "is used elsewhere")


def test_weight_that_is_an_input_is_refused(run_passes) -> None:
    b = Builder(Graph())
    w = b.input("w", f32, (8, 4, 3, 3))
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), w)
    _refused(run_passes, b.returns(_norm(b, y)), "isn't constant")


def test_residual_in_between_is_refused(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N, 4, 5, 5))
    y = b.op("add", _conv(b, x, _weight(b, 4, 4, 3, 3)), x)
    _refused(run_passes, b.returns(_norm(b, y)), "differs within a channel")


def test_weight_narrower_than_the_sums_is_refused(run_passes) -> None:
    b = Builder(Graph())
    x, w = b.input("x", bf16, (N, 4, 5, 5)), b.cast(_weight(b, 8, 4, 3, 3), bf16)
    y = b.op("conv", x, w, strides=(1, 1), padding=(0,) * 4, dilation=(1, 1), wide=True)
    _refused(run_passes, b.returns(_norm(b, y)), "another type")


def test_other_axis_is_refused(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3))
    _refused(run_passes, b.returns(_norm(b, y, axis=2)), "isn't that of the layer's output channels")


def test_training_mode_is_left_alone(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 4, 5, 5)), _weight(b, 8, 4, 3, 3))
    variance = b.op("exp", b.input("v", f32, (8,)))
    graph, context = run_passes(b.returns(_norm(b, y, variance=variance)), FoldBatchNorm())
    assert _ops(graph)["batch_norm"] == 1
    assert any("training mode" in r.reason for r in context.refusals)
