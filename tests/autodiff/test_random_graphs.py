"""Gradients of random graphs: against finite differences in f64, once and twice, and compiled against interpreted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.text import print_graph
from graphc.ir.types import f32, f64
from graphc.ir.verifier import verify
from graphc.testing.random_graphs import graphs, random_inputs, unexplained

Arrays = Sequence[np.ndarray]

STEPS = (2.0**-6, 2.0**-9, 2.0**-12, 2.0**-15, 2.0**-18)
"""Of the differences: a function may vary too quickly for a large one, and cancel too much for a small one."""

SIZES: Mapping[str, int] = {"n": 2, "m": 3}


def weighted(graph: Graph) -> Graph:
    """The graph with each output times an input of its own, so that no two elements have the same cotangent."""
    copy, _ = graph.clone()
    b = Builder(copy)
    return b.returns(*(b.op("mul", v, b.input("weight", v.type.dtype, v.type.shape)) for v in copy.outputs))


def run(graph: Graph, inputs: Arrays) -> tuple[float, list[bytes], bool]:
    """The sum of all outputs, which side of every kink the values lie on, and whether they all are moderate."""
    choices: list[bytes] = []
    seen: dict[Value, np.ndarray] = {}
    moderate = True

    def watch(value: Value, array: np.ndarray) -> None:
        nonlocal moderate
        seen[value] = array
        moderate = moderate and bool(np.all(np.abs(array) < 1e4))
        node = value.producer
        if node is None:
            return
        operands = [seen[v] for v in node.operands]
        match node.op.name:
            case "abs" | "sign":
                choices.append(np.sign(operands[0]).tobytes())
            case "max" | "min":
                choices.append(np.sign(operands[0] - operands[1]).tobytes())
            case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
                choices.append(array.tobytes())
            case "reduce_max" | "reduce_min":
                best = np.expand_dims(array, node["axes"])
                choices.append((operands[0] == best).tobytes())

    outputs = interpret(graph, inputs, watch=watch)
    return float(sum(np.sum(y) for y in outputs)), choices, moderate


def check(graph: Graph, dims: Mapping[str, int], seed: int) -> None:
    """The gradient along a random direction is a difference quotient, to 1e-5 of the gradient's and direction's norms."""
    joint = graphc.value_and_grad(graph)
    verify(joint)
    inputs = random_inputs(graph, dims, seed)
    rng = np.random.default_rng(seed + 1)
    along = [rng.normal(size=x.shape) for x in inputs]
    _, choices, moderate = run(graph, inputs)
    assume(moderate)
    gradients = interpret(joint, inputs)[len(graph.outputs) :]
    seen = sum(float(np.sum(g * d)) for g, d in zip(gradients, along, strict=True))
    norm = np.sqrt(sum(float(np.sum(g * g)) for g in gradients) * sum(float(np.sum(d * d)) for d in along))
    differences = []
    for h in STEPS:
        ahead, behind = (run(graph, [x + s * d for x, d in zip(inputs, along, strict=True)]) for s in (h, -h))
        if ahead[1] == choices == behind[1]:
            differences.append((ahead[0] - behind[0]) / (2 * h))
    assume(differences)
    best = min(differences, key=lambda d: abs(d - seen))
    assert abs(best - seen) <= 1e-5 * (norm + 1e-3), f"{seen} isn't among {differences}\n{print_graph(graph)}"


SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@settings(SETTINGS, max_examples=200)
@given(graphs(dtype=f64, dynamic=False, max_nodes=30), st.integers(0, 99))
def test_gradients_are_difference_quotients(graph: Graph, seed: int) -> None:
    check(weighted(graph), {}, seed)


@settings(SETTINGS, max_examples=80)
@given(graphs(dtype=f64, max_nodes=30), st.integers(0, 99))
def test_those_of_symbolic_sizes_too(graph: Graph, seed: int) -> None:
    check(weighted(graph), SIZES, seed)


@settings(SETTINGS, max_examples=100)
@given(graphs(dtype=f64, dynamic=False, max_nodes=10), st.integers(0, 99))
def test_gradients_of_gradients_are_too(graph: Graph, seed: int) -> None:
    check(weighted(graphc.grad(weighted(graph))), {}, seed)


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@settings(SETTINGS, max_examples=20)
@given(data=st.data())
def test_compiled_gradients_are_the_interpreters(dtype: graphc.ir.types.DType, data: st.DataObject) -> None:
    graph = weighted(data.draw(graphs(dtype=dtype, max_nodes=20)))
    joint = graphc.value_and_grad(graph)
    inputs = random_inputs(joint, SIZES)
    _, _, moderate = run(joint, inputs)
    assume(moderate)
    outputs = graphc.compile(joint, threads=1, cache=False)(*inputs)
    assert unexplained(joint, inputs, outputs) is None, print_graph(graph)
