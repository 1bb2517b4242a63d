"""Long sums of few results: parts by one kernel, their sum and what follows by another, and the same numbers."""

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.text import constants_of, print_graph
from graphc.ir.types import f32
from graphc.testing.worker import Call, run_graph
from graphc_triton.segment import TritonSegment


def gradients() -> Graph:
    """A bias's gradient and its update, a weight's, an extreme, and a sum of everything."""
    b = Builder()
    x, y, bias = b.input("x", f32, (1024, 5)), b.input("y", f32, (1024, 3)), b.input("bias", f32, (5,))
    total = b.op("reduce_sum", b.op("tanh", x), axes=(0,))
    updated = b.op("sub", bias, b.op("mul", total, b.full_like(0.1, total)))
    weight = b.op("relu", b.op("matmul", b.transpose(x, (1, 0)), y))
    z = b.input("z", f32, (20000,))
    return b.returns(updated, weight, b.op("reduce_max", x, axes=(0,)), b.op("reduce_sum", z, axes=(0,)))


def test_sums_in_parts(interpreted: Call) -> None:
    graph, rng = gradients(), np.random.default_rng(0)
    arrays = [rng.normal(size=v.type.concrete({})).astype(np.float32) for v in graph.inputs]
    seen = interpreted(run_graph, print_graph(graph), constants_of(graph), arrays, "triton")
    again = interpreted(run_graph, print_graph(graph), constants_of(graph), arrays, "triton")
    for y, wanted, same in zip(seen, interpret(graph, arrays), again, strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
        np.testing.assert_array_equal(y, same)


def kernels(graph: Graph) -> dict[str, int]:
    """How many functions each kernel has."""
    segment = graphc.compile(graph, "triton", target="interpreter", cache=False).segment
    assert isinstance(segment, TritonSegment)
    return {k.name: len(k.functions) for k in segment.main.kernels}


def test_what_is_split() -> None:
    assert set(kernels(gradients()).values()) == {2}


@pytest.mark.parametrize("shape", [(64, 5), (1021, 5), (1024, 1 << 18), (symbol("n"), 5)], ids=str)
def test_what_is_left_whole(shape: tuple[object, int]) -> None:
    """Short sums, those without parts of one length, those with results enough for all programs, unknown lengths."""
    b = Builder()
    assert kernels(b.returns(b.op("reduce_sum", b.input("x", f32, shape), axes=(0,)))) == {"sum": 1}


def test_parts_count_as_scratch() -> None:
    memory = graphc.compile(gradients(), "triton", target="interpreter", cache=False).memory
    assert memory.scratch > 0 == memory.arena
