"""Kernels of random fused graphs against the interpreter; all their loops are nests here, matrix products too."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.interpreter import bind_dims, interpret
from graphc.lowering.lower import lower
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.bodies import assert_close
from graphc.testing.random_graphs import graphs, random_inputs


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(), st.integers(1, 20), st.integers(1, 16), st.sampled_from(["start", "end"]))
def test_fused_kernels(nest_kernel, graph, n, m, side):
    inputs = random_inputs(graph, {"n": n, "m": m})
    PassManager(resolve_passes(["canonicalize", "fuse"])).run(graph, PassContext())
    arrays = {}
    interpret(graph, inputs, watch=lambda v, x: arrays.update({v: np.array(x, order="C")}))
    dims = bind_dims(graph, [x.shape for x in inputs])
    for node in graph.nodes:
        if node.op.name != "fusion":
            continue
        kernel = nest_kernel(lower(node["body"], node["kind"]))
        outputs = [np.full_like(arrays[v], 77) for v in node.results]
        assert kernel([arrays[v] for v in node.operands], outputs, dims, pieces=2, side=side) == 0
        for y, v in zip(outputs, node.results, strict=True):
            assert_close(y, arrays[v])
