"""Which pointers are multiples of 16 bytes, so that kernels may load as much at once: all but some of what loops slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graphc.ir.symbolic import mod
from graphc.lowering.program import KernelStep, LoopStep, Program, Step
from graphc_triton.compile import ALIGNMENT
from graphc_triton.kernels import TritonKernel


def with_alignment(program: Program, kernels: Sequence[TritonKernel]) -> list[TritonKernel]:
    """The kernels, whose pointers are told to be unaligned where a step of the program gives them such an address."""
    slices = {s.base: s for step in _all(program.steps) if isinstance(step, LoopStep) for s in step.slices}

    def is_aligned(base: int) -> bool:
        s = slices.get(base)
        return s is None or (mod(s.stride, ALIGNMENT) == 0 and is_aligned(s.source.base))

    loose: dict[int, set[int]] = {}
    for step in _all(program.steps):
        if isinstance(step, KernelStep):
            found = {n for n, place in enumerate(step.operands) if not is_aligned(place.base)}
            loose[step.kernel] = loose.get(step.kernel, set()) | found
    return [_loosened(k, loose.get(n, set())) for n, k in enumerate(kernels)]


def _all(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, LoopStep):
            yield from _all(step.steps)


def _loosened(kernel: TritonKernel, buffers: set[int]) -> TritonKernel:
    """The kernel with those buffers' pointers unaligned: other code, under another key."""
    if not buffers:
        return kernel
    functions = tuple(
        replace(f, arguments=tuple(replace(a, aligned=a.buffer not in buffers) for a in f.arguments))
        for f in kernel.functions
    )
    return replace(kernel, functions=functions, key=f"{kernel.key}-{'-'.join(map(str, sorted(buffers)))}")
