"""Operators' signatures as the onnx package tells them, and nodes checked against them, in Python alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto

from graphc.errors import ModelError, Unsupported
from graphc_onnx.reading import OnnxModel, normal_domain, read_opsets
from graphc_onnx.structure import FunctionKey, function_key, layer_name, subgraphs

AttributeValue: TypeAlias = (
    int | float | str | TensorProto | GraphProto | SparseTensorProto | TypeProto
    | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | tuple[TensorProto, ...] | tuple[GraphProto, ...]
    | tuple[SparseTensorProto, ...] | tuple[TypeProto, ...]
)  # fmt: skip

_ATTRIBUTE_TYPES: list[tuple[str, int]] = [(name, int(kind)) for name, kind in AttributeProto.AttributeType.items()]
# The field of an AttributeProto that holds the value of each type.
_FIELDS: dict[int, str] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
_LISTS = frozenset(kind for name, kind in _ATTRIBUTE_TYPES if name.endswith("S"))
# onnx has a second enumeration of the same types, for schemas.
_KINDS = {
    getattr(onnx.defs.OpSchema.AttrType, name): kind
    for name, kind in _ATTRIBUTE_TYPES
    if kind != AttributeProto.UNDEFINED
}
_MESSAGES = (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.SPARSE_TENSOR, AttributeProto.TYPE_PROTO)


@dataclass(frozen=True, slots=True)
class AttributeSchema:
    """An attribute's type (a member of AttributeProto.AttributeType), whether it must be there, and its default."""

    type: int
    required: bool
    default: AttributeValue | None


@dataclass(frozen=True, slots=True)
class Schema:
    """An operator's signature in one opset: `since_version` is the opset that gave it this form."""

    name: str
    domain: str
    since_version: int
    deprecated: bool
    inputs: tuple[str, ...]
    required_inputs: tuple[bool, ...]
    min_inputs: int
    max_inputs: int
    min_outputs: int
    max_outputs: int
    attributes: Mapping[str, AttributeSchema]


@lru_cache(maxsize=1024)
def find_schema(op_type: str, opset: int, domain: str = "") -> Schema | None:
    """The operator's signature in a version of its domain; None where there is none."""
    try:
        found = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return Schema(
        name=op_type,
        domain=domain,
        since_version=found.since_version,
        deprecated=found.deprecated,
        inputs=tuple(parameter.name for parameter in found.inputs),
        required_inputs=tuple(parameter.option == single for parameter in found.inputs),
        min_inputs=found.min_input,
        max_inputs=found.max_input,
        min_outputs=found.min_output,
        max_outputs=found.max_output,
        attributes={name: _attribute_schema(attribute) for name, attribute in found.attributes.items()},
    )


def _attribute_schema(attribute: onnx.defs.OpSchema.Attribute) -> AttributeSchema:
    default: AttributeProto = attribute.default_value
    given = default.type != AttributeProto.UNDEFINED
    layer = f"the default of {attribute.name}"
    return AttributeSchema(_KINDS[attribute.type], attribute.required, _value(default, layer) if given else None)


def node_attributes(
    node: NodeProto, schema: Schema, bound: Mapping[str, AttributeProto] | None = None
) -> dict[str, AttributeValue]:
    """The node's attributes with the schema's defaults filled in; one that has neither isn't there.

    Lists are tuples, and texts are str. `bound` are the attributes of the call in whose function the node stands.
    ModelError for an attribute that the operator doesn't have, has with another type, or needs.
    """
    values = {name: known.default for name, known in schema.attributes.items() if known.default is not None}
    seen: set[str] = set()
    layer = layer_name(node)
    for attribute in node.attribute:
        _check_attribute(attribute, schema, seen, layer)
        if attribute.ref_attr_name:
            given = (bound or {}).get(attribute.ref_attr_name)
            if given is None:
                continue  # the call leaves it out, so this operator's own default holds
            if given.type != attribute.type:
                raise _wrong_type(attribute.ref_attr_name, given.type, attribute.type, layer)
            values[attribute.name] = _value(given, layer)
        else:
            values[attribute.name] = _value(attribute, layer)
    for name, known in schema.attributes.items():
        if known.required and name not in values:
            raise ModelError(f"{schema.name} lacks its attribute {name}", layer=layer)
    return values


def check_nodes(model: OnnxModel) -> list[Unsupported]:
    """Each node of the model, in subgraphs and functions too, whose operator onnx doesn't have in the model's opset.

    ModelError for the first one that breaks its operator's signature: the number of operands or results, a needed
    operand left out, an attribute's name or type.
    """
    unknown: list[Unsupported] = []
    _check_body(model.proto.graph.node, "", model.opsets, model.functions, (), unknown)
    for function in model.functions.values():
        where = f"function {function.name}"
        opsets = read_opsets(function.opset_import, where) if function.opset_import else model.opsets
        declared = (*function.attribute, *(attribute.name for attribute in function.attribute_proto))
        _check_body(function.node, where, opsets, model.functions, declared, unknown)
    return unknown


