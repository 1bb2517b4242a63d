"""Decomposition."""

from __future__ import annotations

import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.types import dtype_of
from graphc.ops import core_operators
from graphc.pipeline import PassContext, PassManager
from graphc_optimize.decompose import Decompose


class Takes:
    """A backend that takes some operators whole."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def supports(self, node: Node) -> str | None:
        return None if node.op.name in self.names else "it doesn't"


ATTENTION = """
    graph @g(%q: f32[1,2,n,4], %k: f32[1,2,m,4], %v: f32[1,2,m,4]) {
      %y: f32[1,2,n,4] = attention(%q, %k, %v) {scale=0.5} from "attn"
      return %y
    }
    """


def test_all_composites_go_without_a_backend(run_passes) -> None:
    graph, _ = run_passes(ATTENTION, Decompose())
    assert all(n.op.is_primitive for n in graph.nodes)
    assert {n.origin for n in graph.nodes} == {("attn",)}


def test_what_the_backend_takes_stays(run_passes) -> None:
    graph, _ = run_passes(ATTENTION, Decompose(), backend=Takes("attention"))
    assert [n.op.name for n in graph.nodes] == ["attention"]
    graph, _ = run_passes(ATTENTION, Decompose(), backend=Takes("softmax"))
    assert {n.op.name for n in graph.nodes if not n.op.is_primitive} == {"softmax"}


def test_regions_are_decomposed(run_passes) -> None:
    graph, _ = run_passes(
        """
        graph @g(%c: f32[3], %xs: f32[n,3]) {
          %h: f32[3], %ys: f32[n,3] = scan(%c, %xs) {carries=1, scanned=1} [
            body=graph @body(%c: f32[3], %x: f32[3]) {
              %y: f32[3] = add(%c, %x)
              %g: f32[3] = silu(%y)
              return %g, %g
            }
          ]
          return %h, %ys
        }
        """,
        Decompose(),
    )
    (node,) = graph.nodes
    assert [n.op.name for n in node["body"].nodes] == ["add", "sigmoid", "mul"]


@pytest.mark.parametrize("op", [o for o in core_operators().values() if not o.is_primitive], ids=lambda o: o.name)
def test_every_composite_keeps_its_claim(op) -> None:
    """Each composite's first sample, held to REASSOCIATES by the pass manager."""
    sample = next(iter(op.samples()))
    b = Builder(Graph())
    typed = any(isinstance(v, Graph) for v in sample.attributes.values())  # a region says which types it takes
    arrays = [a if a.dtype.kind in "biu" or typed else a.astype("f4") for a in sample.operands]
    inputs = [b.input(f"x{i}", dtype_of(a), a.shape) for i, a in enumerate(arrays)]
    graph = b.returns(*b.ops(op, *inputs, **sample.attributes))
    given = {f"x{i}": a for i, a in enumerate(arrays)}
    PassManager([Decompose()], verify="sample", inputs=given).run(graph, PassContext())
    assert all(n.op.is_primitive for n in graph.nodes)
