"""Which loop bodies are matrix products, and along which axes."""

import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import f32, f64, i32
from graphc.lowering.loop_body import LoopBody
from graphc.lowering.lower import lower
from graphc_llvm.contraction import Contraction, even_height, match, panel_widths, tile_height
from graphc_llvm.target import NAMED_TARGETS

AVX512, AVX2 = NAMED_TARGETS["x86-64-v4"], NAMED_TARGETS["x86-64-v3"]
N = symbol("n", 1)


def matched(*outputs: Value) -> Contraction | None:
    b = Builder(_graph(outputs[0]))
    body = lower(b.returns(*outputs))
    assert isinstance(body, LoopBody)
    return match(body, AVX512)


def times(b: Builder, x: Value, w: Value) -> Value:
    """x @ w, batched along the axes before the last two."""
    n = x.type.rank
    batch = tuple(range(n - 2))
    return b.op("dot", x, w, lhs_batch=batch, rhs_batch=batch, lhs_contract=(n - 1,), rhs_contract=(n - 2,))


def _graph(v: Value) -> Graph:
    assert v.producer is not None and v.producer.graph is not None
    return v.producer.graph


def extents(c: Contraction) -> dict[str, object]:
    return {
        "batch": [a.extent for a in c.batch], "rows": [a.extent for a in c.rows], "column": c.column.extent,
        "taps": [a.extent for a in c.taps], "inner": c.inner.extent,
    }  # fmt: skip


def test_a_matrix_product() -> None:
    b = Builder()
    c = matched(times(b, b.input("x", f32, (5, 7)), b.input("w", f32, (7, 40))))
    assert c is not None
    assert extents(c) == {"batch": [], "rows": [5], "column": 40, "taps": [], "inner": 7}
    assert c.flops == 2 * 5 * 7 * 40
    assert (c.a_address.of(c.rows[0].name), c.a_address.of(c.inner.name)) == (7, 1)
    assert (c.b_address.of("panel"), c.b_address.of("lane"), c.b_address.of(c.inner.name)) == (c.width, 1, 40)
    assert c.panels == -(-40 // c.width)


def test_the_operands_may_be_the_other_way_round() -> None:
    """The column is an axis along which one of them is dense, and on which the other doesn't depend."""
    b = Builder()
    x, y = b.input("x", f32, (7, 5)), b.input("y", f32, (7, 40))
    c = matched(b.op("dot", x, y, lhs_contract=(0,), rhs_contract=(0,)))
    assert c is not None
    assert c.column.extent == 40
    assert c.a_address.of(c.inner.name) == 5


def test_a_batched_product() -> None:
    b = Builder()
    c = matched(times(b, b.input("x", f32, (3, N, 8)), b.input("y", f32, (3, 8, 16))))
    assert c is not None
    assert extents(c) == {"batch": [3], "rows": [N], "column": 16, "taps": [], "inner": 8}


def convolution(
    channels: int, outputs: int, padding: int, groups: int = 1, layout: str = "channels_last"
) -> Contraction | None:
    b = Builder()
    last = layout == "channels_last"
    x = b.input("x", f32, (2, 9, 9, channels) if last else (2, channels, 9, 9))
    w = b.input("w", f32, (3, 3, channels // groups, outputs))
    form = {"strides": (1, 1), "padding": (padding,) * 4, "dilation": (1, 1), "groups": groups}
    return matched(b.op("conv", x, w, layout=layout, kernel_layout="io", **form))


def test_a_convolution_walks_its_taps_outside_of_the_channels() -> None:
    c = convolution(6, 32, padding=1)
    assert c is not None
    assert extents(c) == {"batch": [], "rows": [2, 9, 9], "column": 32, "taps": [3, 3], "inner": 6}
    assert c.a.predicate


def test_groups_are_batches() -> None:
    c = convolution(6, 48, padding=1, groups=3)
    assert c is not None
    assert extents(c) == {"batch": [3], "rows": [2, 9, 9], "column": 16, "taps": [3, 3], "inner": 2}


def test_channels_first_has_no_dense_column() -> None:
    assert convolution(6, 32, padding=1, layout="channels_first") is None


def test_what_is_no_product_of_two_loads() -> None:
    b = Builder()
    x, y = b.input("x", f32, (5, 7)), b.input("y", f32, (5, 7))
    assert matched(b.op("reduce_sum", x, axes=(1,))) is None
    b = Builder()
    x, y = b.input("x", f32, (5, 7)), b.input("y", f32, (5, 7))
    assert matched(b.op("reduce_max", b.op("mul", x, y), axes=(1,))) is None
    b = Builder()
    x, w = b.input("x", i32, (5, 7)), b.input("w", i32, (7, 40))
    assert matched(times(b, x, w)) is None


@pytest.mark.parametrize(("m", "k", "n"), [(0, 7, 16), (5, 0, 16), (5, 7, 0), (5, symbol("k", 0), 16)])
def test_what_may_be_empty_is_left_to_the_nest(m: Dim, k: Dim, n: Dim) -> None:
    b = Builder()
    assert matched(times(b, b.input("x", f32, (m, k)), b.input("w", f32, (k, n)))) is None


def test_an_epilogue_that_is_not_dense_along_the_column() -> None:
    b = Builder()
    y = times(b, b.input("x", f32, (16, 7)), b.input("w", f32, (7, 16)))
    z = b.input("z", f32, (16, 16))
    assert matched(b.op("add", y, z)) is not None
    b = Builder()
    y = times(b, b.input("x", f32, (16, 7)), b.input("w", f32, (7, 16)))
    assert matched(b.op("add", y, b.transpose(b.input("z", f32, (16, 16)), (1, 0)))) is None


def test_panels_are_whole_vectors_and_waste_little() -> None:
    for target in (AVX512, AVX2):
        for dtype in (f32, f64):
            lanes = target.lanes(dtype.bytes)
            for columns in range(1, 300):
                widths = panel_widths(columns, 100, dtype, target)
                assert all(w % lanes == 0 for w in widths)
                assert len(set(widths)) == len(widths)
                padded = [-(-columns // w) * w for w in widths]
                assert padded[0] <= columns + 4 * lanes
    assert panel_widths(64, 100, f32, AVX512)[0] == 64
    assert panel_widths(16, 100, f32, AVX512)[0] == 16
    assert panel_widths(0, 100, f32, AVX512)
    assert panel_widths(N, 100, f32, AVX512)[0] == 64


def test_accumulators_fit_into_the_registers() -> None:
    for target, registers in ((AVX512, 32), (AVX2, 16)):
        for vectors in (1, 2, 3, 4) if target is AVX512 else (1, 2, 3):
            height = tile_height(N, vectors, target)
            assert height * vectors + vectors + 1 <= registers
            assert tile_height(1, vectors, target) == 1


def test_a_lower_tile_where_a_single_row_would_be_left() -> None:
    assert even_height(48, 4, AVX512) == 6
    assert even_height(49, 4, AVX512) == 5  # 9 tiles and 4 rows instead of 8 and 1, which takes as long as 2
    assert even_height(7, 4, AVX512) == 5
    assert even_height(N, 4, AVX512) == tile_height(N, 4, AVX512)
    for target in (AVX512, AVX2):
        for vectors in (1, 2, 3):
            for rows in range(1, 100):
                assert 1 <= even_height(rows, vectors, target) <= tile_height(rows, vectors, target)
