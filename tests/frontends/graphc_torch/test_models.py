"""Whole models, compiled once with dynamic axes and run at several sizes, against torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import graphc

_spec = importlib.util.spec_from_file_location("architectures", Path(__file__).parent / "architectures.py")
assert _spec is not None and _spec.loader is not None
architectures = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = architectures
_spec.loader.exec_module(architectures)

YARDSTICKS = [a.name for a in architectures.YARDSTICKS]
SOME = ["albert", "llama", "t5", "swin", "whisper"]
REST = [a.name for a in architectures.OTHERS if a.name not in SOME]

# What torch and transformers say of their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


def check(name: str) -> None:
    a = architectures.ARCHITECTURES[name]
    module = a.module()
    executable = graphc.compile(module, "llvm", example_inputs=a.example(), dynamic=a.dims(), cache=False)
    for i, (batch, length) in enumerate(a.sizes()):
        inputs = a.example(batch, length, seed=i)
        with torch.no_grad():
            expected = architectures.tensors_of(module(**inputs))
        found = executable.run(None, inputs)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
            assert architectures.error(ours, theirs) < 1e-4, f"{name} at batch {batch}, length {length}"


@pytest.mark.parametrize("name", YARDSTICKS)
def test_yardsticks_in_small(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", SOME)
def test_architectures(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_more_architectures(name: str) -> None:
    check(name)
