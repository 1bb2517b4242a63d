"""Attention against PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import Inference
from graphc.ir.symbolic import symbol
from graphc.ir.types import dtype_of, f32, tensor
from graphc.ops import find_operator

ATTENTION = find_operator("attention")


def operands(dtype: type, s: int, t: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(2, 3, n, d)).astype(dtype) for n, d in ((s, 4), (t, 4), (t, 5))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["plain", "float mask", "bool mask", "causal"])
def test_values_and_gradients_equal_torch(kind: str, dtype: type) -> None:
    arrays = operands(dtype, 6, 6 if kind == "causal" else 7)
    mask = np.random.default_rng(3).normal(size=(2, 3, 6, 7))
    if kind == "bool mask":
        mask = mask > -0.5
        mask[..., 0] = True
    masks = [] if kind in ("plain", "causal") else [mask if mask.dtype == bool else mask.astype(dtype)]
    b = Builder()
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate((*arrays, *masks))]
    node = b.emit("attention", values, scale=0.3, causal=kind == "causal")
    cotangent = b.input("g", node.result.type.dtype, node.result.type.shape)
    gradients = ATTENTION.vjp(b, node, [cotangent])
    g = np.random.default_rng(4).normal(size=(2, 3, 6, 5)).astype(dtype)
    seen = interpret(b.returns(node.result, *gradients[:3]), [*arrays, *masks, g])
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in arrays)
    attn_mask = torch.from_numpy(masks[0]) if masks else None
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=kind == "causal", scale=0.3)
    for s, e in zip(seen, (y.detach(), *torch.autograd.grad(y, (q, k, v), torch.from_numpy(g))), strict=True):
        np.testing.assert_allclose(s, e.numpy(), rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


def test_a_hidden_row_is_nan() -> None:
    q, k, v = operands(np.float64, 2, 3)
    mask = np.ones((2, 3, 2, 3), bool)
    mask[0, 0, 1] = False
    b = Builder()
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate((q, k, v, mask))]
    (y,) = interpret(b.returns(b.op("attention", *values, scale=1.0)), [q, k, v, mask])
    assert np.isnan(y[0, 0, 1]).all() and np.isfinite(y[0, 0, 0]).all() and np.isfinite(y[1]).all()


def test_symbolic_lengths() -> None:
    n, s = symbol("n"), symbol("s")
    q = tensor(f32, n, 2, s, 4)
    inference = Inference()
    assert ATTENTION.infer(inference, [q, q, q], {"causal": True}) == (q,)
    assert not inference.guards


def test_refuses_other_depths_and_masks() -> None:
    q, k = tensor(f32, 1, 2, 3, 4), tensor(f32, 1, 2, 3, 5)
    with pytest.raises(ShapeError, match="depths of queries and keys"):
        ATTENTION.infer(Inference(), [q, k, q], {"causal": False})
    with pytest.raises(ShapeError, match="scores and mask"):
        ATTENTION.infer(Inference(), [q, q, q, tensor(f32, 1, 2, 3, 4)], {"causal": False})
