"""ONNX models to train: what becomes parameters and state, steps against torch's, and inference with trained values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

import graphc
from graphc.autodiff import value_and_grad
from graphc.errors import GraphcError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.verifier import verify
from graphc_onnx import import_training

RNG = np.random.default_rng(0)


def model(
    nodes: list[onnx.NodeProto],
    initializers: Mapping[str, np.ndarray],
    shape: tuple = ("batch", 3, 4, 4),
    outputs: Mapping[str, tuple] = {"y": ("batch", 2)},
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(found)
    return found


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


CONVOLUTION = {
    "w": normal(2, 3, 3, 3), "b": normal(2), "scale": normal(2), "shift": normal(2), "mean": normal(2),
    "var": RNG.uniform(1, 2, 2).astype(np.float32), "head": normal(2, 2), "axes": np.array([2, 3]),
}  # fmt: skip
NODES = [
    helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
    helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "norm", momentum=0.8),
    helper.make_node("Relu", ["n"], ["r"], "relu"),
    helper.make_node("ReduceMean", ["r"], ["m"], "pool", axes=[2, 3], keepdims=0),
    helper.make_node("MatMul", ["m", "head"], ["y"], "head"),
]
CONVNET = model(NODES, {k: v for k, v in CONVOLUTION.items() if k != "axes"})


def test_a_step_is_torchs() -> None:
    trainable = import_training(CONVNET)
    verify(trainable.graph)
    assert list(trainable.parameters) == ["w", "b", "scale", "shift", "head"]
    assert list(trainable.state) == ["mean", "var"]
    assert trainable.data == 1 and not trainable.random
    graph, _ = trainable.graph.clone()
    b = graphc.Builder(graph)
    y, *state = graph.outputs
    graph.set_outputs([b.op("mul", y, y), *(b.op("stop_gradient", s) for s in state)])
    x = normal(5, 3, 4, 4)
    found = interpret(
        value_and_grad(graph, list(trainable.parameters)),
        [x, *trainable.parameters.values(), *trainable.state.values()],
    )
    t = {k: torch.from_numpy(v.copy()).requires_grad_() for k, v in trainable.parameters.items()}
    c = F.conv2d(torch.from_numpy(x), t["w"], t["b"])
    mean, var = c.detach().mean((0, 2, 3)), c.detach().var((0, 2, 3), correction=0)  # ONNX keeps the population's
    n = F.batch_norm(c, None, None, t["scale"], t["shift"], training=True)
    squares = (n.relu().mean((2, 3)) @ t["head"]) ** 2
    squares.sum().backward()
    expected = [squares.detach(), 0.8 * trainable.state["mean"] + 0.2 * mean.numpy(),
                0.8 * trainable.state["var"] + 0.2 * var.numpy(), *(p.grad for p in t.values())]  # fmt: skip
    for seen, e in zip(found, expected, strict=True):
        e = np.asarray(e)
        np.testing.assert_allclose(seen, e, rtol=0, atol=1e-4 * max(1, np.abs(e).max()))


def test_inference_has_the_trained_values_and_equals_onnxruntime() -> None:
    trainable = import_training(CONVNET)
    values = {k: v * np.float32(1.5) for k, v in (trainable.parameters | trainable.state).items()}
    changed = onnx.ModelProto()
    changed.CopyFrom(CONVNET)
    for t in changed.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(values[t.name], t.name))
    x = normal(2, 3, 4, 4)
    (expected,) = onnxruntime.InferenceSession(changed.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(interpret(trainable.inference(values), [x])[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(GraphcError, match="lack an entry"):
        trainable.inference({})
    with pytest.raises(GraphcError, match="isn't changed in place"):
        trainable.write_back(values)


def test_what_stays_constant() -> None:
    """Sizes, limits, masks and single numbers are no parameters; a layer's single number is one."""
    mask = np.array([[0, -np.inf], [0, 0]], np.float32)
    found = import_training(model(
        [
            helper.make_node("Clip", ["x", "low", "high"], ["c"]),
            helper.make_node("Mul", ["c", "factor"], ["m"]),
            helper.make_node("Add", ["m", "mask"], ["a"]),
            helper.make_node("Exp", ["a"], ["e"]),
            helper.make_node("Gemm", ["e", "w", "b"], ["g"]),
            helper.make_node("Add", ["g", "shift"], ["y"]),
        ],
        {"low": np.float32(-1), "high": np.float32(1), "factor": np.array([2], np.float32), "mask": mask,
         "w": normal(2, 1), "b": normal(1), "shift": normal(2, 3), "unread": normal(2)},
        (2, 2), {"y": (2, 3)},
    ))  # fmt: skip
    assert list(found.parameters) == ["w", "b", "shift"]


