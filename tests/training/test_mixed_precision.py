"""compile_training in bf16 and f16: only products are narrow, losses follow f32's, the scale falls at overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
import graphc_nn as gn
from graphc.ir.graph import Graph
from graphc.ir.types import bf16, f32
from graphc.training.step import TrainingStep
from graphc_compress.mixed_precision import CONVOLUTIONS, MOVES, MixedPrecision
from graphc_llvm.target import host_target

RNG = np.random.default_rng(5)


def convolutional() -> gn.Module:
    return gn.Sequential(
        gn.Conv2d(4, 16, 3, padding=1), gn.BatchNorm(16), gn.relu, gn.MaxPool2d(2),
        gn.Conv2d(16, 32, 3, padding=1), gn.BatchNorm(32), gn.relu, gn.GlobalAveragePool(), gn.Linear(32, 16),
    ).initialize(seed=1)  # fmt: skip


def transformer() -> gn.Module:
    layers = gn.Embedding(20, 32), gn.TransformerEncoderLayer(32, 2), lambda h: h.mean(1), gn.Linear(32, 16)
    return gn.Sequential(*layers).initialize(seed=1)


MODELS = {
    "convolutional": (convolutional, RNG.normal(size=(32, 4, 8, 8)).astype(np.float32)),
    "transformer": (transformer, RNG.integers(0, 20, (16, 24))),
}


def compiled(name: str, **options: Any) -> tuple[TrainingStep, np.ndarray, np.ndarray]:
    make, x = MODELS[name]
    y = np.arange(len(x)) % 16
    options = {"optimizer": graphc.AdamW(3e-3), "clip_norm": 5.0, "threads": 1, **options}
    return graphc.compile_training(make(), loss="cross_entropy", example_inputs=(x, y), **options), x, y


def losses(name: str, count: int = 12, **options: Any) -> list[float]:
    step, x, y = compiled(name, **options)
    found = [float(step(x, y)) for _ in range(count)]
    kept = [a for label, a in step.snapshot().items() if label.startswith(("parameter", "state", "slot"))]
    assert {a.dtype for a in kept} == {np.dtype(np.float32)}
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("target", [None, "x86-64-v3"])
def test_losses_follow_those_of_f32(name: str, precision: str, target: str | None) -> None:
    if target is not None and host_target().arch != "x86_64":
        pytest.skip("the other target is x86's")
    exact, narrow = losses(name, target=target), losses(name, target=target, precision=precision)
    assert exact[-1] < 0.8 * exact[0]
    assert narrow != exact
    np.testing.assert_allclose(narrow, exact, rtol=1e-2)


def narrowed(name: str) -> Graph:
    step, _, _ = compiled(name, backend="reference", cache=False)
    return graphc.run_passes(step.graph, ["decompose", "canonicalize", MixedPrecision("bf16")])


@pytest.mark.parametrize("name", MODELS)
def test_only_what_products_multiply_is_rounded(name: str) -> None:
    """Every narrow value is a rounded f32 or a view of one, and none but products read it: updates are those of f32."""
    graph = narrowed(name)
    products = {"dot", *CONVOLUTIONS}
    found = [n for n in graph.nodes if n.op.name in products and n.operands[0].type.dtype == bf16]
    assert len(found) >= 6
    assert {n.result.type.dtype for n in found} == {f32}
    for node in graph.nodes:
        if any(v.type.dtype == bf16 for v in node.operands):
            assert node.op.name in products | MOVES
        elif any(v.type.dtype == bf16 for v in node.results):
            assert node.op.name == "cast"
    assert bf16 not in {v.type.dtype for v in (*graph.inputs, *graph.outputs)}


def test_the_scale_of_f16_falls_until_gradients_are_finite() -> None:
    step, x, y = compiled("transformer", precision="f16", optimizer=graphc.SGD(0.05))
    step.restore({**step.snapshot(), "scale": np.array(2.0**40, np.float32)})
    first = {n: a.copy() for n, a in step.parameters.items()}
    skipped = 0
    while step.steps == 0:
        for name, value in step.parameters.items():
            np.testing.assert_array_equal(value, first[name])
        loss = float(step(x, y))
        skipped += 1
        assert np.isfinite(loss) and skipped < 40
    scale = step.snapshot()["scale"]
    assert skipped > 3
    assert scale == 2.0 ** (40 - (skipped - 1))
    plain, _, _ = compiled("transformer", optimizer=graphc.SGD(0.05))
    plain(x, y)
    for name, value in step.parameters.items():
        np.testing.assert_allclose(value, plain.parameters[name], rtol=2e-2, atol=2e-4)
