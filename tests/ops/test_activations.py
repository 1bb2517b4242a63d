"""Activations against PyTorch's, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import Inference
from graphc.ir.types import dtype_of, f32, i32, tensor
from graphc.ops import find_operator

CASES: list[tuple[str, dict, Callable]] = [
    ("relu", {}, F.relu),
    ("leaky_relu", {"alpha": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    ("softplus", {}, F.softplus),
    ("silu", {}, F.silu),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "attributes", "expected"), CASES)
def test_value_and_gradient_equal_torch(name: str, attributes: dict, expected: Callable, dtype: type) -> None:
    x = np.linspace(-9, 9, 401).astype(dtype)  # 0 is among them
    b = Builder()
    operand, cotangent = b.input("x", dtype_of(x), x.shape), b.input("g", dtype_of(x), x.shape)
    node = b.emit(name, [operand], **attributes)
    graph = b.returns(node.result, *find_operator(name).vjp(b, node, [cotangent]))
    g = np.cos(np.arange(x.size)).astype(dtype)
    seen = interpret(graph, [x, g])
    t = torch.from_numpy(x).requires_grad_()
    y = expected(t)
    (gradient,) = torch.autograd.grad(y, t, torch.from_numpy(g))
    tolerance = 4e-6 if dtype == np.float32 else 1e-9 if name == "softplus" else 1e-13
    for s, e in zip(seen, (y.detach(), gradient), strict=True):
        assert s.dtype == dtype
        np.testing.assert_allclose(s, e.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["softplus", "elu", "silu", "relu"])
def test_far_out_values_and_gradients_are_finite(name: str) -> None:
    x = np.array([-1e4, 1e4])
    b = Builder()
    operand = b.input("x", dtype_of(x), x.shape)
    node = b.emit(name, [operand])
    graph = b.returns(node.result, *find_operator(name).vjp(b, node, [b.full_like(1, operand)]))
    values, gradients = interpret(graph, [x])
    np.testing.assert_allclose(values, [{"elu": -1.0}.get(name, 0.0), 1e4], atol=1e-12)
    np.testing.assert_allclose(gradients, [0.0, 1.0], atol=1e-12)


def test_refuses_integers_and_unknown_approximations() -> None:
    with pytest.raises(ShapeError, match="element type"):
        find_operator("silu").infer(Inference(), [tensor(i32, 2)], {})
    with pytest.raises(ShapeError, match="unknown approximation"):
        find_operator("gelu").infer(Inference(), [tensor(f32, 2)], {"approximate": "sigmoid"})
