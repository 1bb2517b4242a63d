"""sort and top_k against PyTorch's stable sort."""

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import minimum, symbol
from graphc.ir.types import dtype_of, f32

RNG = np.random.default_rng(0)


def run(op, x, **attributes):
    b = Builder(Graph())
    return interpret(b.returns(*b.ops(op, b.input("x", dtype_of(x), x.shape), **attributes)), [x])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_sort(axis, descending, dtype):
    x = RNG.integers(0, 4, (5, 7)).astype(dtype)
    expected = torch.sort(torch.from_numpy(x), dim=axis, descending=descending, stable=True)
    values, indices = run("sort", x, axis=axis, descending=descending)
    assert np.array_equal(values, expected.values)
    assert np.array_equal(indices, expected.indices)
    k = {"k": 3, "largest": descending}
    for seen, whole in zip(run("top_k", x, axis=axis, **k), expected, strict=True):
        assert np.array_equal(seen, whole.narrow(axis, 0, 3))


def test_nan_is_the_greatest():
    x = np.array([np.nan, 1, np.inf, np.nan, -np.inf])
    values, indices = run("sort", x, axis=0)
    assert indices.tolist() == [4, 1, 2, 0, 3]
    np.testing.assert_array_equal(values, [-np.inf, 1, np.inf, np.nan, np.nan])
    assert run("sort", x, axis=0, descending=True)[1].tolist() == [0, 3, 2, 1, 4]
    assert run("top_k", x, axis=0, k=3)[1].tolist() == [0, 3, 2]
    assert run("top_k", x, axis=0, k=2, largest=False)[1].tolist() == [4, 1]


def test_symbolic_k():
    n = symbol("n")
    b = Builder(Graph())
    graph = b.returns(*b.ops("top_k", b.input("x", f32, (n,)), axis=0, k=minimum(n, 2)))
    assert graph.guards == []
    assert interpret(graph, [np.array([3, 1, 2], np.float32)])[0].tolist() == [3, 2]
    assert interpret(graph, [np.array([3], np.float32)])[0].tolist() == [3]


def test_refusals():
    with pytest.raises(ShapeError, match="k out of range"):
        run("top_k", np.zeros(3), axis=0, k=4)
    with pytest.raises(ShapeError, match="axis out of range"):
        run("sort", np.zeros(3), axis=1)
    with pytest.raises(ShapeError, match="element type"):
        run("sort", np.array([True]), axis=0)
