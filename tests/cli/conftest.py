"""A small model file, and the command line as a function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relu(x @ w + b) with x: f32[batch,8], layers named fc1, bias and act."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((8, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc1"),
        helper.make_node("Add", ["h", "b"], ["z"], name="bias"),
        helper.make_node("Relu", ["z"], ["y"], name="act"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.fixture
def weights(model: Path) -> tuple[np.ndarray, np.ndarray]:
    w, b = (numpy_helper.to_array(i) for i in onnx.load(model).graph.initializer)
    return w, b


@pytest.fixture
def graphc_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `graphc` with arguments: its status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def graphc_json(graphc_command: Command) -> Callable[..., Any]:
    """Runs `graphc` with --json, which succeeds, and reads what it prints."""

    def run(command: str, *arguments: object) -> Any:
        status, out, err = graphc_command(command, *arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return run
