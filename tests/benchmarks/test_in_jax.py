"""A graph in JAX computes what the interpreter does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = """
import sys
import numpy as np
from torch import nn
import graphc
from graphc.driver import import_model
from graphc.interpreter import interpret

sys.path.insert(0, {folder!r})
from in_jax import jax_function

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, 2, batch_first=True), nn.Linear(5, 2)
    def forward(self, x):
        return self.head(self.lstm(x)[0])

models = dict(
    convolutions=(nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 2, 2, 8),
                                nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), (2, 4, 15, 12)),
    attention=(nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), (2, 5, 8)),
    recurrent=(Recurrent(), (2, 6, 3)),
)
model, shape = models[{name!r}]
x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
graph = import_model(model.eval(), example_inputs=[x])
expected = interpret(graph, [x])
function, weights = jax_function(graph)
for mine, other in zip(function(weights, x), expected, strict=True):
    np.testing.assert_allclose(np.asarray(mine), other, rtol=1e-5, atol=1e-5)
print("equal", len(weights))
"""


@pytest.mark.parametrize("name", ["convolutions", "attention", "recurrent"])
def test_agrees_with_the_interpreter(name: str) -> None:
    """In a process of its own: JAX's threads are no company for tests that fork."""
    script = SCRIPT.format(folder=str(FOLDER), name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("equal"), done.stderr


def test_what_is_not_translated_raises() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "from in_jax import jax_function\n"
        "from graphc.ir.builder import Builder\n"
        "from graphc.ir.types import f32\n"
        "b = Builder()\n"
        "graph = b.returns(b.op('sinh', b.input('x', f32, (3,))))\n"
        "jax_function(graph)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "UnsupportedOpError" in done.stderr
    assert "it isn't translated to JAX" in done.stderr
