"""Nests without reductions: one thread block computes a run of points, in row-major order of the axes."""

from __future__ import annotations

from graphc.ir.symbolic import ceildiv, product
from graphc.lowering.loop_body import LoopBody
from graphc_triton.function import Function
from graphc_triton.scope import Group, Kernel, Scope, count_uses
from graphc_triton.templates import finish, guess, is_masked, is_wide, power_of_2

MOST = 1024
"""Points of a block: with 4 warps, 8 for each thread, two 16-byte accesses of f32."""


def emit(body: LoopBody, name: str, strict: bool) -> Function:
    """grid: the points of all axes / BLOCK. Every element is read and written once."""
    points = product(a.extent for a in body.axes)
    size = min(MOST, max(power_of_2(guess(points)), 32))
    kernel = Kernel({b.name: b for b in body.buffers}, strict, is_wide(body.buffers, [body]))
    group = Group(kernel.names.new("i"), body.axes, 0, "BLOCK", "", is_masked(points, size))
    pid = kernel.index("tl.program_id(0)")
    kernel.top.line(f"i = {pid} * BLOCK + tl.arange(0, BLOCK)")
    Scope(kernel, [group], kernel.top, kernel.top, uses=count_uses(body.statements)).run(body.statements)
    doc = f"One program computes BLOCK of {points} elements."
    return finish(kernel, name, doc, "pointwise", {"BLOCK": size}, ceildiv(points, size), warps_of(size))


def warps_of(elements: int) -> int:
    """Warps for a block of so many elements: 8 for each thread, at most 16 warps."""
    return max(1, min(16, power_of_2(elements) // 256))
