"""The three convolutions against PyTorch's, over every sample, in f32 and f64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.ir.opdef import Inference, Sample
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, tensor
from graphc.ops.convolution import CONV, CONV_INPUT_GRAD, CONV_WEIGHT_GRAD, ConvSpec

SAMPLES = [s for s in CONV.samples() if s.operands[0].size]
DTYPES = (np.float32, np.float64)


def torch_conv(x: torch.Tensor, w: torch.Tensor, a: dict) -> torch.Tensor:
    spec = ConvSpec.from_attributes(a)
    n = spec.spatial
    first = x if spec.layout == "channels_first" else x.movedim(-1, 1)
    kernel = w if spec.kernel_layout == "oi" else w.permute(n + 1, n, *range(n))
    pads = [p for i in reversed(range(n)) for p in spec.padding[2 * i : 2 * i + 2]]
    conv = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[n - 1]
    y = conv(torch.nn.functional.pad(first, pads), kernel, None, spec.strides, 0, spec.dilation, spec.groups)
    return y if spec.layout == "channels_first" else y.movedim(1, -1)


def close(seen: np.ndarray, expected: torch.Tensor, dtype: type) -> None:
    assert seen.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    wanted = expected.detach().numpy()
    np.testing.assert_allclose(seen, wanted, rtol=0, atol=tolerance * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: str(dict(s.attributes)))
def test_all_three_equal_torch(sample: Sample, dtype: type) -> None:
    a = dict(sample.attributes)
    spec = ConvSpec.from_attributes(a)
    x, w = (v.astype(dtype) for v in sample.operands)
    tx, tw = (torch.from_numpy(v).requires_grad_() for v in (x, w))
    y = torch_conv(tx, tw, a)
    close(CONV.reference((x, w), a)[0], y, dtype)
    dy = np.random.default_rng(3).standard_normal(y.shape).astype(dtype)
    dx, dw = torch.autograd.grad(y, (tx, tw), torch.from_numpy(dy))
    size = tuple(x.shape[i] for i in spec.spatial_axes)
    window = tuple(w.shape[i] for i in spec.kernel_axes[2])
    close(CONV_INPUT_GRAD.reference((dy, w), {**a, "input_size": size})[0], dx, dtype)
    close(CONV_WEIGHT_GRAD.reference((x, dy), {**a, "kernel_size": window})[0], dw, dtype)


@pytest.mark.parametrize("op", [CONV, CONV_INPUT_GRAD, CONV_WEIGHT_GRAD], ids=lambda op: op.name)
def test_inference_agrees_with_reference(op) -> None:
    for sample in op.samples():
        a = op.complete(sample.attributes)
        operands = [v.astype(np.float32) for v in sample.operands]
        (inferred,) = op.infer(Inference(), [tensor(f32, *v.shape) for v in operands], a)
        (result,) = op.reference(operands, a)
        assert inferred == tensor(f32, *result.shape) and result.dtype == np.float32


def test_symbolic_sizes_and_their_gradients_prove_without_guards() -> None:
    n, h = symbol("n"), symbol("h", 8)
    a = CONV.complete({"strides": (2,), "padding": (1, 1), "dilation": (1,)})
    inference = Inference()
    x, w = tensor(f32, n, 3, h), tensor(f32, 4, 3, 3)
    (y,) = CONV.infer(inference, (x, w), a)
    assert y == tensor(f32, n, 4, (h - 1) // 2 + 1)
    assert CONV_INPUT_GRAD.infer(inference, (y, w), {**a, "input_size": (h,)}) == (x,)
    assert CONV_WEIGHT_GRAD.infer(inference, (x, y), {**a, "kernel_size": (3,)}) == (w,)
    assert not inference.guards


def test_a_symbolic_size_that_may_be_too_small_is_a_guard() -> None:
    h = symbol("h")
    a = CONV.complete({"strides": (1,), "padding": (0, 0), "dilation": (1,)})
    inference = Inference()
    assert CONV.infer(inference, (tensor(f32, 1, 3, h), tensor(f32, 4, 3, 3)), a) == (tensor(f32, 1, 4, h - 2),)
    assert [str(g) for g in inference.guards] == ["min(h, 3) == 3"]


@pytest.mark.parametrize(
    ("attributes", "x", "w", "message"),
    [
        ({}, (1, 3, 4), (2, 4, 3), "input channels"),
        ({"groups": 2}, (1, 4, 4), (3, 2, 3), "multiple of groups"),
        ({}, (1, 3, 4), (2, 3, 5), "larger than the padded input"),
        ({"padding": (-1, 0)}, (1, 3, 4), (2, 3, 3), "not negative"),
        ({"layout": "NCHW"}, (1, 3, 4), (2, 3, 3), "unknown layout"),
        ({}, (1, 3, 4, 4), (2, 3, 3), "rank 3"),
    ],
)
def test_refuses(attributes: dict, x: tuple, w: tuple, message: str) -> None:
    a = CONV.complete({"strides": (1,), "padding": (0, 0), "dilation": (1,)} | attributes)
    with pytest.raises(ShapeError, match=message):
        CONV.infer(Inference(), (tensor(f32, *x), tensor(f32, *w)), a)
