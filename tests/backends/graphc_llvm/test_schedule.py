"""How nests are run: merged axes, the vector, register blocks, work items."""

import pytest

from graphc.ir.builder import Builder
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32
from graphc.lowering.lower import lower
from graphc_llvm.flat_body import flatten
from graphc_llvm.nest import flops, scratch_bytes, work_items
from graphc_llvm.schedule import schedule
from graphc_llvm.target import NAMED_TARGETS

TARGET = NAMED_TARGETS["x86-64-v4"]


def lowered(make, *shapes, kind="loop"):
    b = Builder()
    return lower(b.returns(make(b, *(b.input("x", f32, s) for s in shapes))), kind)


def planned(make, *shapes):
    flat = flatten(lowered(make, *shapes))
    return flat, schedule(flat, TARGET)


def depthwise(b, x, w):
    return b.op("conv", x, w, strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=x.type.shape[-1],
                layout="channels_last", kernel_layout="io")  # fmt: skip


def dot(b, x, y):
    return b.op("dot", x, y, lhs_batch=(), rhs_batch=(), lhs_contract=(1,), rhs_contract=(0,))


def test_dense_elementwise_nests_have_one_axis():
    n = symbol("n")
    flat, s = planned(lambda b, x, y: b.op("add", x, y), (n, 7, 7, 3), (n, 7, 7, 3))
    assert [a.extent for a in flat.axes] == [147 * n]
    assert s.vector is flat.axes[0] and s.lanes == 16 and s.unroll == 4
    assert s.chunk is not None, "a dynamic axis is cut into work items"


def test_axes_merge_around_a_broadcast():
    flat, s = planned(lambda b, x, w: b.op("add", x, b.broadcast(w, x.type.shape, (3,))), (2, 5, 6, 64), (64,))
    assert [a.extent for a in flat.axes] == [60, 64]
    assert s.vector is flat.axes[1]


@pytest.mark.parametrize("axis, lanes_reduce", [(1, True), (0, False)])
def test_the_contiguous_axis_is_the_vector(axis, lanes_reduce):
    _, s = planned(lambda b, x: b.op("reduce_sum", x, axes=(axis,)), (300, 300))
    assert s.vector is not None and s.reduces_lanes == lanes_reduce and s.unroll == 4


def test_few_lanes_for_a_short_axis():
    _, s = planned(lambda b, x, w: b.op("add", x, b.broadcast(w, x.type.shape, (1,))), (50, 3, 1), (3,))
    assert s.lanes == 4


def test_depthwise_keeps_a_block_of_positions_in_registers():
    _, s = planned(depthwise, (1, 56, 56, 64), (3, 3, 1, 64))
    assert s.vector is not None and s.vector.extent == 64
    assert s.block is not None and s.block.extent == 56 and s.block_size == 8
    assert [a.extent for a in s.unrolled] == [3] and [a.extent for a in s.reduction] == [3]


def test_products_of_matrices_are_blocked_both_ways():
    _, s = planned(dot, (128, 768), (768, 768))
    assert s.unroll == 4 and s.block_size >= 4 and s.block_outer
    assert [a.extent for a in s.reduction] == [768]


def test_transposes_are_blocked_by_a_vector():
    _, s = planned(lambda b, x: b.transpose(x, (1, 0)), (100, 200))
    assert s.transposes and s.block_size == s.lanes


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_few_vectors_are_stored_interleaved(count):
    flat, s = planned(lambda b, x: b.transpose(x, (1, 2, 0)), (count, 8, 100))
    assert s.vector is not None and s.vector.extent == 800 and s.lanes == 16
    assert s.block is flat.axes[1] and s.block_size == count and not s.transposes


def test_sizes_of_a_tile():
    def softmax(b, x):
        e = b.op("exp", b.op("sub", x, b.reduce("reduce_max", x, (1,), keep=True)))
        return b.op("div", e, b.reduce("reduce_sum", e, (1,), keep=True))

    body = lowered(softmax, (40, 100), kind="tile")
    assert work_items(body, TARGET) == 40
    assert scratch_bytes(body) % 64 == 0 and scratch_bytes(body) >= 400
    assert flops(body) >= 4 * 40 * 100
