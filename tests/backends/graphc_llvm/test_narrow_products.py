"""Products of f16 and bf16: widened as they are read, or multiplied in pairs where the target can."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import DType, bf16, f16, f32
from graphc_llvm.emit import BF16, I64, PTR, load_masked, store_masked, tail_mask
from graphc_llvm.jit import compile_object
from graphc_llvm.kernels import KernelMaker
from graphc_llvm.packing import Pack
from graphc_llvm.target import NAMED_TARGETS, host_target

ROWS = symbol("rows", 1)
PAIRS = replace(NAMED_TARGETS["x86-64-v4"], features=NAMED_TARGETS["x86-64-v4"].features | {"avx512bf16"})


def random(*shape: int, dtype: DType) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype.numpy)


def dense(m: Dim, k: int, columns: Sequence[int], dtype: DType, result: DType = f32) -> Graph:
    """Dense layers with bias and activation, of several widths."""
    b = Builder()
    x = b.input("x", dtype, (m, k))
    results = []
    for n in columns:
        w, bias = b.constant(random(k, n, dtype=dtype)), b.constant(random(n, dtype=f32))
        y = b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,), wide=True)
        y = b.op("tanh", b.op("add", y, b.broadcast(bias, (m, n), (1,))))
        results.append(b.cast(y, result))
    return b.returns(*results)


def convolution(channels: int, outputs: int, dtype: DType, **changed: object) -> Graph:
    b = Builder()
    form = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1, **changed}
    x = b.input("x", dtype, (2, 7, 6, channels))
    window = form.pop("window", 3)
    w = b.constant(random(window, window, channels // form["groups"], outputs, dtype=dtype))
    return b.returns(b.op("conv", x, w, layout="channels_last", kernel_layout="io", wide=True, **form))


def check(graph: Graph, executable: graphc.Executable, rows: int = 0) -> None:
    """Sums of exact products in f32, in another order than the interpreter's."""
    (given,) = graph.inputs
    x = random(*(rows if isinstance(d, symbol("d").__class__) else d for d in given.type.shape), dtype=given.type.dtype)
    seen = executable(x)
    for y, want in zip(seen if isinstance(seen, tuple) else (seen,), interpret(graph, [x]), strict=True):
        assert y.dtype == want.dtype
        rounding = {bf16.numpy: 2.0**-7, f16.numpy: 2.0**-10}.get(want.dtype, 0)  # neighbours
        want = want.astype(np.float64)
        np.testing.assert_allclose(y.astype(np.float64), want, rtol=rounding, atol=np.abs(want).max() * 1e-5)


def templates(executable: graphc.Executable) -> set[str]:
    """The templates that made the kernels of the main program, of which `prepare` has none."""
    lines = [line.split() for line in executable.text("loops").splitlines() if line.startswith("//")]
    by_key = {key: template for _, template, key in lines}
    return {by_key[k.key[:12]] for k in executable.kernels}


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
def test_dense_layers(target: str, dtype: DType) -> None:
    for m, k, result in ((1, 2, f32), (5, 33, dtype), (7, 64, f32), (13, 1100, dtype)):
        graph = dense(m, k, (2, 16, 17, 48, 65, 130), dtype, result)
        try:
            executable = graphc.compile(graph, target=target, threads=1)
        except graphc.ArtifactError as e:
            pytest.skip(e.what)
        check(graph, executable)
        assert templates(executable) == {"gemm"}


def test_any_number_of_rows() -> None:
    graph = dense(ROWS, 34, (16, 70), bf16)
    executable = graphc.compile(graph, threads=1)
    for rows in (1, 5, 6, 7, 241):
        check(graph, executable, rows)


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
def test_convolutions(target: str, dtype: DType) -> None:
    cases = [(16, 24, {}), (40, 48, {"groups": 2}), (32, 16, {"strides": (2, 2)}), (20, 70, {"dilation": (2, 2)}), (17, 8, {})]
    cases.append((24, 66, {"window": 2}))
    for channels, outputs, changed in cases:
        graph = convolution(channels, outputs, dtype, **changed)
        executable = graphc.compile(graph, target=target, threads=1)
        check(graph, executable)
        assert templates(executable) == {"gemm"}


