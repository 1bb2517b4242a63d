"""Conversion, version by version: what a node means in an opset, as onnxruntime has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from graphc.errors import ModelError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify
from graphc_onnx import import_model

Arrays = Mapping[str, np.ndarray]
node = helper.make_node
rng = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model(
    nodes: list[NodeProto], inputs: Arrays, opset: int, constants: Arrays | None = None, dims: Any = None
) -> ModelProto:
    """A model of these nodes whose outputs are the last node's; `dims` gives inputs other shapes than their arrays."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), (dims or {}).get(n, x.shape))
        for n, x in inputs.items()
    ]
    stored = [numpy_helper.from_array(x, n) for n, x in (constants or {}).items()]
    outputs = [ValueInfoProto(name=n) for n in nodes[-1].output if n]
    graph = helper.make_graph(nodes, "g", infos, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agree(made: ModelProto, inputs: Arrays, tolerance: float = 1e-5) -> Graph:
    """Imports a model and holds its outputs against onnxruntime's."""
    graph = import_model(made)
    verify(graph)
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, dict(inputs))
    for seen, wanted in zip(interpret(graph, list(inputs.values())), expected, strict=True):
        assert seen.dtype == wanted.dtype
        np.testing.assert_allclose(seen, wanted, rtol=tolerance, atol=tolerance)
    return graph


def same(
    nodes: NodeProto | list[NodeProto], inputs: Arrays, opset: int, constants: Arrays | None = None, dims: Any = None
) -> Graph:
    nodes = [nodes] if isinstance(nodes, NodeProto) else nodes
    return agree(model(nodes, inputs, opset, constants, dims), inputs)


# Attributes that became operands


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_clip(opset: int) -> None:
    x = {"x": floats(3, 4)}
    if opset < 11:
        same(node("Clip", ["x"], ["y"], min=-0.5, max=0.25), x, opset)
        return
    bounds = {"low": np.array(-0.5, np.float32), "high": np.array(0.25, np.float32)}
    same(node("Clip", ["x", "low", "high"], ["y"]), x, opset, bounds)
    same(node("Clip", ["x", "", "high"], ["y"]), x, opset, bounds)


@pytest.mark.parametrize("opset", [9, 10, 13])
def test_slice(opset: int) -> None:
    x = {"x": floats(5, 6, 3)}
    if opset < 10:
        same(node("Slice", ["x"], ["y"], starts=[1, -4], ends=[2**63 - 1, -1], axes=[0, 1]), x, opset)
        same(node("Slice", ["x"], ["y"], starts=[1, 2], ends=[3, 9]), x, opset)
        return
    for starts, ends, axes, steps in (
        ([1, -4], [2**63 - 1, -1], [0, 1], [1, 2]),
        ([-1, 4], [-(2**63), 0], [0, 1], [-1, -2]),
        ([4], [-100], [-2], [-3]),
        ([3], [1], [0], [1]),
    ):
        constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
        same(node("Slice", ["x", "s", "e", "a", "t"], ["y"]), x, opset, constants)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset: int) -> None:
    x = {"x": floats(1, 3, 1, 2)}
    for op, axes in (("Squeeze", [0, -2]), ("Unsqueeze", [0, -1])):
        if opset < 13:
            same(node(op, ["x"], ["y"], axes=axes), x, opset)
        else:
            same(node(op, ["x", "a"], ["y"]), x, opset, {"a": ints(*axes)})
    same(node("Squeeze", ["x"], ["y"]), x, opset)


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str, opset: int) -> None:
    x, since = {"x": floats(3, 4, 2)}, 13 if name == "Sum" else 18
    for axes in ([1], [0, -1]):
        for keep in (0, 1):
            if opset < since:
                same(node(f"Reduce{name}", ["x"], ["y"], axes=axes, keepdims=keep), x, opset)
            else:
                same(node(f"Reduce{name}", ["x", "a"], ["y"], keepdims=keep), x, opset, {"a": ints(*axes)})
    same(node(f"Reduce{name}", ["x"], ["y"]), x, opset)
    if opset >= since:
        same(node(f"Reduce{name}", ["x", "a"], ["y"], noop_with_empty_axes=1), x, opset, {"a": ints()})


