"""The order of nodes: updates follow their gradients, behind the readers of what they overwrite; the rest stays."""

from __future__ import annotations

import numpy as np

import graphc
from graphc.autodiff import gradients
from graphc.backend import CompileOptions
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import f32
from graphc.ir.verifier import verify
from graphc.lowering.donation import in_place
from graphc.lowering.order import Order
from graphc.pipeline import PassContext
from graphc.plugins import BACKENDS, find

LAYERS = 6


def training(*, together: bool = False) -> Graph:
    """Layers tanh(x w), a gradient step with momentum on each w, all updates at the end; `together` divides by a norm of all."""
    b = Builder(Graph("step"))
    x = b.input("x", f32, (64, 8))
    rate = b.input("rate", f32, ())
    ws = [b.input(f"w{i}", f32, (8, 8)) for i in range(LAYERS)]
    ms = [b.input(f"m{i}", f32, (8, 8)) for i in range(LAYERS)]
    for i, w in enumerate(ws):
        b.origin = (f"layer{i}",)
        x = b.op("tanh", b.op("matmul", x, w))
    loss = b.op("reduce_sum", x, axes=(0, 1))
    found = gradients(b, {loss: b.full_like(1, loss)}, ws)
    if together:
        total: Value = b.scalar(1, f32)
        for g in found:
            total = b.op("add", total, b.op("reduce_sum", b.op("mul", g, g), axes=(0, 1)))
        found = [b.op("div", g, b.broadcast(total, g.type.shape, ())) for g in found]
    b.origin = ("update",)
    moved = [b.op("add", b.op("mul", m, b.full_like(0.9, m)), g) for m, g in zip(ms, found, strict=True)]
    new = [b.op("sub", w, b.op("mul", m, b.broadcast(rate, (8, 8), ()))) for w, m in zip(ws, moved, strict=True)]
    graph = b.returns(loss, *new, *moved)
    graph.donations = [(2 + i, 1 + i) for i in range(2 * LAYERS)]
    return graph


def ordered(graph: Graph) -> Graph:
    graph = graphc.run_passes(graph, ["decompose", "cse", "dce"])
    before = [x.copy() for x in inputs(graph)]
    expected = interpret(graph, before)
    Order().run(graph, PassContext())
    verify(graph)
    for seen, e in zip(interpret(graph, before), expected, strict=True):
        np.testing.assert_array_equal(seen, e)
    return graph


def inputs(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(rng.normal(size=v.type.shape), np.float32) for v in graph.inputs]


def updates(graph: Graph) -> list[int]:
    """Where the new parameters are made, the last layer's first."""
    return [graph.nodes.index(graph.outputs[1 + i].producer) for i in reversed(range(LAYERS))]


def test_an_update_follows_its_gradient() -> None:
    graph = ordered(training())
    backward = [i for i, n in enumerate(graph.nodes) if n.op.name == "dot"]
    assert all(any(i > update for i in backward) for update in updates(graph)[:2])


def test_what_is_written_over_was_read_before() -> None:
    graph = ordered(training())
    assert in_place(graph) == tuple(graph.donations)


def test_updates_that_need_all_gradients_come_last() -> None:
    graph = ordered(training(together=True))
    gradients_of_weights = [
        i for i, n in enumerate(graph.nodes) if n.op.name == "dot" and n.result.type.shape == (8, 8)
    ]
    assert len(gradients_of_weights) == LAYERS
    assert min(updates(graph)) > max(gradients_of_weights)


def test_a_model_for_inference_stays_as_it_is() -> None:
    b = Builder()
    x, w = b.input("x", f32, (4, 4)), b.input("w", f32, (4, 4))
    for _ in range(3):
        x = b.op("tanh", b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,)))
    graph = b.returns(x)
    before = graph.nodes
    assert not Order().run(graph, PassContext()).changed
    assert graph.nodes == before


def test_what_is_read_is_sooner_forgotten() -> None:
    """Bytes in use, summed over the steps of the program."""
    graph, options = training(), CompileOptions("llvm")
    passes = find(BACKENDS, "llvm").pipeline(options)
    without = [p for p in passes if not isinstance(p, Order)]
    assert len(without) == len(passes) - 1
    used = []
    for given in (passes, without):
        executable = graphc.compile(graph, cache=False, threads=1, passes=given)
        buffers = executable.segment.runner.program.buffers  # type: ignore[attr-defined]
        used.append(sum(b.bytes * (b.last - b.first + 1) for b in buffers))
    assert used[0] < 0.8 * used[1]
