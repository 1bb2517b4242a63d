"""Deeper models of equal layers have no more code."""

from __future__ import annotations

import numpy as np

import graphc
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import DTYPES

WIDTH, HEADS, LENGTH = 32, 4, 16


def transformer(layers: int) -> Graph:
    """A GPT-like stack: norm, attention, norm, two dense layers, each with weights of its own."""
    b, rng = Builder(), np.random.default_rng(0)

    def weight(*shape: int) -> Value:
        return b.constant((0.05 * rng.standard_normal(shape)).astype(np.float32))

    def norm(x: Value) -> Value:
        return b.op("layer_norm", x, weight(WIDTH), weight(WIDTH), axis=1)

    def dense(x: Value, width: int) -> Value:
        y = b.op("matmul", x, weight(x.type.concrete({})[1], width))
        return b.op("add", y, b.broadcast(weight(width), y.type.shape, [1]))

    def heads(x: Value) -> Value:
        return b.transpose(b.reshape(x, [1, LENGTH, HEADS, WIDTH // HEADS]), [0, 2, 1, 3])

    x = b.input("x", DTYPES["f32"], [LENGTH, WIDTH])
    for _ in range(layers):
        h = norm(x)
        q, k, v = (heads(dense(h, WIDTH)) for _ in range(3))
        a = b.transpose(b.op("attention", q, k, v, scale=0.35), [0, 2, 1, 3])
        x = b.op("add", x, dense(b.reshape(a, [LENGTH, WIDTH]), WIDTH))
        x = b.op("add", x, dense(b.op("gelu", dense(norm(x), 4 * WIDTH)), WIDTH))
    return b.returns(norm(x))


def test_a_transformer_of_more_layers_has_the_same_kernels() -> None:
    keys = []
    for layers in (2, 8):
        compiled = graphc.compile(transformer(layers), threads=1)._segment.compiled  # type: ignore[attr-defined]
        keys.append([set(code.program.kernels) for code in (compiled.main, compiled.prepare)])
        assert set(compiled.main.objects) == {key for part in keys[-1] for key, _ in part}
    assert keys[0] == keys[1]
