"""Graphs as ONNX models: composites that ONNX has whole, others by their decompositions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, as_symbol
from graphc.version import __version__
from graphc_onnx import (
    export_contraction,
    export_control,
    export_elementwise,
    export_indexing,
    export_movement,
    export_norm,
    export_pool,
)
from graphc_onnx.export_scope import ELEM_TYPES, OPSET, Name, Names, Scope
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import Refused

EXPORTERS: Mapping[str, Exporter] = {
    name: exporter
    for family in (export_contraction, export_control, export_elementwise, export_indexing, export_movement, export_norm,
                   export_pool)
    for name, exporter in family.EXPORTERS.items()
}  # fmt: skip
"""How operators are written, by name."""

LARGEST_MESSAGE = 2_000_000_000
"""Bytes of constants from which on they lie in a file of their own: protobuf holds no more than 2 GiB."""


def export_file(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a graph as an ONNX file; more than 2 GB of constants go to a file beside it, named `<path>.data`.

    Raises as `export_model`.
    """
    model = export_model(graph)
    large = sum(len(t.raw_data) for t in model.graph.initializer) > LARGEST_MESSAGE
    location = f"{Path(path).name}.data" if large else None
    onnx.save_model(model, os.fspath(path), save_as_external_data=large, location=location)


def export_model(graph: Graph) -> ModelProto:
    """A graph as an ONNX model of opset 23: inputs, outputs and constants under their names, nodes under their layers'.

    Symbols become dim_params; guards have no form in ONNX. Numbers that ONNX leaves open (a cast out of range, the order
    of NaN in a sort) are then the runtime's. Raises UnsupportedOpError for all nodes at once that ONNX can't express.
    """
    return _Writer(graph).run()


