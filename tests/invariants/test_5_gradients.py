"""5. VJPs emit registered operators, differentiable again or refusing by name."""

import pytest

from graphc.errors import UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.opdef import NotDifferentiable, OpDef
from graphc.ir.types import f64, i64
from graphc.ir.verifier import verify
from graphc.ops import core_operators, find_operator
from graphc.ops.by_decomposition import backpropagate
from graphc.testing.gradients import forward_graph, gradient_samples

DIFFERENTIABLE = [op for op in core_operators().values() if gradient_samples(op)]


def all_nodes(graph: Graph) -> list[Node]:
    inner = [a for n in graph.nodes for a in n.attributes.values() if isinstance(a, Graph)]
    return [*graph.nodes, *(n for g in inner for n in all_nodes(g))]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_vjps_emit_registered_operators(op: OpDef) -> None:
    """Each node of a gradient has a VJP of its own, or says why it has none."""
    for sample in gradient_samples(op)[:2]:
        graph = forward_graph(op, sample)
        b = Builder(graph)
        (node,) = graph.nodes
        cotangents = [graph.add_input("cotangent", v.type) for v in node.results]
        assert callable(op.vjp)
        found = [v for v in op.vjp(b, node, cotangents) if v is not None]
        verify(b.returns(*found))
        for emitted in all_nodes(graph):
            assert find_operator(emitted.op.name) is emitted.op
            assert callable(emitted.op.vjp) or emitted.op.vjp.reason


def test_every_operator_has_a_gradient_or_a_reason() -> None:
    for op in core_operators().values():
        assert callable(op.vjp) or (isinstance(op.vjp, NotDifferentiable) and op.vjp.reason), op.name


def test_what_has_no_gradient_is_named_with_its_layer() -> None:
    b = Builder(origin=("quantizer",))
    x = b.input("x", f64, (3,))
    y = b.op("fusion", x, body=_negation(), kind="loop")
    with pytest.raises(UnsupportedOpError) as caught:
        backpropagate(b, b.graph.nodes, {y: x}, [x])
    assert "fusion" in str(caught.value)
    assert "quantizer" in str(caught.value)


def _negation() -> Graph:
    b = Builder(Graph("body"))
    return b.returns(b.op("neg", b.input("x", f64, (3,))))


def test_integers_stop_a_gradient_without_an_error() -> None:
    b = Builder()
    x = b.input("x", f64, (3,))
    n = b.op("cast", x, dtype=i64)
    y = b.op("mul", x, b.op("cast", n, dtype=f64))
    found = backpropagate(b, b.graph.nodes, {y: x}, [x])
    verify(b.returns(found[x]))
