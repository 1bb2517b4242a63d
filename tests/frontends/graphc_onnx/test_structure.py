"""What a graph's names may and may not do."""

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from graphc.errors import ModelError
from graphc_onnx.reading import read_model
from graphc_onnx.structure import all_nodes, free_names, layer_name, ordered_nodes

node = helper.make_node


def value(name: str, shape: list[int | str] | None = None) -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or [3])


def model(nodes: list[NodeProto], outputs: str = "y", functions: list[FunctionProto] | None = None) -> ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph(nodes, "g", [value("x")], [value(name) for name in outputs], [weight])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [], ir_version=10)


def branch(nodes: list[NodeProto], output: str) -> GraphProto:
    return helper.make_graph(nodes, "branch", [], [value(output)])


def if_node(nodes: list[NodeProto], output: str, result: str, name: str = "choice") -> NodeProto:
    graph = branch(nodes, output)
    return node("If", ["x"], [result], name, then_branch=graph, else_branch=graph)


def test_a_cycle_is_refused_and_named() -> None:
    with pytest.raises(ModelError, match="depend on themselves") as caught:
        read_model(model([node("Add", ["x", "b"], ["a"], "one"), node("Relu", ["a"], ["b"], "two"),
                          node("Relu", ["b"], ["y"], "three")]))  # fmt: skip
    assert "one" in str(caught.value)
    assert "two" in str(caught.value)
    assert "three" not in str(caught.value)


def test_a_node_that_reads_itself_is_refused() -> None:
    with pytest.raises(ModelError, match="depend on themselves"):
        read_model(model([node("Relu", ["y"], ["y"], "self")]))


def test_a_cycle_through_a_subgraph_is_refused() -> None:
    inner = if_node([node("Relu", ["y"], ["inner"])], "inner", "a")
    with pytest.raises(ModelError, match="depend on themselves"):
        read_model(model([inner, node("Relu", ["a"], ["y"])]))


def test_unordered_nodes_are_ordered_as_little_as_needed() -> None:
    nodes = [node("Relu", ["x"], ["p"], "p"), node("Relu", ["q"], ["y"], "y"),
             node("Relu", ["p"], ["q"], "q"), node("Relu", ["x"], ["r"], "r")]  # fmt: skip
    assert [layer_name(each) for each in ordered_nodes(nodes)] == ["p", "q", "y", "r"]
    assert ordered_nodes(nodes[:1]) == nodes[:1]
    read_model(model(nodes))


def test_what_a_subgraph_reads_comes_before_its_node() -> None:
    nodes = [if_node([node("Relu", ["late"], ["inner"])], "inner", "y"), node("Relu", ["x"], ["late"], "late")]
    assert [layer_name(each) for each in ordered_nodes(nodes)] == ["late", "choice"]
    assert free_names(nodes[0].attribute[0].g) == {"late"}
    assert [each.op_type for each in all_nodes(nodes)] == ["If", "Relu", "Relu", "Relu"]


