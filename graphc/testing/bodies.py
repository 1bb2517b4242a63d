"""Runs loop bodies as a backend would, for comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.interpreter import bind_dims, interpret
from graphc.ir.graph import Graph, Value
from graphc.lowering.evaluate import evaluate
from graphc.lowering.loop_body import Body
from graphc.lowering.lower import lower

TOLERANCES = {"float16": 1e-2, "bfloat16": 4e-2, "float32": 2e-6, "float64": 1e-13}
"""Relative to the largest finite magnitude of a result: sums are taken in another order than the reference's."""


def run_body(body: Body, graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a body that was lowered from `graph`, into memory that held something else before."""
    dims = bind_dims(graph, [x.shape for x in inputs])
    outputs = [np.full(v.type.concrete(dims), 77, v.type.dtype.numpy) for v in graph.outputs]
    evaluate(body, [*(np.array(x, order="C") for x in inputs), *outputs], dims)
    return outputs


def check_fusions(graph: Graph, inputs: Sequence[np.ndarray]) -> int:
    """Compares the body of each fusion of a graph with the interpreter on these inputs; how many there were."""
    arrays: dict[Value, np.ndarray] = {}
    interpret(graph, inputs, watch=lambda v, x: arrays.update({v: np.array(x)}))
    dims = bind_dims(graph, [np.shape(x) for x in inputs])
    fusions = [n for n in graph.nodes if n.op.name == "fusion"]
    for node in fusions:
        body = lower(node["body"], node["kind"])
        outputs = [np.full(arrays[v].shape, 77, arrays[v].dtype) for v in node.results]
        evaluate(body, [*(np.array(arrays[v], order="C") for v in node.operands), *outputs], dims)
        for y, v in zip(outputs, node.results, strict=True):
            assert_close(y, arrays[v])
    return len(fusions)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Raises AssertionError unless dtype and shape are equal, and elements too: integers exactly, floats by TOLERANCES."""
    assert actual.dtype == expected.dtype
    tolerance = TOLERANCES.get(expected.dtype.name)
    if tolerance is None:
        np.testing.assert_array_equal(actual, expected)
        return
    wide = expected.astype(np.float64)
    scale = float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0))
    np.testing.assert_allclose(actual.astype(np.float64), wide, rtol=tolerance, atol=tolerance * scale)
