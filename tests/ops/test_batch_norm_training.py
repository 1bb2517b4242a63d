"""Batch normalization by the batch's statistics against PyTorch's: values, statistics, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import bf16, dtype_of, f32
from graphc.ops import find_operator


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 5e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 5, 6), 1), ((4, 5, 6, 3), 3), ((8, 3), 1), ((2, 3, 7), 1)])
def test_values_and_gradients_equal_torch(shape: tuple[int, ...], axis: int, dtype: type, bound: float) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(1, 2, shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    scale, bias = rng.normal(size=3).astype(dtype), rng.normal(size=3).astype(dtype)
    b = Builder()
    operands = [b.input(n, dtype_of(v), v.shape) for n, v in (("x", x), ("s", scale), ("b", bias))]
    node = b.emit("batch_norm_training", operands, axis=axis, epsilon=1e-3)
    cotangents = [b.input("g", dtype_of(x), shape), *(b.full_like(0, r) for r in node.results[1:])]
    graph = b.returns(*node.results, *find_operator("batch_norm_training").vjp(b, node, cotangents))
    y, mean, variance, *gradients = interpret(graph, [x, scale, bias, g])
    tensors = [torch.from_numpy(v).requires_grad_() for v in (x, scale, bias)]
    stored = [torch.zeros(3, dtype=tensors[0].dtype) for _ in range(2)]
    wanted = F.batch_norm(
        tensors[0].movedim(axis, 1), *stored, tensors[1], tensors[2], training=True, momentum=1.0, eps=1e-3
    ).movedim(1, axis)
    n = x.size // 3
    expected = [wanted, stored[0], stored[1] * (n - 1) / n, *torch.autograd.grad(wanted, tensors, torch.from_numpy(g))]
    for seen, e in zip((y, mean, variance, *gradients), expected, strict=True):
        np.testing.assert_allclose(seen, e.detach().numpy(), rtol=0, atol=bound * max(1, float(e.detach().abs().max())))


def test_statistics_of_small_floats_are_f32() -> None:
    b = Builder()
    operands = [b.input("x", bf16, (64, 2)), b.input("s", bf16, (2,)), b.input("b", bf16, (2,))]
    y, mean, variance = b.ops("batch_norm_training", *operands)
    assert (y.type.dtype, mean.type.dtype, variance.type.dtype) == (bf16, f32, f32)
    x = np.random.default_rng(0).normal(3, 1, (64, 2)).astype(bf16.numpy)
    _, seen, _ = interpret(b.returns(y, mean, variance), [x, *(np.ones(2, bf16.numpy) for _ in range(2))])
    np.testing.assert_allclose(seen, x.astype(np.float64).mean(0), rtol=1e-6)