@pytest.mark.parametrize("opset", [10, 11, 18])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str, opset: int) -> None:
    x, pads = {"x": floats(3, 4)}, [1, 0, 2, 3]
    if opset < 11:
        same(node("Pad", ["x"], ["y"], pads=pads, mode=mode, value=1.5), x, opset)
        return
    fill = {"p": ints(*pads), "v": np.array(1.5, np.float32)}
    same(node("Pad", ["x", "p", "v"], ["y"], mode=mode), x, opset, fill)
    if mode == "constant":
        same(node("Pad", ["x", "p", "v"], ["y"]), x, opset, {**fill, "p": ints(-1, 2, 0, -1)})
    if opset >= 18:
        given = {"p": ints(1, 2), "v": fill["v"], "a": ints(-1)}
        same(node("Pad", ["x", "p", "v", "a"], ["y"], mode=mode), x, opset, given)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split(opset: int) -> None:
    x = {"x": floats(2, 7)}
    if opset < 13:
        same(node("Split", ["x"], ["a", "b"], axis=1, split=[3, 4]), x, opset)
    else:
        same(node("Split", ["x", "s"], ["a", "b"], axis=1), x, opset, {"s": ints(3, 4)})
    if opset >= 18:
        same(node("Split", ["x"], ["a", "b"], axis=-1, num_outputs=2), x, opset)
    else:
        same(node("Split", ["x"], ["a", "b"], axis=0), x, opset)


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_top_k(opset: int) -> None:
    x = {"x": rng.permutation(24).reshape(4, 6).astype(np.float32)}
    if opset < 10:
        same(node("TopK", ["x"], ["v", "i"], k=3), x, opset)
        return
    same(node("TopK", ["x", "k"], ["v", "i"], axis=0), x, opset, {"k": ints(2)})
    if opset >= 11:
        same(node("TopK", ["x", "k"], ["v", "i"], largest=0), x, opset, {"k": ints(2)})


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_takes_all_later_axes_before_version_13(op: str, opset: int) -> None:
    for axis in (0, 1, -1):
        same(node(op, ["x"], ["y"], axis=axis), {"x": floats(2, 3, 4)}, opset)
    same(node(op, ["x"], ["y"]), {"x": floats(2, 3, 4)}, opset)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset: int) -> None:
    parameters = {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3))}
    same(node("BatchNormalization", ["x", *parameters], ["y"], epsilon=1e-3), {"x": floats(2, 3, 4)}, opset, parameters)


def test_batch_normalization_in_training_is_refused() -> None:
    inputs = {"x": floats(2, 3), **{n: np.abs(floats(3)) for n in "sbmv"}}
    training = node("BatchNormalization", list(inputs), ["y"], training_mode=1, name="bn")
    with pytest.raises(UnsupportedOpError, match=r"(?s)BatchNormalization: training mode .* \(in bn\)"):
        import_model(model([training], inputs, 15))


@pytest.mark.parametrize("opset", [7, 10, 12])
def test_dropout_is_the_identity(opset: int) -> None:
    x = {"x": floats(2, 3)}
    graph = same(node("Dropout", ["x"], ["y"], **({"ratio": 0.3} if opset < 12 else {})), x, opset)
    assert [n.op.name for n in graph.nodes] == ["reshape"]
    if opset >= 12:
        constants = {"r": np.array(0.3, np.float32), "t": np.array(False)}
        same(node("Dropout", ["x", "r", "t"], ["y", "mask"]), x, opset, constants)


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_gemm(opset: int) -> None:
    for a, b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        inputs = {"x": floats(*((4, 3) if a else (3, 4))), "w": floats(*((5, 4) if b else (4, 5))), "c": floats(5)}
        same(node("Gemm", ["x", "w", "c"], ["y"], transA=a, transB=b, alpha=0.5, beta=2.0), inputs, opset)


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset: int) -> None:
    x, scales = {"x": floats(1, 2, 3, 4)}, [1.0, 1.0, 2.0, 3.0]
    for mode in ("nearest", "linear"):
        if opset < 9:
            same(node("Upsample", ["x"], ["y"], mode=mode, scales=scales), x, opset)
        else:
            same(node("Upsample", ["x", "s"], ["y"], mode=mode), x, opset, {"s": np.array(scales, np.float32)})


