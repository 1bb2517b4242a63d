"""The generated table of coefficients is what the tool derives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import mpmath
import pytest

from graphc_llvm.math.coefficients import COEFFICIENTS

TOOL = Path(__file__).parents[4] / "tools" / "derive_math_coefficients.py"


@pytest.mark.parametrize(("name", "numerics", "index"), [("exp", "strict", 0), ("sinh", "fast", 1)])
def test_coefficients_are_derived(name: str, numerics: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpmath.mp, "prec", mpmath.mp.prec)  # the tool sets it for the whole process
    spec = importlib.util.spec_from_file_location("derive_math_coefficients", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, tool)
    spec.loader.exec_module(tool)
    target = next(t for t in tool.TARGETS if t.name == name)
    derived, error = tool.fit(target, 24, mpmath.mpf(2) ** (-24 - target.extra[index]))
    assert tuple(map(float, derived)) == COEFFICIENTS[name, "f32", numerics]
    assert error < 2.0**-24
