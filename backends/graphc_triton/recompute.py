"""Tiles whose rows are too long to stay in registers: what a nest kept of a row, later nests compute again."""

from __future__ import annotations

from dataclasses import replace

from graphc.ir.symbolic import Dim, substitute, symbol
from graphc.lowering.loop_body import Load, LoopBody, Reduce, Statement, Store, TileBody
from graphc.lowering.rewriting import defined, map_expressions, rename_values, symbols_read


def recompute_rows(body: TileBody) -> list[LoopBody]:
    """The nests without loads from, and stores to, scratch of more than one element."""
    rows = {b.name for b in body.buffers if b.access == "scratch" and b.type.rank > 0}
    sources: dict[str, tuple[LoopBody, Store]] = {}
    loops = []
    for loop in body.loops:
        statements: list[Statement] = []
        renamed: dict[str, str] = {}
        for s in loop.statements:
            if isinstance(s, Load) and s.buffer in rows:
                source, store = sources[s.buffer]
                moved, result = _again(source, store, s, loop)
                statements += moved
                renamed[s.value] = result
            elif not (isinstance(s, Store) and s.buffer in rows):
                statements.append(rename_values(s, renamed))
        ready = replace(loop, statements=tuple(statements))
        for s in loop.statements:
            if isinstance(s, Store) and s.buffer in rows:
                sources[s.buffer] = ready, replace(s, operand=renamed.get(str(s.operand), s.operand))
        loops.append(ready)
    return loops


def _again(source: LoopBody, store: Store, load: Load, loop: LoopBody) -> tuple[list[Statement], str]:
    """(what computes the stored element in another nest, its value)."""
    wanted = {str(store.operand)}
    found: list[Statement] = []
    for s in reversed(source.statements):
        if defined(s) in wanted and not isinstance(s, Reduce):
            wanted |= symbols_read(s)
            found.insert(0, s)
    names = {n: f"{load.value}_{n}" for s in found if (n := defined(s)) is not None}
    index = {str(a): b for a, b in zip(store.index, load.index, strict=True)}
    moves: dict[str, Dim] = {**index, **{n: symbol(new, 0) for n, new in names.items()}}
    moved = [rename_values(map_expressions(s, lambda e: e if isinstance(e, int) else substitute(e, moves)), names)
             for s in found]  # fmt: skip
    return moved, names[str(store.operand)]
