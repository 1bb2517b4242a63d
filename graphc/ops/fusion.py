"""Groups of nodes that a backend compiles as one kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Attribute, Inference, NotDifferentiable, OpDef, Sample
from graphc.ir.types import TensorType, f64

KINDS = ("loop", "tile")


def _infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    if a["kind"] not in KINDS:
        raise ShapeError("unknown kind", seen=a["kind"], expected=" or ".join(KINDS))
    expected = tuple(v.type for v in a["body"].inputs)
    if tuple(types) != expected:
        seen, wanted = (", ".join(map(str, t)) for t in (types, expected))
        raise ShapeError("operands don't fit the body", seen=seen, expected=wanted)
    return tuple(v.type for v in a["body"].outputs)


def _decompose(b: Builder, node: Node) -> Sequence[Value]:
    body = node["body"]
    mapping = dict(zip(body.inputs, node.operands, strict=True))
    for inner in body.nodes:
        Graph.copy_node(inner, b.graph, mapping, b.before)
    return [mapping[v] for v in body.outputs]


def _samples() -> Iterable[Sample]:
    b = Builder(Graph("body"))
    x, y = b.input("x", f64, (2, 3)), b.input("y", f64, (3,))
    total = b.op("add", b.op("exp", x), b.broadcast(y, (2, 3), (1,)))
    body = b.returns(total, b.op("reduce_sum", total, axes=(1,)))
    rng = np.random.default_rng(5)
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=3)), {"body": body, "kind": "loop"}, differentiable=False)


OPERATORS = (
    OpDef(
        name="fusion",
        operands=("*operands",),
        results=("*results",),
        attributes={"body": Attribute("graph"), "kind": Attribute("str", "loop")},
        infer=_infer,
        reference=lambda x, a: tuple(a["body"](x)),
        vjp=NotDifferentiable("graphs are differentiated before they are fused"),
        decompose=_decompose,
        samples=_samples,
        dtypes=("f64",),
        doc="The outputs of `body` at the operands. A `loop` is one nest, a `tile` several per tile of outer axes.",
    ),
)
