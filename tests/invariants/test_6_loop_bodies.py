"""6. A LoopBody run in NumPy equals the interpreter on its fusion node; the LLVM backend consumes it unchanged."""

from typing import Any

import numpy as np

import graphc
from graphc.backend import CompileOptions
from graphc.interpreter import run_node
from graphc.ir.graph import Graph, Node, Value
from graphc.lowering.evaluate import evaluate
from graphc.lowering.lower import lower
from graphc.lowering.own_names import with_own_names
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.conformance import difference
from graphc_llvm.attention_products import find_products
from graphc_llvm.backend import BACKEND
from graphc_llvm.target import host_target


def fused(graph: Graph) -> Graph:
    """What the LLVM backend lowers, weights as inputs."""
    context = PassContext(backend=BACKEND)
    PassManager(resolve_passes(BACKEND.pipeline(CompileOptions()))).run(graph, context)
    prepare, main, _ = split_prepare(graph)
    for part in (prepare, main):
        PassManager(resolve_passes(["fuse"])).run(part, context)
    return main


def fusions(graph: Graph) -> list[Node]:
    inside = [a for n in graph.nodes if n.op.name == "scan" for a in n.attributes.values() if isinstance(a, Graph)]
    return [n for n in graph.nodes if n.op.name == "fusion"] + [n for g in inside for n in fusions(g)]


def test_loop_bodies_compute_what_their_fusions_mean(model: Any) -> None:
    nodes = fusions(fused(model.build(0)))
    assert nodes
    rng = np.random.default_rng(0)
    for dims in model.sizes[-2:]:
        for node in nodes:
            inputs = [_array(v, dims, rng) for v in node.operands]
            expected = run_node(node, inputs, dims)
            outputs = [np.full(v.type.concrete(dims), 77).astype(v.type.dtype.numpy) for v in node.results]
            run(node, inputs, outputs, dims)
            for seen, want in zip(outputs, expected, strict=True):
                assert difference(seen, want) is None, f"{node} at {dims}: {difference(seen, want)}"


def run(node: Node, inputs: list[np.ndarray], outputs: list[np.ndarray], dims: Any) -> None:
    """Runs a node's body; an attention has two, with a softmax of each row between them."""
    products = find_products(node["body"], host_target())
    if products is None:
        evaluate(lower(node["body"], node["kind"]), [*inputs, *outputs], dims)
        return
    halves = products.scores.body, products.result.body
    shape = halves[0].buffers[-1].type.concrete(dims)
    scores = np.empty(shape, np.float32)
    evaluate(halves[0], [*inputs, scores], dims)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    evaluate(halves[1], [*inputs, powers / powers.sum(-1, keepdims=True), *outputs], dims)


def _array(v: Value, dims: Any, rng: np.random.Generator) -> np.ndarray:
    shape = v.type.concrete(dims)
    if v.type.dtype.is_float:
        return rng.standard_normal(shape).astype(v.type.dtype.numpy)
    return rng.integers(0 if v.type.dtype.is_bool else 1, 2, shape).astype(v.type.dtype.numpy)


def test_the_backend_consumes_the_same_bodies(model: Any) -> None:
    """Up to the names of dimensions, on which no kernel depends."""
    graph = model.build(0)
    loops = graphc.compile(graph, cache=False).text("loops")
    for node in fusions(fused(graph.clone()[0])):
        graph = with_own_names(node)[0]
        products = find_products(graph, host_target())
        bodies = [lower(graph, node["kind"])] if products is None else [products.scores.body, products.result.body]
        for body in bodies:
            assert str(body).partition("(")[2] in loops
