"""Importing whole models: dynamic dims, shape arithmetic, names, functions, control flow, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import graphc
from graphc.errors import ModelError, ShapeError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.symbolic import symbol
from graphc.ir.verifier import verify
from graphc_onnx import import_model

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
rng = np.random.default_rng(11)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def model(
    nodes: list[NodeProto],
    inputs: Mapping[str, tuple[int, Any]],
    outputs: list[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    functions: list[Any] | None = None,
) -> ModelProto:
    infos = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()]
    stored = [numpy_helper.from_array(np.asarray(x), n) for n, x in (constants or {}).items()]
    results = [ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(nodes, "g", infos, results, stored)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions or [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions or [])


def operators(graph: graphc.Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


# Dynamic dims and shape arithmetic

X = {"x": (FLOAT, ["batch", 4, "length", 3])}


def flattened_heads(steps: list[NodeProto]) -> ModelProto:
    """x reshaped to [batch, length, 12], the shape computed as exporters do."""
    return model(
        [
            node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]),
            node("Shape", ["t"], ["shape"]),
            *steps,
            node("Reshape", ["t", "target"], ["y"]),
        ],
        X,
        ["y"],
        {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([0]), "end": np.array([2]), "width": np.array([12]),
         "three": np.int64(3), "two": np.int64(2)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "steps",
    [
        [
            node("Gather", ["shape", "zero"], ["b"]),
            node("Gather", ["shape", "one"], ["l"]),
            node("Unsqueeze", ["b", "axis"], ["b1"]),
            node("Unsqueeze", ["l", "axis"], ["l1"]),
            node("Concat", ["b1", "l1", "width"], ["target"], axis=0),
        ],
        [
            node("Slice", ["shape", "axis", "end"], ["front"]),
            node("Gather", ["shape", "two"], ["h"]),
            node("Gather", ["shape", "three"], ["d"]),
            node("Mul", ["h", "d"], ["w"]),
            node("Unsqueeze", ["w", "axis"], ["w1"]),
            node("Cast", ["w1"], ["w2"], to=TensorProto.INT32),
            node("Cast", ["w2"], ["w3"], to=INT64),
            node("Concat", ["front", "w3"], ["target"], axis=0),
        ],
    ],
)
def test_shape_arithmetic_folds_away(steps: list[NodeProto]) -> None:
    graph = import_model(flattened_heads(steps))
    verify(graph)
    assert operators(graph) == ["transpose", "reshape"]
    assert str(graph.outputs[0].type) == "f32[batch,length,12]"
    x = floats(2, 4, 5, 3)
    (y,) = interpret(graph, [x])
    np.testing.assert_array_equal(y, x.transpose(0, 2, 1, 3).reshape(2, 5, 12))


def test_the_open_dim_of_a_reshape_is_found() -> None:
    graph = import_model(model([node("Reshape", ["x", "s"], ["y"])], X, ["y"], {"s": np.array([0, -1, 6])}))
    assert str(graph.outputs[0].type) == "f32[batch,2*length,6]"


def test_a_shape_can_be_data() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=FLOAT),
        node("ReduceProd", ["f"], ["n"], keepdims=0),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Div", ["total", "n"], ["y"]),
    ]
    graph = import_model(model(nodes, X, ["y", "s"]))
    x = floats(2, 4, 5, 3)
    mean, shape = interpret(graph, [x])
    np.testing.assert_allclose(mean, x.mean(), rtol=1e-5)
    assert shape.tolist() == [2, 4, 5, 3] and shape.dtype == np.int64


def test_positions_from_a_dynamic_length() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=2, end=3),
        node("Squeeze", ["s", "axis"], ["n"]),
        node("Range", ["zero", "n", "one"], ["positions"]),
        node("Gather", ["table", "positions"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([0]), "table": floats(16, 2)}
    graph = import_model(model(nodes, X, ["y"], constants))
    assert str(graph.outputs[0].type) == "f32[length,2]"
    (y,) = interpret(graph, [floats(1, 4, 5, 3)])
    np.testing.assert_array_equal(y, constants["table"][:5])


def test_an_expand_to_the_shape_of_another() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["four"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
        node("Mul", ["ones", "minus"], ["unset"]),
        node("Equal", ["s", "unset"], ["left_out"]),
        node("Where", ["left_out", "ones", "s"], ["target"]),
        node("Expand", ["v", "target"], ["y"]),
    ]
    constants = {"four": np.array([4]), "minus": np.array([-1]), "v": floats(3)}
    graph = import_model(model(nodes, X, ["y"], constants))
    assert operators(graph) == ["constant", "broadcast"]


def test_equal_names_are_one_dim_and_unnamed_ones_each_their_own() -> None:
    inputs = {"a": (FLOAT, ["batch size", None]), "b": (FLOAT, ["batch size", None]), "c": (FLOAT, [None, "for"])}
    nodes = [node("Relu", ["a"], ["p"]), node("Relu", ["b"], ["q"]), node("Relu", ["c"], ["r"])]
    graph = import_model(model(nodes, inputs, ["p", "q", "r"]))
    assert [str(v.type) for v in graph.inputs] == ["f32[batch_size,a_1]", "f32[batch_size,b_1]", "f32[c_0,d_for]"]
    with pytest.raises(ShapeError, match="b"):
        interpret(graph, [floats(2, 3), floats(3, 3), floats(1, 1)])


def test_dims_added_are_assumed_to_be_equal() -> None:
    inputs = {"a": (FLOAT, ["n", 3]), "b": (FLOAT, ["m", 3])}
    graph = import_model(model([node("Add", ["a", "b"], ["y"])], inputs, ["y"]))
    assert [str(g) for g in graph.guards] == ["m == n"]
    with pytest.raises(ShapeError, match="m == n"):
        interpret(graph, [floats(2, 3), floats(4, 3)])


def test_dynamic_overrides_dims() -> None:
    made = model([node("Relu", ["x"], ["y"])], {"x": (FLOAT, [1, 3])}, ["y"])
    graph = import_model(made, dynamic={"x": {0: symbol("batch", 1, 64), -1: "width"}})
    assert str(graph.outputs[0].type) == "f32[batch,width]"
    assert graph.symbols()["batch"].high == 64
    for wrong, what in (({"z": {0: "n"}}, "no input"), ({"x": {2: "n"}}, "no axis"), ({"x": {0: 1.5}}, "no dim")):
        with pytest.raises(ModelError, match=what):
            import_model(made, dynamic=wrong)


def test_a_dim_of_zero_is_an_empty_axis() -> None:
    graph = import_model(model([node("Relu", ["x"], ["y"])], {"x": (FLOAT, [0, 3])}, ["y"]))
    assert interpret(graph, [floats(0, 3)])[0].shape == (0, 3)


# Names and origins


def test_inputs_and_outputs_keep_their_names() -> None:
    nodes = [node("Relu", ["in/x:0"], ["hidden"]), node("Neg", ["hidden"], ["out y"], name="negate")]
    graph = import_model(model(nodes, {"in/x:0": (FLOAT, [2])}, ["out y", "in/x:0", "hidden", "hidden"]))
    assert [v.name for v in graph.inputs] == ["in_x_0"]
    assert [v.name for v in graph.outputs] == ["out_y", "in_x_0_1", "hidden", "hidden_1"]
    origins = {n.op.name: n.origin for n in graph.nodes}
    assert origins["neg"] == ("negate",) and origins["relu"] == ("hidden",)
    x = np.array([1.0, -2.0], np.float32)
    for seen, expected in zip(interpret(graph, [x]), (-x.clip(0), x, x.clip(0), x.clip(0)), strict=True):
        np.testing.assert_array_equal(seen, expected)


def test_an_initializer_is_no_input_even_where_it_is_listed() -> None:
    inputs = {"x": (FLOAT, [2, 3]), "w": (FLOAT, [3, 4])}
    graph = import_model(model([node("MatMul", ["x", "w"], ["y"])], inputs, ["y"], {"w": floats(3, 4)}))
    assert [v.name for v in graph.inputs] == ["x"]


# Functions and control flow


def test_functions_are_inlined_with_their_attributes() -> None:
    leaky = node("LeakyRelu", ["a"], ["b"], name="leak")
    leaky.attribute.add(name="alpha", type=1, ref_attr_name="slope")
    scaled = helper.make_function(
        "local", "Scaled", ["a", "s"], ["c"], [leaky, node("Mul", ["b", "s"], ["c"], name="scale")],
        [helper.make_opsetid("", 17)], ["slope"],
    )  # fmt: skip
    call = node("Scaled", ["x", "two"], ["y"], domain="local", name="block", slope=0.25)
    graph = import_model(model([call], {"x": (FLOAT, [3])}, ["y"], {"two": np.float32(2)}, functions=[scaled]))
    x = np.array([1, -1, 4], np.float32)
    np.testing.assert_array_equal(interpret(graph, [x])[0], np.array([2, -0.5, 8], np.float32))
    assert {n.origin for n in graph.nodes if n.op.name == "leaky_relu"} == {("block/leak",)}


def test_an_operator_that_onnx_defines_as_a_function_is_inlined() -> None:
    made = model([node("HannWindow", ["n"], ["y"])], {}, ["y"], {"n": np.int64(16)})
    np.testing.assert_allclose(
        interpret(import_model(made), [])[0], 0.5 - 0.5 * np.cos(np.arange(16) * np.pi / 8), atol=1e-6
    )


def branch(name: str, *nodes: NodeProto) -> Any:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)])


def test_a_known_condition_takes_its_branch() -> None:
    choice = node(
        "If", ["flag"], ["y"], name="choice",
        then_branch=branch("then", node("Relu", ["x"], ["a"])), else_branch=branch("else", node("Neg", ["x"], ["b"])),
    )  # fmt: skip
    inputs = {"x": (FLOAT, [3])}
    for flag, op in ((True, "relu"), (False, "neg")):
        assert operators(import_model(model([choice], inputs, ["y"], {"flag": np.array(flag)}))) == [op]


def loop_body(*nodes: NodeProto) -> Any:
    inputs = [("i", INT64, []), ("go", BOOL, []), ("state", FLOAT, [3])]
    outputs = [("more", BOOL, []), ("next", FLOAT, [3]), ("seen", FLOAT, [3])]
    infos = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    return helper.make_graph(list(nodes), "body", *infos)


def test_a_loop_of_known_length_is_unrolled() -> None:
    body = loop_body(
        node("Add", ["state", "x"], ["next"]),
        node("Identity", ["next"], ["seen"]),
        node("Less", ["i", "last"], ["more"]),
    )
    loop = node("Loop", ["many", "", "x"], ["y", "ys"], body=body, name="repeat")
    made = model([loop], {"x": (FLOAT, [3])}, ["y", "ys"], {"many": np.int64(100), "last": np.int64(3)})
    graph = import_model(made)
    assert operators(graph).count("add") == 4
    x = floats(3)
    y, ys = interpret(graph, [x])
    np.testing.assert_allclose(y, 5 * x, rtol=1e-6)
    np.testing.assert_allclose(ys, np.stack([(i + 2) * x for i in range(4)]), rtol=1e-6)


def test_scan_becomes_one_node_with_captures() -> None:
    infos = [[helper.make_tensor_value_info(n, FLOAT, [2]) for n in names] for names in (("h", "v"), ("after", "out"))]
    body = helper.make_graph(
        [
            node("Mul", ["h", "decay"], ["kept"]),
            node("Add", ["kept", "v"], ["after"]),
            node("Mul", ["after", "gain"], ["out"]),
        ],
        "body",
        *infos,
    )
    scan = node("Scan", ["h0", "x"], ["h", "y"], body=body, num_scan_inputs=1, scan_input_directions=[1])
    inputs = {"h0": (FLOAT, [2]), "x": (FLOAT, ["time", 2]), "gain": (FLOAT, [2])}
    made = model([scan], inputs, ["h", "y"], {"decay": np.float32(0.5)})
    graph = import_model(made)
    verify(graph)
    assert operators(graph).count("scan") == 1
    feeds = {"h0": floats(2), "x": floats(5, 2), "gain": floats(2)}
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)
    for seen, wanted in zip(interpret(graph, feeds), expected, strict=True):
        np.testing.assert_allclose(seen, wanted, rtol=1e-5)


# What is refused, and what is wrong


def test_all_unsupported_nodes_are_told_at_once() -> None:
    nodes = [
        node("RandomUniformLike", ["x"], ["r"], name="noise"),
        node("Mystery", ["r"], ["m"], domain="elsewhere", name="odd"),
        node("NonZero", ["x"], ["z"], name="where"),
        node("Relu", ["m"], ["y"]),
    ]
    made = model(nodes, {"x": (FLOAT, [3])}, ["y", "z"])
    made.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(UnsupportedOpError) as caught:
        import_model(made)
    assert {(u.op, u.layer) for u in caught.value.unsupported} == {
        ("RandomUniformLike", "noise"), ("Mystery", "odd"), ("NonZero", "where"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "constants", "what"),
    [
        ([node("Add", ["x", "c"], ["y"], name="sum")], {"c": floats(5)}, "must be equal|same shape"),
        ([node("Add", ["x", "c"], ["y"], name="sum")], {"c": np.zeros(3, np.int64)}, "one element type"),
        ([node("Concat", ["x", "c"], ["y"], axis=7, name="sum")], {"c": floats(2, 3)}, "out of range"),
        ([node("Reshape", ["x", "c"], ["y"], name="sum")], {"c": np.array([7])}, "element count|must be equal"),
        ([node("Reshape", ["x", "c"], ["y"], name="sum")], {"c": np.array([-1, -1])}, "more than one dim open"),
        ([node("ConstantOfShape", ["c"], ["y"], name="sum")], {"c": np.array([2**20, 2**20, 2**20])}, "too large"),
        ([node("ConstantOfShape", ["c"], ["y"], name="sum")], {"c": np.array([2, -3])}, "negative"),
        ([node("Expand", ["x", "c"], ["y"], name="sum")], {"c": np.array([2**40, 1, 1])}, "too large"),
        ([node("Conv", ["x", "c"], ["y"], name="sum")], {"c": floats(1, 1, 3)}, "rank|spatial"),
        ([node("Gemm", ["x", "c"], ["y"], name="sum")], {"c": floats(3)}, "matrices"),
        ([node("Sin", ["c"], ["y"], name="sum")], {"c": np.arange(3)}, "element type"),
    ],
)
def test_a_model_that_does_not_fit_together_names_the_layer(
    nodes: list[NodeProto], constants: dict[str, np.ndarray], what: str
) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        import_model(model(nodes, {"x": (FLOAT, [2, 3])}, ["y"], constants))
    assert caught.value.layer == "sum"


def test_products_of_products_of_dims_do_not_grow_without_bound() -> None:
    nodes, last = [node("Shape", ["x"], ["s0"])], 60
    nodes += [node("Mul", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(last)]
    nodes += [
        node("Tile", ["x", "s1"], ["t0"]),
        *(node("Concat", [f"t{i}"] * 9, [f"t{i + 1}"], axis=0) for i in range(30)),
    ]
    start = time.perf_counter()
    import_model(model(nodes, {"x": (FLOAT, ["a", "b"])}, [f"s{last}", "t30"]))
    assert time.perf_counter() - start < 2


def test_sequences_leave_no_trace() -> None:
    nodes = [
        node("SplitToSequence", ["x", "sizes"], ["parts"], axis=0),
        node("SequenceAt", ["parts", "last"], ["y"]),
        node("ConcatFromSequence", ["parts"], ["z"], axis=0),
    ]
    constants = {"sizes": np.array([1, 3]), "last": np.int64(-1)}
    graph = import_model(model(nodes, {"x": (FLOAT, [4, 2])}, ["y", "z"], constants))
    x = floats(4, 2)
    y, z = interpret(graph, [x])
    np.testing.assert_array_equal(y, x[1:])
    np.testing.assert_array_equal(z, x)
    with pytest.raises(UnsupportedOpError, match="parts"):
        import_model(model(nodes, {"x": (FLOAT, [4, 2])}, ["parts"], constants))
