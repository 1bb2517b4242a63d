"""Native code touches only its buffers: all of a program's memory lies between forbidden pages, misaligned where it may be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import NumericError
from graphc.interpreter import bind_dims, interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Expr, symbol
from graphc.ir.types import DType, bf16, f16, f32, f64
from graphc.testing.conformance import Case, Failure, cases, difference, failures
from graphc.testing.guard_pages import Side, at_guard_page
from graphc.testing.random_graphs import random_inputs
from graphc_llvm import strassen
from graphc_llvm.instance import ALIGNMENT, Instance
from graphc_llvm.segment import LlvmSegment

CASES = [c for c in cases() if c.dtype in ("f32", "given", "u8") or (c.dtype == "f64" and "f32" not in c.op.dtypes)]

SIDES: tuple[Side, ...] = ("end", "start")


@pytest.fixture(autouse=True)
def guarded_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `prepare` makes ends at forbidden pages, up to the alignment."""

    def made(arrays: Sequence[tuple[np.dtype[Any], tuple[int, ...]]]) -> list[np.ndarray]:
        empty = [np.zeros(shape, dtype) for dtype, shape in arrays]
        blocks = [at_guard_page(np.zeros(_up(a.nbytes), np.uint8)) for a in empty]
        return [b[: a.nbytes].view(a.dtype).reshape(a.shape) for a, b in zip(empty, blocks, strict=True)]

    monkeypatch.setattr("graphc_llvm.segment._side_by_side", made)


def run_guarded(executable: graphc.Executable, inputs: list[np.ndarray], side: Side) -> list[np.ndarray]:
    """The outputs of a run whose inputs, outputs, constants, arena and scratch lie beside forbidden pages.

    Inputs and outputs end (or begin) exactly there. The rest is 64-byte aligned as its users may expect, and so are its ends.
    """
    segment = executable._segment
    assert isinstance(segment, LlvmSegment)
    runner = segment.runner
    dims = bind_dims(segment.graph, [x.shape for x in inputs])
    made, entry = runner.instance(dims if runner.dynamic else {})
    constants = [at_guard_page(_padded(c)) for c in runner.constants]
    instance = Instance(made.program, made.dims, made.kernels, constants, made.threads)
    frame = instance.new_frame()
    arena, scratch = (
        at_guard_page(np.full(_up(n), 0xAB, np.uint8)) for n in (instance.arena_bytes, instance.scratch_bytes)
    )
    frame.context.bases[instance.program.arena_base] = arena.ctypes.data
    frame.context.structure.scratch = scratch.ctypes.data
    given = [at_guard_page(x, side) for x in inputs]
    outputs = [
        at_guard_page(np.full(shape, 77).astype(dtype), side)
        for shape, (dtype, _) in zip(instance.shapes, runner.outputs, strict=True)
    ]
    runner.call(entry, frame, given, outputs)
    for x, original in zip(given, inputs, strict=True):
        assert x.tobytes() == original.tobytes(), "an input was written"
    return outputs


def _padded(constant: np.ndarray) -> np.ndarray:
    """The bytes of a constant, behind as many others as make its address a multiple of the alignment."""
    raw = np.ascontiguousarray(constant).reshape(-1).view(np.uint8)
    return np.concatenate([raw, np.zeros(_up(raw.nbytes) - raw.nbytes, np.uint8)])


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_stay_in_their_buffers(case: Case) -> None:
    graph, arrays = case.graph()
    executable = graphc.compile(graph)
    expected = interpret(graph, arrays)
    for side in SIDES:
        for value, seen, want in zip(graph.outputs, run_guarded(executable, arrays, side), expected, strict=True):
            assert difference(seen, want) is None, f"{value}: {difference(seen, want)}"


@pytest.mark.parametrize("failure", [f for f in failures() if "nothing" not in f.name], ids=str)
def test_bad_numbers_are_a_status_and_touch_nothing_else(failure: Failure) -> None:
    executable = graphc.compile(failure.graph)
    with pytest.raises(NumericError):
        run_guarded(executable, list(failure.bad), "end")
    (seen,) = run_guarded(executable, list(failure.good), "end")
    assert difference(seen, interpret(failure.graph, failure.good)[0]) is None