def _check_body(
    nodes: Sequence[NodeProto],
    where: str,
    opsets: Mapping[str, int],
    functions: Mapping[FunctionKey, FunctionProto],
    declared: Sequence[str],
    unknown: list[Unsupported],
) -> None:
    for layer, node in _with_layers(nodes, where):
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in declared:
                raise ModelError(
                    "an attribute refers to one that isn't declared", layer=layer, seen=attribute.ref_attr_name
                )
        function = functions.get(function_key(node.domain, node.op_type, node.overload))
        if function is not None:
            _check_counts(node, layer, (0, len(function.input)), (0, len(function.output)))
            continue
        domain = normal_domain(node.domain)
        reason = _why_unknown(node.op_type, domain, opsets)
        schema = None if reason else find_schema(node.op_type, opsets[domain], domain)
        if schema is None:
            unknown.append(Unsupported(node.op_type, layer, reason))
            continue
        check_node(node, schema, layer)


def check_node(node: NodeProto, schema: Schema, layer: str) -> None:
    """ModelError unless the node has the operands, results and attributes that its operator's schema asks for."""
    _check_counts(node, layer, (schema.min_inputs, schema.max_inputs), (schema.min_outputs, schema.max_outputs))
    for name, required, operand in zip(schema.inputs, schema.required_inputs, node.input, strict=False):
        if required and not operand:
            raise ModelError(f"{node.op_type} lacks its operand {name}", layer=layer)
    seen: set[str] = set()
    for attribute in node.attribute:
        _check_attribute(attribute, schema, seen, layer)
    for name, known in schema.attributes.items():
        if known.required and name not in seen:
            raise ModelError(f"{node.op_type} lacks its attribute {name}", layer=layer)


def _with_layers(nodes: Sequence[NodeProto], where: str) -> Iterator[tuple[str, NodeProto]]:
    pending = [(where, nodes)]
    while pending:
        where, nodes = pending.pop()
        for node in nodes:
            layer = f"{where}/{layer_name(node)}" if where else layer_name(node)
            yield layer, node
            pending.extend((f"{layer}/{name}", graph.node) for name, graph in subgraphs(node))


def _why_unknown(op_type: str, domain: str, opsets: Mapping[str, int]) -> str:
    """Why the operator has no schema; empty where it has one."""
    shown = domain or "ai.onnx"
    if domain not in opsets:
        if onnx.defs.has(op_type, domain):
            raise ModelError("the model uses a domain without importing it", layer=op_type, seen=shown)
        return f"the domain {shown} is unknown"
    schema = find_schema(op_type, opsets[domain], domain)
    if schema is not None:
        return f"it was removed in opset {schema.since_version}" if schema.deprecated else ""
    if onnx.defs.has(op_type, domain):
        return f"it isn't in {shown} {opsets[domain]}, but in a newer opset"
    return f"{shown} has no such operator"


def _check_counts(node: NodeProto, layer: str, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
    for what, count, (least, most) in (("operands", len(node.input), inputs), ("results", len(node.output), outputs)):
        if not least <= count <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise ModelError(f"{node.op_type} has a wrong number of {what}", layer=layer, seen=count, expected=expected)


def _check_attribute(attribute: AttributeProto, schema: Schema, seen: set[str], layer: str) -> None:
    known = schema.attributes.get(attribute.name)
    if known is None:
        raise ModelError(
            f"{schema.name} has no attribute {attribute.name!r}",
            layer=layer,
            expected=", ".join(schema.attributes) or "no attributes",
        )
    if attribute.name in seen:
        raise ModelError(f"{schema.name} has its attribute {attribute.name} twice", layer=layer)
    seen.add(attribute.name)
    if attribute.type != known.type:
        raise _wrong_type(attribute.name, attribute.type, known.type, layer)
    # A number or a text that isn't there is 0 or empty: exporters on protobuf 3 leave such values out.
    if not attribute.ref_attr_name and known.type in _MESSAGES and not attribute.HasField(_FIELDS[known.type]):
        raise ModelError(f"the attribute {attribute.name} of {schema.name} has no value", layer=layer)


def _wrong_type(name: str, seen: int, expected: int, layer: str) -> ModelError:
    named = {kind: text for text, kind in _ATTRIBUTE_TYPES}
    return ModelError(
        f"the attribute {name} has a wrong type",
        layer=layer,
        seen=named.get(seen, str(seen)),
        expected=named.get(expected, str(expected)),
    )


def _value(attribute: AttributeProto, layer: str) -> AttributeValue:
    value = getattr(attribute, _FIELDS[attribute.type])
    if attribute.type == AttributeProto.STRING:
        return _text(value, attribute.name, layer)
    if attribute.type == AttributeProto.STRINGS:
        return tuple(_text(item, attribute.name, layer) for item in value)
    return tuple(value) if attribute.type in _LISTS else value


def _text(data: bytes, name: str, layer: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"the attribute {name} isn't UTF-8", layer=layer, seen=data[:60]) from error
