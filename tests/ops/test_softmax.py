"""Softmax against PyTorch's, in value, gradient and at infinities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import Inference
from graphc.ir.text import print_graph
from graphc.ir.types import dtype_of, f32, tensor
from graphc.ops import find_operator


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_equals_torch(name: str, axis: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(3, 4, 5)).astype(dtype) * scale for scale in (10, 1))
    b = Builder()
    operand, cotangent = b.input("x", dtype_of(x), x.shape), b.input("g", dtype_of(x), x.shape)
    node = b.emit(name, [operand], axis=axis)
    seen = interpret(b.returns(node.result, *find_operator(name).vjp(b, node, [cotangent])), [x, g])
    t = torch.from_numpy(x).requires_grad_()
    y = getattr(torch, name)(t, axis)
    (gradient,) = torch.autograd.grad(y, t, torch.from_numpy(g))
    for s, e in zip(seen, (y.detach(), gradient), strict=True):
        np.testing.assert_allclose(s, e.numpy(), rtol=0, atol=5e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_infinities_are_those_of_torch(name: str) -> None:
    x = np.array([[0, -np.inf, 1], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1]], np.float32)
    b = Builder()
    operand = b.input("x", f32, x.shape)
    (seen,) = interpret(b.returns(b.op(name, operand, axis=1)), [x])
    np.testing.assert_allclose(seen, getattr(torch, name)(torch.from_numpy(x), 1).numpy(), rtol=1e-6)


SOFTMAX = """\
graph @main(%x: f32[2,3]) {
  %reduce_max: f32[2] = reduce_max(%x) {axes=[1]}
  %broadcast: f32[2,3] = broadcast(%reduce_max) {shape=[2, 3], axes=[0]}
  %sub: f32[2,3] = sub(%x, %broadcast)
  %exp: f32[2,3] = exp(%sub)
  %reduce_sum: f32[2] = reduce_sum(%exp) {axes=[1]}
  %broadcast_1: f32[2,3] = broadcast(%reduce_sum) {shape=[2, 3], axes=[0]}
  %div: f32[2,3] = div(%exp, %broadcast_1)
  return %div
}
"""


def test_decomposes_to_maximum_exp_and_sum() -> None:
    b = Builder()
    node = b.emit("softmax", [b.input("x", f32, (2, 3))], axis=1)
    b.graph.set_outputs(node.op.decompose(b, node))
    b.graph.erase(node)
    assert print_graph(b.graph) == SOFTMAX


def test_refuses_an_axis_out_of_range() -> None:
    with pytest.raises(ShapeError, match="out of range"):
        find_operator("softmax").infer(Inference(), [tensor(f32, 2, 3)], {"axis": 2})
