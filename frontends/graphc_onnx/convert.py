"""ONNX models as graphs: inputs and initializers, then node by node, functions and constant branches inlined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from graphc.errors import GraphcError, ModelError, Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc_onnx.call import Call, Results, Within
from graphc_onnx.converters import CONVERTERS
from graphc_onnx.functions import function_body, given_attributes, without_operands
from graphc_onnx.imported import (
    ONNX_DTYPES,
    Contents,
    Item,
    Refused,
    Tensor,
    Unknown,
    as_model_error,
    check_size,
    materialize,
)
from graphc_onnx.learned import Mode
from graphc_onnx.reading import OnnxModel, normal_domain, read_opsets
from graphc_onnx.schemas import AttributeValue, check_nodes, find_schema, node_attributes
from graphc_onnx.shape_arithmetic import fold_shapes
from graphc_onnx.signatures import check_types
from graphc_onnx.structure import free_names, function_key, layer_name, ordered_nodes
from graphc_onnx.symbols import Symbols
from graphc_onnx.tensors import STORAGE, tensor_to_numpy, type_name

# Functions that stand for operators may themselves use operators that are functions.
DEEPEST_INLINING = 80
# Nodes of branches, loop steps and functions put in place: nested loops stand for many.
MOST_INLINED_NODES = 10_000


class NeedsConstants(UnsupportedOpError):
    """Shapes of the model depend on the data of `inputs`; as constants, it could be imported."""

    def __init__(self, unsupported: Iterable[Unsupported], inputs: frozenset[str]) -> None:
        super().__init__("graphc_onnx", unsupported, hint="what shapes depend on must be constant")
        self.inputs = inputs


@dataclass(frozen=True)
class Scope:
    """Where a node stands: what names mean there, the opsets, the attributes of the call around it, its path."""

    names: dict[str, Item | None]
    opsets: Mapping[str, int]
    bound: Mapping[str, AttributeProto] | None = None
    path: tuple[str, ...] = ()

    def layer(self, node: NodeProto) -> str:
        return "/".join((*self.path, layer_name(node)))


def convert(
    model: OnnxModel,
    symbols: Symbols,
    constants: Mapping[str, np.ndarray] | None = None,
    trained: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The graph of a model that was read; inputs in `constants` aren't inputs of the graph but have these contents.

    trained: contents of initializers in place of the file's; nodes in training mode are then taken for inference.
    Raises UnsupportedOpError for all nodes at once that it can't take, ModelError for what breaks ONNX's rules.
    """
    importer = Importer(model)
    if trained is not None:
        importer.trained, importer.mode = trained, Mode(evaluating=True)
    return importer.run(symbols, constants or {})


def check_contents(info: ValueInfoProto, contents: np.ndarray) -> None:
    """Raises ModelError where an input's contents aren't of the type that the model says, as far as it says one."""
    tensor = info.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    fits = not tensor.HasField("shape") or (
        len(dims) == contents.ndim and all(d in (None, n) for d, n in zip(dims, contents.shape, strict=True))
    )
    dtype = ONNX_DTYPES.get(tensor.elem_type)
    if dtype is None or contents.dtype != dtype.numpy or not fits:
        shape = ", ".join("?" if d is None else str(d) for d in dims) if tensor.HasField("shape") else "..."
        seen, expected = f"{contents.dtype}{list(contents.shape)}", f"{type_name(tensor.elem_type)}[{shape}]"
        raise ModelError(f"input {info.name} doesn't fit its type", seen=seen, expected=expected)


