"""Pools against PyTorch's and onnxruntime's, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import dtype_of
from graphc.ops import find_operator
from graphc.ops.windows import WindowSpec

SPECS = [
    WindowSpec((2, 3), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    WindowSpec((2, 3), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    WindowSpec((2, 3), (2, 4), (2, 3), (1, 1, 2, 2), (1, 1)),
]


def value_and_gradient(name: str, x: np.ndarray, g: np.ndarray, spec: WindowSpec, **attributes: bool) -> list:
    b = Builder()
    operand = b.input("x", dtype_of(x), x.shape)
    node = b.emit(name, [operand], axes=spec.axes, window=spec.window, strides=spec.strides, padding=spec.padding,
                  dilation=spec.dilation, **attributes)  # fmt: skip
    cotangent = b.input("g", dtype_of(g), g.shape)
    return interpret(b.returns(node.result, *find_operator(name).vjp(b, node, [cotangent])), [x, g])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["max", "average", "average with padding"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_equals_torch(spec: WindowSpec, kind: str, dtype: type) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 3, 9, 8)).astype(dtype)
    t = torch.from_numpy(x).requires_grad_()
    pads = spec.padding[::2]
    include = kind == "average with padding"
    if kind == "max":
        y = torch.nn.functional.max_pool2d(t, spec.window, spec.strides, pads)
    else:
        y = torch.nn.functional.avg_pool2d(t, spec.window, spec.strides, pads, count_include_pad=include)
    g = rng.normal(size=y.shape).astype(dtype)
    if kind == "max":
        seen = value_and_gradient("max_pool", x, g, spec)
    else:
        seen = value_and_gradient("average_pool", x, g, spec, count_include_pad=include)
    wanted = (y.detach(), *torch.autograd.grad(y, t, torch.from_numpy(g)))
    for s, e in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(s, e.numpy(), rtol=0, atol=2e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("include", [0, 1])
def test_uneven_padding_and_dilation_as_onnxruntime(run_onnx, include: int) -> None:
    x = np.random.default_rng(6).normal(size=(1, 2, 10, 9)).astype(np.float32)
    spec = WindowSpec((2, 3), (3, 2), (2, 1), (1, 0, 0, 1), (2, 3))
    a = {"axes": spec.axes, "window": spec.window, "strides": spec.strides, "padding": spec.padding,
         "dilation": spec.dilation}  # fmt: skip
    onnx = {"kernel_shape": spec.window, "strides": spec.strides, "pads": (1, 0, 0, 1), "dilations": spec.dilation}
    (expected,) = run_onnx("MaxPool", [x], **onnx)
    np.testing.assert_array_equal(find_operator("max_pool").reference((x,), a)[0], expected)
    (expected,) = run_onnx("AveragePool", [x], count_include_pad=include, **onnx)
    (seen,) = find_operator("average_pool").reference((x,), {**a, "count_include_pad": bool(include)})
    np.testing.assert_allclose(seen, expected, atol=1e-6)
