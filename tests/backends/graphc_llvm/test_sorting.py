"""Sorting: as NumPy sorts, stable, NaN last (first when descending), along any axis."""

import numpy as np
import pytest

import graphc
from graphc.ir.builder import Builder
from graphc.ir.symbolic import symbol
from graphc.ir.types import DTYPES

INTEGERS = ("i8", "u8", "i32", "i64", "u64")
FLOATS = ("f16", "bf16", "f32", "f64")


def sorter(dtype: str, rank: int, axis: int, descending: bool) -> graphc.Executable:
    b = Builder()
    x = b.input("x", DTYPES[dtype], tuple(symbol(f"n{i}", 0) for i in range(rank)))
    return graphc.compile(b.returns(*b.ops("sort", x, axis=axis, descending=descending)), threads=2)


def check(executable: graphc.Executable, x: np.ndarray, axis: int, descending: bool) -> None:
    values, indices = executable(x)
    assert values.dtype == x.dtype and indices.dtype == np.int64
    wide = x.astype(np.float64) if x.dtype.kind in "fV" else x
    if descending:  # stable: of equal ones the first comes first, as in the reverse of a sort of the reverse
        order = np.flip(wide.shape[axis] - 1 - np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    np.testing.assert_array_equal(indices, order)
    sorted_bits = np.take_along_axis(x, order, axis).tobytes()
    assert values.tobytes() == sorted_bits


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_every_type(dtype: str, descending: bool) -> None:
    executable = sorter(dtype, 1, 0, descending)
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 3, 5, 8, 31, 64, 1000):
        if dtype in FLOATS:
            x = rng.choice([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 3.0], n).astype(DTYPES[dtype].numpy)
        else:
            info = np.iinfo(DTYPES[dtype].numpy)
            x = rng.choice(np.array([info.min, info.max, 0, 1, 2, info.max // 2 + 1], DTYPES[dtype].numpy), n)
        check(executable, x, 0, descending)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis(axis: int) -> None:
    executable = sorter("f32", 3, axis, False)
    rng = np.random.default_rng(axis)
    for shape in ((1, 1, 1), (3, 4, 5), (2, 1, 7), (17, 33, 2), (0, 3, 2), (3, 0, 2), (2, 3, 0)):
        check(executable, rng.integers(-3, 4, shape).astype(np.float32), axis, False)


def test_already_sorted_reversed_and_equal() -> None:
    executable = sorter("f32", 1, 0, False)
    for x in (np.arange(100), np.arange(100)[::-1], np.zeros(100), np.tile([1, 0], 50)):
        check(executable, x.astype(np.float32), 0, False)


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_is_the_head_of_a_sort(largest: bool) -> None:
    b = Builder()
    x = b.input("x", DTYPES["f32"], (4, 50))
    executable = graphc.compile(b.returns(*b.ops("top_k", x, axis=1, k=7, largest=largest)))
    array = np.random.default_rng(0).permutation(200).reshape(4, 50).astype(np.float32)
    values, indices = executable(array)
    order = np.argsort(-array if largest else array, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(array, order, 1))
