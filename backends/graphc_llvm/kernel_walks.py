"""The walks of kernels that are made from loop bodies: from their schedules and the addresses that they touch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphc.ir.symbolic import Dim, bounds, free_symbols, linear, substitute, symbol
from graphc.lowering.contraction import address
from graphc.lowering.loop_body import Axis, Body, Buffer, Load, LoopBody, Store, TileBody
from graphc.ops.winograd import TILE
from graphc_llvm.contraction import Contraction
from graphc_llvm.flat_body import FlatAccess, FlatLoad, FlatStore
from graphc_llvm.gemm import grid
from graphc_llvm.nest import dimension_symbols, planned
from graphc_llvm.target import Target
from graphc_llvm.walk import Touch, Walk
from graphc_llvm.winograd_kernel import Winograd

_Extent = tuple[str, Dim]
_Accesses = Iterable[tuple[Buffer, Dim | None]]
"""Buffers with addresses in elements; None: anywhere."""


def walk_of_nest(body: Body, target: Target, place: int = 0) -> Walk:
    """How the kernel of `nest.emit_kernel` goes over its points: each work item is one."""
    if isinstance(body, TileBody):
        digits = [(a.name, a.extent) for a in body.axes]
        statements = [s for loop in body.loops for s in loop.statements if isinstance(s, Load | Store)]
        accesses = [(body.buffer(s.buffer), _address(body, s)) for s in statements]
        inner = {a.name: (0, a.extent - 1) for loop in body.loops for a in loop.axes}
        named = [{a.name: a.extent for a in loop.axes} for loop in body.loops]
        if any(x[name] != size for x in named for y in named for name, size in y.items() if name in x):
            accesses = [(buffer, None) for buffer, _ in accesses]  # one name, two extents
        return _walk(body, digits, inner, accesses)
    flat, s = planned(body, target, place=place)
    digits, inner, cut = [(a.name, a.extent) for a in s.outer], {}, {}
    counts = s.outer_counts()[len(s.outer) :]
    pieces: list[tuple[Axis, int]] = []
    if s.chunk is not None and s.vector is not None:
        pieces.append((s.vector, s.chunk))
    if s.block_outer and s.block is not None:
        pieces.append((s.block, s.block_size))
    for (axis, size), count in zip(pieces, counts, strict=True):
        digits.append((f"{axis.name} piece", count))
        inner[f"{axis.name} place"] = (0, size - 1)
        cut[axis.name] = symbol(digits[-1][0], 0, count - 1) * size + symbol(f"{axis.name} place", 0, size - 1)
    inner |= {a.name: (0, a.extent - 1) for a in flat.axes if a.name not in cut and a not in s.outer}
    found = [x.access for x in flat.statements if isinstance(x, FlatLoad | FlatStore)]
    return _walk(body, digits, inner, [(a.buffer, _flat_address(a, cut)) for a in found])


def walk_of_product(c: Contraction) -> Walk:
    """How the kernel of `gemm.emit` goes over its rows: a work item is a block of them and a panel."""
    digits = [(a.name, a.extent) for a in (*c.batch, *c.rows)]
    inner = {a.name: (0, a.extent - 1) for a in c.body.axes if a not in (*c.batch, *c.rows)}
    cells, accesses = grid(c), _loads_and_stores(c.body)
    if cells.cut and isinstance(c.row_count, int):  # each item is taken for one that touches all rows
        return _walk(c.body, digits, inner, accesses, c.row_count, c.row_count, cells.blocks * c.panels)
    return _walk(c.body, digits, inner, accesses, c.row_count, cells.rows, c.panels)


def walk_of_winograd(w: Winograd) -> Walk:
    """How the kernel of `winograd_kernel.emit` goes over its tiles: a work item is a block of them and a panel."""
    c = w.c
    *images, height, width = c.rows
    tiles = [(f"{a.name} tile", count) for a, count in ((height, w.rows), (width, w.columns))]
    digits = [*((a.name, a.extent) for a in images), *tiles]
    inner = {a.name: (0, a.extent - 1) for a in c.body.axes if a not in c.rows}
    inner |= {f"{a.name} place": (0, TILE - 1) for a in (height, width)}
    cut = {
        a.name: symbol(name, 0, count - 1) * TILE + symbol(f"{a.name} place", 0, TILE - 1)
        for a, (name, count) in zip((height, width), tiles, strict=True)
    }
    first = {f"{a.name} place": 0 for a in (height, width)}  # the window of 6x6 begins there for all of a tile
    accesses = []
    for s in (s for s in c.body.statements if isinstance(s, Load | Store)):
        at = _address(c.body, s)
        cut_at = None if at is None else substitute(at, cut)
        if s == c.a and cut_at is not None:
            cut_at = substitute(cut_at, first)
        accesses.append((c.body.buffer(s.buffer), cut_at))
    return _walk(c.body, digits, inner, accesses, w.tiles, w.block, c.panels)


def _loads_and_stores(body: LoopBody) -> list[tuple[Buffer, Dim | None]]:
    found = [s for s in body.statements if isinstance(s, Load | Store)]
    return [(body.buffer(s.buffer), _address(body, s)) for s in found]


def _address(body: Body, s: Load | Store) -> Dim | None:
    buffer = body.buffer(s.buffer)
    return None if s.checked else address(buffer, s.index)


def _flat_address(a: FlatAccess, cut: Mapping[str, Dim]) -> Dim | None:
    return None if a.checked else substitute(a.address, cut)


def _walk(
    body: Body,
    digits: Sequence[_Extent],
    inner: Mapping[str, tuple[Dim, Dim]],
    accesses: _Accesses,
    rows: Dim = 1,
    block: int = 1,
    panels: Dim = 1,
) -> Walk:
    """inner: the first and last value of what varies while a point is done."""
    dims = dimension_symbols(body)
    buffers = [b for b in body.buffers if b.access != "scratch"]
    numbers = {b.name: i for i, b in enumerate(buffers)}
    touches = [
        _touch(numbers[buffer.name], buffer, at, [name for name, _ in digits], inner, set(dims))
        for buffer, at in accesses
        if buffer.name in numbers
    ]
    extents = tuple(extent for _, extent in digits)
    outputs = sum(b.access == "in" for b in buffers)
    return Walk(dims, extents, rows, block, panels, outputs, tuple(dict.fromkeys(touches)))


def _touch(
    operand: int,
    buffer: Buffer,
    at: Dim | None,
    digits: Sequence[str],
    inner: Mapping[str, tuple[Dim, Dim]],
    dims: set[str],
) -> Touch:
    whole = Touch(operand, (0,) * len(digits), 0, buffer.type.bytes)
    found = None if at is None else linear(at, [*digits, *inner])
    if found is None:
        return whole
    coefficients, low = found
    high = low + 1
    for name, k in coefficients.items():
        if name not in inner:
            continue
        sign, (first, last) = bounds(k), inner[name]
        if sign[0] is not None and sign[0] >= 0:
            low, high = low + k * first, high + k * last
        elif sign[1] is not None and sign[1] <= 0:
            low, high = low + k * last, high + k * first
        else:
            return whole
    strides = tuple(coefficients.get(name, 0) for name in digits)
    size = buffer.type.dtype.bytes
    touch = Touch(operand, tuple(k * size for k in strides), low * size, high * size)
    if any(s.name not in dims for e in (*touch.strides, touch.low, touch.high) for s in free_symbols(e)):
        return whole
    return touch
