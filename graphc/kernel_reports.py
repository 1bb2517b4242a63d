"""What the steps of a program are and do at given dims, and how long they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backend import KernelReport, KernelTime, Limits
from graphc.ir.symbolic import evaluate
from graphc.lowering.program import KernelStep, LoopStep, Program, Step


def kernel_times(
    program: Program, dims: Mapping[str, int], seconds: Sequence[float], limits: Limits | None = None
) -> list[KernelTime]:
    """What each step of a run at these dims did, and its time."""
    reports = (report(step, program, dims) for step in program.steps)
    return [KernelTime(r, s, limits) for r, s in zip(reports, seconds, strict=True)]


def report(step: Step, program: Program, dims: Mapping[str, int]) -> KernelReport:
    """What a step is and does at these dims; of a loop with a condition, what one trip does."""
    if isinstance(step, KernelStep):
        flops, size = evaluate(step.flops, dims), evaluate(step.bytes, dims)
        return KernelReport(step.name, step.origin, program.kernels[step.kernel][0], flops, size, step.arithmetic)
    if isinstance(step, LoopStep):
        inner = [report(s, program, dims) for s in step.steps]
        trips = evaluate(step.trips, dims) if step.condition is None else 1
        flops, size = trips * sum(k.flops for k in inner), trips * sum(k.bytes for k in inner)
        arithmetic = max(inner, key=lambda k: k.flops).arithmetic if inner else ""
        footprint = sum(k.bytes for k in inner)
        return KernelReport(step.name, step.origin, " ".join(k.key for k in inner), flops, size, arithmetic, footprint)
    return KernelReport("copy", (), "copy", 0, 2 * evaluate(step.bytes, dims))
