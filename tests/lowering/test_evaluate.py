"""What bodies mean, by bodies written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import NumericError
from graphc.ir.symbolic import minimum, symbol
from graphc.ir.types import TensorType, f32, i64
from graphc.lowering.evaluate import evaluate
from graphc.lowering.loop_body import Apply, Axis, Buffer, Index, Load, LoopBody, Range, Reduce, Store, TileBody

N = symbol("n")
I0, I1, I2 = (symbol(f"i{k}", 0) for k in range(3))


def buffer(name: str, access, *shape, dtype=f32) -> Buffer:
    return Buffer(name, TensorType(dtype, shape), access)


def body(buffers, axes, *statements, sequential=False) -> LoopBody:
    return LoopBody("hand", tuple(buffers), tuple(axes), statements, sequential)


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_load_whose_predicate_fails_touches_no_memory():
    shifted = body(
        (buffer("0", "in", N), buffer("1", "out", N)), (Axis("i0", N),),
        Load("v0", f32, "0", (I0 - 1,), (Range(I0 - 1, 0, N),), 9.0), Store("1", (I0,), "v0"),
    )  # fmt: skip
    out = np.zeros(4, np.float32)
    evaluate(shifted, [X[1], out], {"n": 4})
    np.testing.assert_array_equal(out, [9, 4, 5, 6])


def test_an_access_outside_of_its_buffer_is_an_error():
    wrong = body(
        (buffer("0", "in", N), buffer("1", "out", N)), (Axis("i0", N),),
        Load("v0", f32, "0", (I0 + 1,)), Store("1", (I0,), "v0"),
    )  # fmt: skip
    with pytest.raises(IndexError):
        evaluate(wrong, [X[0], np.zeros(4, np.float32)], {"n": 4})


def test_reductions_are_complete_before_what_follows():
    mean = body(
        (buffer("0", "in", 3, 4), buffer("1", "out", 3)), (Axis("i0", 3), Axis("i1", 4, "reduction")),
        Load("v0", f32, "0", (I0, I1)), Reduce("v1", f32, "sum", "v0"), Apply("v2", f32, "div", ("v1", 4.0), f32),
        Store("1", (I0,), "v2"),
    )  # fmt: skip
    out = np.zeros(3, np.float32)
    evaluate(mean, [X, out], {})
    np.testing.assert_array_equal(out, X.mean(1))


def test_the_position_of_an_extreme_is_row_major_and_counts_what_takes_part():
    found = body(
        (buffer("0", "in", 3, 4), buffer("1", "out", 2, dtype=i64)),
        (Axis("i0", 2), Axis("i1", 3, "reduction"), Axis("i2", 4, "reduction")),
        Load("v0", f32, "0", (I1, I2)), Reduce("v1", i64, "argmax", "v0", (Range(I1, 0, 2 * I0),)), Store("1", (I0,), "v1"),
    )  # fmt: skip
    out = np.zeros(2, np.int64)
    evaluate(found, [X, out], {})
    np.testing.assert_array_equal(out, [-1, 7])


def test_a_scan_reduces_up_to_here():
    running = body(
        (buffer("0", "in", 3, 4), buffer("1", "out", 3, 4)), (Axis("i0", 4), Axis("i1", 3, "scan")),
        Load("v0", f32, "0", (I1, I0)), Reduce("v1", f32, "sum", "v0"), Store("1", (I1, I0), "v1"),
    )  # fmt: skip
    out = np.zeros((3, 4), np.float32)
    evaluate(running, [X, out], {})
    np.testing.assert_array_equal(out, X.cumsum(0))


def test_a_sequential_nest_stores_in_order():
    scatter = body(
        (buffer("0", "in", 4, dtype=i64), buffer("1", "out", 3, dtype=i64)), (Axis("i0", 4),),
        Load("v0", i64, "0", (I0,)), Index("v1", i64, I0), Store("1", (symbol("v0", 0),), "v1", checked=(0,)),
        sequential=True,
    )  # fmt: skip
    out = np.full(3, 7)
    evaluate(scatter, [np.array([2, 0, 2, 0]), out], {})
    np.testing.assert_array_equal(out, [3, 7, 2])
    with pytest.raises(NumericError):
        evaluate(scatter, [np.array([2, 3, 2, 0]), out], {})


def test_a_tile_has_scratch_and_a_last_partial_tile():
    """Rows are taken two at a time; the second tile of three rows has one."""
    rows = minimum(2, 3 - 2 * I0)
    first = body((), (Axis("i1", rows), Axis("i2", 4, "reduction")),
                 Load("v0", f32, "0", (2 * I0 + I1, I2)), Reduce("v1", f32, "max", "v0"), Store("2", (I1,), "v1"))  # fmt: skip
    second = body((), (Axis("i1", rows), Axis("i2", 4)),
                  Load("v0", f32, "0", (2 * I0 + I1, I2)), Load("v1", f32, "2", (I1,)),
                  Apply("v2", f32, "sub", ("v0", "v1"), f32), Store("1", (2 * I0 + I1, I2), "v2"))  # fmt: skip
    buffers = (buffer("0", "in", 3, 4), buffer("1", "out", 3, 4), buffer("2", "scratch", 2))
    out = np.zeros((3, 4), np.float32)
    evaluate(TileBody("hand", buffers, (Axis("i0", 2),), (first, second)), [X, out], {})
    np.testing.assert_array_equal(out, X - X.max(1, keepdims=True))
