"""Functions of a model, and those that ONNX defines operators by: the attributes of a call, operands left out, bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto


def given_attributes(node: NodeProto, bound: Mapping[str, AttributeProto] | None) -> dict[str, AttributeProto]:
    """The attributes of a call, those that refer to the call around it replaced by what that gives."""
    given: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            given[attribute.name] = attribute
        elif attribute.ref_attr_name in (bound or {}):
            given[attribute.name] = (bound or {})[attribute.ref_attr_name]
    return given


def without_operands(node: NodeProto, absent: set[str]) -> NodeProto:
    """The node with operands that the call leaves out left out."""
    if not absent.intersection(node.input):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = ["" if name in absent else name for name in node.input]
    return copy


def function_body(op_type: str, opset: int, domain: str) -> FunctionProto | None:
    """The function that ONNX defines the operator by, in terms of the model's opset; None where there is none."""
    schema: Any = onnx.defs.get_schema(op_type, opset, domain)
    versions = [v for v in schema.function_opset_versions if v <= opset]
    if not schema.has_function or not versions:
        return None
    body = FunctionProto()
    body.ParseFromString(schema.get_function_with_opset_version(max(versions)))
    defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    body.attribute_proto.extend(defaults.values())
    return body
