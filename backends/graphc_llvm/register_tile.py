"""The innermost loop of every matrix product: a tile of rows times a panel of columns, summed in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ir

from graphc_llvm.emit import fma, fold_range, load, offset, scalar_of, splat

Left = Callable[[ir.Value, ir.Value], ir.Value]
"""The vector to multiply by, for a row's address and the offset of a term in it."""

Add = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""x * y + z."""


def add_products(
    b: ir.IRBuilder,
    rows: Sequence[ir.Value],
    stride: ir.Value,
    columns: Callable[[ir.Value], Sequence[ir.Value]],
    depth: tuple[ir.Value, ir.Value],
    sums: Sequence[ir.Value],
    left: Left | None = None,
    add: Add = fma,
) -> list[ir.Value]:
    """sums + the sum over k in `depth` of rows[r][k * stride] * columns(k)[v]: row by row, vector by vector.

    `left` and `add` stand for reading a row's element into all lanes, and for what adds a product, where the operands
    aren't of the sums' type.
    """
    type_ = sums[0].type
    element, lanes = scalar_of(type_), type_.count
    with fold_range(b, *depth, 1, sums, "k") as loop:
        right = columns(loop.index)
        at = b.mul(loop.index, stride)
        following = []
        for r, row in enumerate(rows):
            x = splat(b, load(b, offset(b, row, at, element), element), lanes) if left is None else left(row, at)
            before = loop.carried[r * len(right) : (r + 1) * len(right)]
            following += [add(b, x, y, z) for y, z in zip(right, before, strict=True)]
        loop.update(following)
    return loop.results
