"""8. Simultaneously live buffers are disjoint at every sampled dim; undonated outputs alias nothing."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.lowering.program import CopyStep, KernelStep, Location, LoopStep, Program, Step
from graphc_llvm.instance import Instance


def buffers_of(step: Step, program: Program) -> Iterator[int]:
    """The arena buffers that a step reads or writes, with those of the steps inside it."""
    places: list[Location] = []
    match step:
        case KernelStep():
            places += step.operands
        case CopyStep():
            places += [step.target, step.source]
        case LoopStep():
            places += [s.source for s in step.slices]
            places += [step.condition] if step.condition is not None else []
            places += [p for c in step.carries for p in (c.target, c.source)]
            for inner in step.steps:
                yield from buffers_of(inner, program)
    for p in places:
        if p.buffer is not None:
            assert p.base == program.arena_base
            yield p.buffer


def test_live_buffers_are_disjoint(model: Any) -> None:
    executable = graphc.compile(model.build(0))
    runner = executable._segment.runner  # type: ignore[attr-defined]
    program: Program = runner.program
    touched = [set(buffers_of(s, program)) for s in program.steps]
    used = {b: [i for i, t in enumerate(touched) if b in t] for b in range(len(program.buffers))}
    for dims in model.sizes:
        instance: Instance = runner.instance(dims)[0]
        sizes = [instance.at(b.bytes) for b in program.buffers]
        for a, b in combinations(range(len(sizes)), 2):
            if not used[a] or not used[b] or used[a][-1] < used[b][0] or used[b][-1] < used[a][0]:
                continue
            first, second = sorted((a, b), key=lambda k: instance.offsets[k])
            assert instance.offsets[first] + sizes[first] <= instance.offsets[second]
        assert all(o + s <= instance.arena_bytes for o, s in zip(instance.offsets, sizes, strict=True))


ALIASING = """
graph @aliasing(%x: f32[4,3], %y: f32[2]) {
  %c: f32[2] = constant() {value=f32[2] [1.0, 2.0]}
  %k: f32[3] = constant() {value=f32[3] [7.0, 7.0, 7.0]}
  %r: f32[12] = reshape(%x) {shape=[12]}
  %n: f32[4,3] = neg(%x)
  %f: f32[12] = reshape(%n) {shape=[12]}
  %g: f32[2,6] = reshape(%f) {shape=[2, 6]}
  %s: f32[2] = add(%y, %c)
  return %x, %x, %r, %c, %k, %k, %n, %f, %g, %n, %y, %s
}
"""


@pytest.mark.parametrize("backend", ["reference", "llvm"])
def test_outputs_alias_nothing(backend: str) -> None:
    """Outputs that are inputs, constants, reshapes of each other or the same value twice are memory of their own."""
    executable = graphc.compile(graphc.parse_graph(ALIASING), backend)
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.float32([5, 6])
    c, k = np.float32([1, 2]), np.full(3, 7, np.float32)
    expected = [x, x, x.ravel(), c, k, k, -x, -x.ravel(), -x.reshape(2, 6), -x, y, y + c]
    runs = [executable(x, y) for _ in range(2)]
    arrays = [x, y, *runs[0], *runs[1]]
    for a, b in combinations(arrays, 2):
        assert not np.shares_memory(a, b)
    for outputs in runs:
        for seen, want in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(seen, want)
        for seen in outputs:
            seen[...] = -1
    np.testing.assert_array_equal(x, np.arange(12).reshape(4, 3))
    for seen, want in zip(executable(x, y), expected, strict=True):
        np.testing.assert_array_equal(seen, want)


def test_peak_bytes_are_known_before_running(model: Any) -> None:
    executable = graphc.compile(model.build(0))
    for dims in model.sizes:
        report = executable.memory_at(dims)
        assert report.peak == report.arena + report.constants + report.scratch
        instance = executable._segment.runner.instance(dims)[0]  # type: ignore[attr-defined]
        arena, scratch = instance.new_frame().memory
        assert report.arena <= arena.nbytes
        assert report.scratch <= scratch.nbytes
