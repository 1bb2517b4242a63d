"""graphc_onnx.OnnxBackend: onnx's own interface, and models that are compiled for the contents of an input."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.backend.base import Backend

from graphc.errors import GraphcError, ModelError, UnsupportedOpError
from graphc_onnx import OnnxBackend

node = helper.make_node
X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Reference(OnnxBackend):
    backend = "reference"


def reshaping() -> ModelProto:
    """y = x reshaped to the contents of the input s."""
    graph = helper.make_graph(
        [node("Reshape", ["x", "s"], ["y"], name="view")],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4]),
            helper.make_tensor_value_info("s", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_it_is_a_backend_of_onnx() -> None:
    assert issubclass(OnnxBackend, Backend)
    assert OnnxBackend.backend == "llvm"
    assert OnnxBackend.supports_device("CPU") and not OnnxBackend.supports_device("CUDA")
    with pytest.raises(ModelError, match="device"):
        Reference.prepare(reshaping(), "CUDA")


def test_one_node_runs() -> None:
    (y,) = Reference.run_node(node("MatMul", ["a", "b"], ["y"]), [X, X.T.copy()])
    np.testing.assert_allclose(y, X @ X.T)
    (y,) = Reference.run_node(node("Add", ["a", "a"], ["y"]), [X])
    np.testing.assert_array_equal(y, 2 * X)
    values, indices = Reference.run_node(node("TopK", ["x", "k"], ["v", "i"]), [X, np.array([2])], opset_version=17)
    np.testing.assert_array_equal(values, X[:, :1:-1])
    np.testing.assert_array_equal(indices, np.full((3, 2), [3, 2]))


def test_inputs_come_in_order_or_by_name() -> None:
    shape = np.array([2, 6])
    for inputs in ([X, shape], {"s": shape, "x": X}):
        (y,) = Reference.run_model(reshaping(), inputs)
        np.testing.assert_array_equal(y, X.reshape(2, 6))
    with pytest.raises(ModelError, match="number of inputs"):
        Reference.run_model(reshaping(), [X])
    for inputs in ({"x": X}, {"x": X, "s": shape, "t": X}):
        with pytest.raises(ModelError, match="signature"):
            Reference.run_model(reshaping(), inputs)


def test_contents_that_shapes_depend_on_are_never_mixed_up() -> None:
    prepared = Reference.prepare(reshaping())
    for shape in ((2, 6), (4, 3), (2, 6), (-1, 1)):
        (y,) = prepared.run([X, np.array(shape)])
        np.testing.assert_array_equal(y, X.reshape(shape))
    with pytest.raises(ModelError, match=r"element count|must be equal") as caught:
        prepared.run([X, np.array([5, 5])])
    assert caught.value.layer == "view"


@pytest.mark.parametrize("same_bytes", [np.array([[2, 6]]), np.array([2, 0, 6, 0], np.int32)])
def test_contents_of_another_type_with_the_same_bytes_are_refused(same_bytes: np.ndarray) -> None:
    prepared = Reference.prepare(reshaping())
    prepared.run([X, np.array([2, 6])])
    with pytest.raises(GraphcError):
        prepared.run([X, same_bytes])


def test_what_cannot_be_imported_is_told_before_it_runs() -> None:
    model = reshaping()
    assert Reference.is_compatible(model)
    model.graph.node[0].input.pop()
    model.graph.node[0].op_type = "Unique"
    assert not Reference.is_compatible(model)
    with pytest.raises(UnsupportedOpError, match="Unique"):
        Reference.prepare(model)
