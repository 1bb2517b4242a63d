"""The backend in C, installed as a stranger's distribution: by its import path and entry point alone."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphc
from graphc.ir.graph import Graph
from graphc.testing.random_graphs import graphs, random_inputs, unexplained

PLUGIN = Path(__file__).parents[2] / "examples" / "plugins" / "graphc_c"
MODULES = sorted((PLUGIN / "graphc_c").glob("*.py"))

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which the distribution lies, with the metadata that an installer makes of its pyproject.toml."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / "graphc_c-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, names in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join([str(site), str(PLUGIN)])


@pytest.fixture(scope="module")
def on_path(installed: str) -> Iterator[None]:
    """The distribution is importable in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for entry in installed.split(os.pathsep):
            patch.syspath_prepend(entry)
        yield


def conformance(installed: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugin = ["-p", "graphc.testing.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *plugin, "--graphc-backend", "c", "-q", "-rs", *arguments]
    environment = {**os.environ, "PYTHONPATH": installed, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_passes_the_required_part_of_the_conformance_suite(installed: str, tmp_path: Path) -> None:
    done = conformance(installed, tmp_path, "-k", "test_required")
    assert done.returncode == 0, done.stdout
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary and "skipped" not in summary and int(summary.split()[0]) > 200, summary


def test_what_it_lacks_it_refuses_and_the_suite_skips(installed: str, tmp_path: Path) -> None:
    done = conformance(installed, tmp_path, "-k", "test_optional[softmax or test_optional_symbolic[reduce_max")
    assert done.returncode == 0, done.stdout
    assert "fusion: C has no arithmetic of bf16" in done.stdout
    assert "2 skipped" in done.stdout.splitlines()[-1]


def test_it_is_short() -> None:
    assert sum(len(m.read_text().splitlines()) for m in MODULES) < 250


TEXT = """
graph @net(%x: f32[n,8], %w: f32[8,4]) {
  %a: f32[n,4] = matmul(%x, %w) from "fc"
  %b: f32[n,4] = gelu(%a) {approximate="none"} from "act"
  %c: f32[n,4] = softmax(%b) {axis=1} from "head"
  return %c
}
"""


@pytest.mark.usefixtures("on_path")
def test_a_model_runs_on_it() -> None:
    graph = graphc.parse_graph(TEXT)
    executable = graphc.compile(graph, "c")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 4)).astype(np.float32)
    for n in (1, 5):
        x = rng.standard_normal((n, 8)).astype(np.float32)
        np.testing.assert_allclose(executable(x, w), graphc.interpret(graph, [x, w])[0], rtol=1e-5)
    assert "for (int64_t" in executable.text("source")
    assert executable.kernels[0].origin
    assert len(executable.profile(x, w).rows) == len(executable.kernels)
    assert executable.memory_at({"n": 5}).arena > 0


@pytest.mark.usefixtures("on_path")
def test_it_shares_a_graph_with_another_backend() -> None:
    graph = graphc.parse_graph("""
    graph @both(%x: f32[4,6]) {
      %a: f32[4,6] = tanh(%x) from "act"
      %b: bf16[4,6] = cast(%a) {dtype=bf16} from "narrow"
      %c: f32[4,6] = cast(%b) {dtype=f32} from "wide"
      %y: f32[4] = reduce_sum(%c) {axes=[1]} from "pool"
      return %y
    }
    """)
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    with pytest.raises(graphc.UnsupportedOpError, match="C has no arithmetic of bf16"):
        graphc.compile(graph, "c")
    executable = graphc.compile(graph, ["c", "llvm"])
    assert {p["backend"] for p in executable.report.partition["parts"]} >= {"llvm"}
    np.testing.assert_allclose(executable(x), graphc.interpret(graph, [x])[0], rtol=1e-5)


@pytest.mark.usefixtures("on_path")
def test_what_has_no_value_raises_with_the_layer() -> None:
    graph = graphc.parse_graph("""
    graph @pick(%x: f32[3], %i: i64[2]) {
      %y: f32[2] = gather(%x, %i) {axis=0} from "embed"
      return %y
    }
    """)
    executable = graphc.compile(graph, "c")
    with pytest.raises(graphc.NumericError, match="index out of bounds") as error:
        executable(np.ones(3, np.float32), np.array([0, 3]))
    assert error.value.layer == "embed"


SIZES = ({"n": 1, "m": 1}, {"n": 5, "m": 3}, {"n": 16, "m": 16}, {"n": 33, "m": 2})
RANDOM_GRAPHS = int(os.environ.get("GRAPHC_RANDOM_GRAPHS", "25"))


@pytest.mark.usefixtures("on_path")
@settings(max_examples=RANDOM_GRAPHS, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from(SIZES))
def test_random_graphs_are_the_same_on_the_interpreter_llvm_and_c(graph: Graph, dims: dict[str, int]) -> None:
    inputs = random_inputs(graph, dims)
    for backend in ("llvm", "c"):
        outputs = graphc.compile(graph, backend, cache=False, threads=1)(*inputs)
        problem = unexplained(graph, inputs, outputs if isinstance(outputs, tuple) else (outputs,))
        assert problem is None, f"{backend}: {problem} at {dims}\n{graphc.print_graph(graph)}"
