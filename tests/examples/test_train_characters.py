"""The example's transformer beside torch's: the same weights, the same batches, the same losses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_characters.py"


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_characters", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"SIZE": 32, "LENGTH": 24, "BATCH": 8}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_losses_fall_as_torchs_do(example) -> None:
    model = example.Characters().initialize(seed=3)
    twin = example.with_the_weights_of(model)
    ours, _ = example.losses_of_graphc(model, 25)
    theirs = example.losses_of_torch(twin, 25)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.85 * ours[0]


def test_the_twin_has_the_same_weights(example) -> None:
    model = example.Characters().initialize(seed=3)
    twin = example.with_the_weights_of(model)
    assert sum(p.numel() for p in twin.parameters()) == sum(a.size for a in model.parameters.values())
    np.testing.assert_array_equal(twin.out.weight.detach(), torch.tensor(model.parameters["out.weight"]))
