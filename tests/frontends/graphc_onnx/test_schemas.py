"""Nodes against onnx's schemas: defaults are filled in, and what doesn't fit is refused with its reason."""

import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper

from graphc.errors import ModelError
from graphc_onnx.reading import read_model
from graphc_onnx.schemas import Schema, check_nodes, find_schema, node_attributes

node = helper.make_node


def schema(op_type: str, opset: int = 20) -> Schema:
    found = find_schema(op_type, opset)
    assert found is not None
    return found


def model(*nodes: NodeProto, opset: int = 20, imports: tuple[str, ...] = (), functions: tuple = ()) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in nodes[-1].output]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in imports)]
    graph = helper.make_graph(list(nodes), "g", [x], outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def test_every_schema_of_every_opset_is_found_as_onnx_tells_it() -> None:
    for known in defs.get_all_schemas_with_history():
        found = find_schema(known.name, known.since_version, known.domain)
        assert found is not None
        assert found.since_version == known.since_version
        assert list(found.attributes) == list(known.attributes)
        assert found.required_inputs.count(True) <= found.min_inputs
    assert find_schema("Mish", 17) is None
    assert find_schema("Mystery", 20) is None


def test_defaults_are_filled_in() -> None:
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 2, 3, 4], auto_pad="NOTSET")
    assert node_attributes(conv, schema("Conv")) == {"auto_pad": "NOTSET", "group": 1, "pads": (1, 2, 3, 4)}
    gemm = node_attributes(node("Gemm", ["x", "w"], ["y"], alpha=0.5), schema("Gemm"))
    assert gemm == {"alpha": 0.5, "beta": 1.0, "transA": 0, "transB": 0}
    lstm = node_attributes(node("LSTM", ["x", "w", "r"], ["y"], activations=["Tanh", "Relu"]), schema("LSTM"))
    assert lstm["activations"] == ("Tanh", "Relu")
    constant = node("Constant", [], ["y"], value=helper.make_tensor("t", TensorProto.FLOAT, [1], [3.0]))
    assert isinstance(node_attributes(constant, schema("Constant"))["value"], TensorProto)


def test_a_number_left_out_by_protobuf_3_is_zero() -> None:
    concat = node("Concat", ["x"], ["y"])
    concat.attribute.append(AttributeProto(name="axis", type=AttributeProto.INT))
    assert node_attributes(concat, schema("Concat")) == {"axis": 0}
    check_nodes(read_model(model(concat)))


def test_attributes_of_a_functions_nodes_come_from_the_call() -> None:
    leaky = node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    bound = {"slope": helper.make_attribute("slope", 0.25)}
    assert node_attributes(leaky, schema("LeakyRelu"), bound) == {"alpha": 0.25}
    assert node_attributes(leaky, schema("LeakyRelu"))["alpha"] == pytest.approx(0.01)
    with pytest.raises(ModelError, match="wrong type"):
        node_attributes(leaky, schema("LeakyRelu"), {"slope": helper.make_attribute("slope", 1)})


def attribute(name: str, kind: int, **value: object) -> AttributeProto:
    return AttributeProto(name=name, type=kind, **value)


REFUSED = {
    "unknown attribute": (node("Relu", ["x"], ["y"], slope=1.0), "no attribute 'slope'"),
    "wrong attribute type": (node("Concat", ["x"], ["y"], axis=1.5), "axis has a wrong type"),
    "needed attribute": (node("Concat", ["x"], ["y"]), "lacks its attribute axis"),
    "few operands": (node("Add", ["x"], ["y"]), "wrong number of operands"),
    "many operands": (node("Relu", ["x", "x"], ["y"]), "wrong number of operands"),
    "many results": (node("Relu", ["x"], ["y", "z"]), "wrong number of results"),
    "operand left out": (node("Add", ["x", ""], ["y"]), "lacks its operand B"),
    "undeclared reference": (node("LeakyRelu", ["x"], ["y"]), "isn't declared"),
    "attribute twice": (node("Concat", ["x"], ["y"], axis=0), "axis twice"),
    "attribute without value": (node("Constant", [], ["y"]), "has no value"),
}
REFUSED["undeclared reference"][0].attribute.append(attribute("alpha", AttributeProto.FLOAT, ref_attr_name="a"))
REFUSED["attribute twice"][0].attribute.append(attribute("axis", AttributeProto.INT, i=1))
REFUSED["attribute without value"][0].attribute.append(attribute("value", AttributeProto.TENSOR))


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_that_does_not_fit_its_operator_is_refused(case: str) -> None:
    wrong, message = REFUSED[case]
    wrong.name = "block1/layer"
    with pytest.raises(ModelError, match=message) as caught:
        check_nodes(read_model(model(wrong)))
    assert caught.value.layer == "block1/layer"


def test_text_in_attributes_must_be_utf8() -> None:
    conv = node("Conv", ["x", "x"], ["y"], auto_pad=b"\xff\xfe")
    with pytest.raises(ModelError, match="auto_pad isn't UTF-8"):
        node_attributes(conv, schema("Conv"))


def test_all_unknown_operators_are_told_at_once_with_reasons() -> None:
    nodes = [node("Mystery", ["x"], ["a"], "one"), node("Mish", ["a"], ["b"], "two"),
             node("Relu", ["b"], ["c"]), node("Fused", ["c"], ["d"], "three", domain="com.example"),
             node("Upsample", ["d", "d"], ["y"], "four")]  # fmt: skip
    unknown = check_nodes(read_model(model(*nodes, opset=12, imports=("com.example",))))
    assert [(each.op, each.layer, each.reason) for each in unknown] == [
        ("Mystery", "one", "ai.onnx has no such operator"),
        ("Mish", "two", "it isn't in ai.onnx 12, but in a newer opset"),
        ("Fused", "three", "com.example has no such operator"),
        ("Upsample", "four", "it was removed in opset 10"),
    ]
    unknown = check_nodes(read_model(model(node("Fused", ["x"], ["y"], domain="com.example"))))
    assert unknown[0].reason == "the domain com.example is unknown"


def test_a_known_domain_must_be_imported() -> None:
    with pytest.raises(ModelError, match="without importing it"):
        check_nodes(read_model(model(node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml"))))


def test_nodes_in_branches_and_functions_are_checked() -> None:
    branch = helper.make_graph(
        [node("Mystery", ["x"], ["b"], "inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])],
    )
    choice = node("If", ["x"], ["y"], "choice", then_branch=branch, else_branch=branch)
    layers = [each.layer for each in check_nodes(read_model(model(choice)))]
    assert sorted(layers) == ["choice/else_branch/inner", "choice/then_branch/inner"]
    body = [node("Mystery", ["a"], ["b"])]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    call = node("F", ["x"], ["y"], domain="mine")
    unknown = check_nodes(read_model(model(call, imports=("mine",), functions=(function,))))
    assert [each.layer for each in unknown] == ["function F/b"]
    with pytest.raises(ModelError, match="wrong number of operands"):
        check_nodes(read_model(model(node("F", ["x", "x"], ["y"], domain="mine"), functions=(function,))))