def test_pairs_are_one_instruction() -> None:
    for graph in (dense(7, 64, (64,), bf16), convolution(32, 64, bf16)):
        text = kernel_text(graph)
        assert "llvm.x86.avx512bf16.dpbf16ps.512" in text and "llvm.fma.v16f32" not in text.split("tanh")[0]
        assert compile_object(text, PAIRS)
    assert "dpbf16ps" not in kernel_text(dense(7, 63, (64,), bf16))  # an odd number of terms isn't pairs


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "inputs"])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("n", [24, 96])
def test_terms_that_lie_apart(weights: bool, transposed: bool, n: int) -> None:
    """Both operands may have the sum's axis outermost, as in gradients of weights, or innermost."""
    b = Builder()
    x = b.input("x", bf16, (40, 70) if transposed else (70, 40))
    w = random(n, 40, dtype=bf16) if transposed else random(40, n, dtype=bf16)
    operand = b.constant(w) if weights else b.input("w", bf16, w.shape)
    axes = {"lhs_contract": (0,), "rhs_contract": (1,)} if transposed else {"lhs_contract": (1,), "rhs_contract": (0,)}
    graph = b.returns(b.op("dot", x, operand, wide=True, **axes))
    inputs = [random(*v.type.shape, dtype=bf16) for v in graph.inputs]
    executable = graphc.compile(graph, threads=1)
    (want,) = interpret(graph, inputs)
    np.testing.assert_allclose(executable(*inputs), want, atol=np.abs(want).max() * 1e-5)
    assert "gemm" in templates(executable)


def test_batched_products_of_inputs() -> None:
    b = Builder()
    x, w = b.input("x", bf16, (3, 80, 32)), b.input("w", bf16, (3, 32, 72))
    batch = {"lhs_batch": (0,), "rhs_batch": (0,), "lhs_contract": (2,), "rhs_contract": (1,)}
    graph = b.returns(b.op("dot", x, w, wide=True, **batch))
    inputs = [random(*v.type.shape, dtype=bf16) for v in graph.inputs]
    (want,) = interpret(graph, inputs)
    np.testing.assert_allclose(graphc.compile(graph, threads=1)(*inputs), want, atol=np.abs(want).max() * 1e-5)


FEW = [
    (3, 20, {}),
    (3, 64, {"window": 7, "strides": (2, 2), "padding": (3, 3, 3, 3)}),
    (1, 17, {"window": 5, "strides": (2, 3), "padding": (0, 0, 0, 0)}),
    (4, 16, {"dilation": (2, 1), "padding": (2, 1, 0, 2)}),
    (5, 33, {"window": 2, "strides": (3, 2), "padding": (0, 1, 2, 0)}),
]


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("form", FEW, ids=str)
def test_convolutions_of_few_channels(target: str, form: tuple[int, int, dict[str, object]]) -> None:
    channels, outputs, changed = form
    for dtype in (bf16, f16):
        graph = convolution(channels, outputs, dtype, **changed)
        check(graph, graphc.compile(graph, target=target, threads=1))
    assert "llvm.x86.avx512bf16.dpbf16ps.512" in kernel_text(convolution(channels, outputs, bf16, **changed))


def test_few_channels_of_any_number_of_images() -> None:
    b = Builder()
    x = b.input("x", bf16, (ROWS, 9, 3))
    w = b.constant(random(4, 3, 24, dtype=bf16))
    form = {"strides": (2,), "padding": (1, 2), "dilation": (1,), "layout": "channels_last", "kernel_layout": "io"}
    graph = b.returns(b.op("conv", x, w, wide=True, **form))
    executable = graphc.compile(graph, threads=1)
    for rows in (1, 4):
        check(graph, executable, rows)


