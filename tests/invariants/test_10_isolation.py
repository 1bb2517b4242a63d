"""10. The core imports no plugin; look-up of X imports only X; results are the same across calls, callers and addresses."""

import ast
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.testing.guard_pages import at_guard_page

CORE = Path(graphc.__file__).parent
PLUGINS = {"graphc_llvm", "graphc_reference", "graphc_optimize", "graphc_onnx"}
FRAMEWORKS = {"torch", "onnx", "onnxruntime", "llvmlite", "triton"}


def imports_of(path: Path) -> set[str]:
    """The first part of every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_no_file_of_the_core_imports_a_plugin_or_a_framework() -> None:
    files = [p for p in CORE.rglob("*.py") if "testing" not in p.parts and "cli" not in p.parts]
    assert len(files) > 40
    for path in files:
        assert not imports_of(path) & (PLUGINS | FRAMEWORKS), path
    for path in (CORE / "testing").glob("*.py"):
        assert not imports_of(path) & PLUGINS, path
    for path in (CORE / "cli").glob("*.py"):
        assert not imports_of(path) & PLUGINS, path


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        ("pass", PLUGINS | FRAMEWORKS),
        (
            "graphc.compile(graphc.parse_graph(TEXT), 'reference', passes=[])",
            (PLUGINS | FRAMEWORKS) - {"graphc_reference"},
        ),
        ("graphc.compile(graphc.parse_graph(TEXT), 'llvm')", {"graphc_onnx", "graphc_reference", "onnx", "torch"}),
        ("graphc.run_passes(graphc.parse_graph(TEXT), ['dce'])", (PLUGINS | FRAMEWORKS) - {"graphc_optimize"}),
    ],
)
def test_looking_something_up_imports_that_alone(source: str, absent: set[str]) -> None:
    text = "graph @g(%x: f32[2]) {\n  %y: f32[2] = neg(%x)\n  return %y\n}\n"
    source = f"import graphc\nTEXT = {text!r}\n{source}\nimport sys\nprint(sorted(set(sys.modules) & {absent!r}))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def bits(outputs: Any) -> list[bytes]:
    return [y.tobytes() for y in (outputs if isinstance(outputs, tuple) else (outputs,))]


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_the_same_bits_whoever_calls_from_wherever(model: Any, threads: int) -> None:
    executable = graphc.compile(model.build(0), threads=threads)
    inputs = model.inputs(model.sizes[-1])
    expected = bits(executable(*inputs))
    assert bits(executable(*inputs)) == expected
    assert bits(executable(*[at_guard_page(x) for x in inputs])) == expected
    assert bits(executable(*[np.asfortranarray(x) for x in inputs])) == expected
    assert bits(tuple(executable.run(None, dict(zip(executable.input_names, inputs, strict=True))))) == expected
    assert bits(pickle.loads(pickle.dumps(executable))(*inputs)) == expected
    assert bits(graphc.compile(model.build(0), threads=threads, cache=False)(*inputs)) == expected
    seen: list[list[bytes]] = []
    workers = [
        threading.Thread(target=lambda: seen.extend(bits(executable(*inputs)) for _ in range(5))) for _ in range(4)
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert seen == [expected] * 20


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # newer Pythons warn: the runtime's threads are at rest
def test_a_forked_child_computes_the_same(model: Any) -> None:
    executable = graphc.compile(model.build(0), threads=2)
    inputs = model.inputs(model.sizes[-1])
    expected = bits(executable(*inputs))
    child = os.fork()
    if child == 0:  # nothing of the test framework may run in the child
        os._exit(0 if bits(executable(*inputs)) == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert bits(executable(*inputs)) == expected
