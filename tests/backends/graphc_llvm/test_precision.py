"""precision="bf16" and "f16" on whole networks: the error beside that of PyTorch in the same type, both against f64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import graphc


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=2), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(3, 48, 5, stride=2, padding=2), nn.ReLU(), Residual(48), Residual(48)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


CASES = {"convolutional": (convolutional, (2, 3, 20, 20)), "transformer": (transformer, (2, 19, 64))}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("precision", "numerics"), [("bf16", "fast"), ("bf16", "strict"), ("f16", "fast")])
def test_error_beside_torch(name: str, precision: str, numerics: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(shape)
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(x.double()).numpy()
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[precision]
        theirs = copy.deepcopy(module).to(dtype)(x.to(dtype)).double().numpy()
    ours = graphc.compile(module, example_inputs=(x,), precision=precision, numerics=numerics, threads=1)(x).numpy()
    error, allowed = np.sqrt(np.mean((ours - exact) ** 2)), np.sqrt(np.mean((theirs - exact) ** 2))
    assert 1e-6 < error < allowed  # something was rounded, and less than torch does
    assert error < 2e-2 * np.abs(exact).max()


def test_precision_is_part_of_the_key_and_of_the_artifact(tmp_path) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(64, 48), torch.randn(5, 64)
    narrow, wide = (graphc.compile(module, example_inputs=(x,), precision=p, threads=1) for p in ("bf16", "f32"))
    assert not np.array_equal(narrow(x).numpy(), wide(x).numpy())
    narrow.save(tmp_path / "m.graphc")
    again = graphc.load(tmp_path / "m.graphc", threads=1)
    assert np.array_equal(again(x.numpy()), narrow(x).numpy())


def test_a_step_of_training_in_bf16_keeps_its_weights_in_f32() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8))
    x, y = torch.randn(96, 32), torch.randint(0, 8, (96,))
    losses = {}
    for precision in ("f32", "bf16"):
        step = graphc.compile_training(
            copy.deepcopy(module), loss="cross_entropy", optimizer=graphc.Adam(1e-2), example_inputs=(x, y), precision=precision
        )
        losses[precision] = [float(step(x, y)) for _ in range(20)]
        assert all(p.dtype == np.float32 for p in step.parameters.values())
    assert losses["bf16"][-1] < 0.5 * losses["bf16"][0]
    np.testing.assert_allclose(losses["bf16"], losses["f32"], rtol=2e-2)
    assert losses["bf16"] != losses["f32"]


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_gradients_of_convolutions(precision: str, target: str) -> None:
    """The first update's step, which is the gradient, against f64; and torch's in the same type beside it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.Tanh()]
    module = nn.Sequential(*layers, nn.Conv2d(48, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(5, 3, 9, 10), torch.randint(0, 16, (5,))  # an odd number of images

    def gradients(dtype: torch.dtype) -> dict[str, np.ndarray]:
        copied = copy.deepcopy(module).to(dtype)
        nn.functional.cross_entropy(copied(x.to(dtype)), y).backward()
        return {n: p.grad.double().numpy() for n, p in copied.named_parameters()}

    exact, theirs = gradients(torch.float64), gradients({"bf16": torch.bfloat16, "f16": torch.float16}[precision])
    before = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    try:
        step = graphc.compile_training(
            module, loss="cross_entropy", optimizer=graphc.SGD(1.0), example_inputs=(x, y), precision=precision, target=target
        )
    except graphc.ArtifactError as e:
        pytest.skip(e.what)
    step(x, y)
    for name, after in step.parameters.items():
        ours = before[name].astype(np.float64) - after
        scale = np.abs(exact[name]).max()
        error, allowed = (np.sqrt(np.mean((g - exact[name]) ** 2)) for g in (ours, theirs[name]))
        assert error < max(allowed, 1e-3 * scale), name
        assert np.abs(ours - exact[name]).max() < 2e-2 * scale, name
