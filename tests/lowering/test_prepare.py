"""The split: prepare(weights) and main together are the graph; literals, broadcasts and views of what is packed stay."""

from __future__ import annotations

import numpy as np

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import f32
from graphc.ir.verifier import verify
from graphc.lowering.prepare import split_prepare


def split_and_compare(graph, *inputs):
    prepare, main, weights = split_prepare(graph)
    verify(prepare)
    verify(main)
    prepared = interpret(prepare, [w.array for w in weights])
    for expected, got in zip(interpret(graph, inputs), interpret(main, [*inputs, *prepared]), strict=True):
        np.testing.assert_array_equal(expected, got)
    return prepare, main


def test_weight_math_moves_and_literals_stay():
    b = Builder()
    x = b.input("x", f32, (2, 3))
    w = b.constant(np.arange(3, dtype=np.float32))
    scaled = b.op("mul", w, b.full(2.0, w.type))
    y = b.op("add", b.op("add", x, b.broadcast(scaled, (2, 3), (1,))), b.full_like(1.0, x))
    prepare, main = split_and_compare(b.returns(y), np.ones((2, 3), np.float32))
    assert [n.op.name for n in prepare.nodes] == ["constant", "broadcast", "mul"]
    assert [n.op.name for n in main.nodes] == ["broadcast", "add", "constant", "broadcast", "add"]


def test_views_of_what_is_materialized_stay():
    b = Builder()
    x = b.input("x", f32, (4, 2))
    w = b.constant(np.arange(8, dtype=np.float32).reshape(2, 4))
    packed = b.op("materialize", b.transpose(w, (1, 0)))
    y = b.op("add", x, b.reshape(b.reshape(packed, (8,)), (4, 2)))
    prepare, main = split_and_compare(b.returns(y), np.ones((4, 2), np.float32))
    assert [n.op.name for n in prepare.nodes] == ["transpose", "materialize"]
    assert [n.op.name for n in main.nodes] == ["reshape", "reshape", "add"]


def test_a_graph_of_constants_moves_whole():
    b = Builder()
    w = b.constant(np.arange(4, dtype=np.float32))
    prepare, main = split_and_compare(b.returns(b.op("neg", w), w))
    assert not main.nodes and [n.op.name for n in prepare.nodes] == ["neg"]
