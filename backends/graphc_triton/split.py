"""Long sums of few results, in two kernels: one of parts of the sums, which programs compute side by side, one of their sum.

The gradients of weights, biases and norms are such sums: over all images and places, for some channels. The parts lie in memory
that lives as long as the two kernels run, so that the order of summation is fixed, as it isn't with atomics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphc.ir.symbolic import Dim, ceildiv, product, substitute
from graphc.ir.types import TensorType
from graphc.lowering.contraction import find_contraction
from graphc.lowering.loop_axes import axis_symbol
from graphc.lowering.loop_body import Axis, Buffer, Load, LoopBody, Reduce, Statement, Store
from graphc.lowering.rewriting import defined, map_expressions, symbols_read
from graphc_triton.matmul import PROCESSORS, choose_tile, element_bytes
from graphc_triton.rows import LANES, WHOLE_ROW, rows_are_lanes

LONG = 512
"""Elements of the shortest sum that is split."""

PART = {"matmul": 256, "lanes": 64, "rows": 4096}
"""Elements of a part at least, by the kernel that sums it."""

PART_AXIS = "part"


@dataclass(frozen=True)
class Split:
    """The nest of the parts, the nest of their sums and what follows, and the buffers in between, in the order of their names."""

    parts: LoopBody
    whole: LoopBody
    between: tuple[TensorType, ...]


def split(body: LoopBody) -> Split | None:
    """The two nests of a sum that keeps too few programs busy for too long; None where it is better left whole."""
    reduces = [s for s in body.statements if isinstance(s, Reduce)]
    extents = [a.extent for a in body.axes]
    if not all(isinstance(e, int) and e > 0 for e in extents) or not reduces:
        return None
    if any(r.kind not in ("sum", "prod", "max", "min") or r.dtype.is_bool for r in reduces):
        return None
    axis, count = _best(body, _wanted(body))
    if axis is None:
        return None
    parallel = body.axes_of("parallel")
    first = max(int(b.name) for b in body.buffers) + 1
    shape = (count, *(a.extent for a in parallel))
    types = tuple(TensorType(r.dtype, shape) for r in reduces)
    part = Axis(PART_AXIS, count)
    at = (axis_symbol(part), *(axis_symbol(a) for a in parallel))
    names = [str(first + n) for n in range(len(reduces))]
    stores = [Store(n, at, r.value) for n, r in zip(names, reduces, strict=True)]
    parts = _parts(body, axis, part, stores, types)
    # The axis of the parts is what the second nest sums over.
    again: list[Statement] = []
    for s in body.statements:
        if isinstance(s, Reduce):
            n = reduces.index(s)
            again.append(Load(f"{s.value}p", s.dtype, names[n], at))
            again.append(replace(s, operand=f"{s.value}p", predicate=()))
        else:
            again.append(s)
    buffers = tuple(Buffer(n, t, "in") for n, t in zip(names, types, strict=True))
    kept = _needed(again, [s for s in again if isinstance(s, Store)])
    whole = LoopBody(body.name, (*body.buffers, *buffers), (*parallel, replace(part, kind="reduction")), kept)
    return Split(parts, _without_unread(whole), types)


def _parts(body: LoopBody, axis: Axis, part: Axis, stores: list[Store], types: tuple[TensorType, ...]) -> LoopBody:
    """The nest whose programs have a part of the axis each."""
    assert isinstance(axis.extent, int) and isinstance(part.extent, int)
    inner = replace(axis, extent=axis.extent // part.extent)
    moved = axis_symbol(part) * inner.extent + axis_symbol(inner)

    def shifted(e: Dim) -> Dim:
        return e if isinstance(e, int) else substitute(e, {axis.name: moved})

    computed = [map_expressions(s, shifted) for s in body.statements if not isinstance(s, Store)]
    kept = _needed([*computed, *stores], stores)
    axes = (part, *(inner if a is axis else a for a in body.axes))
    buffers = tuple(Buffer(s.buffer, t, "out") for s, t in zip(stores, types, strict=True))
    return _without_unread(LoopBody(f"{body.name}_parts", (*body.buffers, *buffers), axes, kept))


def _wanted(body: LoopBody) -> int:
    """In how many parts the sums should be computed."""
    parallel, along = body.axes_of("parallel"), body.axes_of("reduction")
    count, length = (_known(product(a.extent for a in axes)) for axes in (parallel, along))
    if length < LONG:
        return 1
    c = find_contraction(body)
    if c is not None and c.reduce.dtype.name in ("f32", "f64"):
        m, n, batch = (_known(product(a.extent for a in axes)) for axes in (c.rows, c.columns, c.batch))
        tile = choose_tile(m, n, length, batch, element_bytes(c))
        programs = _known(ceildiv(m, tile.m)) * _known(ceildiv(n, tile.n)) * batch
        return min(PROCESSORS // programs, length // PART["matmul"])
    if rows_are_lanes(body, parallel, along):
        return min(4 * PROCESSORS // _known(ceildiv(count, LANES)), length // PART["lanes"])
    return min(PROCESSORS // count, length // PART["rows"]) if length > WHOLE_ROW else 1


def _best(body: LoopBody, wanted: int) -> tuple[Axis | None, int]:
    """The reduction axis that divides into the most parts, up to `wanted`, and how many."""
    best: tuple[Axis | None, int] = (None, 1)
    for axis in body.axes_of("reduction"):
        extent = _known(axis.extent)
        count = max((d for d in range(1, min(wanted, extent) + 1) if extent % d == 0), default=1)
        if count > best[1]:
            best = axis, count
    return best


def _known(e: Dim) -> int:
    assert isinstance(e, int)
    return e


def _needed(statements: list[Statement], ends: list[Store]) -> tuple[Statement, ...]:
    """The statements that the stores ask for, in order."""
    wanted = {n for s in ends for n in symbols_read(s)}
    kept: list[Statement] = []
    for s in reversed(statements):
        if s in ends or defined(s) in wanted:
            wanted |= symbols_read(s)
            kept.insert(0, s)
    return tuple(kept)


def _without_unread(body: LoopBody) -> LoopBody:
    """The nest without buffers that it doesn't touch."""
    touched = {s.buffer for s in body.statements if isinstance(s, Load | Store)}
    return replace(body, buffers=tuple(b for b in body.buffers if b.name in touched))
