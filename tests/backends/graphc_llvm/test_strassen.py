"""Products by Strassen's algorithm against double precision: edges of tiles, blocks, chunks and panels, epilogues, targets."""

from collections.abc import Sequence

import numpy as np
import pytest

import graphc
from graphc.cones import widen
from graphc.errors import ArtifactError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import f32, f64
from graphc_llvm import strassen
from graphc_llvm.strassen import BLOCK_ROWS, MARGIN, cycles
from graphc_llvm.target import check_runs_here, parse_target

TOLERANCE = 4e-6
"""Of the largest value: about three times what was measured on sums of 3072 terms."""
ROWS = symbol("rows", 1)
TARGETS = [None, "x86-64-v3"]


@pytest.fixture
def wherever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost model says yes, so that small products show all edges."""
    monkeypatch.setattr(strassen, "MARGIN", 1e9)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def dense(m: Dim, k: int, n: int, epilogue: str = "bias") -> Graph:
    b = Builder()
    x = b.input("x", f32, (m, k))
    y = b.op("matmul", x, b.constant(weights(k, n) / np.float32(np.sqrt(k))))
    return b.returns(*finished(b, y, epilogue))


def finished(b: Builder, y: Value, epilogue: str) -> Sequence[Value]:
    if epilogue == "none":
        return [y]
    last = y.type.rank - 1
    y = b.op("add", y, b.broadcast(b.constant(weights(int(str(y.type.shape[-1])))), y.type.shape, (last,)))
    if epilogue == "residual":
        y = b.op("add", b.op("gelu", y, approximate="none"), b.input("residual", f32, y.type.shape))
    return [b.op("relu", y), y] if epilogue == "two results" else [y]


def check(graph: Graph, dims: dict[str, int] | None = None, **options: object) -> graphc.Executable:
    """The executable, whose outputs are within the tolerance of what double precision gives."""
    executable = graphc.compile(graph, **{"cache": False, "threads": 1, **options})  # type: ignore[arg-type]
    compare(executable, graph, dims or {})
    return executable


def compare(executable: graphc.Executable, graph: Graph, dims: dict[str, int]) -> None:
    shapes = [v.type.concrete(dims) for v in graph.inputs]
    inputs = [weights(*shape, seed=1) for shape in shapes]
    feed = dict(zip((v.name for v in graph.inputs), inputs, strict=True))
    exact = interpret(widen(graph), [x.astype(np.float64) for x in inputs])
    for seen, want in zip(executable.run(None, feed), exact, strict=True):
        assert np.abs(seen - want).max() <= TOLERANCE * np.abs(want).max()


def is_strassen(executable: graphc.Executable) -> bool:
    return "// strassen " in executable.text("loops")


SHAPES = {
    "whole tiles, one chunk": (48, 64, 128),
    "an odd row": (61, 64, 128),
    "a remainder of pairs": (52, 64, 128),
    "several chunks": (50, 576, 128),
    "a chunk of fewer terms": (49, 704, 128),
    "a panel without a partner": (50, 64, 192),
    "columns that fill no panel": (50, 96, 250),
    "two blocks": (BLOCK_ROWS + 1, 64, 128),
    "several blocks": (3 * BLOCK_ROWS - 5, 64, 256),
    "a last block of few rows": (21 * BLOCK_ROWS + 7, 64, 128),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("wherever_it_can")
def test_every_edge(name: str, target: str | None) -> None:
    try:
        check_runs_here(parse_target(target))
    except ArtifactError as e:
        pytest.skip(e.what)
    assert is_strassen(check(dense(*SHAPES[name]), target=target))


@pytest.mark.parametrize("epilogue", ["none", "bias", "residual", "two results"])
@pytest.mark.usefixtures("wherever_it_can")
def test_what_follows_is_done_on_its_tiles(epilogue: str) -> None:
    executable = check(dense(75, 96, 200, epilogue))
    assert is_strassen(executable)
    assert len(executable.kernels) == 1


@pytest.mark.usefixtures("wherever_it_can")
def test_any_number_of_rows_by_the_same_code() -> None:
    graph = dense(ROWS, 160, 320)
    executable = check(graph, {"rows": 100})
    assert is_strassen(executable)
    for rows in (1, 2, 11, 12, 13, 17, 59, 61, 239, 240, 241, 242, 485):
        compare(executable, graph, {"rows": rows})


@pytest.mark.usefixtures("wherever_it_can")
def test_rows_of_a_batch_of_sequences() -> None:
    b = Builder()
    x = b.input("x", f32, (symbol("batch", 1), symbol("length", 1), 128))
    graph = b.returns(*finished(b, b.op("matmul", x, b.constant(weights(128, 256))), "bias"))
    executable = check(graph, {"batch": 2, "length": 60})
    assert is_strassen(executable)
    for batch, length in ((1, 7), (3, 33), (5, 101)):
        compare(executable, graph, {"batch": batch, "length": length})


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.usefixtures("wherever_it_can")
def test_convolutions_of_one_position(strides: tuple[int, int]) -> None:
    b = Builder()
    x = b.input("x", f32, (2, 15, 13, 128))
    w = b.constant(weights(1, 1, 128, 192))
    form = {"padding": (0, 0, 0, 0), "dilation": (1, 1), "layout": "channels_last", "kernel_layout": "io"}
    y = b.op("conv", x, w, strides=strides, **form)
    assert is_strassen(check(b.returns(*finished(b, y, "residual"))))


@pytest.mark.usefixtures("wherever_it_can")
def test_batched_weights() -> None:
    b = Builder()
    x, w = b.input("x", f32, (3, 52, 64)), b.constant(weights(3, 64, 128))
    assert is_strassen(check(b.returns(b.op("matmul", x, w))))


@pytest.mark.usefixtures("wherever_it_can")
def test_threads_compute_the_same_bits() -> None:
    graph = dense(300, 256, 640)
    x = weights(300, 256)
    one, two = (graphc.compile(graph, threads=n, cache=False)(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("wherever_it_can")
def test_what_has_not_the_form_stays_direct() -> None:
    assert is_strassen(check(dense(64, 96, 128)))
    assert not is_strassen(check(dense(64, 96, 128), numerics="strict"))
    assert not is_strassen(check(dense(9, 96, 128)))
    assert not is_strassen(check(dense(64, 95, 128)))
    assert not is_strassen(check(dense(64, 96, 8)))
    b = Builder()
    product = b.op("matmul", b.input("x", f32, (64, 96)), b.input("y", f32, (96, 128)))
    assert not is_strassen(check(b.returns(product)))
    b = Builder()
    double = b.op("matmul", b.input("x", f64, (64, 96)), b.constant(weights(96, 128).astype(np.float64)))
    executable = graphc.compile(b.returns(double), cache=False)
    assert not is_strassen(executable)


def test_the_error_is_of_the_largest_value_nearby() -> None:
    """As `fast` allows: rows of other magnitudes lose digits, by no more than the bound of the largest."""
    graph = dense(128, 3072, 768, "none")
    x = weights(128, 3072)
    x[::2] *= 100
    (seen,) = graphc.compile(graph).run(None, {"x": x})
    (want,) = interpret(widen(graph), [x.astype(np.float64)])
    assert np.abs(seen - want).max() <= TOLERANCE * np.abs(want).max()


def test_the_model_prefers_it_where_products_count() -> None:
    def pays(rows: int, terms: int, panels: int) -> bool:
        direct, seven = cycles(rows, terms // 2, 128, panels // 2, (6, 4), 16)
        return seven < MARGIN * direct

    assert pays(128, 768, 12)
    assert pays(197, 3072, 12)
    assert not pays(24, 768, 12)  # what is made of the weights serves few rows
    assert not pays(196, 128, 8)  # sums begin and end too often
    assert not pays(196, 512, 2)  # what is made of the rows serves few columns
