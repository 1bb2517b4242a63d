"""Reductions, positions and running sums against PyTorch."""

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import bf16, dtype_of, f32


def run(op, x, **attributes):
    b = Builder(Graph())
    (y,) = interpret(b.returns(b.op(op, b.input("x", dtype_of(x), x.shape), **attributes)), [x])
    return y


RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_reductions(axes):
    t = torch.from_numpy(X)
    np.testing.assert_allclose(run("reduce_sum", X, axes=axes), t.double().sum(axes).float(), rtol=1e-6)
    np.testing.assert_array_equal(run("reduce_max", X, axes=axes), t.amax(axes))
    np.testing.assert_array_equal(run("reduce_min", X, axes=axes), t.amin(axes))
    np.testing.assert_allclose(run("reduce_prod", X, axes=axes), X.astype(np.float64).prod(axes), rtol=1e-6)


def test_identities_of_nothing():
    empty = np.zeros((0, 3), np.float32)
    assert run("reduce_sum", empty, axes=(0,)).tolist() == [0, 0, 0]
    assert run("reduce_prod", empty, axes=(0,)).tolist() == [1, 1, 1]
    assert run("reduce_max", empty, axes=(1,)).shape == (0,)
    assert run("reduce_sum", X, axes=()).tolist() == X.tolist()


def test_nan_and_bool():
    x = np.array([[1, np.nan], [3, 4]], np.float32)
    np.testing.assert_array_equal(run("reduce_max", x, axes=(1,)), [np.nan, 4])
    np.testing.assert_array_equal(run("reduce_min", x, axes=(1,)), [np.nan, 3])
    flags = np.array([[True, False], [False, False], [True, True]])
    assert run("reduce_max", flags, axes=(1,)).tolist() == [True, False, True]
    assert run("reduce_min", flags, axes=(1,)).tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integer_sums_wrap(dtype):
    top = np.iinfo(dtype).max
    assert run("reduce_sum", np.array([top, 2], dtype), axes=(0,)) == np.iinfo(dtype).min + 1
    assert run("cumsum", np.array([top, 2, 1], dtype), axis=0).tolist()[1] == np.iinfo(dtype).min + 1


def test_small_floats_accumulate_beyond_their_own_precision():
    ones = np.ones(4096, np.float16)
    assert run("reduce_sum", ones, axes=(0,)) == 4096
    assert run("reduce_sum", ones.astype(bf16.numpy), axes=(0,)) == 4096
    assert run("reduce_sum", ones, axes=(0,)).dtype == np.float16


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions(axis):
    x = np.round(X * 2)  # with ties: the first of equals wins
    for op, select in (("argmax", np.argmax), ("argmin", np.argmin)):
        y = run(op, x, axis=axis)
        assert y.dtype == np.int64
        assert np.array_equal(y, select(x, axis))
    assert run("argmax", np.array([1, np.nan, np.nan, 2.0]), axis=0) == 1
    assert run("argmin", np.array([1, np.nan, np.nan, 2.0]), axis=0) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_running(axis):
    t = torch.from_numpy(X)
    for op, f in (("cumsum", torch.cumsum), ("cumprod", torch.cumprod)):
        forward, backward = f(t, axis), f(t.flip(axis), axis).flip(axis)
        np.testing.assert_allclose(run(op, X, axis=axis), forward, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(run(op, X, axis=axis, reverse=True), backward, rtol=2e-5, atol=1e-6)


def test_exclusive_running():
    x = np.array([2.0, 3.0, 5.0])
    assert run("cumsum", x, axis=0, exclusive=True).tolist() == [0, 2, 5]
    assert run("cumsum", x, axis=0, exclusive=True, reverse=True).tolist() == [8, 5, 0]
    assert run("cumprod", x, axis=0, exclusive=True).tolist() == [1, 2, 6]


def test_refusals():
    for op, x, attributes in (
        ("reduce_sum", X, {"axes": (3,)}),
        ("reduce_sum", X, {"axes": (1, 1)}),
        ("reduce_sum", X > 0, {"axes": (1,)}),
        ("argmax", X, {"axis": -1}),
        ("cumsum", np.float32(1), {"axis": 0}),
    ):
        with pytest.raises(ShapeError):
            run(op, np.asarray(x), **attributes)


@pytest.mark.parametrize("axes", [(1,), (0, 2)])
def test_gradients_at_ties_and_zeros(axes):
    """Where an extreme is shared, or factors are zero, PyTorch's amax and prod are the judges."""
    x = np.array([[[1.0, 3.0], [3.0, 0.0]], [[0.0, 0.0], [2.0, 2.0]]], np.float32)
    for op, f in (("reduce_max", torch.amax), ("reduce_min", torch.amin), ("reduce_prod", _prod)):
        b = Builder(Graph())
        node = b.emit(op, [b.input("x", f32, x.shape)], axes=axes)
        g = b.input("g", f32, node.result.type.shape)
        (dx,) = interpret(
            b.returns(*node.op.vjp(b, node, [g])), [x, weights := np.ones(g.type.concrete({}), np.float32)]
        )
        t = torch.from_numpy(x).requires_grad_()
        f(t, axes).backward(torch.from_numpy(weights))
        np.testing.assert_allclose(dx, t.grad, rtol=1e-6)


def _prod(t, axes):
    for axis in sorted(axes, reverse=True):
        t = t.prod(axis)
    return t
