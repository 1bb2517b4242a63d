"""Random graphs, forward: the LLVM backend computes what the interpreter does, at static and symbolic sizes."""

from collections.abc import Mapping

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc.cones import widen
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph
from graphc.ir.types import f32, f64
from graphc.testing.random_graphs import graphs, random_inputs

SIZES: tuple[Mapping[str, int], ...] = ({"n": 1, "m": 1}, {"n": 5, "m": 3}, {"n": 16, "m": 16}, {"n": 33, "m": 2})
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def check(graph: Graph, dims: Mapping[str, int], numerics: str) -> None:
    """Errors against the run in double precision are bounded by those of the interpreter, and by rounding of the largest."""
    executable = graphc.compile(graph, numerics=numerics, cache=False, threads=1)  # type: ignore[arg-type]
    inputs = random_inputs(graph, dims)
    outputs = executable(*inputs)
    expected = interpret(graph, inputs)
    exact = interpret(widen(graph), [x.astype(np.float64) for x in inputs])
    seen = outputs if isinstance(outputs, tuple) else (outputs,)
    for value, y, reference, truth in zip(graph.outputs, seen, expected, exact, strict=True):
        assert y.dtype == reference.dtype and y.shape == reference.shape
        largest = max((float(np.abs(v).max(initial=0)) for v in exact), default=0.0)
        rounding = float(np.abs(reference - truth).max(initial=0))
        bound = 4 * rounding + 512 * EPSILON[y.dtype.name] * (1 + largest)
        error = float(np.abs(y - truth).max(initial=0))
        assert error <= bound, f"%{value.name} is off by {error} > {bound} at {dims}\n{print_graph(graph)}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(dtype=f32, dynamic=False), st.sampled_from(("fast", "strict")))
def test_static_graphs(graph: Graph, numerics: str) -> None:
    check(graph, {}, numerics)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(dtype=f32), st.sampled_from(SIZES), st.sampled_from(("fast", "strict")))
def test_graphs_of_symbolic_sizes(graph: Graph, dims: Mapping[str, int], numerics: str) -> None:
    check(graph, dims, numerics)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(dtype=f64), st.sampled_from(SIZES))
def test_graphs_in_double_precision(graph: Graph, dims: Mapping[str, int]) -> None:
    check(graph, dims, "strict")
