"""The canonical form of bodies: phases in order, and names that follow from position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.errors import GraphcError
from graphc.ir.symbolic import Dim, free_symbols, substitute, symbol
from graphc.lowering.loop_axes import axis_symbol, merge_axes, split_axes
from graphc.lowering.loop_body import Axis, Body, Buffer, LoopBody, Reduce, Statement, TileBody
from graphc.lowering.rewriting import defined, map_expressions, rename_values, symbols_read

_ORDER = {"parallel": 0, "reduction": 1, "scan": 2}


def canonical(name: str, buffers: Sequence[Buffer], tile: Sequence[Axis] | None, loops: Sequence[LoopBody]) -> Body:
    """The body made of drafts: axes split and merged, statements in phases, axes i0, i1, ..., values v0, v1, ...

    `tile` None: a LoopBody of the only draft; else a TileBody, whose axes come first in the numbering.
    """
    drafts = [split_axes(loop) for loop in loops]
    rows, drafts, merged = merge_axes(tile or (), drafts, buffers)
    outer = tuple(rows)
    ready = [_renamed(_in_phases(d), outer, tuple(merged), name) for d in drafts]
    if tile is None:
        (only,) = ready
        return only
    numbered = tuple(replace(a, name=f"i{n}") for n, a in enumerate(outer))
    return TileBody(name, tuple(merged), numbered, tuple(ready))


def _in_phases(loop: LoopBody) -> LoopBody:
    """What reductions need and what depends on their axes, the Reduces, then the rest; each in the given order."""
    axes = tuple(sorted(loop.axes, key=lambda a: _ORDER[a.kind]))
    if not loop.axes_of("reduction"):
        return replace(loop, axes=axes)
    inner = {a.name for a in loop.axes_of("reduction")}
    complete: set[str] = set()  # values known only when the reductions are complete
    varying: set[str] = set(inner)
    late: list[Statement] = []
    early: list[Statement] = []
    for s in loop.statements:
        read, value = symbols_read(s), defined(s)
        if isinstance(s, Reduce):
            if read & complete:
                raise GraphcError("a reduction reads another's result within one nest", seen=str(s))
            complete.add(s.value)
            continue
        if read & complete:
            if read & varying:
                raise GraphcError("a statement needs a reduction's result at every point of the reduction", seen=str(s))
            if value is not None:
                complete.add(value)
            late.append(s)
            continue
        if read & varying and value is not None:
            varying.add(value)
        early.append(s)
    reduces = [s for s in loop.statements if isinstance(s, Reduce)]
    needed = {n for s in (*reduces, *(s for s in early if symbols_read(s) & varying)) for n in symbols_read(s)}
    for s in reversed(early):
        if defined(s) in needed:
            needed |= symbols_read(s)
    first = [s for s in early if defined(s) in needed or symbols_read(s) & varying]
    rest = [s for s in loop.statements if s in late or (s in early and s not in first)]
    return replace(loop, axes=axes, statements=(*first, *reduces, *rest))


def _renamed(loop: LoopBody, outer: tuple[Axis, ...], buffers: tuple[Buffer, ...], name: str) -> LoopBody:
    numbers = {a.name: f"i{n}" for n, a in enumerate((*outer, *loop.axes))}
    named = [v for v in map(defined, loop.statements) if v is not None]
    values = {v: f"v{n}" for n, v in enumerate(named)}
    symbols: dict[str, Dim] = {a.name: axis_symbol(replace(a, name=numbers[a.name])) for a in (*outer, *loop.axes)}

    def through(e: Dim) -> Dim:
        if isinstance(e, int):
            return e
        ranges = {s.name: symbol(values[s.name], s.low, s.high) for s in free_symbols(e) if s.name in values}
        return substitute(e, symbols | ranges)

    statements = tuple(rename_values(map_expressions(s, through), values) for s in loop.statements)
    axes = tuple(Axis(numbers[a.name], through(a.extent), a.kind) for a in loop.axes)
    return LoopBody(name, buffers, axes, statements, loop.sequential)
