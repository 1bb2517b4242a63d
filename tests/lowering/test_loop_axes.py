"""Axes are split where indices divide them and merged where memory is contiguous."""

from __future__ import annotations

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, i64
from graphc.lowering.loop_body import LoopBody
from graphc.lowering.lower import lower

N, S = symbol("n"), symbol("s")


def loops(b: Builder, *outputs: Value, kind: str = "loop") -> list[str]:
    """The lines of the body between the braces."""
    return [line.strip() for line in str(lower(b.returns(*outputs), kind)).splitlines()[1:-1]]


def test_elementwise_work_is_one_loop():
    b = Builder()
    x = b.input("x", f32, (N, S, 3))
    assert loops(b, b.op("exp", x)) == [
        "for i0 in 3*n*s parallel {", "v0: f32 = load %0[i0]", "v1: f32 = exp.f32 v0", "store %1[i0] = v1", "}",
    ]  # fmt: skip


def test_a_broadcast_keeps_its_axis_apart():
    b = Builder()
    x, c = b.input("x", f32, (N, S, 3)), b.input("c", f32, (3,))
    assert (
        loops(b, b.op("add", x, b.broadcast(c, x.type.shape, [2])))[0] == "for i0 in n*s parallel, i1 in 3 parallel {"
    )


def test_a_transpose_keeps_axes_that_move_together():
    b = Builder()
    x = b.input("x", f32, (N, 2, 3, 4))
    assert loops(b, b.transpose(x, (0, 2, 3, 1)))[:2] == [
        "for i0 in n parallel, i1 in 12 parallel, i2 in 2 parallel {", "v0: f32 = load %0[i0, i2, i1]",
    ]  # fmt: skip


def test_a_slice_of_rows_is_contiguous_and_one_of_columns_isnt():
    b = Builder()
    x = b.input("x", f32, (8, 6))
    rows = b.op("slice", x, starts=(2, 0), limits=(7, 6), strides=(1, 1))
    assert loops(b, rows)[:2] == ["for i0 in 30 parallel {", "v0: f32 = load %0[i0 + 12]"]
    b = Builder()
    x = b.input("x", f32, (8, 6))
    columns = b.op("slice", x, starts=(0, 1), limits=(8, 5), strides=(1, 1))
    assert loops(b, columns)[:2] == ["for i0 in 8 parallel, i1 in 4 parallel {", "v0: f32 = load %0[i0, i1 + 1]"]


def test_reductions_over_neighbours_are_one():
    b = Builder()
    x = b.input("x", f32, (N, 4, 5, 6))
    assert loops(b, b.op("reduce_sum", x, axes=(2, 3)))[0] == "for i0 in 4*n parallel, i1 in 30 reduction {"


def test_indices_that_divide_split_their_axis():
    b = Builder()
    x = b.input("x", f32, (N, 12))
    assert loops(b, b.transpose(b.reshape(x, (N, 3, 4)), (0, 2, 1)))[:2] == [
        "for i0 in n parallel, i1 in 4 parallel, i2 in 3 parallel {", "v0: f32 = load %0[i0, i1 + 4*i2]",
    ]  # fmt: skip


def test_an_axis_that_isnt_a_multiple_stays_whole():
    b = Builder()
    x = b.input("x", f32, (7,))
    doubled = b.reshape(b.broadcast(x, (7, 2), (0,)), (14,))
    odd = b.op("slice", doubled, starts=(1,), limits=(14,), strides=(1,))
    assert "//2" in loops(b, odd)[1]


def test_gathered_axes_stay_apart():
    b = Builder()
    x, i = b.input("x", f32, (9, 4)), b.input("i", i64, (N,))
    assert loops(b, b.op("gather", x, i, axis=0))[2] == "v1: f32 = load %0[v0, i1] checked [0]"


def test_rank_0_has_no_axes():
    b = Builder()
    x = b.input("x", f32, ())
    assert loops(b, b.op("exp", x)) == ["{", "v0: f32 = load %0[]", "v1: f32 = exp.f32 v0", "store %1[] = v1", "}"]


def test_equal_work_has_an_equal_key_whatever_its_names():
    keys = set()
    for names in (("x", "y", "one"), ("a", "b", "two")):
        b = Builder(origin=(names[2],))
        x, y = b.input(names[0], f32, (N, 4)), b.input(names[1], f32, (N, 4))
        body = lower(b.returns(b.op("add", x, y, name=names[2])), "loop", names[2])
        assert isinstance(body, LoopBody)
        keys.add(body.key())
    assert len(keys) == 1
