"""Common subexpression elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir.graph import Graph, Node
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import print_graph
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc.rewrite.engine import united_origins
from graphc.rewrite.regions import rewrite_regions

SAMPLE = 64


@dataclass(frozen=True)
class CommonSubexpressions:
    """Nodes with the same operator, operands and attributes become one, with the origins of all of them."""

    name: ClassVar[str] = "cse"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inside = rewrite_regions(graph, context, lambda region, inner: _merge(region, inner) > 0)
        merged = _merge(graph, context)
        return PassResult(inside or merged > 0, {"merged": merged})


def _merge(graph: Graph, context: PassContext) -> int:
    first: dict[object, Node] = {}
    merged = 0
    for node in graph.nodes:
        if "terminal" in node.op.traits:
            continue
        kept = first.setdefault(_key(node), node)
        if kept is node:
            continue
        for old, new in zip(node.results, kept.results, strict=True):
            context.replace(graph, old, new)
        kept.origin = united_origins((kept, node))
        graph.erase(node)
        merged += 1
    return merged


def _key(node: Node) -> tuple[object, ...]:
    operands = tuple(id(v) for v in node.operands)
    if "commutative" in node.op.traits and node.op.name not in ("max", "min"):  # those two order signed zeros
        operands = tuple(sorted(operands))
    return (node.op.name, node.op.version, operands, *((k, _attribute(v)) for k, v in node.attributes.items()))


def _attribute(value: Any) -> object:
    match value:
        case TensorData():
            return _Content(value)
        case Graph():
            return print_graph(value, origins=False)
        case float():
            return np.float64(value).tobytes()
        case tuple():
            return tuple(_attribute(v) for v in value)
    return (type(value).__name__, value)


class _Content:
    """A tensor as a key: hashed by a few of its elements, since most weights differ there, and compared whole."""

    def __init__(self, data: TensorData) -> None:
        self.data = data
        flat = data.array.reshape(-1)
        self.sample = flat[:: max(1, flat.size // SAMPLE)].tobytes()

    def __hash__(self) -> int:
        return hash((self.data.type, self.sample))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Content) or self.data.type != other.data.type or self.sample != other.sample:
            return False
        a, b = self.data.array, other.data.array
        return a is b or bool((a.reshape(-1).view(np.uint8) == b.reshape(-1).view(np.uint8)).all())
