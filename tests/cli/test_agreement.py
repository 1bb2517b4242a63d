"""A program that computes something else is found out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.backend import CompileOptions, CompileReport
from graphc.cli.agreement import compare, relative
from graphc.executable import Executable

GRAPH = graphc.parse_graph("""
graph @g(%x: f32[64,64]) {
  %y: f32[64,64] = matmul(%x, %x)
  %z: f32[64] = reduce_sum(%y) {axes=[1]}
  return %y, %z
}""")


@dataclasses.dataclass
class Off:
    """A segment whose second output has one element off by a factor."""

    segment: Any
    factor: float
    direct: None = None

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        y, z = self.segment.run(inputs)
        z[7] *= self.factor
        return y, z


@pytest.mark.parametrize(("factor", "agrees"), [(1.0, True), (1.0 + 1e-7, True), (1.001, False), (np.nan, False)])
def test_an_error_beyond_rounding_is_a_difference(factor: float, agrees: bool) -> None:
    right = graphc.compile(GRAPH, backend="reference")
    executable = Executable(GRAPH, Off(right._segment, factor), CompileOptions("reference"), CompileReport())  # type: ignore[arg-type]
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y, z = compare(executable, {"x": x})
    assert y.agrees
    assert y.error == y.reference_error < 1e-6
    assert z.agrees == agrees
    assert agrees or "[7]" in (z.breach or "")


def test_the_error_is_relative_to_the_greatest_magnitude() -> None:
    assert relative(np.array([1.0, -4.5]), np.array([1.0, -4.0])) == 0.125
    assert relative(np.array([0.25]), np.array([0.0])) == 0.25
    assert relative(np.array([np.inf]), np.array([np.inf])) == 0.0


def test_approximate_passes_allow_what_they_claim() -> None:
    passes = [{"changed": c, "bound": b} for c, b in [(True, 0.0), (True, 0.25), (False, 0.5)]]
    right = graphc.compile(GRAPH, backend="reference")
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for factor, agrees in [(1.01, True), (1e3, False)]:
        report = CompileReport(passes=passes)
        executable = Executable(GRAPH, Off(right._segment, factor), CompileOptions("reference"), report)  # type: ignore[arg-type]
        assert [a.agrees for a in compare(executable, {"x": x})] == [True, agrees]
