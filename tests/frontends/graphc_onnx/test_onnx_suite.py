"""ONNX's own test suite: what is in the list passes, what isn't is refused, and nothing gives a wrong answer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("onnx_suite", Path(__file__).parent / "onnx_suite.py")
assert _spec is not None and _spec.loader is not None
onnx_suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(onnx_suite)

LISTED = {backend: frozenset(onnx_suite.passing(backend)) for backend in onnx_suite.BACKENDS}


@pytest.mark.parametrize("backend", onnx_suite.BACKENDS)
@pytest.mark.parametrize("name", onnx_suite.cases("reference"))
def test_case(backend: str, name: str) -> None:
    assert onnx_suite.passes(backend, name) or name not in LISTED[backend]


@pytest.mark.parametrize("backend", onnx_suite.BACKENDS)
def test_the_list_names_cases_of_the_suite(backend: str) -> None:
    assert set(onnx_suite.cases(backend)) >= LISTED[backend]
    assert len(LISTED[backend]) >= 1200
