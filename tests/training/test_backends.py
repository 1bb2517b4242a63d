"""Training on every backend: the same losses, state and scores as on LLVM and in torch, from the same models."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError

HERE = Path(__file__).parent


def loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


steps = loaded("backend_steps", HERE / "backend_steps.py")


def asked(name: str, backend: str) -> bool:
    """The reference has no narrow floats, and what torch tells of the net without dropout, LLVM needn't."""
    return (name, backend) not in (("bf16", "reference"), ("plain cnn", "llvm"))


ASKED = [(n, b) for n in steps.MODELS for b in ("reference", "triton") if asked(n, b) and asked(n, "llvm")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache_folder: object) -> dict[str, dict[str, Any]]:
    """By backend and model; Triton's interpreter needs a process of its own, C the example's package."""
    found = {b: {name: steps.train(name, b) for name in steps.MODELS if asked(name, b)} for b in ("llvm", "reference")}
    pytest.importorskip("triton")
    file = tmp_path_factory.mktemp("steps") / "results.pickle"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "backend_steps.py"), str(file), "triton", *steps.MODELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return found | {"triton": pickle.loads(file.read_bytes())}


@pytest.mark.parametrize(("name", "backend"), ASKED)
def test_steps_agree_with_llvm(results: dict[str, dict[str, Any]], name: str, backend: str) -> None:
    seen, wanted = results[backend][name], results["llvm"][name]
    # One unit in the last place of bf16 is 2^-8: products that round another way move a loss by less.
    bound = 2.0**-8 if name == "bf16" else 1e-5
    np.testing.assert_allclose(seen["losses"], wanted["losses"], rtol=bound)
    assert seen["moved"]
    assert seen["kept"].keys() == wanted["kept"].keys()
    for key, value in wanted["kept"].items():
        if key.endswith("in_proj_bias"):  # a bias of keys moves no score: its gradient is rounding, which Adam makes large
            continue
        assert seen["kept"][key].dtype == value.dtype
        np.testing.assert_allclose(seen["kept"][key], value, rtol=0, atol=10 * bound * max(1, np.abs(value).max()))
    np.testing.assert_allclose(seen["scores"], wanted["scores"], rtol=0, atol=30 * bound)


@pytest.mark.parametrize(("name", "backend"), ASKED)
def test_a_step_goes_on_to_the_same_bits(results: dict[str, dict[str, Any]], name: str, backend: str) -> None:
    going_on, resumed = results[backend][name]["next"]
    assert going_on == resumed


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("name", ["mlp", "plain cnn", "transformer", "lstm"])
def test_losses_follow_torch(results: dict[str, dict[str, Any]], name: str, backend: str) -> None:
    np.testing.assert_allclose(results[backend][name]["losses"], steps.in_torch(name), rtol=2e-5)


@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler")
@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_a_backend_from_outside_trains(
    results: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE.parents[1] / "examples" / "plugins" / "graphc_c")
    from graphc_c.backend import BACKEND

    seen, wanted = steps.train(name, BACKEND), results["llvm"][name]
    np.testing.assert_allclose(seen["losses"], wanted["losses"], rtol=1e-5)
    assert seen["next"][0] == seen["next"][1]


def test_dropout_draws_the_same_bits_everywhere(results: dict[str, dict[str, Any]]) -> None:
    """Where one mask differed, so would the losses, by far more than rounding."""
    plain, dropped = (results["triton"][name]["losses"][0] for name in ("plain cnn", "cnn"))
    assert abs(plain - dropped) > 1e-3


@pytest.mark.parametrize("backend", ["llvm", "triton"])
def test_a_budget_bounds_what_a_step_keeps(backend: str) -> None:
    options = {"target": "interpreter"} if backend == "triton" else {}
    free = steps.compiled("deep", backend, **options).executable.memory.arena
    step = steps.compiled("deep", backend, memory_budget=free * 3 // 4, **options)
    assert step.executable.memory.arena <= free * 3 // 4
    assert "rematerialize" in step.explain()


@pytest.mark.parametrize("backend", ["llvm", "triton"])
def test_a_budget_needs_one_size(backend: str) -> None:
    options = {"target": "interpreter"} if backend == "triton" else {}
    with pytest.raises(GraphcError, match=r"sizes that are known(.|\n)*batch"):
        steps.compiled(
            "mlp", backend, memory_budget=1 << 20, dynamic={"input": {0: graphc.Dim("batch", 1, 8)}}, **options
        )


def test_the_reference_has_no_budget_and_no_narrow_floats() -> None:
    with pytest.raises(GraphcError, match="reference backend computes in f32"):
        steps.compiled("bf16", "reference")
    with pytest.raises(GraphcError, match="reference backend takes no memory budget"):
        steps.compiled("mlp", "reference", memory_budget=1 << 20)
