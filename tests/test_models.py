"""Whole models through the LLVM backend: the error against a run in double precision is at most twice onnxruntime's.

Where convolutions are Winograd's, in fast numerics alone, it is below a thousandth of the largest value instead.

The nine networks of the onnx package at full size, and small ones of the eight architectures that the benchmarks use, as
torch exports them.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest

import graphc
from graphc.cones import widen
from graphc.testing.light_models import light_model, names

FLOOR = 2e-7
"""Of the largest value: less than two units in the last place of f32, which no choice of kernels decides."""

WINOGRAD = 1e-3
"""Of the largest value: what a network of Winograd's convolutions may differ by."""


def check(model: bytes, inputs: list[np.ndarray]) -> None:
    """Both numerics modes against onnxruntime, by the greatest distance from the interpreter in f64 over all inputs."""
    import onnx

    graph = graphc.import_model(onnx.load_from_string(model))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    theirs = [session.run(None, {feed: x})[0] for x in inputs]
    wide = widen(graph)
    exact = [graphc.interpret(wide, [x.astype(np.float64) if x.dtype == np.float32 else x])[0] for x in inputs]
    largest = max(np.abs(y).max() for y in exact)
    assert all(np.isfinite(y).all() and y.std() > 0.05 * largest for y in exact)

    def error(results: list[np.ndarray]) -> float:
        return max(np.abs(y - e).max() for y, e in zip(results, exact, strict=True)) / largest

    for numerics in ("fast", "strict"):
        executable = graphc.compile(graph, numerics=numerics)
        ours = [executable.run(None, {graph.inputs[0].name: x})[0] for x in inputs]
        approximate = any("winograd" in k.name for k in executable.kernels)
        assert not (approximate and numerics == "strict")
        assert error(ours) <= (WINOGRAD if approximate else max(2 * error(theirs), FLOOR)), numerics


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_light_model(name):
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    check(light_model(name).SerializeToString(), [x])


def small(name: str):
    """(torch module taking one tensor, an example input) of an architecture, small."""
    import torch
    import transformers as t
    from torch import nn

    torch.manual_seed(0)
    image, tokens = torch.randn(1, 3, 64, 64), torch.randint(0, 90, (1, 24))

    class Logits(nn.Module):
        def __init__(self, inner, word):
            super().__init__()
            self.inner, self.word = inner, word

        def forward(self, x):
            out = self.inner(**{self.word: x})
            return out.logits if hasattr(out, "logits") else out.last_hidden_state

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(16, 32, 2, batch_first=True), nn.Linear(32, 10)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    text = {"vocab_size": 90, "attn_implementation": "eager"}
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        ), torch.randn(1, 64)
    if name == "lstm":
        return Tagger(), torch.randn(1, 12, 16)
    if name == "bert":
        config = t.BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, **text)
        return Logits(t.BertModel(config), "input_ids"), tokens
    if name == "gpt2":
        config = t.GPT2Config(n_embd=48, n_layer=2, n_head=4, use_cache=False, **text)
        return Logits(t.GPT2LMHeadModel(config), "input_ids"), tokens
    if name == "vit":
        config = t.ViTConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=16,
            attn_implementation="eager",
        )  # fmt: skip
        return Logits(t.ViTForImageClassification(config), "pixel_values"), image
    if name == "convnext":
        config = t.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_labels=200)
        return Logits(t.ConvNextForImageClassification(config), "pixel_values"), image
    if name == "mobilenetv2":
        return Logits(
            t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.5, num_labels=200)),
            "pixel_values",
        ), image
    config = t.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], num_labels=200)
    return Logits(t.ResNetForImageClassification(config), "pixel_values"), image


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlp", "mobilenetv2", "resnet", "convnext", "vit", "bert", "gpt2", "lstm"])
def test_architecture(name, tmp_path):
    import torch

    module, example = small(name)
    module.eval()
    for layer in module.modules():  # statistics away from 0 and 1, so that folding matters
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), str(path), dynamo=True, external_data=False, verbose=False)
    rng = np.random.default_rng(0)
    check(path.read_bytes(), [example.numpy(), *(rng.permuted(example.numpy(), axis=-1) for _ in range(3))])
