"""Norms against PyTorch's, values and gradients of all operands."""

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
from graphc.ir.symbolic import symbol
from graphc.ir.types import dtype_of, f32, tensor
from graphc.ops import find_operator

CASES: list[tuple[str, dict, list[tuple[int, ...]], Callable]] = [
    ("layer_norm", {"axis": 2, "epsilon": 1e-3}, [(2, 3, 7), (7,), (7,)],
     lambda x, s, b: F.layer_norm(x, (7,), s, b, 1e-3)),
    ("layer_norm", {"axis": 1}, [(2, 3, 7), (3, 7), (3, 7)], lambda x, s, b: F.layer_norm(x, (3, 7), s, b)),
    ("rms_norm", {"axis": 1, "epsilon": 1e-6}, [(4, 6), (6,)], lambda x, s: F.rms_norm(x, (6,), s, 1e-6)),
    ("group_norm", {"groups": 3}, [(2, 6, 4, 5), (6,), (6,)], lambda x, s, b: F.group_norm(x, 3, s, b)),
    ("group_norm", {"groups": 4}, [(2, 4, 5), (4,), (4,)],
     lambda x, s, b: F.instance_norm(x, weight=s, bias=b)),
    ("batch_norm", {"axis": 1, "epsilon": 1e-4}, [(2, 3, 4, 5), (3,), (3,), (3,), (3,)],
     lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b, False, eps=1e-4)),
    ("batch_norm", {"axis": 2}, [(2, 4, 3), (3,), (3,), (3,), (3,)],
     lambda x, s, b, m, v: F.batch_norm(x.movedim(-1, 1), m, v, s, b, False).movedim(1, -1)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "attributes", "shapes", "expected"), CASES)
def test_values_and_gradients_equal_torch(
    name: str, attributes: dict, shapes: list, expected: Callable, dtype: type
) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(0.5, 2, s).astype(dtype) for s in shapes]  # positive, as a variance is
    b = Builder()
    operands = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(arrays)]
    node = b.emit(name, operands, **attributes)
    cotangent = b.input("g", dtype_of(arrays[0]), shapes[0])
    graph = b.returns(node.result, *find_operator(name).vjp(b, node, [cotangent]))
    g = rng.normal(size=shapes[0]).astype(dtype)
    seen = interpret(graph, [*arrays, g])
    tensors = [torch.from_numpy(x) for x in arrays]
    learned = tensors[:3] if name == "batch_norm" else tensors  # PyTorch holds the statistics constant
    for t in learned:
        t.requires_grad_()
    y = expected(*tensors)
    wanted = (y.detach(), *torch.autograd.grad(y, learned, torch.from_numpy(g)))
    for s, e in zip(seen, wanted, strict=False):
        bound = (5e-5 if dtype == np.float32 else 1e-12) * max(1, float(e.abs().max()))
        np.testing.assert_allclose(s, e.numpy(), rtol=0, atol=bound)


def test_symbolic_normalized_dims_are_counted_at_run_time() -> None:
    n = symbol("n")
    b = Builder()
    x, scale, bias = b.input("x", f32, (2, n)), b.input("s", f32, (n,)), b.input("b", f32, (n,))
    node = b.emit("layer_norm", [x, scale, bias], axis=1)
    b.graph.set_outputs(node.op.decompose(b, node))
    b.graph.erase(node)
    for size in (3, 10):
        value = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
        (seen,) = interpret(b.graph, [value, np.ones(size, np.float32), np.zeros(size, np.float32)])
        np.testing.assert_allclose(seen, F.layer_norm(torch.from_numpy(value), (size,)).numpy(), atol=1e-5)


def test_refuses() -> None:
    group_norm, layer_norm = find_operator("group_norm"), find_operator("layer_norm")
    with pytest.raises(ShapeError, match="multiple of groups"):
        group_norm.infer(Inference(), [tensor(f32, 1, 5, 2), *[tensor(f32, 5)] * 2], {"groups": 2})
    with pytest.raises(ShapeError, match="normalized dims"):
        layer_norm.infer(Inference(), [tensor(f32, 2, 5), *[tensor(f32, 4)] * 2], {"axis": 1})
