"""Gathers and scatters against PyTorch, and gradients where updates meet."""

import numpy as np
import pytest
import torch

from graphc.errors import NumericError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import dtype_of, f64

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 3))
REDUCE = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin"}


def run(op, *operands, **attributes):
    b = Builder(Graph())
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(operands)]
    (y,) = interpret(b.returns(b.op(op, *values, **attributes)), operands)
    return y


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_gather(axis, shape):
    indices = RNG.integers(0, X.shape[axis], shape)
    expected = torch.index_select(torch.from_numpy(X), axis, torch.from_numpy(indices.reshape(-1)))
    expected = expected.reshape(*X.shape[:axis], *shape, *X.shape[axis + 1 :])
    np.testing.assert_array_equal(run("gather", X, indices, axis=axis), expected)
    np.testing.assert_array_equal(run("gather", X, indices.astype(np.int32), axis=axis), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_take_and_scatter_along(axis):
    indices = RNG.integers(0, X.shape[axis], (3, 4, 2))
    updates = RNG.normal(size=indices.shape)
    x, i, u = map(torch.from_numpy, (X, indices, updates))
    np.testing.assert_array_equal(run("take_along", X, indices, axis=axis), torch.gather(x, axis, i))
    for combine, reduce in REDUCE.items():
        seen = run("scatter_along", X, indices, updates, axis=axis, combine=combine)
        np.testing.assert_allclose(seen, x.scatter_reduce(axis, i, u, reduce), rtol=1e-12)


def test_the_last_of_several_updates_is_kept():
    x, indices, updates = np.zeros(3), np.array([1, 1, 0]), np.array([1.0, 2.0, 3.0])
    assert run("scatter_along", x, indices, updates, axis=0).tolist() == [3, 2, 0]
    assert run("scatter_nd", x, indices[:, None], updates).tolist() == [3, 2, 0]


def test_gather_and_scatter_nd():
    indices = np.array([[0, 4], [3, 1], [0, 4]])
    np.testing.assert_array_equal(run("gather_nd", X, indices), X[indices[:, 0], indices[:, 1]])
    updates = RNG.normal(size=(3, 3))
    expected = X.copy()
    for i, u in zip(indices, updates, strict=True):
        expected[tuple(i)] += u
    np.testing.assert_allclose(run("scatter_nd", X, indices, updates, combine="sum"), expected)
    batched = run("gather_nd", X, np.array([[1], [0], [4], [2]]), batch_dims=1)
    np.testing.assert_array_equal(batched, X[np.arange(4), [1, 0, 4, 2]])


@pytest.mark.parametrize("index", [-1, 4, -(2**63), 2**62])
def test_bad_indices_raise(index):
    for op, indices, attributes in (
        ("gather", np.array([0, index]), {"axis": 0}),
        ("take_along", np.full((1, 5, 3), index), {"axis": 0}),
        ("gather_nd", np.array([[0, 0], [index, 0]]), {}),
    ):
        with pytest.raises(NumericError, match="index into axis 0 out of range") as e:
            run(op, X, indices, **attributes)
        assert e.value.expected == "0 <= index < 4"


def test_refusals():
    floats, indices = np.zeros(3), np.zeros(3, np.int64)
    with pytest.raises(ShapeError, match="element type of indices"):
        run("gather", X, floats, axis=0)
    with pytest.raises(ShapeError, match="axis out of range"):
        run("gather", X, indices, axis=3)
    with pytest.raises(ShapeError, match="rank of x"):
        run("take_along", X, indices, axis=0)
    with pytest.raises(ShapeError, match="number of axes indexed"):
        run("gather_nd", X, np.zeros((2, 4), np.int64))
    with pytest.raises(ShapeError, match="unknown combine"):
        run("scatter_along", floats, indices, floats, axis=0, combine="mean")
    with pytest.raises(ShapeError, match="same shape"):
        run("scatter_along", floats, indices, np.zeros((3, 1)), axis=0)
    with pytest.raises(ShapeError, match="one element type"):
        run("scatter_along", floats, indices, np.zeros(3, np.float32), axis=0)


@pytest.mark.parametrize("combine", ["sum", "prod", "max", "min"])
def test_gradients_where_updates_meet(combine):
    """Several updates of one element, with ties and zeros; PyTorch's scatter_reduce is the judge."""
    x = np.array([[1.0, 2.0, 0.0], [4.0, 0.5, 6.0]])
    indices = np.array([[0, 0, 2], [2, 1, 2]])
    updates = (
        np.array([[1.0, 3.0, 0.0], [0.0, 0.5, 7.0]]) if combine == "prod" else np.array([[1.0, 3, -2], [9, 0.5, 9]])
    )
    b = Builder(Graph())
    operands = [b.input("x", f64, x.shape), b.input("i", dtype_of(indices), indices.shape), b.input("u", f64, x.shape)]
    node = b.emit("scatter_along", operands, axis=1, combine=combine)
    g = b.input("g", f64, x.shape)
    dx, _, du = node.op.vjp(b, node, [g])
    weights = RNG.normal(size=x.shape)
    seen = interpret(b.returns(dx, du), [x, indices, updates, weights])
    tx, tu = (torch.from_numpy(a).requires_grad_() for a in (x, updates))
    tx.scatter_reduce(1, torch.from_numpy(indices), tu, REDUCE[combine]).backward(torch.from_numpy(weights))
    np.testing.assert_allclose(seen[0], tx.grad, rtol=1e-12)
    np.testing.assert_allclose(seen[1], tu.grad, rtol=1e-12)
