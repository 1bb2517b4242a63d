"""1. parse(print(g)) == g; equal text compiles to equal bytes across processes and hash seeds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from graphc.backend import CompileOptions
from graphc.ir.parser import parse_graph
from graphc.ir.text import constants_of, print_graph, same_graph
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc_llvm.backend import BACKEND

COMPILE = """
import hashlib, json, sys
from pathlib import Path
from safetensors.numpy import load_file
import graphc
from graphc.ir.tensor_data import TensorData
from graphc_llvm.program_json import to_json

folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.graph")):
    constants = {}
    for name, array in load_file(path.with_suffix(".weights")).items():
        constants[name] = TensorData(array)
    executable = graphc.compile(graphc.parse_graph(path.read_text(), constants=constants), cache=False, threads=1)
    print(path.stem)
    for stage in executable.stages:
        print(stage, hashlib.sha256(executable.text(stage).encode()).hexdigest())
    for code in (executable._segment.compiled.prepare, executable._segment.compiled.main):
        print(hashlib.sha256(json.dumps(to_json(code.program)).encode()).hexdigest())
        for key, content in code.objects.items():
            print(key, hashlib.sha256(content).hexdigest())
"""


def test_text_reads_back_at_every_stage(model: Any) -> None:
    graph = model.build(0)
    context = PassContext(backend=BACKEND)
    for p in resolve_passes([*BACKEND.pipeline(CompileOptions()), "fuse"]):
        text = print_graph(graph)
        again = parse_graph(text, constants=constants_of(graph))
        assert same_graph(again, graph)
        assert print_graph(again) == text
        PassManager([p]).run(graph, context)
    assert " = fusion(" in print_graph(graph)


@pytest.fixture(scope="module")
def texts(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model as text, with its weights beside it."""
    folder = tmp_path_factory.mktemp("texts")
    for m in models:
        graph = m.build(0)
        (folder / f"{m.name}.graph").write_text(print_graph(graph))
        save_file({d: data.array for d, data in constants_of(graph).items()}, folder / f"{m.name}.weights")
    return folder


def test_equal_text_compiles_to_equal_bytes_in_any_process(texts: Path) -> None:
    outputs = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(texts)], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count("fused") == len(list(texts.glob("*.graph")))
