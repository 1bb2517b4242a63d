"""A third party's distribution, used as a user would: in a process of its own that knows nothing but an import path."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nA plugin.\n"

MODULE = '''
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphc.ir.opdef import NOT_DIFFERENTIABLE, OpDef, Sample
from graphc.pipeline import EXACT, PassResult
from graphc.backend import KernelReport, KernelTime, MemoryReport
from graphc.interpreter import interpret


def infer(inference, types, attributes):
    return (types[0],)


def reference(operands, attributes):
    (x,) = operands
    return (x * x,)


def decompose(b, node):
    (x,) = node.operands
    return (b.op("mul", x, x),)


SQUARE = OpDef(
    name="square", operands=("x",), infer=infer, reference=reference, decompose=decompose, vjp=NOT_DIFFERENTIABLE,
    samples=lambda: [Sample((np.array([[1.0, -2.0], [0.5, 3.0]]),)), Sample((np.zeros((0, 3)),))], doc="x^2.",
)


@dataclass(frozen=True)
class SquareAbs:
    """square(abs(x)) = square(x)."""

    name: ClassVar[str] = "square-abs"
    claim = EXACT

    def run(self, graph, context):
        removed = 0
        for node in graph.nodes:
            inner = node.operands[0].producer if node.op is SQUARE else None
            if inner is not None and inner.op.name == "abs":
                graph.set_operand(node, 0, inner.operands[0])
                removed += 1
        return PassResult(removed > 0, {"removed": removed})


@dataclass(frozen=True)
class Segment:
    graph: object
    stages: dict = field(default_factory=dict)
    kernels: tuple = (KernelReport("everything", ("all",), "one"),)
    direct: None = None

    def run(self, inputs):
        return tuple(np.array(y) for y in interpret(self.graph, inputs))

    def profile(self, inputs):
        return [KernelTime(self.kernels[0], 0.0)]

    def memory(self, dims):
        return MemoryReport(0, 0)


class Backend:
    name = "abacus"

    def supports(self, node):
        return None if node.op is SQUARE else "only squares"

    def pipeline(self, options):
        return ["square-abs", "dce"]

    def compile(self, graph, options, context):
        return Segment(graph, {"final": " ".join(n.op.name for n in graph.nodes)})

    def store(self, segment, key):
        pass

    def restore(self, key, graph, options):
        return None


BACKEND = Backend()
'''

ENTRY_POINTS = """
[graphc.operators]
square = abacus:SQUARE

[graphc.passes]
square-abs = abacus:SquareAbs

[graphc.backends]
abacus = abacus:BACKEND
"""

GRAPH = '''
import sys
import numpy as np
import graphc
graph = graphc.parse_graph("""
graph @g(%x: f32[n,2]) {
  %a: f32[n,2] = abs(%x) from "magnitude"
  %y: f32[n,2] = square(%a) from "power"
  return %y
}""")
x = np.float32([[1, -2], [3, -4], [0, 5]])
'''


def distribution(folder: Path, name: str, entry_points: str, *, version: str = "1.0", **modules: str) -> Path:
    """A distribution as an installer would leave it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA.format(name=name, version=version))
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return distribution(tmp_path / "site", "abacus-for-graphc", ENTRY_POINTS, abacus=MODULE)


def python(source: str, *path: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=env, check=False)