class _Unknown(Exception):
    """An operand comes from a node that was refused."""


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = Names()
        self.unsupported: list[Unsupported] = []
        # The names of outputs are kept for them.
        self.reserved = {v: self.names.fresh(v.name) for v in dict.fromkeys(graph.outputs) if v not in graph.inputs}

    def run(self) -> ModelProto:
        scope = Scope(self.names)
        inputs = [Name(self.names.fresh(v.name), v.type.dtype, v.type.shape) for v in self.graph.inputs]
        for name in inputs:
            for axis, d in enumerate(name.shape):
                symbol = as_symbol(d)
                if symbol is not None:
                    self.names.symbols.setdefault(symbol.name, (name, axis))
        found = dict(zip(self.graph.inputs, inputs, strict=True))
        self.nodes(self.graph.nodes, found, scope)
        if self.unsupported:
            raise UnsupportedOpError("ONNX export", self.unsupported)
        outputs = self.outputs(found, scope)
        scope.nodes = _read(scope.nodes, {n.text for n in outputs})
        proto = helper.make_graph(scope.nodes, self.graph.name, [_info(n) for n in inputs], [_info(n) for n in outputs])
        proto.initializer.extend(numpy_helper.from_array(self.names.arrays[t], t) for t in self.constants(scope.nodes))
        return helper.make_model(
            proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name="graphc",
            producer_version=__version__,
        )  # fmt: skip

    def constants(self, nodes: Iterable[NodeProto]) -> list[str]:
        """The constants that nodes read, in the order of their first reader."""
        found: dict[str, None] = {}
        for node in nodes:
            found.update((t, None) for t in sorted(_names_in(node)) if t in self.names.arrays)
        return list(found)

    def outputs(self, found: Mapping[Value, Name], scope: Scope) -> list[Name]:
        """The graph's outputs, each a tensor of its own under the value's name."""
        names: list[Name] = []
        for value in self.graph.outputs:
            full = scope.expand(found[value], value.type.shape)
            text = self.reserved.pop(value, "")
            if full.text != value.name or full in names or value in self.graph.inputs:
                text = text or self.names.fresh(value.name)
                scope.nodes.append(helper.make_node("Identity", [full.text], [text]))
                full = Name(text, full.dtype, full.shape)
            names.append(full)
        return names

    # Nodes

    def nodes(self, nodes: Iterable[Node], names: dict[Value, Name], scope: Scope) -> None:
        for node in nodes:
            try:
                results = self.node(node, names, scope)
            except _Unknown:
                continue
            names.update(zip(node.results, results, strict=True))

    def node(self, node: Node, names: dict[Value, Name], scope: Scope) -> Sequence[Name]:
        """A node's results: whole where ONNX has the operator, else by its decomposition."""
        if any(v not in names for v in node.operands):
            raise _Unknown
        scope.layer = " + ".join(node.origin)
        reason = "ONNX has no such operator"
        exporter = EXPORTERS.get(node.op.name)
        if exporter is not None:
            mark = scope.mark()
            try:
                results = exporter(ExportedNode(node, scope, names, self))
            except Refused as e:
                scope.back_to(mark)
                reason = e.reason
            else:
                listed = [results] if isinstance(results, Name) else list(results)
                return self.named(node, listed, scope, scope.nodes[mark[0] :])
        if node.op.decompose is None:
            self.unsupported.append(Unsupported(node.op.name, scope.layer or f"%{node.results[0].name}", reason))
            raise _Unknown
        part, operands = _decomposed(node)
        inside = {v: names[o] for v, o in zip(part.inputs, operands, strict=True)}
        self.nodes(part.nodes, inside, scope)
        if any(v not in inside for v in part.outputs):
            raise _Unknown
        return [inside[v] for v in part.outputs]

    def named(self, node: Node, results: list[Name], scope: Scope, emitted: Sequence[NodeProto]) -> list[Name]:
        """The results under the values' names, where the node made them."""
        made = {t for n in emitted for t in n.output}
        renamed: list[Name] = []
        for value, name in zip(node.results, results, strict=True):
            if name.text not in made or scope.is_shared(name):
                renamed.append(name)
                continue
            narrow = name.shape != value.type.shape
            kept = "" if narrow else self.reserved.pop(value, "")
            text = kept or self.names.fresh(value.name)
            for n in emitted:
                n.input[:] = [text if t == name.text else t for t in n.input]
                n.output[:] = [text if t == name.text else t for t in n.output]
            renamed.append(Name(text, name.dtype, name.shape))
        return renamed

    # Regions

    def inline(self, graph: Graph, operands: Sequence[Name], scope: Scope) -> list[Name]:
        """The outputs of a graph whose nodes are written into `scope`, of the shapes that their types say."""
        names = dict(zip(graph.inputs, operands, strict=True))
        self.nodes(graph.nodes, names, scope)
        if any(v not in names for v in graph.outputs):
            raise _Unknown
        return [scope.expand(names[v], v.type.shape) for v in graph.outputs]

    def closed(self, scope: Scope, name: str, inputs: Sequence[Name], outputs: Sequence[Name]) -> GraphProto:
        """A scope's nodes as a graph, each of its outputs a tensor of its own."""
        texts = [self.names.fresh("result") for _ in outputs]
        scope.nodes += [helper.make_node("Identity", [o.text], [t]) for o, t in zip(outputs, texts, strict=True)]
        own = [Name(t, o.dtype, o.shape) for t, o in zip(texts, outputs, strict=True)]
        return helper.make_graph(scope.nodes, name, [_info(n) for n in inputs], [_info(n) for n in own])


def _read(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that an output depends on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= _names_in(node)
    return kept[::-1]


def _names_in(node: NodeProto) -> set[str]:
    """The tensors that a node reads, those that the graphs within it read too."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            found |= _names_in(inner)
        found.update(o.name for o in attribute.g.output)
    return found


def _decomposed(node: Node) -> tuple[Graph, list[Value]]:
    """What a composite decomposes into, as a graph of its own, and the values that its inputs stand for."""
    assert node.op.decompose is not None
    graph = Graph(node.op.name)
    operands = list(dict.fromkeys(node.operands))
    inside = {v: graph.add_input(v.name, v.type) for v in operands}
    copy = Node(
        node.op, [inside[v] for v in node.operands], node.attributes, [v.type for v in node.results],
        [v.name for v in node.results], node.origin,
    )  # fmt: skip
    graph.set_outputs(node.op.decompose(Builder(graph, origin=node.origin), copy))
    return graph, operands


def _info(name: Name) -> ValueInfoProto:
    return helper.make_tensor_value_info(name.text, ELEM_TYPES[name.dtype.name], [_dim(d) for d in name.shape])


def _dim(d: Dim) -> int | str | None:
    """A size, or a symbol's name; an expression has none."""
    symbol = as_symbol(d)
    return d if isinstance(d, int) else symbol.name if symbol is not None else None
