"""The register-tiled kernel: every edge of its tiles, blocks and panels, on the targets that this machine runs."""

from collections.abc import Sequence

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import DTYPES, DType, f32, f64
from graphc.lowering.loop_body import LoopBody
from graphc.lowering.lower import lower
from graphc.testing.random_graphs import random_inputs
from graphc_llvm import gemm
from graphc_llvm.contraction import match
from graphc_llvm.target import NAMED_TARGETS

COLUMNS = (2, 15, 16, 17, 31, 33, 48, 49, 64, 65, 100, 129)
ROWS = symbol("rows", 1)


def random(*shape: int, dtype: DType = f32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype.numpy)


def templates(executable: graphc.Executable) -> list[str]:
    """Which template made each kernel of the main program."""
    lines = [line.split() for line in executable.text("loops").splitlines() if line.startswith("//")]
    by_key = {key: template for _, template, key in lines}
    return [by_key[k.key[:12]] for k in executable.kernels if k.key[:12] in by_key]


def check(graph: Graph, dims: dict[str, int], executable: graphc.Executable) -> None:
    """Each output is a sum of products, off by no more than rounding allows: about one unit a term, of all magnitudes."""
    inputs = random_inputs(graph, dims)
    outputs = executable(*inputs)
    expected = interpret(graph, inputs)
    for seen, want in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
        assert seen.dtype == want.dtype
        scale = np.abs(want).max(initial=1) * 32 * np.finfo(want.dtype).eps
        np.testing.assert_allclose(seen, want, rtol=0, atol=scale)


def products(m: Dim, k: int, columns: Sequence[int], packed: bool, dtype: DType = f32) -> Graph:
    """x @ w for several widths of w, which is a weight or an input."""
    b = Builder()
    x = b.input("x", dtype, (m, k))
    w = [b.constant(random(k, n, dtype=dtype)) if packed else b.input(f"w{n}", dtype, (k, n)) for n in columns]
    return b.returns(*(b.op("matmul", x, v) for v in w))


@pytest.mark.parametrize("packed", [True, False], ids=["weights", "inputs"])
@pytest.mark.parametrize(
    ("m", "k"), [(1, 1), (1, 33), (2, 64), (5, 3), (6, 512), (7, 513), (13, 96), (14, 7), (30, 1100)]
)
def test_every_width(m: int, k: int, packed: bool) -> None:
    graph = products(m, k, COLUMNS, packed)
    executable = graphc.compile(graph, threads=1)
    check(graph, {}, executable)
    if k > 1:
        assert set(templates(executable)) == {"gemm"}


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize(("k", "n"), [(512, 512), (513, 600), (1100, 1033)])
def test_a_long_operand_whose_lines_lie_far_apart(k: int, n: int, dtype: DType) -> None:
    graph = products(50, k, (n,), packed=False, dtype=dtype)
    executable = graphc.compile(graph, threads=1)
    assert templates(executable) == ["gemm"]
    check(graph, {}, executable)


@pytest.mark.parametrize("packed", [True, False], ids=["weights", "inputs"])
def test_any_number_of_rows_by_the_same_code(packed: bool) -> None:
    graph = products(ROWS, 21, (3, 16, 40, 130), packed)
    executable = graphc.compile(graph, threads=1)
    assert set(templates(executable)) == {"gemm"}
    for rows in (*range(1, 18), 239, 240, 241, 500):
        check(graph, {"rows": rows}, executable)


@pytest.mark.parametrize(
    ("m", "k", "n", "rows", "blocks", "cut"),
    [
        (196, 384, 64, 18, 11, True),  # one panel: cut into threes of tiles
        (49, 960, 320, 15, 4, True),  # threes of tiles of five rows; one of four is left
        (784, 64, 192, 198, 4, False),  # blocks of one size, not three of 240 rows and one of 64
        (128, 1024, 512, 66, 2, True),  # each block copies its part of the operand that isn't packed: for 48 rows at least
        (6, 512, 1024, 6, 1, False),  # as many panels as there need be
        (30, 20, 30, 36, 1, False),  # too little work to cut
    ],
)
def test_work_items_are_many_and_alike(m: int, k: int, n: int, rows: int, blocks: int, cut: bool) -> None:
    body = lower(graphc.run_passes(products(m, k, (n,), packed=False), ["decompose"]))
    assert isinstance(body, LoopBody)
    found = match(body, NAMED_TARGETS["x86-64-v4"])
    assert found is not None
    assert gemm.grid(found) == gemm.Grid(rows, blocks, cut)
    graph = products(m, k, (n,), packed=True)
    one = graphc.compile(graph, threads=1)
    check(graph, {}, one)
    given = random_inputs(graph, {})
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(graphc.compile(graph, threads=threads)(*given), one(*given))


@pytest.mark.parametrize("k", [symbol("k", 1), symbol("k", 1, 100)])
def test_a_sum_of_any_length(k: Dim) -> None:
    b = Builder()
    x, w = b.input("x", f32, (5, k)), b.input("w", f32, (k, 35))
    graph = b.returns(b.op("matmul", x, w))
    executable = graphc.compile(graph, threads=1)
    assert templates(executable) == ["gemm"]
    for size in (1, 2, 63, 100) if str(k) and executable.graph.symbols()["k"].high else (1, 511, 512, 513, 1030):
        check(graph, {"k": size}, executable)


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_every_target(name: str, dtype: DType) -> None:
    graph = products(23, 70, COLUMNS, True, dtype)
    try:
        executable = graphc.compile(graph, target=name, threads=1)
    except graphc.ArtifactError as e:
        pytest.skip(e.what)
    check(graph, {}, executable)


