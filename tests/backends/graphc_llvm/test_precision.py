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
    layers = [nn.Conv2d(3, 48, 3, stride=2, padding=1), nn.ReLU(), Residual(48), Residual(48)]
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
