"""Cuts the computation of some values out of a graph, at given dims, in its own or in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import OpDef
from graphc.ir.symbolic import Dim, Symbol, free_symbols, substitute
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DType, TensorType, f64


def cone(
    targets: Iterable[Value], leaves: Iterable[Value], dims: Mapping[str, int] | None = None, *, wide: bool = False
) -> tuple[Graph, list[Value]]:
    """A graph from the leaves that the targets need to the targets, and those leaves; regions are changed alike.

    Symbols in `dims` become numbers. With `wide`, every float type becomes f64: its run shows the rounding of the
    original's. Raises ValueError if a graph input that isn't a leaf is needed.
    """
    change = _Change(dims or {}, wide)
    targets = list(targets)
    cut = set(leaves)
    graph = Graph("cone")
    builder = Builder(graph)
    mapping: dict[Value, Value] = {}
    used: list[Value] = []
    for node_or_leaf in _needed(targets, cut):
        if isinstance(node_or_leaf, Value):
            type = change.type(node_or_leaf.type)
            mapping[node_or_leaf] = builder.input(node_or_leaf.name, type.dtype, type.shape)
            used.append(node_or_leaf)
        else:
            change.node(node_or_leaf, builder, mapping)
    graph.set_outputs(mapping[v] for v in targets)
    return graph, used


def widen(graph: Graph) -> Graph:
    """The same graph in double precision: every float type is f64."""
    change = _Change({}, True)
    return change.graph(graph)


def specialize(graph: Graph, dims: Mapping[str, Dim]) -> Graph:
    """The same graph with numbers, or other symbols, for symbols."""
    return _Change(dims, False).graph(graph)


def _needed(targets: list[Value], cut: set[Value]) -> list[Node | Value]:
    """Leaves and nodes under the targets, operands first."""
    order: list[Node | Value] = []
    seen: set[Node | Value] = set()
    stack: list[tuple[Value, bool]] = [(v, False) for v in reversed(targets)]
    while stack:
        value, expanded = stack.pop()
        item: Node | Value = value if value in cut or value.producer is None else value.producer
        if item in seen:
            continue
        if isinstance(item, Value):
            if value not in cut:
                raise ValueError(f"%{value.name} is an input of the graph and no leaf of the cone")
        elif not expanded:
            stack.append((value, True))
            stack.extend((v, False) for v in reversed(item.operands))
            continue
        seen.add(item)
        order.append(item)
    return order


class _Change:
    """Dims to numbers and, with `wide`, floats to f64: in types, attributes and regions."""

    def __init__(self, dims: Mapping[str, Dim], wide: bool) -> None:
        self.dims = dims
        self.wide = wide

    def graph(self, old: Graph) -> Graph:
        new = Graph(old.name)
        builder = Builder(new)
        mapping = {}
        for v in old.inputs:
            type = self.type(v.type)
            mapping[v] = builder.input(v.name, type.dtype, type.shape)
        for node in old.nodes:
            self.node(node, builder, mapping)
        new.set_outputs(mapping[v] for v in old.outputs)
        return new

    def node(self, node: Node, builder: Builder, mapping: dict[Value, Value]) -> None:
        attributes = {k: self.attribute(node.op, k, v) for k, v in node.attributes.items()}
        builder.origin = node.origin
        new = builder.emit(node.op, [mapping[v] for v in node.operands], name=node.results[0].name, **attributes)
        mapping.update(zip(node.results, new.results, strict=True))

    def type(self, type: TensorType) -> TensorType:
        return TensorType(self.dtype(type.dtype), tuple(self.dim(d) for d in type.shape))

    def dtype(self, dtype: DType) -> DType:
        return f64 if self.wide and dtype.is_float else dtype

    def dim(self, d: Dim) -> Dim:
        return substitute(d, self.dims)

    def attribute(self, op: OpDef, name: str, value: Any) -> Any:
        match op.attributes[name].kind:
            case "dim":
                return self.dim(value)
            case "dims":
                return tuple(self.dim(d) for d in value)
            case "dtype":
                return self.dtype(value)
            case "tensor" if self.wide and value.type.dtype.is_float:
                return TensorData(value.array.astype(np.float64))
            case "graph":
                return self.graph(value)
        return value


def symbols_of_inputs(graph: Graph) -> dict[str, Symbol]:
    """The symbols that the graph's inputs define, by name, sorted."""
    found = {s.name: s for v in graph.inputs for d in v.type.shape for s in free_symbols(d)}
    return dict(sorted(found.items()))