@pytest.mark.parametrize("transform", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, transform: str) -> None:
    x = {"x": floats(1, 2, 5, 6)}
    made = node("Resize", ["x", "", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=transform)
    same(made, x, 13, {"s": ints(1, 2, 8, 3)})
    made = node("Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=transform)
    same(made, x, 13, {"s": np.array([1, 1, 2, 2], np.float32)})
    same(node("Resize", ["x", "s"], ["y"], mode="nearest"), x, 10, {"s": np.array([1, 1, 2, 1.5], np.float32)})


# Convolution and pooling


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID"},
        {"dilations": [2, 1], "group": 2},
    ],
)
def test_conv(attributes: dict[str, Any]) -> None:
    group = attributes.get("group", 1)
    inputs, weights = {"x": floats(2, 4, 9, 8)}, {"w": floats(6, 4 // group, 3, 2), "b": floats(6)}
    same(node("Conv", ["x", "w", "b"], ["y"], **attributes), inputs, 11, weights)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "output_padding": [1, 0]},
        {"strides": [2, 3], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "output_shape": [10, 9]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"group": 2, "dilations": [2, 1]},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    inputs, weights = {"x": floats(1, 4, 5, 4)}, {"w": floats(4, 3, 3, 3), "b": floats(3 * attributes.get("group", 1))}
    same(node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes), inputs, 11, weights)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 0, 1]},
        {"strides": [2, 2], "ceil_mode": 1},
        {"strides": [3, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ],
)
def test_pools(op: str, attributes: dict[str, Any]) -> None:
    x = {"x": floats(2, 3, 8, 7)}
    if op != "LpPool" or "ceil_mode" not in attributes:  # which LpPool has since version 18
        same(node(op, ["x"], ["y"], kernel_shape=[3, 2], **attributes), x, 11)
    if op == "AveragePool":
        same(node(op, ["x"], ["y"], kernel_shape=[3, 2], count_include_pad=1, **attributes), x, 19)
    if op == "MaxPool":
        same(node(op, ["x"], ["y", "i"], kernel_shape=[3, 2], **attributes), x, 11)


def test_global_pools() -> None:
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        same(node(op, ["x"], ["y"]), {"x": floats(2, 3, 4, 5)}, 11)


