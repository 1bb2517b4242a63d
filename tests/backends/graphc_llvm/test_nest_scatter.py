"""Nests that run in order or meet faults: scatters with repeated targets, indices and divisors that have no meaning."""

import numpy as np
import pytest

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.symbolic import symbol
from graphc.ir.types import DTYPES, dtype_of, f32
from graphc.lowering.lower import lower
from graphc.lowering.status import Status


def graph_of(op, arrays, **attributes):
    b = Builder()
    return b.returns(*b.ops(op, *(b.input("x", dtype_of(x), x.shape) for x in arrays), **attributes))


@pytest.fixture
def run(nest_kernel):
    """(status, result, what the interpreter says)."""

    def run(op, arrays, target=None, **attributes):
        graph = graph_of(op, arrays, **attributes)
        (out,) = [np.full(v.type.shape, 77).astype(v.type.dtype.numpy) for v in graph.outputs]
        return nest_kernel(lower(graph), target)(arrays, [out]), out, interpret(graph, arrays)[0]

    return run


@pytest.mark.parametrize("combine", ["set", "sum", "prod", "max", "min"])
@pytest.mark.parametrize("columns", [1, 5, 40])
@pytest.mark.parametrize("dtype", ["f32", "i64", "bf16"])
def test_rows_scattered_to_repeated_targets(run, combine, columns, dtype, target):
    rng = np.random.default_rng(0)
    x, updates = (rng.integers(-3, 4, (rows, columns)).astype(DTYPES[dtype].numpy) for rows in (6, 9))
    indices = np.array([[0], [5], [0], [3], [3], [3], [1], [0], [5]], np.int64)
    status, out, want = run("scatter_nd", [x, indices, updates], target, combine=combine)
    assert status == Status.OK
    np.testing.assert_array_equal(out.astype(np.float64), want.astype(np.float64))


def test_indices_out_of_bounds(nest_kernel):
    x, updates = np.zeros((6, 20), np.float32), np.ones((2, 20), np.float32)
    kernel = nest_kernel(lower(graph_of("scatter_nd", [x, np.array([[0], [5]]), updates], combine="sum")))
    for bad in (-1, 6, 2**40):
        out = np.zeros_like(x)
        assert kernel([x, np.array([[0], [bad]]), updates], [out]) == Status.BAD_INDEX


@pytest.mark.parametrize("dtype", ["i8", "i32", "i64", "u16"])
@pytest.mark.parametrize("op", ["div", "rem", "mod"])
def test_division_faults_where_there_is_an_element_only(run, nest_kernel, op, dtype, target):
    x = np.arange(1, 38).astype(DTYPES[dtype].numpy)
    y = np.full_like(x, 3)
    status, out, want = run(op, [x, y], target)  # the last vector is partial: its other lanes divide nothing
    assert status == Status.OK
    np.testing.assert_array_equal(out, want)
    kernel = nest_kernel(lower(graph_of(op, [x, y])), target)
    for at in (0, 20, 36):
        bad = y.copy()
        bad[at] = 0
        assert kernel([x, bad], [out]) == Status.INTEGER_DIVISION


def test_an_extreme_of_nothing(nest_kernel):
    b = Builder()
    graph = b.returns(b.op("reduce_max", b.input("x", f32, (3, symbol("n", 0))), axes=(1,)))
    kernel = nest_kernel(lower(graph))
    out = np.zeros(3, np.float32)
    assert kernel([np.zeros((3, 0), np.float32)], [out], {"n": 0}) == Status.NO_ELEMENTS
    assert kernel([np.ones((3, 2), np.float32)], [out], {"n": 2}) == Status.OK
