"""What all templates share: sizes of blocks, wide addresses, and a function's text around its lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.symbolic import Dim, bounds, product
from graphc.lowering.loop_body import Buffer, LoopBody
from graphc_triton.function import Argument, Function
from graphc_triton.scope import Kernel

POINTERS = {
    "bool": "*i8", "i8": "*i8", "i16": "*i16", "i32": "*i32", "i64": "*i64", "u8": "*u8", "u16": "*u16", "u32": "*u32",
    "u64": "*u64", "f16": "*fp16", "bf16": "*bf16", "f32": "*fp32", "f64": "*fp64",
}  # fmt: skip
"""Triton's names of pointers; a bool is a byte."""

LINE = 120
"""Characters of a line."""

ASSUMED_EXTENT = 128
"""Of a dim that is known at run time only."""


def guess(extent: Dim) -> int:
    """The extent, or what is assumed where it is dynamic."""
    if isinstance(extent, int):
        return extent
    low, high = bounds(extent)
    return max(low or 1, min(ASSUMED_EXTENT, high if high is not None else ASSUMED_EXTENT))


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is no less than n."""
    return 1 << max(n - 1, 0).bit_length()


def is_masked(extent: Dim, size: int) -> bool:
    """Whether blocks of a size reach beyond an extent."""
    return extent == 0 or extent % size != 0


def is_wide(buffers: Iterable[Buffer], loops: Iterable[LoopBody]) -> bool:
    """Whether 32 bits are not proven to hold every element's position and every count of points."""
    sizes = [b.type.bytes for b in buffers if b.access != "scratch"]
    for loop in loops:
        sizes.append(product(a.extent for a in loop.axes_of("parallel")))
        sizes.append(product(a.extent for a in loop.axes_of("reduction")))
    highs = [bounds(s)[1] for s in sizes]
    return any(h is None or h >= 2**30 for h in highs)


def finish(
    kernel: Kernel,
    name: str,
    doc: str,
    template: str,
    constants: Mapping[str, int],
    grid: Dim,
    warps: int,
    stages: int = 3,
) -> Function:
    """The function made of the lines at the top of a kernel."""
    arguments = [Argument(p, POINTERS[kernel.buffers[b].type.dtype.name], int(b)) for b, p in kernel.pointers.items()]
    if kernel.reports:
        arguments.append(Argument("status_ptr", "*i32"))
    body = kernel.top.lines(4)
    arguments += [Argument(variable, "i64", dim=dim) for dim, variable in sorted(kernel.sizes.items())]
    given = ", ".join(a.name for a in arguments)
    fixed = ", ".join(f"{c}: tl.constexpr = {n}" for c, n in constants.items())
    head = f"def {name}({given}, {fixed}):"
    if len(head) > LINE:
        lines = [*textwrap.wrap(f"{given},", LINE - 4), f"{fixed},"]
        head = "\n".join([f"def {name}(", *(f"    {line}" for line in lines), "):"])
    text = "\n".join(["@triton.jit", head, f'    """{doc}"""', *body]) + "\n"
    return Function(name, text, tuple(arguments), tuple(constants.items()), grid, warps, stages, template)


def refuse(body: LoopBody, reason: str) -> UnsupportedOpError:
    """The error for a nest that has no kernel."""
    return UnsupportedOpError("the triton backend", [Unsupported(body.name, "", reason)])
