"""The pytest plugin: light, silent without its option, and a suite whose parts are as it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.ops import find_operator
from graphc.testing import suite
from graphc.testing.conformance import REQUIRED_TYPES, cases, required


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "graphc.testing.pytest_plugin", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it may be installed, or not
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with one test of its own."""
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def test_the_option_alone_runs_the_suite(folder: Path) -> None:
    done = run(folder, "--graphc-backend", "reference", "-k", "neg or gather_at_3", "-vv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_required[neg-f32] PASSED" in done.stdout
    assert "test_optional[neg-bf16] PASSED" in done.stdout
    assert "test_optional_symbolic[neg-f32] PASSED" in done.stdout
    assert "test_required_failure[gather_at_3] PASSED" in done.stdout
    assert "test_own" not in done.stdout


def test_other_tests_are_left_alone(folder: Path) -> None:
    assert "1 passed" in run(folder).stdout
    assert "1 passed" in run(folder, "--graphc-backend", "reference", "test_own.py").stdout
    done = run(folder, "--pyargs", "graphc.testing.suite", "-k", "neg")
    assert done.returncode == 0 and "skipped" in done.stdout and "passed" not in done.stdout


def test_an_unknown_backend_fails(folder: Path) -> None:
    done = run(folder, "--graphc-backend", "nowhere", "-k", "test_required and neg")
    assert done.returncode == 1 and "there is no 'nowhere' in graphc.backends" in done.stdout


def test_the_plugin_imports_no_backend_and_no_operator() -> None:
    source = "import graphc.testing.pytest_plugin, sys; print([m for m in sys.modules if m.startswith(('graphc.ops', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_required() -> None:
    by_name = {str(c): c for c in cases([find_operator(n) for n in ("cast", "softmax", "add")])}
    assert required(by_name["softmax-f32"]) is None
    assert required(by_name["add-f64"]) is None
    assert required(by_name["add-f32"]) == by_name["add-f32"]
    part = required(by_name["cast-f32"])
    assert part is not None and 0 < len(part.samples) < len(by_name["cast-f32"].samples)
    assert {s.attributes["dtype"].name for s in part.samples} == set(REQUIRED_TYPES)


def test_required_and_optional_leave_nothing_out() -> None:
    names = {str(c) for c in (*suite.REQUIRED, *suite.OPTIONAL)}
    assert names == {str(c) for c in cases()}
