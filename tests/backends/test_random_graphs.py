"""Both backends against the interpreter on random graphs; tests/test_conformance.py has the operators one by one."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc.interpreter import interpret
from graphc.ir.text import print_graph
from graphc.ir.types import f32, f64
from graphc.testing.random_graphs import graphs, random_inputs

BACKENDS = ("reference", "llvm")


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_graphs(backend, dtype, data):
    graph = data.draw(graphs(dtype=dtype))
    executable = graphc.compile(graph, backend=backend, cache=False)
    for n, m in ((1, 1), (4, 3), (9, 16)):
        inputs = random_inputs(graph, {"n": n, "m": m})
        magnitudes = [1.0]
        expected = interpret(graph, inputs, watch=lambda _, a, seen=magnitudes: seen.append(float(np.abs(a).max())))
        outputs = executable(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for value, seen, wanted in zip(graph.outputs, outputs, expected, strict=True):
            assert seen.shape == wanted.shape
            assert seen.dtype == wanted.dtype
            error = float(np.abs(seen - wanted).max())
            # Rounding errs by units of the greatest number met on the way: results may cancel.
            bound = 64 * np.finfo(wanted.dtype).eps * max(magnitudes)
            assert error <= bound, f"%{value.name} errs by {error}\n{print_graph(graph)}"
