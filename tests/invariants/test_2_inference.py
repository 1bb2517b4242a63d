"""2. Re-inference yields the stored type; every assumption is a listed guard."""

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.backend import CompileOptions
from graphc.errors import ShapeError, VerifyError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph, Guard
from graphc.ir.opdef import Inference
from graphc.ir.verifier import verify
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc_llvm.backend import BACKEND

ASSUMING = """
graph @assuming(%x: f32[n,4], %y: f32[m,4]) where n == m {
  %z: f32[m,4] = add(%x, %y) from "sum"
  return %z
}
"""


def check(graph: Graph) -> int:
    """Runs inference on every node, regions included; how many assumptions it made."""
    assumed = 0
    listed = {*graph.guards, *(Guard(g.right, g.left) for g in graph.guards)}
    for node in graph.nodes:
        inference = Inference()
        types = node.op.infer(inference, [v.type for v in node.operands], node.attributes)
        assert tuple(types) == tuple(v.type for v in node.results), node
        assert set(inference.guards) <= listed, node
        assumed += len(inference.guards)
        assumed += sum(check(a) for a in node.attributes.values() if isinstance(a, Graph))
    return assumed


def test_stored_types_are_inferred_ones_after_every_pass(model: Any) -> None:
    graph = model.build(0)
    check(graph)
    context = PassContext(backend=BACKEND)
    for p in resolve_passes([*BACKEND.pipeline(CompileOptions()), "fuse"]):
        PassManager([p]).run(graph, context)
        check(graph)


def test_an_assumption_that_is_not_listed_is_found() -> None:
    graph = graphc.parse_graph(ASSUMING)
    assert check(graph) == 1
    verify(graph)
    graph.guards.clear()
    with pytest.raises(VerifyError, match="which isn't a listed guard"):
        verify(graph)


@pytest.mark.parametrize("backend", ["reference", "llvm"])
def test_guards_are_checked_at_entry(backend: str) -> None:
    executable = graphc.compile(graphc.parse_graph(ASSUMING), backend)
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(executable(x, x), 2 * x)
    for other in (x[:2], x[:1]):
        with pytest.raises(ShapeError, match="n == m"):
            executable(x, other)


def test_inferred_shapes_are_those_of_the_values(model: Any) -> None:
    graph = model.build(0)
    for dims in model.sizes:

        def check_value(value: Any, array: np.ndarray, dims: Any = dims) -> None:
            assert array.shape == value.type.concrete(dims)
            assert array.dtype == value.type.dtype.numpy

        interpret(graph, model.inputs(dims), watch=check_value)