# The rest by family


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (3,)), ((3,), (4, 3, 2)), ((2, 1, 3, 4), (5, 4, 2))])
def test_matmul_broadcasts_as_numpy_does(shapes: tuple[tuple[int, ...], ...]) -> None:
    same(node("MatMul", ["x", "y"], ["z"]), {"x": floats(*shapes[0]), "y": floats(*shapes[1])}, 13)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", ((2, 3), (3, 4))),
        ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))),
        ("...ij,...jk->...ik", ((2, 1, 2, 3), (4, 3, 2))),
        ("ij->ji", ((2, 3),)),
        ("ij", ((2, 3),)),
        ("bhid,bhjd->bhij", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("i,ij,j->", ((3,), (3, 4), (4,))),
    ],
)
def test_einsum(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    inputs = {f"x{i}": floats(*shape) for i, shape in enumerate(shapes)}
    made = model([node("Einsum", list(inputs), ["y"], equation=equation)], inputs, 13)
    (seen,) = interpret(import_model(made), inputs)
    np.testing.assert_allclose(seen, np.einsum(equation, *inputs.values()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(op: str, direction: str) -> None:
    gates, dirs = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    weights = {"w": floats(dirs, gates * 3, 5), "r": floats(dirs, gates * 3, 3), "b": floats(dirs, 2 * gates * 3)}
    x, h = {"x": floats(6, 2, 5)}, floats(dirs, 2, 3)
    outputs = ["y", "last", "cell"] if op == "LSTM" else ["y", "last"]
    activations = {"activations": ["Tanh"] * dirs} if op == "RNN" else {}
    options = {"hidden_size": 3, "direction": direction, **activations}
    same(node(op, ["x", "w", "r", "b"], outputs, **options), x, 14, weights)
    same(node(op, ["x", "w", "r", "", "", "h"], outputs, **options), x, 14, {**weights, "h": h})
    if op == "GRU":
        same(node(op, ["x", "w", "r", "b"], outputs, linear_before_reset=1, **options), x, 14, weights)


def test_negative_indices_count_from_the_end() -> None:
    x = {"x": floats(4, 3)}
    same(node("Gather", ["x", "i"], ["y"], axis=0), {**x, "i": ints(0, -1, 2)}, 13)
    same(node("Gather", ["x", "i"], ["y"], axis=1), x, 13, {"i": ints(-1, 0)})
    same(node("GatherElements", ["x", "i"], ["y"], axis=1), {**x, "i": ints(0, -1, 1, -3).reshape(4, 1)}, 13)
    same(node("GatherND", ["x", "i"], ["y"]), {**x, "i": np.array([[-1, 0], [1, -2]])}, 13)
    same(node("ScatterElements", ["x", "i", "u"], ["y"]), {**x, "i": np.array([[0, -1, 1]]), "u": floats(1, 3)}, 13)
    updates = {"i": np.array([[-1]]), "u": floats(1, 3)}
    same(node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"), {**x, **updates}, 16)
    same(node("OneHot", ["i", "d", "v"], ["y"]), {"i": ints(0, -1, 3, 9)}, 11, {"d": ints(4), "v": floats(2)})


def test_an_index_known_to_be_out_of_range_is_an_error() -> None:
    with pytest.raises(ModelError, match="out of range"):
        import_model(model([node("Gather", ["x", "i"], ["y"])], {"x": floats(4)}, 13, {"i": ints(4)}))


def test_quantized_products() -> None:
    point = np.array(3, np.uint8)
    a, b = (rng.integers(0, 255, shape).astype(np.uint8) for shape in ((4, 6), (6, 5)))
    same(node("MatMulInteger", ["a", "b", "p"], ["y"]), {"a": a, "b": b}, 10, {"p": point})
    x, scale = {"x": floats(3, 4) * 4}, np.array(0.05, np.float32)
    same(node("QuantizeLinear", ["x", "s", "p"], ["y"]), x, 13, {"s": scale, "p": point})
    parameters = {"s": np.abs(floats(4)), "p": rng.integers(0, 9, 4).astype(np.uint8)}
    same(node("DequantizeLinear", ["a", *parameters], ["y"], axis=1), {"a": a[:, :4]}, 13, parameters)
    same(node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]), x, 11)


def test_normalization() -> None:
    x, parameters = {"x": floats(2, 6, 3, 4)}, {"s": floats(6), "b": floats(6)}
    same(node("InstanceNormalization", ["x", "s", "b"], ["y"]), x, 11, parameters)
    same(node("LRN", ["x"], ["y"], size=3), x, 11)
    same(node("LpNormalization", ["x"], ["y"], axis=1, p=2), x, 11)
    same(node("LayerNormalization", ["x", "s"], ["y", "m", "d"], axis=2), x, 17, {"s": floats(3, 4)})
    same(node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2), x, 21, parameters)


def test_integer_arithmetic() -> None:
    x, y = (rng.integers(-9, 9, (3, 4)) for _ in range(2))
    y[y == 0] = 2
    for op in ("Add", "Mul", "Sub", "Mod", "Equal", "Less"):
        same(node(op, ["x", "y"], ["z"]), {"x": x, "y": y}, 13)
    same(node("Div", ["x", "y"], ["z"]), {"x": np.abs(x), "y": np.abs(y)}, 13)
    same(node("Pow", ["x", "p"], ["z"]), {"x": x}, 13, {"p": ints(3)})
    same(node("BitShift", ["x", "y"], ["z"], direction="LEFT"), {"x": np.uint32([1, 5]), "y": np.uint32([3, 0])}, 11)
