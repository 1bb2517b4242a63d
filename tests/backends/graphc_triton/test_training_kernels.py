"""What the kernels of training steps are made of for sm_90: no spills, and products on tensor cores, backward too."""

import numpy as np
import pytest
import torch
from torch import nn

import graphc
from graphc_triton.segment import TritonSegment
from graphc_triton.static_facts import static_facts

RNG = np.random.default_rng(0)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 64)
        self.layer = nn.TransformerEncoderLayer(64, 2, 128, dropout=0.1, batch_first=True, norm_first=True)
        self.out = nn.Linear(64, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.embedding(tokens))).transpose(1, 2)


def cnn() -> nn.Module:
    first, second = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, stride=2)
    head = nn.Dropout(0.1), nn.Flatten(), nn.Linear(512, 32)
    return nn.Sequential(first, nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), *head)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("cnn", "f32"), ("transformer", "bf16")])
def test_training_kernels(name: str, precision: str) -> None:
    if name == "cnn":
        model, batch = cnn(), (RNG.normal(size=(16, 16, 16, 16)).astype(np.float32), RNG.integers(0, 32, 16))
        options = {"optimizer": graphc.SGD(0.1, momentum=0.9)}
    else:
        tokens = RNG.integers(0, 256, (4, 65))
        model, batch = Tokens(), (tokens[:, :-1].copy(), tokens[:, 1:].copy())
        options = {"optimizer": graphc.AdamW(1e-3), "clip_norm": 1.0}
    step = graphc.compile_training(
        model, loss="cross_entropy", example_inputs=batch, backend="triton", target="sm_90", precision=precision,
        cache=False, **options,
    )  # fmt: skip
    segment = step.executable.segment
    assert isinstance(segment, TritonSegment)
    products = 0
    for kernel in segment.main.kernels:
        for function, cubin in zip(kernel.functions, segment.cubins[kernel.key], strict=True):
            if function.template == "pointwise":
                continue
            told = static_facts(cubin, "sm_90")
            assert told.spills == 0, function.source
            assert not told.serialized, function.source
            if function.template == "matmul":
                assert told.count("HGMMA") + told.count("HMMA") > 0, function.source
                products += 1
    # Each product of the forward pass has two of the backward pass, but for the first, whose input needs no gradient.
    assert products >= (8 if name == "cnn" else 20)
