"""Lanes of an attention's tiles: registers joined, and the highest of them."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim
from graphc_llvm.emit import I32, i32
from graphc_llvm.gemm_epilogue import Strip


def int_of(extent: Dim) -> int:
    """An extent that `find_products` saw to be static."""
    assert isinstance(extent, int)
    return extent


def joined(b: ir.IRBuilder, vectors: Sequence[ir.Value], strip: Strip, lanes: int) -> ir.Value:
    """The registers of a strip, of so many lanes each, as one vector."""
    found = list(vectors[strip.first // lanes : (strip.first + strip.lanes) // lanes])
    while len(found) > 1:
        width = 2 * found[0].type.count
        order = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        found = [b.shuffle_vector(x, y, order) for x, y in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The larger one; y where either is NaN: the weight of a NaN is NaN, whatever the highest is."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def highest_lane(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The largest lane."""
    width = x.type.count
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(I32, width), list(range(n, n + width))) for n in (0, width)]
        low, high = (b.shuffle_vector(x, x, half) for half in halves)
        x = larger(b, low, high)
    return b.extract_element(x, i32(0))
