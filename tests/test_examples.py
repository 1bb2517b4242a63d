"""Every example runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

TOLD = {
    "compile_onnx": "the same bits",
    "dynamic_batch": "batch 65 is refused",
    "train_characters": "the losses are at most",
    "train_digits": "held-out digits are right",
    "train_python_model": "compiled for inference",
    "write_a_backend": "erf: it has no translation (in head)",
    "write_a_pass": "pass div-sqrt breaks its claim (exact)",
    "write_an_operator": "gradients agree with finite differences",
}
"""What each must have come to say."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert TOLD[path.stem] in done.stdout


def test_every_example_is_listed() -> None:
    assert {p.stem for p in EXAMPLES} == TOLD.keys()
