from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper


@pytest.fixture
def run_onnx() -> Callable[..., list[np.ndarray]]:
    """Runs one ONNX operator in onnxruntime: (op_type, inputs, results=1, opset=19, **attributes).

    The first input is an input of the model, the others initializers; None is an input left out.
    """

    def run(
        op_type: str, inputs: list[np.ndarray | None], *, results: int = 1, opset: int = 19, **attributes: Any
    ) -> list[np.ndarray]:
        names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
        outputs = [f"y{i}" for i in range(results)]
        first = inputs[0]
        assert first is not None
        element = helper.np_dtype_to_tensor_dtype(first.dtype)
        graph = helper.make_graph(
            [helper.make_node(op_type, names, outputs, **attributes)],
            "one",
            [helper.make_tensor_value_info("x0", element, first.shape)],
            [onnx.ValueInfoProto(name=y) for y in outputs],
            [numpy_helper.from_array(x, f"x{i}") for i, x in enumerate(inputs) if i and x is not None],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(outputs, {"x0": first})

    return run