def weights(*shape: int, dtype: DType = f32) -> np.ndarray:
    """Read-only, so that the graph takes them as they lie: what `prepare` reads ends at a forbidden page too."""
    array = at_guard_page(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype.numpy))
    array.flags.writeable = False
    return array


def dense(m: int | Expr, k: int, n: int, dtype: DType = f32) -> Graph:
    """A layer with packed weights, bias and activation: the register-tiled kernel with an epilogue."""
    b = Builder()
    x = b.input("x", dtype, (m, k))
    y = b.op("matmul", x, b.constant(weights(k, n, dtype=dtype)))
    return b.returns(b.op("relu", b.op("add", y, b.broadcast(b.constant(weights(n, dtype=dtype)), (m, n), (1,)))))


def product(m: int | Expr, k: int, n: int) -> Graph:
    """A product of two inputs: nothing is packed, columns are masked."""
    b = Builder()
    return b.returns(b.op("matmul", b.input("x", f32, (3, m, k)), b.input("y", f32, (3, k, n))))


def convolution(size: int, channels: int, outputs: int, groups: int = 1, kernel: int = 3, stride: int = 1) -> Graph:
    b = Builder()
    x = b.input("x", f32, (2, size, size + 1, channels))
    w = b.constant(weights(kernel, kernel, channels // groups, outputs))
    form = {"strides": (stride, stride), "padding": (kernel // 2,) * 4, "dilation": (1, 1), "groups": groups}
    y = b.op("conv", x, w, layout="channels_last", kernel_layout="io", **form)
    bias = b.broadcast(b.constant(weights(outputs)), y.type.shape, (3,))
    return b.returns(b.op("relu", b.op("add", y, bias)))


def rows(op: str, m: int | Expr, n: int | Expr, **attributes: object) -> Graph:
    b = Builder()
    x = b.input("x", f32, (m, n))
    extra = [b.input(name, f32, (n,)) for name in ("scale", "bias")] if op == "layer_norm" else []
    return b.returns(b.op(op, x, *extra, **attributes))


def pool(size: int, channels: int, op: str = "max_pool") -> Graph:
    b = Builder()
    x = b.input("x", f32, (1, channels, size, size))
    return b.returns(b.op(op, x, axes=(2, 3), window=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1)))


def chain(n: int | Expr) -> Graph:
    b = Builder()
    x, y = b.input("x", f32, (n,)), b.input("y", f32, (n,))
    return b.returns(b.op("tanh", b.op("mul", b.op("exp", x), y)), b.op("reduce_sum", b.op("mul", x, y), axes=(0,)))


def attention(s: int | Expr, t: int | Expr, depth: int, columns: int, dtype: DType = f32) -> Graph:
    """Heads last, as projections give them, with a mask."""
    b = Builder()
    shapes = ((2, s, 3, depth), (2, t, 3, depth), (2, t, 3, columns))
    q, k, v = (b.transpose(b.input(n, dtype, x), (0, 2, 1, 3)) for n, x in zip("qkv", shapes, strict=True))
    mask = b.broadcast(b.input("mask", dtype, (s, t)), (2, 3, s, t), (2, 3))
    return b.returns(b.transpose(b.op("attention", q, k, v, mask, scale=0.3), (0, 2, 1, 3)))


def attention_gradient(s: int | Expr, t: int | Expr, depth: int, columns: int) -> Graph:
    """The value and the gradients by q, k and v of what `attention` gives, weighted."""
    forward = attention(s, t, depth, columns)
    b = Builder(forward)
    (y,) = forward.outputs
    forward.set_outputs([b.op("mul", y, b.op("mul", y, y))])
    return graphc.value_and_grad(forward, wrt=["q", "k", "v"])


N = symbol("n", 1)
SIZES = ((1, 1, 1), (1, 64, 10), (7, 33, 17), (29, 600, 70), (250, 5, 65))
GRAPHS: dict[str, tuple[Graph, list[dict[str, int]]]] = {
    **{f"dense {m}x{k}x{n}": (dense(m, k, n), [{}]) for m, k, n in SIZES},
    "dense f64": (dense(13, 9, 21, f64), [{}]),
    "dense, any number of rows": (dense(N, 19, 37), [{"n": n} for n in (1, 2, 5, 6, 7, 13, 241)]),
    "product 5x7x9": (product(5, 7, 9), [{}]),
    "product 31x64x48": (product(31, 64, 48), [{}]),
    "product 50x520x515": (product(50, 520, 515), [{}]),
    "product, any number of rows": (product(N, 7, 33), [{"n": n} for n in (1, 8, 15)]),
    "conv": (convolution(9, 5, 19), [{}]),
    "conv, stride 2": (convolution(11, 16, 16, stride=2), [{}]),
    "winograd": (convolution(13, 64, 96), [{}]),
    "winograd of few channels": (convolution(30, 33, 17), [{}]),
    "conv 1x1": (convolution(6, 24, 33, kernel=1), [{}]),
    "conv 7x7 of 3 channels": (convolution(12, 3, 8, kernel=7, stride=2), [{}]),
    "grouped conv": (convolution(7, 12, 18, groups=3), [{}]),
    "depthwise conv": (convolution(9, 21, 21, groups=21), [{}]),
    "depthwise conv, stride 2": (convolution(9, 32, 32, groups=32, kernel=5, stride=2), [{}]),
    "softmax": (rows("softmax", 5, 37, axis=1), [{}]),
    "softmax, any size": (rows("softmax", 3, N, axis=1), [{"n": n} for n in (1, 3, 16, 17, 255)]),
    "softmax of columns": (rows("softmax", 37, 5, axis=0), [{}]),
    "layer norm": (rows("layer_norm", 4, 77, axis=1, epsilon=1e-5), [{}]),
    "attention": (attention(13, 75, 20, 24), [{}]),
    "attention of f64": (attention(7, 33, 9, 33, f64), [{}]),
    "attention, any number of keys": (attention(8, N, 16, 20), [{"n": n} for n in (1, 16, 70, 512, 600, 1100)]),
    "attention, any number of queries": (attention(N, 40, 16, 20), [{"n": n} for n in (1, 6, 11, 260)]),
    "attention's gradient": (attention_gradient(13, 75, 20, 24), [{}]),
    "attention's gradient, any number of keys": (attention_gradient(8, N, 16, 20), [{"n": n} for n in (2, 70, 300)]),
    "attention's gradient, any number of queries": (attention_gradient(N, 40, 16, 20), [{"n": n} for n in (1, 6, 11, 200)]),
    "max pool": (pool(13, 7), [{}]),
    "average pool": (pool(9, 18, "average_pool"), [{}]),
    "elementwise": (chain(N), [{"n": n} for n in (*range(1, 20), 31, 33, 63, 65, 1023, 1025)]),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_of_every_template_stay_in_their_buffers(name: str) -> None:
    graph, sizes = GRAPHS[name]
    executable = graphc.compile(graph, threads=2)
    for dims in sizes:
        inputs = random_inputs(graph, dims)
        expected = interpret(graph, inputs)
        for side in SIDES:
            for seen, want in zip(run_guarded(executable, inputs, side), expected, strict=True):
                if name.startswith("winograd"):  # its error is not of rounding alone; see test_winograd.py
                    np.testing.assert_allclose(seen, want, rtol=0, atol=1e-4 * np.abs(want).max())
                    continue
                assert difference(seen, want) is None, f"{dims}: {difference(seen, want)}"


def narrow(m: int | Expr, k: int, n: int, dtype: DType, packed: bool, transposed: bool = False) -> Graph:
    """A product of narrow floats that keeps its f32 sums, and rounds what it computes of them."""
    b = Builder()
    x = b.input("x", dtype, (k, m) if transposed else (m, k))
    w = b.constant(weights(k, n, dtype=dtype)) if packed else b.input("w", dtype, (k, n))
    y = b.op("dot", x, w, lhs_contract=(0 if transposed else 1,), rhs_contract=(0,), wide=True)
    return b.returns(b.cast(b.op("neg", y), dtype), y)


def narrow_convolution(channels: int, outputs: int, dtype: DType) -> Graph:
    b = Builder()
    x, w = b.input("x", dtype, (2, 7, 5, channels)), b.constant(weights(3, 3, channels, outputs, dtype=dtype))
    form = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "layout": "channels_last", "kernel_layout": "io"}
    return b.returns(b.op("conv", x, w, wide=True, **form))


NARROW: dict[str, tuple[Graph, list[dict[str, int]]]] = {
    f"{dtype} {name}": (graph, sizes)
    for dtype in (bf16, f16)
    for name, graph, sizes in (
        ("weights", narrow(7, 34, 70, dtype, True), [{}]),
        ("weights, an odd sum", narrow(13, 33, 17, dtype, True), [{}]),
        ("any number of rows", narrow(N, 1100, 33, dtype, True), [{"n": n} for n in (1, 6, 11, 250)]),
        ("terms apart", narrow(9, 36, 20, dtype, True, transposed=True), [{}]),
        ("inputs", narrow(8, 21, 37, dtype, False), [{}]),
        ("inputs of many rows", narrow(70, 22, 75, dtype, False, transposed=True), [{}]),
        ("conv", narrow_convolution(20, 35, dtype), [{}]),
        ("conv, an odd sum", narrow_convolution(17, 16, dtype), [{}]),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_products_of_narrow_floats_stay_in_their_buffers(name: str) -> None:
    graph, sizes = NARROW[name]
    executable = graphc.compile(graph, threads=2)
    for dims in sizes:
        inputs = random_inputs(graph, dims)
        for side in SIDES:
            for seen, want in zip(run_guarded(executable, inputs, side), interpret(graph, inputs), strict=True):
                unit = {bf16.numpy: 2.0**-7, f16.numpy: 2.0**-10}.get(want.dtype, 1e-5)  # neighbours, where it rounds
                wide, exact = seen.astype(np.float64), want.astype(np.float64)
                np.testing.assert_allclose(wide, exact, rtol=unit, atol=1e-5 * np.abs(exact).max())


WINOGRAD = {"13x14x20": (13, 20, 30), "16x17x64": (16, 64, 64), "30x31x19": (30, 19, 130)}


@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd_kernels_stay_in_their_buffers(name: str) -> None:
    graph = convolution(*WINOGRAD[name])
    executable = graphc.compile(graph, threads=2)
    assert executable.kernels[0].name.startswith("winograd_conv")
    inputs = random_inputs(graph, {})
    (expected,) = interpret(graph, inputs)
    for side in SIDES:
        (seen,) = run_guarded(executable, inputs, side)
        assert np.abs(seen - expected).max() < 1e-4 * np.abs(expected).max()


STRASSEN: dict[str, tuple[Graph, list[dict[str, int]]]] = {
    "61x224x250": (dense(61, 224, 250), [{}]),
    "nx96x190": (dense(N, 96, 190), [{"n": n} for n in (5, 49, 245)]),
}


@pytest.mark.parametrize("name", STRASSEN)
def test_strassen_kernels_stay_in_their_buffers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strassen, "MARGIN", 1e9)
    graph, sizes = STRASSEN[name]
    executable = graphc.compile(graph, threads=2, cache=False)
    assert "// strassen " in executable.text("loops")
    for dims in sizes:
        inputs = random_inputs(graph, dims)
        (expected,) = interpret(graph, inputs)
        for side in SIDES:
            (seen,) = run_guarded(executable, inputs, side)
            assert np.abs(seen - expected).max() < 1e-5 * np.abs(expected).max()
