"""What an exporter of an operator sees of a node: its operands by their names in ONNX, its attributes, the scope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from onnx import GraphProto

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.types import TensorType
from graphc_onnx.export_scope import Name, Scope

Exporter: TypeAlias = Callable[["ExportedNode"], Name | Sequence[Name]]
"""Emits a node's results, all of them; raises Refused where ONNX can't say what it does."""


class Regions(Protocol):
    """Writes graphs among a node's attributes."""

    def inline(self, graph: Graph, operands: Sequence[Name], scope: Scope) -> list[Name]:
        """The outputs of a graph whose nodes are written into `scope`."""
        ...

    def closed(self, scope: Scope, name: str, inputs: Sequence[Name], outputs: Sequence[Name]) -> GraphProto:
        """A scope's nodes as a graph."""
        ...


class ExportedNode:
    """A node under export."""

    def __init__(self, node: Node, scope: Scope, names: dict[Value, Name], regions: Regions) -> None:
        self.node = node
        self.scope = scope
        self.regions = regions
        self._names = names

    def __contains__(self, value: Value) -> bool:
        """Whether a value has a name where the node stands."""
        return value in self._names

    def __getitem__(self, attribute: str) -> Any:
        return self.node[attribute]

    @property
    def type(self) -> TensorType:
        """The type of the first result."""
        return self.node.results[0].type

    def loose(self, index: int = 0) -> Name:
        """An operand as it is known in ONNX, which may be narrower than its type, for operators that broadcast."""
        return self._names[self.node.operands[index]]

    def x(self, index: int = 0) -> Name:
        """An operand of the shape that its type says."""
        value = self.node.operands[index]
        return self.scope.expand(self._names[value], value.type.shape)

    def name(self, value: Value) -> Name:
        """What a value that is computed before the node is in ONNX."""
        return self._names[value]

    def xs(self) -> list[Name]:
        """All operands, of the shapes that their types say."""
        return [self.x(i) for i in range(len(self.node.operands))]

    def op(self, op: str, operands: Sequence[Name | None], type: TensorType | None = None, **attributes: Any) -> Name:
        """A node whose result has a type, the first result's where none is given."""
        type = type or self.type
        return self.scope.op(op, operands, type.dtype, type.shape, **attributes)
