"""Whole models: those of the onnx package with seeded weights, and small ones exported by torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, ValueInfoProto
from torch import nn

from graphc.cones import widen
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify
from graphc.testing.seeded_weights import with_seeded_weights
from graphc_onnx import import_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("light_*.onnx"))


def with_logits(name: str) -> ModelProto:
    """A light model with weights, whose output is what softmax would be given."""
    model = with_seeded_weights(onnx.load(LIGHT / f"light_{name}.onnx"))
    softmax = [n for n in model.graph.node if n.op_type == "Softmax"]
    if softmax:
        del model.graph.output[:]
        model.graph.output.append(ValueInfoProto(name=softmax[0].input[0]))
    return model


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options)


def errors(graph: Graph, model: bytes, inputs: Sequence[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """The largest errors of the graph and of onnxruntime against the graph in f64, and what is right."""
    wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in inputs]
    (exact,) = interpret(widen(graph), wide)
    (seen,) = interpret(graph, inputs)
    runtime = session(model)
    (peer,) = runtime.run(None, {i.name: x for i, x in zip(runtime.get_inputs(), inputs, strict=True)})
    return float(np.abs(seen - exact).max()), float(np.abs(peer - exact).max()), exact


def test_there_are_nine_light_models() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_light_models(name: str) -> None:
    model = with_logits(name)
    graph = import_model(model)
    verify(graph)
    x = np.random.default_rng(3).normal(size=graph.inputs[0].type.concrete({})).astype(np.float32)
    (seen,) = interpret(graph, [x])
    runtime = session(model.SerializeToString())
    (expected,) = runtime.run(None, {runtime.get_inputs()[0].name: x})
    assert np.isfinite(expected).all() and expected.std() > 0.1
    np.testing.assert_allclose(seen, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))


def test_weights_depend_on_the_seed_alone() -> None:
    light = onnx.load(LIGHT / "light_squeezenet.onnx")
    assert with_seeded_weights(light, 1) == with_seeded_weights(light, 1)
    assert with_seeded_weights(light, 1) != with_seeded_weights(light, 2)
    assert not light.graph.initializer[0].float_data


class Residual(nn.Module):
    """A small network of convolutions with a branch, groups, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)
        )
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish(), nn.Conv2d(8, 8, 1))
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.up(x + self.branch(x))
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """A small encoder over tokens, with positions from the length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.layer(self.words(x) + self.places(places)))


class Steps(nn.Module):
    """A recurrent network of two layers, the first in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(6, 8, bidirectional=True, batch_first=True)
        self.second = nn.GRU(16, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.second(self.first(x)[0])[0], -1)


IMAGE, TOKENS, SERIES = torch.randn(2, 3, 32, 32), torch.randint(0, 50, (2, 7)), torch.randn(2, 5, 6)
MODELS = {"residual": (Residual, IMAGE), "words": (Words, TOKENS), "steps": (Steps, SERIES)}


def exported(module: nn.Module, x: torch.Tensor, dynamo: bool, dynamic: Any = None) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        if dynamo:
            program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
            assert program is not None
            return bytes(program.model_proto.SerializeToString())
        torch.onnx.export(module, (x,), buffer, dynamo=False, opset_version=17, dynamic_axes=dynamic, input_names=["x"])
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_exported_by_torch(name: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    make, x = MODELS[name]
    module = make().eval()
    model = exported(module, x, dynamo)
    graph = import_model(model)
    verify(graph)
    with torch.no_grad():
        expected = module(x).numpy()
    (seen,) = interpret(graph, [x.numpy()])
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))
    error, peer, exact = errors(graph, model, [x.numpy()])
    assert error <= max(2 * peer, 1e-6 * float(np.abs(exact).max()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_a_dynamic_batch_and_length_serve_all_sizes(name: str) -> None:
    torch.manual_seed(0)
    make, x = MODELS[name]
    module = make().eval()
    axes = {0: "batch", 1: "length"} if name == "steps" else {0: "batch"}
    graph = import_model(exported(module, x, False, {"x": axes}))
    verify(graph)
    assert [str(d) for d in graph.inputs[0].type.shape[: len(axes)]] == list(axes.values())
    for batch, length in ((1, 3), (3, 9)):  # only the recurrent model keeps its length dynamic when traced
        sizes = (batch, length, 6) if name == "steps" else (batch, *x.shape[1:])
        inputs = (x[:1, :1] if name == "steps" else x[:1]).expand(sizes).contiguous()
        with torch.no_grad():
            expected = module(inputs).numpy()
        (seen,) = interpret(graph, [inputs.numpy()])
        np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
