"""Memory that setting a model up takes: little more than the constants that it ends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc

LAYERS, WIDTH = 24, 1024
WEIGHTS = LAYERS * WIDTH * WIDTH * 4

MEASURED = """
import sys
import numpy as np
import graphc, graphc.artifact, graphc.driver, graphc_llvm.backend, graphc_llvm.compilation, graphc_onnx

def memory(what):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(what))

before = memory("VmHWM:")
executable = (graphc.load if sys.argv[1].endswith(".graphc") else graphc.compile)(sys.argv[1], threads=1)
print(memory("VmHWM:") - before, memory("VmRSS:") - before)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(LAYERS)]
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"]) for i in range(LAYERS)]
    ends = [helper.make_tensor_value_info(f"h{i}", TensorProto.FLOAT, [2, WIDTH]) for i in (0, LAYERS)]
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], tensors)
    path = tmp_path_factory.mktemp("models") / "deep.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    graphc.compile(str(path), threads=1).save(path.with_suffix(".graphc"))
    return path


@pytest.mark.parametrize("suffix", [".onnx", ".graphc"])
def test_setting_up_takes_little_more_than_the_constants(suffix: str, model: Path) -> None:
    run = [sys.executable, "-c", MEASURED, str(model.with_suffix(suffix))]
    peak, after = map(int, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert (
        peak < 1.7 * WEIGHTS
    )  # whoever keeps the model beside the constants needs twice as much, and protobuf three times
    assert after < 1.5 * WEIGHTS