def test_many_rows_and_a_long_sum_in_blocks() -> None:
    graph = products(500, 1300, (70,), True)
    check(graph, {}, graphc.compile(graph, threads=2))


def epilogue(b: Builder, y: Value, x: Value) -> Value:
    """Bias along columns, a factor along rows, a residual, an activation: loads of every kind."""
    shape = y.type.shape
    last = y.type.rank - 1
    y = b.op("add", y, b.broadcast(b.constant(random(int(str(shape[-1])))), shape, (last,)))
    y = b.op("mul", y, b.broadcast(b.input("factor", f32, shape[:-1]), shape, range(last)))
    y = b.op("add", y, b.input("residual", f32, shape))
    return b.op("gelu", y, approximate="none")


@pytest.mark.parametrize("n", [16, 37])
@pytest.mark.parametrize("m", [9, ROWS], ids=["static", "symbolic"])
def test_what_follows_the_product_is_done_on_its_tiles(m: Dim, n: int) -> None:
    b = Builder()
    x = b.input("x", f32, (m, 40))
    graph = b.returns(epilogue(b, b.op("matmul", x, b.constant(random(40, n))), x))
    executable = graphc.compile(graph, threads=1)
    assert templates(executable) == ["gemm"]
    for rows in (1, 8, 100):
        check(graph, {"rows": rows}, executable)


@pytest.mark.parametrize("dtype", ["f16", "i32", "bool"])
def test_results_of_other_types(dtype: str) -> None:
    b = Builder()
    y = b.op("matmul", b.input("x", f32, (9, 20)), b.constant(random(20, 33)))
    y = b.op("gt", y, b.full_like(0.5, y)) if dtype == "bool" else b.cast(y, DTYPES[dtype])
    graph = b.returns(y)
    (x,) = random_inputs(graph, {})
    executable = graphc.compile(graph, threads=1)
    seen, (want,) = executable(x), interpret(graph, [x])
    assert seen.dtype == want.dtype
    np.testing.assert_allclose(seen.astype(np.float64), want.astype(np.float64), atol=2e-2)


@pytest.mark.parametrize("batch", [1, 3])
def test_batches(batch: int) -> None:
    b = Builder()
    x, y = b.input("x", f32, (2, batch, 7, 9)), b.input("y", f32, (2, batch, 9, 19))
    w = b.constant(random(2, batch, 9, 19))
    z = b.op("matmul", x, w)
    transposed = b.op("dot", x, x, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,))
    graph = b.returns(b.op("matmul", x, y), z, transposed)
    check(graph, {}, graphc.compile(graph, threads=1))


def conv(
    shape: Sequence[Dim], w: Sequence[int], *, groups: int = 1, strides: Sequence[int] = (1, 1), dilation: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
) -> Graph:  # fmt: skip
    b = Builder()
    x = b.input("x", f32, shape)
    form = {"strides": tuple(strides), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    return b.returns(b.op("conv", x, b.constant(random(*w)), layout="channels_last", kernel_layout="io", **form))


CONVOLUTIONS = {
    "3x3": conv((2, 9, 8, 7), (3, 3, 7, 20), padding=(1, 1, 1, 1)),
    "3x3 of many channels": conv((1, 6, 5, 300), (3, 3, 300, 33), padding=(1, 1, 1, 1)),
    "3x3 of more than a block": conv((1, 4, 4, 600), (3, 3, 600, 17), padding=(1, 1, 1, 1)),
    "uneven padding": conv((1, 7, 7, 5), (4, 2, 5, 16), padding=(3, 0, 0, 1)),
    "padding wider than the image": conv((1, 2, 2, 6), (5, 5, 6, 8), padding=(4, 4, 4, 4)),
    "stride and dilation": conv((1, 13, 14, 6), (3, 3, 6, 18), strides=(2, 3), dilation=(2, 1), padding=(2, 1, 1, 0)),
    "1x1, stride 2": conv((2, 8, 9, 12), (1, 1, 12, 40), strides=(2, 2)),
    "7x7 of 3 channels": conv((1, 16, 15, 3), (7, 7, 3, 24), strides=(2, 2), padding=(3, 3, 3, 3)),
    "groups": conv((1, 6, 6, 24), (3, 3, 8, 48), groups=3, padding=(1, 1, 1, 1)),
    "groups of few": conv((1, 6, 6, 8), (3, 3, 2, 12), groups=4, padding=(1, 1, 1, 1)),
    "any batch": conv((ROWS, 5, 6, 7), (3, 3, 7, 16), padding=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    graph = CONVOLUTIONS[name]
    executable = graphc.compile(graph, threads=1)
    assert templates(executable) == ["nest" if "of 3 channels" in name else "gemm"]
    for rows in (1, 3) if name == "any batch" else (0,):
        check(graph, {"rows": rows}, executable)


def test_nan_and_infinity_beside_padding_and_partial_tiles() -> None:
    """What a tile computes beyond its edges, and what padding multiplies, never reaches a result."""
    graph = conv((1, 4, 4, 6), (3, 3, 6, 5), padding=(1, 1, 1, 1))
    (x,) = random_inputs(graph, {})
    x[0, 0, 0, 0], x[0, 3, 3, 1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        (want,) = interpret(graph, [x])
    seen = graphc.compile(graph)(x)
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(seen), np.isinf(want))
    np.testing.assert_allclose(seen, want, atol=1e-4)


def test_the_work_is_cut_without_a_trace() -> None:
    """Threads share rows and panels; no bit depends on how."""
    graph = products(700, 300, (200,), True)
    inputs = random_inputs(graph, {})
    first = graphc.compile(graph, threads=1)(*inputs)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(graphc.compile(graph, threads=threads)(*inputs), first)