def told(source: str, *path: Path) -> str:
    done = python(source, *path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_operator_pass_and_backend_work_together(site: Path) -> None:
    source = GRAPH + dedent("""
        exe = graphc.compile(graph, backend="abacus")
        assert exe(x).tolist() == (x * x).tolist()
        assert exe.text("final") == "square"
        print([(p["name"], p["changed"]) for p in exe.report.passes], exe.kernels[0].name)
    """)
    assert told(source, site) == "[('square-abs', True), ('dce', True)] everything\n"


def test_its_operator_runs_on_the_other_backends(site: Path) -> None:
    source = GRAPH + dedent("""
        for backend in ("reference", "llvm"):
            exe = graphc.compile(graph, backend=backend, verify="full")
            assert exe(x).tolist() == (x * x).tolist()
        assert "abacus" in sys.modules
        print(exe.kernels[0].origin)
    """)
    assert told(source, site) == "('magnitude', 'power')\n"


def test_its_pass_can_be_named_and_is_held_to_its_claim(site: Path) -> None:
    source = GRAPH + dedent("""
        after = graphc.run_passes(graph, ["square-abs", "dce"], verify="full")
        print([n.op.name for n in after.nodes])
    """)
    assert told(source, site) == "['square']\n"


def test_its_operator_goes_through_the_conformance_suite(site: Path) -> None:
    source = dedent("""
        from graphc.ops import find_operator
        from graphc.testing import conformance
        cases = conformance.cases([find_operator("square")])
        for case in cases:
            conformance.check_inference(case)
            conformance.check_round_trip(case)
            conformance.check_decomposition(case)
            conformance.check_backend(case, "llvm")
        print(*cases)
    """)
    assert told(source, site) == "square-f32 square-f64\n"


def test_an_artifact_needs_it_again(site: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "m.graphc")
    told(GRAPH + f"graphc.compile(graph, backend='abacus').save({path!r})", site)
    assert told(f"import graphc; print(graphc.load({path!r}).options.backend)", site) == "abacus\n"
    missing = python(f"import graphc\ntry: graphc.load({path!r})\nexcept graphc.ArtifactError as e: print(e)")
    assert missing.returncode == 0, missing.stderr
    assert "a known operator, not square" in missing.stdout


def test_the_command_line_lists_it(site: Path) -> None:
    source = "from graphc.cli import main; main(['plugins'])"
    rows = [line.split() for line in told(source, site).splitlines()]
    assert [r[:2] + r[-1:] for r in rows if "abacus-for-graphc" in r] == [
        ["graphc.passes", "square-abs", "ok"],
        ["graphc.backends", "abacus", "ok"],
        ["graphc.operators", "square", "ok"],
    ]


def test_a_broken_one_is_named_and_hurts_nobody_else(tmp_path: Path) -> None:
    broken = distribution(tmp_path, "rusty-plugins", ENTRY_POINTS, version="0.3", abacus="import nowhere_to_be_found")
    source = GRAPH.replace("square(%a)", "abs(%a)") + dedent("""
        graphc.compile(graph, backend="reference")(x)
        for attempt in (
            lambda: graphc.compile(graph, backend="abacus"),
            lambda: graphc.run_passes(graph, ["square-abs"]),
            lambda: graphc.Builder(graph).op("square", graph.inputs[0]),
        ):
            try:
                attempt()
            except graphc.PluginError as error:
                text = str(error)
                assert "rusty-plugins 0.3" in text and "nowhere_to_be_found" in text, text
                print(text.splitlines()[0])
    """)
    assert told(source, broken).splitlines() == [
        "the plugin 'abacus' in graphc.backends can't be loaded",
        "the plugin 'square-abs' in graphc.passes can't be loaded",
        "the plugin 'square' in graphc.operators can't be loaded",
    ]


def test_two_with_one_name_are_both_named(site: Path, tmp_path: Path) -> None:
    entry_points = ENTRY_POINTS.replace("abacus:", "beads:")
    other = distribution(tmp_path / "other", "beads-for-graphc", entry_points, beads=MODULE)
    source = GRAPH.replace("square(%a)", "abs(%a)") + dedent("""
        for attempt in (
            lambda: graphc.compile(graph, backend="abacus"),
            lambda: graphc.run_passes(graph, ["square-abs"]),
            lambda: graphc.Builder(graph).op("square", graph.inputs[0]),
        ):
            try:
                attempt()
            except graphc.PluginError as error:
                assert "abacus-for-graphc 1.0" in str(error) and "beads-for-graphc 1.0" in str(error), error
                print("named")
        assert not {"abacus", "beads"} & set(sys.modules)
    """)
    assert told(source, site, other) == "named\nnamed\nnamed\n"


@pytest.mark.parametrize(
    ("entry_points", "attempt", "message"),
    [
        ("[graphc.passes]\nsquare-abs = abacus:SQUARE", "graphc.run_passes(graph, ['square-abs'])", "no pass of that name"),
        ("[graphc.passes]\nother = abacus:SquareAbs", "graphc.run_passes(graph, ['other'])", "no pass of that name"),
        ("[graphc.operators]\nsquare = abacus:BACKEND", "graphc.parse_graph(text)", "isn't an operator of that name"),
        ("[graphc.backends]\nabacus = abacus:SQUARE", "graphc.compile(graph, backend='abacus')", "no backend of that name"),
    ],
)
def test_what_an_entry_point_gives_is_checked(tmp_path: Path, entry_points: str, attempt: str, message: str) -> None:
    folder = distribution(tmp_path, "odd-plugins", entry_points, abacus=MODULE)
    source = GRAPH.replace("square(%a)", "abs(%a)") + dedent(f"""
        text = graphc.print_graph(graph).replace("= abs(%a)", "= square(%a)")
        try:
            {attempt}
        except graphc.PluginError as error:
            print(error)
    """)
    assert message in told(source, folder)
