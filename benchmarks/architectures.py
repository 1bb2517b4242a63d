"""Architectures for the benchmarks, as ONNX files with seeded random weights: shapes, operators and work are real.

Image networks come with the onnx package; transformers' default configurations are exported by torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FOLDER = Path(tempfile.gettempdir()) / "graphc-benchmarks"
IMAGE_NETWORKS = ("bvlc_alexnet", "densenet121", "inception_v1", "shufflenet", "squeezenet", "vgg19")
TRANSFORMERS = {
    "bert": ("BertModel", "BertConfig", "input_ids"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", "input_ids"),
    "vit": ("ViTForImageClassification", "ViTConfig", "pixel_values"),
    "resnet50": ("ResNetForImageClassification", "ResNetConfig", "pixel_values"),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", "pixel_values"),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", "pixel_values"),
}
SMALL = ("lstm", "mlp")
MODULES = (*TRANSFORMERS, *SMALL)
"""Those that are made as torch modules."""
NAMES = (*IMAGE_NETWORKS, *MODULES)


def onnx_file(name: str) -> Path:
    """The model file of that name, made at first use.

    Images are f32[1,3,224,224], tokens i64[1,128]; the lstm takes f32[1,64,64], the mlp f32[1,64].
    """
    path = FOLDER / f"{name}.onnx"
    if path.exists():
        return path
    FOLDER.mkdir(exist_ok=True)
    if name in IMAGE_NETWORKS:
        from graphc.testing.light_models import light_model

        path.write_bytes(light_model(name).SerializeToString())
        return path
    import torch

    torch.onnx.export(
        torch_module(name).eval(), (_example(name),), str(path), dynamo=True, external_data=False, verbose=False
    )
    return path


def torch_module(name: str) -> torch.nn.Module:
    """The module of one of MODULES, with the file's weights. Raises KeyError for any other name."""
    import torch

    torch.manual_seed(0)
    return _small(name) if name in SMALL else _transformer(name)


def _example(name: str) -> torch.Tensor:
    import torch

    if name in SMALL:
        return torch.randn(1, 64, 64) if name == "lstm" else torch.randn(1, 64)
    return torch.randint(0, 1000, (1, 128)) if TRANSFORMERS[name][2] == "input_ids" else torch.randn(1, 3, 224, 224)


def _small(name: str) -> torch.nn.Module:
    from torch import nn

    class Tagger(nn.Module):
        """Two layers of 128 over 64 steps."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(64, 128, 2, batch_first=True), nn.Linear(128, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    return Tagger() if name == "lstm" else nn.Sequential(*layers)


def _transformer(name: str) -> torch.nn.Module:
    import torch
    import transformers

    model, config, argument = TRANSFORMERS[name]

    class OneOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"attn_implementation": "eager"} if name in ("bert", "gpt2", "vit") else {}
            self.inner = getattr(transformers, model)(getattr(transformers, config)(**settings))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(**{argument: x}, return_dict=False)[0]

    return OneOutput()