def test_equal_statistics_that_an_exporter_joined_are_kept_apart() -> None:
    joined = model(
        [
            helper.make_node("BatchNormalization", ["x", "scale", "shift", "zero", "one"], ["n"], "first"),
            helper.make_node("BatchNormalization", ["n", "scale", "shift", "zero", "one"], ["y"], "second"),
        ],
        {"scale": normal(3), "shift": normal(3), "zero": np.zeros(3, np.float32), "one": np.ones(3, np.float32)},
        outputs={"y": ("batch", 3, 4, 4)},
    )
    before = joined.SerializeToString()
    trainable = import_training(joined)
    assert list(trainable.parameters) == ["scale", "shift"]
    assert list(trainable.state) == ["zero.first.mean", "one.first.variance", "zero.second.mean", "one.second.variance"]
    assert joined.SerializeToString() == before
    x = normal(4, 3, 4, 4)
    _, first, _, second, _ = interpret(trainable.graph, [x, *trainable.parameters.values(), *trainable.state.values()])
    np.testing.assert_allclose(first, 0.1 * x.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(second, 0.1 * trainable.parameters["shift"], atol=1e-6)
    np.testing.assert_allclose(
        interpret(trainable.inference(trainable.parameters | trainable.state), [x])[0],
        onnxruntime.InferenceSession(before).run(None, {"x": x})[0], rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_nodes_in_training_mode() -> None:
    """Their further results are the new statistics; inference takes them for what the trained model is."""
    source = model(
        [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "mean", "var"], training_mode=1)],
        {"s": normal(3), "b": normal(3), "m": normal(3), "v": np.ones(3, np.float32)},
        outputs={"y": ("batch", 3, 4, 4), "mean": (3,), "var": (3,)},
    )
    with pytest.raises(UnsupportedOpError, match="training mode"):
        graphc.import_model(source)
    trainable = import_training(source)
    x = normal(6, 3, 4, 4)
    y, mean, var, new_mean, new_var = interpret(
        trainable.graph, [x, *trainable.parameters.values(), *trainable.state.values()]
    )
    expected = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    for seen, e in zip((y, mean, var), expected, strict=True):
        np.testing.assert_allclose(seen, e, rtol=1e-4, atol=1e-4)
    assert np.array_equal(new_mean, mean) and np.array_equal(new_var, var)
    kept = interpret(trainable.inference(trainable.parameters | trainable.state), [x])
    assert np.array_equal(kept[1], trainable.state["m"])


@pytest.mark.parametrize("opset", [10, 17])
def test_dropout_draws_from_the_key(opset: int) -> None:
    node = (helper.make_node("Dropout", ["p"], ["y"], ratio=0.25) if opset < 12 else
            helper.make_node("Dropout", ["p", "ratio"], ["y"]))  # fmt: skip
    rest = {"ratio": np.float32(0.25)} if opset >= 12 else {}
    source = model([helper.make_node("Mul", ["x", "w"], ["p"]), node], {"w": np.ones(1000, np.float32), **rest},
                   (20, 1000), {"y": (20, 1000)}, opset)  # fmt: skip
    trainable = import_training(source)
    assert trainable.random and list(trainable.parameters) == ["w"]
    x = np.ones((20, 1000), np.float32)
    (y,) = interpret(trainable.graph, [x, trainable.parameters["w"], np.array([0, 0])])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.015
    assert np.array_equal(interpret(trainable.inference(trainable.parameters), [x])[0], x)


def test_dropout_that_says_that_it_is_off_drops_nothing() -> None:
    source = model([helper.make_node("Dropout", ["x", "ratio", "off"], ["d"]), helper.make_node("Mul", ["d", "w"], ["y"])],
                   {"ratio": np.float32(0.5), "off": np.array(False), "w": normal(4)}, (2, 4), {"y": (2, 4)})  # fmt: skip
    assert not import_training(source).random


def test_random_nodes_draw_in_training_alone() -> None:
    source = model(
        [
            helper.make_node("RandomNormalLike", ["x"], ["n"], mean=2.0, scale=3.0),
            helper.make_node("RandomUniformLike", ["x"], ["u"], low=-1.0, high=2.0),
            helper.make_node("Bernoulli", ["x"], ["k"]),
            helper.make_node("Concat", ["n", "u", "k"], ["y"], axis=0),
        ],
        {}, (100, 100), {"y": (300, 100)},
    )  # fmt: skip
    with pytest.raises(UnsupportedOpError, match="random numbers"):
        graphc.import_model(source)
    (y,) = interpret(import_training(source).graph, [np.full((100, 100), 0.2, np.float32), np.array([1, 2])])
    for part, mean, variance in zip(np.split(y, 3), (2, 0.5, 0.2), (9, 0.75, 0.16), strict=True):
        assert abs(part.mean() - mean) < 5 * np.sqrt(variance / part.size)
        assert abs(part.var() - variance) < 0.1 * variance


def test_weights_that_a_loop_reads_learn_too() -> None:
    body = helper.make_graph(
        [helper.make_node("Mul", ["h", "w"], ["p"]), helper.make_node("Add", ["p", "xt"], ["next"]),
         helper.make_node("Identity", ["next"], ["out"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (3,)) for n in ("h", "xt")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (3,)) for n in ("next", "out")],
    )  # fmt: skip
    source = model([helper.make_node("Scan", ["h0", "x"], ["y", "ys"], num_scan_inputs=1, body=body)],
                   {"w": normal(3), "h0": normal(3)}, (4, 3), {"y": (3,)})  # fmt: skip
    trainable = import_training(source)
    assert sorted(trainable.parameters) == ["h0", "w"]
    x, (h, w) = normal(4, 3), (trainable.parameters[n] for n in ("h0", "w"))
    for xt in x:
        h = h * w + xt
    np.testing.assert_allclose(interpret(trainable.graph, [x, *trainable.parameters.values()])[0], h, rtol=1e-5)
