"""Work items for nests that run one after another: a concatenation's copies, a scatter's copy and its updates.

    tile { for i in N: for j in A: z[i, j] = x[i, j];   for i in N: for j in B: z[i, j + A] = y[i, j] }
 =  tile for s in N / size { for i in size: ...;        for i in size: ... }

Along a dim of the result at which every nest writes where its own axis is, the nests' parts with equal places meet no others:
they are a work item.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.ir.symbolic import Dim, bounds, floordiv, product, substitute, symbol
from graphc.lowering.contraction import split_axis
from graphc.lowering.loop_body import Axis, Body, Buffer, LoopBody, Store, TileBody
from graphc.lowering.rewriting import map_expressions

ITEM_BYTES = 16384
"""Of the result that a work item writes, about, where there are so many."""
LEAST_BYTES = 512
"""That lie together and belong to a work item, at least."""
SCATTERED_BYTES = 1 << 20
"""Of a scatter's result, at least: rows of a smaller one are copied as a whole in less time."""
SHARED = "share"


def shared(body: Body) -> Body:
    """The body with work items, if it is nests in order that have a dim of their only result in common."""
    if not isinstance(body, TileBody) or body.axes:
        return body
    results = [b for b in body.buffers if b.access == "out"]
    if len(results) != 1 or len(body.buffers) != sum(b.access in ("in", "out") for b in body.buffers):
        return body
    (result,) = results
    shape, bytes = result.type.shape, bounds(result.type.bytes)[0] or 0
    if any(loop.sequential for loop in body.loops) and bytes < SCATTERED_BYTES:
        return body
    for d, extent in enumerate(shape[:-1]):  # a part of each row would be a walk over all of memory
        axes = [_axis_along(loop, result, d) for loop in body.loops]
        size = _size(shape, d, result.type.dtype.bytes)
        if size is not None and all(a is not None for a in axes):
            count = floordiv(extent, size)
            loops = tuple(_part(x, a, size, count) for x, a in zip(body.loops, axes, strict=True) if a is not None)
            return TileBody(body.name, body.buffers, (Axis(SHARED, count, "parallel"),), loops)
    return body


def _axis_along(loop: LoopBody, result: Buffer, d: int) -> Axis | None:
    """The parallel axis whose points write at their own places of dim `d`, and at no others."""
    for a in loop.axes_of("parallel"):
        here = symbol(a.name, 0, a.extent - 1)
        stores = [s for s in loop.statements if isinstance(s, Store)]
        if a.extent == result.type.shape[d] and all(s.index[d] == here and d not in s.checked for s in stores):
            return a
    return None


def _size(shape: tuple[Dim, ...], d: int, element: int) -> int | None:
    """Points of dim `d` that make a work item; None where it isn't worth it, or their number can't be divided."""
    extent, row = shape[d], max(bounds(product(shape[d + 1 :]) * element)[0] or 0, 1)
    least = -(-LEAST_BYTES // row)
    if not isinstance(extent, int):
        return 1 if least == 1 else None
    outside = max(bounds(product(shape[:d]))[0] or 0, 1)
    wanted = max(least, min(ITEM_BYTES // (row * outside), extent // 4))
    sizes = [k for k in range(least, extent // 2 + 1) if extent % k == 0]
    return min(sizes, key=lambda k: abs(k - wanted), default=None)


def _part(loop: LoopBody, axis: Axis, size: int, count: Dim) -> LoopBody:
    """The nest at the points of one work item."""
    item = symbol(SHARED, 0, count - 1)
    outer = axis
    if size > 1:
        loop = split_axis(loop, axis, size)
        outer = loop.axes[[a.name for a in loop.axes].index(f"{axis.name}o")]
    statements = tuple(map_expressions(s, lambda e: substitute(e, {outer.name: item})) for s in loop.statements)
    return replace(loop, axes=tuple(a for a in loop.axes if a != outer), statements=statements)