MALFORMED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "missing initializer": (lambda: model([node("Add", ["x", "gone"], ["y"], "sum")]), "an operand isn't defined"),
    "missing output": (lambda: model([node("Relu", ["x"], ["z"])]), "an output isn't defined"),
    "result twice": (lambda: model([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"])]), "defined twice"),
    "result twice in one node": (lambda: model([node("Split", ["x"], ["y", "y"])]), "defined twice"),
    "result is an input": (lambda: model([node("Relu", ["x"], ["x"])], "x"), "defined twice"),
    "result is an initializer": (lambda: model([node("Relu", ["x"], ["w"])], "w"), "defined twice"),
    "no operator": (lambda: model([node("", ["x"], ["y"])]), "has no operator"),
    "no outputs": (lambda: model([node("Relu", ["x"], ["y"])], ""), "has no outputs"),
    "undefined in a branch": (
        lambda: model([if_node([node("Relu", ["gone"], ["inner"])], "inner", "y")]),
        "an operand isn't defined",
    ),
    "undefined output of a branch": (lambda: model([if_node([], "gone", "y")]), "an output isn't defined"),
    "inner value outside": (
        lambda: model([if_node([node("Relu", ["x"], ["inner"])], "inner", "z"), node("Relu", ["inner"], ["y"])]),
        "an operand isn't defined",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_names_are_refused(case: str) -> None:
    make, message = MALFORMED[case]
    with pytest.raises(ModelError, match=message):
        read_model(make())


def test_an_error_in_a_branch_names_the_way_to_it() -> None:
    inner = if_node([node("Relu", ["gone"], ["inner"], "act")], "inner", "y")
    with pytest.raises(ModelError) as caught:
        read_model(model([inner]))
    assert caught.value.layer in ("choice/then_branch/act", "choice/else_branch/act")
    assert caught.value.seen == "'gone'"


def test_inputs_and_initializers_are_defined_once_and_may_share_a_name() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    proto.graph.input.append(value("w"))
    read_model(proto)
    for field in ("input", "initializer"):
        proto = model([node("Relu", ["x"], ["y"])])
        repeated = getattr(proto.graph, field)
        repeated.append(repeated[0])
        with pytest.raises(ModelError, match=f"{field} is defined twice"):
            read_model(proto)


def test_a_branch_may_return_an_outer_value_and_hide_a_name() -> None:
    read_model(model([if_node([], "x", "y")]))
    read_model(model([if_node([node("Relu", ["w"], ["x"])], "x", "y")]))


@pytest.mark.parametrize(
    ("shape", "message"),
    [([-1, 3], "negative"), ([2**62, 2**62], "too large"), ([2**63 - 1], "too large"), ([0, 2**60], "too large"),
     ([1] * 65, "too many dims")],
)  # fmt: skip
def test_impossible_input_dims_are_refused(shape: list[int | str], message: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    proto.graph.input[0].CopyFrom(value("x", shape))
    with pytest.raises(ModelError, match=message) as caught:
        read_model(proto)
    assert caught.value.layer == "input 'x'"


def test_zero_and_named_dims_are_taken() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    proto.graph.input[0].CopyFrom(value("x", [0, "batch", 7]))
    read_model(proto)


def test_an_input_without_element_type_is_refused() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    proto.graph.input[0].type.tensor_type.elem_type = 0
    with pytest.raises(ModelError, match="no element type"):
        read_model(proto)


def function(name: str, nodes: list[NodeProto]) -> FunctionProto:
    return helper.make_function("mine", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 20)])


def test_functions_are_found_and_checked() -> None:
    sound = function("Double", [node("Add", ["a", "a"], ["b"])])
    proto = model([node("Double", ["x"], ["y"], domain="mine")], functions=[sound])
    assert list(read_model(proto).functions) == [("mine", "Double", "")]
    with pytest.raises(ModelError, match="defined twice"):
        read_model(model([node("Relu", ["x"], ["y"])], functions=[sound, sound]))
    with pytest.raises(ModelError, match="an operand isn't defined") as caught:
        read_model(model([node("Relu", ["x"], ["y"])], functions=[function("Bad", [node("Add", ["a", "w"], ["b"])])]))
    assert caught.value.layer == "function Bad/b"


def test_a_function_that_calls_itself_is_refused() -> None:
    for pairs in ([("F", "F")], [("F", "G"), ("G", "F")]):
        functions = [function(name, [node(called, ["a"], ["b"], domain="mine")]) for name, called in pairs]
        with pytest.raises(ModelError, match="calls itself"):
            read_model(model([node("F", ["x"], ["y"], domain="mine")], functions=functions))


def test_functions_that_stand_for_exponentially_many_nodes_are_refused() -> None:
    functions = [function("F0", [node("Relu", ["a"], ["b"])])]
    for level in range(1, 60):
        called = f"F{level - 1}"
        calls = [node(called, ["a"], ["m"], domain="mine"), node(called, ["m"], ["b"], domain="mine")]
        functions.append(function(f"F{level}", calls))
    with pytest.raises(ModelError, match="too many nodes"):
        read_model(model([node("F59", ["x"], ["y"], domain="mine")], functions=functions))


def test_deep_nesting_is_refused() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    graph = proto.graph
    for _ in range(200):  # in place: protobuf neither copies nor reads so deep a message
        attribute = graph.node.add(op_type="If", input=["x"]).attribute.add(name="body", type=AttributeProto.GRAPH)
        graph = attribute.g
    with pytest.raises(ModelError, match="nested too deeply"):
        read_model(proto)


@pytest.mark.parametrize("order", ["forward", "backward", "cyclic"])
def test_long_chains_take_under_two_seconds(order: str) -> None:
    names = ["x", *(f"v{index}" for index in range(20_000)), "y"]
    nodes = [node("Relu", [before], [after]) for before, after in pairwise(names)]
    if order == "backward":
        nodes.reverse()
    if order == "cyclic":
        nodes[0].input[0] = "y"
    proto = model(nodes)
    start = time.process_time()
    if order == "cyclic":
        with pytest.raises(ModelError, match="depend on themselves"):
            read_model(proto)
    else:
        read_model(proto)
    assert time.process_time() - start < 2