class Importer:
    """A model on its way to a graph; `trained`: contents of its initializers in place of the file's."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.graph = Graph(_identifier(model.proto.graph.name))
        self.contents = Contents()
        self.unsupported: list[Unsupported] = []
        self.needed: frozenset[str] = frozenset()
        self.depth = 0
        self.inlined = 0
        self.named: dict[str, int] = {}
        self.mode = Mode()
        self.trained: Mapping[str, np.ndarray] = {}

    def run(self, symbols: Symbols, constants: Mapping[str, np.ndarray]) -> Graph:
        self.unsupported += check_nodes(self.model)
        self.known_bad = {(u.op, u.layer) for u in self.unsupported}
        proto = self.model.proto.graph
        names: dict[str, Item | None] = {}
        scope = Scope(names, self.model.opsets)
        self.initializers(proto, scope, self.model.stored)
        self.learn(names)
        self.inputs(proto, names, symbols, constants)
        self.nodes(proto.node, scope)
        if self.unsupported:
            self.raise_unsupported()
        self.outputs(proto, names)
        if self.mode.learned is not None:
            self.mode.learned.return_state()
        self.drop_unused()
        return self.graph

    def raise_unsupported(self) -> None:
        if self.needed:
            raise NeedsConstants(self.unsupported, self.needed)
        raise UnsupportedOpError("graphc_onnx", self.unsupported)

    # What a graph begins and ends with

    def initializers(self, proto: GraphProto, scope: Scope, stored: Mapping[int, np.ndarray] | None = None) -> None:
        for i, tensor in enumerate(proto.initializer):
            try:
                array = self.array(tensor, f"initializer {tensor.name!r}", (stored or {}).get(i))
                scope.names[tensor.name] = Tensor.of(array, tensor.name)
            except Refused as e:
                scope.names[tensor.name] = None
                self.unsupported.append(Unsupported("initializer", tensor.name, e.reason))
        for sparse in proto.sparse_initializer:
            scope.names[sparse.values.name] = None
            self.unsupported.append(Unsupported("initializer", sparse.values.name, "sparse tensors aren't supported"))

    def learn(self, names: dict[str, Item | None]) -> None:
        """Gives the model's initializers what they learned, or offers them to be learned."""
        names.update((name, Tensor.of(array, name)) for name, array in self.trained.items())
        if self.mode.learned is not None:
            for item in names.values():
                if isinstance(item, Tensor):
                    self.mode.learned.offer(item)

    def array(self, tensor: TensorProto, layer: str, stored: np.ndarray | None = None) -> np.ndarray:
        if tensor.data_type not in ONNX_DTYPES and (tensor.data_type in STORAGE or tensor.data_type in _FOREIGN):
            raise Refused(f"the element type {type_name(tensor.data_type)} isn't supported")
        return tensor_to_numpy(tensor, self.model.base_dir, layer=layer, stored=stored)

    def inputs(
        self, proto: GraphProto, names: dict[str, Item | None], symbols: Symbols, constants: Mapping[str, np.ndarray]
    ) -> None:
        given = [info for info in proto.input if info.name not in names]
        symbols.check_names({info.name for info in given})
        for info in given:
            try:
                self.input(info, names, symbols, constants)
            except Refused as e:
                names[info.name] = None
                self.unsupported.append(Unsupported("input", info.name, e.reason))

    def input(
        self, info: ValueInfoProto, names: dict[str, Item | None], symbols: Symbols, constants: Mapping[str, np.ndarray]
    ) -> None:
        if info.name in constants:
            check_contents(info, constants[info.name])
            names[info.name] = Tensor.of(constants[info.name])
            return
        if not info.type.HasField("tensor_type"):
            raise Refused(f"an input of type {info.type.WhichOneof('value') or 'unknown'} isn't supported")
        tensor = info.type.tensor_type
        dtype = ONNX_DTYPES.get(tensor.elem_type)
        if dtype is None:
            raise Refused(f"the element type {type_name(tensor.elem_type)} isn't supported")
        if not tensor.HasField("shape"):
            raise Refused("an input without a rank isn't supported")
        value = self.graph.add_input(info.name, TensorType(dtype, symbols.shape(info)))
        try:
            check_size(value)
        except GraphcError as e:
            raise as_model_error(e, f"input {info.name!r}") from e
        names[info.name] = Tensor(value.type, value=value)

    def outputs(self, proto: GraphProto, names: Mapping[str, Item | None]) -> None:
        b = Builder(self.graph)
        values: list[Value] = []
        for info in proto.output:
            item = names[info.name]
            if not isinstance(item, Tensor):
                raise UnsupportedOpError(
                    "graphc_onnx", [Unsupported("output", info.name, "an output that is a sequence isn't supported")]
                )
            self.check_output(info, item)
            value = materialize(b, item)
            if value.producer is None or value in values:
                # An output has a name of its own, so it is a value of its own.
                value = b.op("reshape", value, shape=value.type.shape)
            values.append(value)
        for value in values:
            self.graph.rename(value, "output")
        for info, value in zip(proto.output, values, strict=True):
            wanted = _identifier(info.name)
            holder = next((v for v in self.graph.values() if v.name == wanted and v not in values), None)
            if holder is not None and holder.producer is not None:
                self.graph.rename(holder, f"{info.name}_inner")
            self.graph.rename(value, info.name)
        self.graph.set_outputs(values)

    def check_output(self, info: ValueInfoProto, item: Tensor) -> None:
        """Raises ModelError where the file says another element type than the graph has: the model isn't sound."""
        declared = ONNX_DTYPES.get(info.type.tensor_type.elem_type)
        if declared is not None and declared != item.type.dtype:
            raise ModelError(
                "an output has another element type than declared", layer=f"output {info.name!r}",
                seen=item.type.dtype, expected=declared,
            )  # fmt: skip

    def drop_unused(self) -> None:
        """Erases nodes that no output needs: shape arithmetic leaves some behind."""
        for node in reversed(self.graph.nodes):
            if not any(v.uses for v in node.results):
                self.graph.erase(node)

    # Nodes

    def nodes(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        for node in ordered_nodes(nodes):
            try:
                self.node(node, scope)
            except Unknown:
                self.forget(node, scope)
            except Refused as e:
                self.refuse(node, scope, e)
            except GraphcError as e:
                raise as_model_error(e, scope.layer(node)) from e
            except (LookupError, ValueError, ArithmeticError) as e:
                # Conversions take a node's shapes and numbers for what its operator asks for: those of a damaged model
                # end here where no check of their own has named what is wrong.
                raise ModelError("the node breaks its operator's rules", layer=scope.layer(node), seen=repr(e)) from e

    def forget(self, node: NodeProto, scope: Scope) -> None:
        for name in node.output:
            if name:
                scope.names[name] = None

    def refuse(self, node: NodeProto, scope: Scope, refused: Refused) -> None:
        self.forget(node, scope)
        layer = scope.layer(node)
        if (node.op_type, layer) not in self.known_bad:
            self.unsupported.append(Unsupported(node.op_type, layer, refused.reason))
        self.needed |= refused.inputs

    def node(self, node: NodeProto, scope: Scope) -> None:
        function = self.model.functions.get(function_key(node.domain, node.op_type, node.overload))
        if function is not None:
            self.function(node, function, scope, self.call_attributes(node, function, scope))
            return
        domain = normal_domain(node.domain)
        schema = find_schema(node.op_type, scope.opsets.get(domain, 0), domain)
        if schema is None or schema.deprecated:
            raise Refused(f"{domain or 'ai.onnx'} {scope.opsets.get(domain, 0)} has no such operator")
        attributes = node_attributes(node, schema, scope.bound)
        converter = CONVERTERS.get((domain, node.op_type))
        if converter is None:
            body = function_body(node.op_type, scope.opsets[domain], domain)
            if body is None:
                raise Refused("there is no conversion for this operator")
            self.function(node, body, scope, self.call_attributes(node, body, scope))
            return
        call = self.call(node, attributes, scope)
        check_types(node.op_type, call.opset, domain, call.operands, call.layer)
        results: Results = fold_shapes(call) if domain == "" else None
        if results is None:
            results = converter(call)
        self.bind(node, results, scope)

    def call(self, node: NodeProto, attributes: Mapping[str, AttributeValue], scope: Scope) -> Call:
        operands = self.operands(node.input, scope)
        layer = scope.layer(node)
        builder = Builder(self.graph, origin=(layer,))

        def inline(graph: GraphProto, given: Sequence[Item]) -> list[Item]:
            return self.subgraph(graph, given, scope, layer)

        opset = scope.opsets[normal_domain(node.domain)]
        outputs = tuple(node.output)
        within = Within(inline, lambda graphs, types: self.regions(graphs, types, scope, layer), self.attempt)
        return Call(
            node.op_type, layer, opset, attributes, operands, outputs, builder, self.contents, within, self.mode
        )

    def operands(self, names: Iterable[str], scope: Scope) -> list[Item | None]:
        operands: list[Item | None] = []
        for name in names:
            item = scope.names[name] if name else None
            if name and item is None:
                raise Unknown
            operands.append(item)
        return operands

    def bind(self, node: NodeProto, results: Results, scope: Scope) -> None:
        """Gives the results their names in the model."""
        listed = results if isinstance(results, list) else [results]
        for name, result in zip(node.output, listed, strict=False):
            if not name:
                continue
            if result is None:
                raise Refused(f"its result {name} isn't supported")
            if isinstance(result, Value):
                check_size(result)
                scope.names[name] = Tensor(result.type, value=result)
                if result.producer is not None and result.producer.origin == (scope.layer(node),):
                    self.graph.rename(result, self.name_of(name))
            else:
                scope.names[name] = result
        for name in node.output[len(listed) :]:
            if name:
                raise Refused(f"its result {name} isn't supported")

    def name_of(self, name: str) -> str:
        """A name for a value, numbered where the same node is put in place several times."""
        count = self.named[name] = self.named.get(name, -1) + 1
        return f"{name}_{count}" if count else name

    # Graphs within

    def subgraph(self, graph: GraphProto, given: Sequence[Item], scope: Scope, layer: str) -> list[Item]:
        """The outputs of a branch, its nodes put into the graph around it."""
        names = dict(scope.names)
        inner = Scope(names, scope.opsets, scope.bound, (*scope.path, layer.rpartition("/")[2]))
        self.initializers(graph, inner)
        names.update(zip((info.name for info in graph.input), given, strict=True))
        self.enter(graph.node, inner)
        return self.required([info.name for info in graph.output], inner)

    def regions(
        self, protos: Sequence[GraphProto], types: Sequence[TensorType], scope: Scope, layer: str
    ) -> tuple[list[Graph], list[Value]]:
        """Subgraphs as closed graphs with inputs of these types, then captures, the same for each; and what they capture."""
        captured: dict[str, list[Value]] = {}
        for name in sorted(set[str]().union(*map(free_names, protos))):
            item = scope.names.get(name)
            if item is None:
                raise Unknown
            captured[name] = [materialize(Builder(self.graph), t) for t in _tensors(item) if not self.is_constant(t)]
        graphs: list[Graph] = []
        for proto in protos:
            with suppress(Unknown):
                graphs.append(self.region(proto, types, captured, scope, layer))
        if len(graphs) < len(protos):
            raise Unknown
        captures = [v for values in captured.values() for v in values]
        kept = []
        for i, capture in reversed(list(enumerate(captures, len(types)))):
            if any(g.inputs[i].uses for g in graphs):
                kept.append(capture)
            else:
                for g in graphs:
                    g.remove_input(g.inputs[i])
        return graphs, kept[::-1]

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a region has the tensor as a constant of its own: its contents are known, and it isn't to be learned."""
        learns = self.mode.learned is not None and self.mode.learned.owns(tensor)
        return self.contents.known(tensor) is not None and not learns

    def region(
        self, proto: GraphProto, types: Sequence[TensorType], captured: Iterable[str], scope: Scope, layer: str
    ) -> Graph:
        """A subgraph as a closed graph with inputs of these types, then what it captures of the graph around it."""
        inner = Importer(self.model)
        inner.mode = self.mode
        inner.unsupported, inner.known_bad = self.unsupported, self.known_bad
        inner.depth, inner.inlined = self.depth, self.inlined

        def outside(tensor: Tensor, name: str) -> Tensor:
            if self.is_constant(tensor):
                return Tensor(tensor.type, known=self.contents.known(tensor), name=tensor.name)
            return Tensor(tensor.type, value=inner.graph.add_input(name, tensor.type))

        names: dict[str, Item | None] = {}
        for info, type in zip(proto.input, types, strict=True):
            names[info.name] = Tensor(type, value=inner.graph.add_input(info.name, type))
        for name in captured:
            item = scope.names[name]
            assert item is not None
            if isinstance(item, Tensor):
                names[name] = outside(item, name)
            else:
                names[name] = tuple(outside(t, name) for t in item)
        body = Scope(names, scope.opsets, scope.bound, (*scope.path, layer.rpartition("/")[2]))
        inner.initializers(proto, body)
        try:
            inner.enter(proto.node, body)
        finally:
            self.inlined = inner.inlined
        b = Builder(inner.graph, origin=(layer,))
        inner.graph.set_outputs([_returned(b, item) for item in inner.required((o.name for o in proto.output), body)])
        inner.drop_unused()
        return inner.graph

    def attempt(self, convert: Callable[[], Results]) -> Results:
        """What a conversion gives, or None where it was refused, whose reasons are then forgotten."""
        told, needed = len(self.unsupported), self.needed
        try:
            return convert()
        except (Unknown, Refused):
            del self.unsupported[told:]
            self.needed = needed
            return None

    def function(
        self, node: NodeProto, function: FunctionProto, scope: Scope, bound: Mapping[str, AttributeProto]
    ) -> None:
        """Puts a function's body in place of the node that calls it."""
        operands = self.operands(node.input, scope)
        names: dict[str, Item | None] = dict.fromkeys(function.input)
        names.update(zip(function.input, operands, strict=False))
        own = read_opsets(function.opset_import, function.name) if function.opset_import else {}
        opsets = {**scope.opsets, **own}
        inner = Scope(names, opsets, bound, (*scope.path, layer_name(node)))
        absent = {n for n in function.input if names[n] is None}
        self.enter([without_operands(n, absent) for n in function.node] if absent else function.node, inner)
        found = self.required(function.output[: len(node.output)], inner)
        scope.names.update((name, item) for name, item in zip(node.output, found, strict=False) if name)

    def enter(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        self.inlined += len(nodes)
        if self.depth >= DEEPEST_INLINING or self.inlined > MOST_INLINED_NODES:
            raise ModelError("functions, branches and loops stand for too many nodes", layer="/".join(scope.path[:3]))
        self.depth += 1
        self.nodes(nodes, scope)
        self.depth -= 1

    def required(self, names: Iterable[str], scope: Scope) -> list[Item]:
        items = [scope.names[name] for name in names]
        found = [item for item in items if item is not None]
        if len(found) < len(items):
            raise Unknown
        return found

    def call_attributes(self, node: NodeProto, function: FunctionProto, scope: Scope) -> dict[str, AttributeProto]:
        defaults = {a.name: a for a in function.attribute_proto}
        return defaults | given_attributes(node, scope.bound)


def _tensors(item: Item) -> tuple[Tensor, ...]:
    return (item,) if isinstance(item, Tensor) else item


def _returned(b: Builder, item: Item) -> Value:
    if not isinstance(item, Tensor):
        raise Refused("a sequence that a branch or a loop's body returns isn't supported")
    return materialize(b, item)


_FOREIGN = (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def _identifier(name: str) -> str:
    """A name as the graph keeps it."""
    return Graph().fresh_name(name)
