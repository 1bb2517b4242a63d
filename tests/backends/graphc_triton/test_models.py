"""Small whole models in Triton's interpreter, and what a run must refuse."""

import functools

import numpy as np
import pytest

import graphc
from graphc.errors import NumericError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.text import constants_of, print_graph
from graphc.ir.types import f32, f64, i32, i64
from graphc.testing.bodies import assert_close
from graphc.testing.worker import Call, run_graph
from graphc_compress.mixed_precision import MixedPrecision

RNG = np.random.default_rng(0)


def weight(b: Builder, *shape: int) -> Value:
    return b.constant((RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))


def biased(b: Builder, x: Value, axis: int) -> Value:
    size = x.type.shape[axis]
    assert isinstance(size, int)
    return b.op("add", x, b.broadcast(weight(b, size), x.type.shape, (axis,)))


def cnn() -> Graph:
    """Convolutions, a residual, pooling, a classifier: in NCHW, as exporters write it."""
    b = Builder()
    x = b.input("image", f32, (symbol("batch", 1, 8), 3, 16, 16))
    spec = {"dilation": (1, 1), "groups": 1, "layout": "channels_first", "kernel_layout": "oi"}
    y = b.op("conv", x, weight(b, 8, 3, 3, 3), strides=(2, 2), padding=(1, 1, 1, 1), **spec)
    y = b.op("relu", biased(b, y, 1))
    statistics = [b.constant(RNG.uniform(0.5, 1.5, 8).astype(np.float32)) for _ in range(4)]
    z = b.op("conv", y, weight(b, 8, 8, 3, 3), strides=(1, 1), padding=(1, 1, 1, 1), **spec)
    z = b.op("batch_norm", z, *statistics, axis=1, epsilon=1e-5)
    y = b.op("relu", b.op("add", y, z))
    y = b.op("max_pool", y, axes=(2, 3), window=(2, 2), strides=(2, 2), padding=(0, 0, 0, 0), dilation=(1, 1))
    y = b.op("mul", b.reduce("reduce_sum", y, [2, 3]), b.full(1 / 16, y.type.with_shape(y.type.shape[:2])))
    return b.returns(b.op("softmax", biased(b, b.op("matmul", y, weight(b, 8, 10)), 1), axis=1))


def transformer() -> Graph:
    """One encoder layer: embedding, attention over two heads, gelu, norms; batch and length are symbols."""
    b = Builder()
    n, s, width, heads = symbol("batch", 1, 8), symbol("length", 1, 64), 16, 2
    tokens = b.input("tokens", i64, (n, s))
    x = b.op("gather", weight(b, 30, width), tokens, axis=0)
    rows = (n, s, heads, width // heads)

    def projected() -> Value:
        return b.transpose(b.reshape(biased(b, b.op("matmul", x, weight(b, width, width)), 2), rows), (0, 2, 1, 3))

    y = b.op("attention", projected(), projected(), projected(), scale=0.35, causal=True)
    y = b.op("matmul", b.reshape(b.transpose(y, (0, 2, 1, 3)), (n, s, width)), weight(b, width, width))
    x = normed(b, b.op("add", x, y))
    y = b.op("gelu", biased(b, b.op("matmul", x, weight(b, width, 32)), 2), approximate="none")
    return b.returns(normed(b, b.op("add", x, b.op("matmul", y, weight(b, 32, width)))))


def normed(b: Builder, x: Value) -> Value:
    return b.op("layer_norm", x, weight(b, 16), weight(b, 16), axis=2, epsilon=1e-5)


def check(interpreted: Call, graph: Graph, *inputs: np.ndarray) -> None:
    seen = interpreted(run_graph, print_graph(graph), constants_of(graph), inputs, "triton")
    for y, wanted in zip(seen, interpret(graph, inputs), strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("batch", [1, 3])
def test_cnn(interpreted: Call, batch: int) -> None:
    check(interpreted, cnn(), RNG.standard_normal((batch, 3, 16, 16)).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (2, 19)])
def test_transformer(interpreted: Call, shape: tuple[int, int]) -> None:
    check(interpreted, transformer(), RNG.integers(0, 30, shape))


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_products_of_narrow_floats(interpreted: Call, precision: str) -> None:
    graph, tokens = transformer(), RNG.integers(0, 30, (2, 9))
    run = functools.partial(run_graph, precision=precision)
    (seen,) = interpreted(run, print_graph(graph), constants_of(graph), (tokens,), "triton")
    (exact,) = interpret(graph, [tokens])
    narrow = graphc.run_passes(graph, ["decompose", MixedPrecision(precision)])
    (wanted,) = interpret(narrow, [tokens])
    assert 1e-5 < np.abs(wanted - exact).max() / np.abs(exact).max() < 0.05
    np.testing.assert_allclose(seen, wanted, atol=2e-3 * float(np.abs(wanted).max()))


def looked_up(b: Builder) -> Graph:
    layer = Builder(b.graph, origin=("embedding",))
    return b.returns(layer.op("gather", b.input("x", f32, (5, 4)), b.input("i", i64, (3,)), axis=0))


def test_an_index_out_of_range_is_reported_with_the_layer(interpreted: Call) -> None:
    graph, x = looked_up(Builder()), np.zeros((5, 4), np.float32)
    for bad in (5, -1):
        with pytest.raises(NumericError, match="embedding"):
            interpreted(run_graph, print_graph(graph), {}, (x, np.array([0, bad, 1])), "triton")


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-(2**31), -1)])
def test_an_integer_division_without_a_value_is_reported(interpreted: Call, x: int, y: int) -> None:
    b = Builder()
    graph = b.returns(b.op("div", b.input("x", i32, (2,)), b.input("y", i32, (2,))))
    good, bad = np.array([7, -7], np.int32), np.array([x, 1], np.int32)
    (seen,) = interpreted(run_graph, print_graph(graph), {}, (good, np.array([2, 2], np.int32)), "triton")
    assert seen.tolist() == [3, -3]
    with pytest.raises(NumericError, match="division"):
        interpreted(run_graph, print_graph(graph), {}, (bad, np.array([y, 1], np.int32)), "triton")


def test_what_has_no_kernel_runs_on_the_next_backend(interpreted: Call) -> None:
    b = Builder()
    x = b.input("x", f32, (symbol("n"), 8))
    y = b.op("cast", b.op("tan", b.op("cast", b.op("tanh", x), dtype=f64)), dtype=f32)
    graph = b.returns(b.op("softmax", y, axis=1))
    given = RNG.standard_normal((3, 8)).astype(np.float32)
    (seen,) = interpreted(run_graph, print_graph(graph), {}, (given,), ["triton", "llvm"])
    assert_close(seen, interpret(graph, [given])[0])


def test_nan_and_infinity_are_honoured(interpreted: Call) -> None:
    b = Builder()
    x = b.input("x", f32, (2, 5))
    graph = b.returns(b.op("relu", x), b.reduce("reduce_max", x, [1]), b.op("argmax", x, axis=1), b.op("exp", x))
    given = np.array([[1, np.nan, 3, -np.inf, 0], [np.inf, -1, 2, -3, np.inf]], np.float32)
    seen = interpreted(run_graph, print_graph(graph), {}, (given,), "triton")
    for y, wanted in zip(seen, interpret(graph, [given]), strict=True):
        assert_close(y, wanted)
