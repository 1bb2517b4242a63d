"""Architectures for the benchmarks, as ONNX files with seeded random weights: shapes, operators and work are real.

Image networks come with the onnx package; transformers' default configurations are exported by torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "graphc-benchmarks"
IMAGE_NETWORKS = ("bvlc_alexnet", "densenet121", "inception_v1", "resnet50", "shufflenet", "squeezenet", "vgg19")
TRANSFORMERS = {
    "bert": ("BertModel", "BertConfig", "input_ids"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", "input_ids"),
    "vit": ("ViTForImageClassification", "ViTConfig", "pixel_values"),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", "pixel_values"),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", "pixel_values"),
}
NAMES = (*IMAGE_NETWORKS, *TRANSFORMERS)


def onnx_file(name: str) -> Path:
    """The model file of that name, made at first use: images are f32[1,3,224,224], tokens i64[1,128]."""
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        if name in IMAGE_NETWORKS:
            from graphc.testing.light_models import light_model

            path.write_bytes(light_model(name).SerializeToString())
        else:
            _export(name, path)
    return path


def _export(name: str, path: Path) -> None:
    import torch
    import transformers

    model, config, argument = TRANSFORMERS[name]
    torch.manual_seed(0)

    class OneOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"attn_implementation": "eager"} if name in ("bert", "gpt2", "vit") else {}
            self.inner = getattr(transformers, model)(getattr(transformers, config)(**settings))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(**{argument: x}, return_dict=False)[0]

    example = torch.randint(0, 1000, (1, 128)) if argument == "input_ids" else torch.randn(1, 3, 224, 224)
    torch.onnx.export(OneOutput().eval(), (example,), str(path), dynamo=True, external_data=False, verbose=False)