def weight_gradient(images: int, dtype: DType, size: tuple[int, ...] = (6, 5), **changed: object) -> Graph:
    b = Builder()
    n, channels, outputs, window = len(size), 16, 72, 2
    form = {"strides": (1,) * n, "padding": (0,) * 2 * n, "dilation": (1,) * n, **changed}
    steps = [d * (window - 1) + 1 for d in form["dilation"]]
    positions = [(s - w) // step + 1 for s, w, step in zip(size, steps, form["strides"], strict=True)]
    x, dy = b.input("x", dtype, (images, *size, channels)), b.input("dy", dtype, (images, *positions, outputs))
    form |= {"layout": "channels_last", "kernel_layout": "io", "kernel_size": (window,) * n, "wide": True}
    return b.returns(b.op("conv_weight_grad", x, dy, **form))


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
def test_gradients_of_convolutions_weights(target: str, dtype: DType) -> None:
    cases = [(8, {}), (5, {}), (6, {"strides": (2, 2)}), (4, {"dilation": (2, 3)}), (4, {"size": (9,)}), (2, {}), (1, {})]
    for images, changed in cases:
        graph = weight_gradient(images, dtype, **changed)
        inputs = [random(*v.type.shape, dtype=dtype) for v in graph.inputs]
        executable = graphc.compile(graph, target=target, threads=1)
        (want,) = interpret(graph, inputs)
        np.testing.assert_allclose(executable(*inputs), want, atol=np.abs(want).max() * 1e-5)
        assert "gemm" in templates(executable)


def test_pairs_of_images_are_one_instruction() -> None:
    for graph in (weight_gradient(8, bf16), weight_gradient(5, bf16), weight_gradient(6, bf16, strides=(2, 2))):
        assert "llvm.x86.avx512bf16.dpbf16ps.512" in kernel_text(graph)
    assert "dpbf16ps" not in kernel_text(weight_gradient(1, bf16))


def kernel_text(graph: Graph) -> str:
    """The IR of the graph's product for a target with pairs, whatever this machine is."""
    from graphc.lowering.prepare import split_prepare

    graph = graphc.run_passes(graph, [Pack(PAIRS), "cse", "dce"])
    fused = graphc.run_passes(split_prepare(graph)[1], ["fuse"])
    bodies = {n: {x.op.name for x in n["body"].nodes} for n in fused.nodes if n.op.name == "fusion"}
    (product,) = [n for n, names in bodies.items() if names & {"dot", "conv", "conv_weight_grad"}]
    return KernelMaker(PAIRS, "fast")(product).text


@pytest.mark.skipif(not host_target().bf16_pairs, reason="this CPU has no dot product of bf16 pairs")
def test_nan_and_infinity_go_through_pairs() -> None:
    b = Builder()
    x = b.input("x", bf16, (4, 32))
    w = np.ones((32, 16), np.float32)
    w[31, 3] = np.inf
    graph = b.returns(b.op("dot", x, b.constant(w.astype(bf16.numpy)), lhs_contract=(1,), rhs_contract=(0,), wide=True))
    inputs = np.ones((4, 32), np.float32)
    inputs[1, 7], inputs[2, 8], inputs[3, 30:] = np.nan, -np.inf, 0
    y = graphc.compile(graph, threads=1)(inputs.astype(bf16.numpy))
    np.testing.assert_array_equal(y, interpret(graph, [inputs.astype(bf16.numpy)])[0])


def test_weights_stay_narrow() -> None:
    """In memory: half the bytes of f32."""
    (narrow, wide) = (graphc.compile(dense(4, 256, (256,), t), threads=1).memory_at({}).constants for t in (bf16, f32))
    assert narrow < 0.55 * wide


@pytest.mark.parametrize("name", NAMED_TARGETS)
def test_some_lanes_of_bf16_need_no_library(emit_function, name: str) -> None:
    def copy(b, x, y, count):
        mask = tail_mask(b, count, 8)
        store_masked(b, load_masked(b, x, mask, BF16), y, mask)

    text = emit_function([PTR, PTR, I64], copy)
    assert b"__truncsfbf2" not in compile_object(text, NAMED_TARGETS[name])
