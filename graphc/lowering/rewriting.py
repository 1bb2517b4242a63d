"""Edits of loop bodies as data: every expression mapped, values renamed, statements asked for what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from graphc.ir.symbolic import Dim, Expr, Extremum, FloorDiv, Mod, free_symbols
from graphc.lowering.loop_body import Apply, Index, Load, LoopBody, Operand, Predicate, Reduce, Statement, Store

Access = Load | Store


def accesses(loop: LoopBody) -> Iterator[Access]:
    """The loads and stores, in order."""
    for s in loop.statements:
        if isinstance(s, Load | Store):
            yield s


def expressions(s: Statement) -> Iterator[Dim]:
    """The index expressions of a statement, predicates included."""
    match s:
        case Load() | Store():
            yield from s.index
            yield from _in_predicate(s.predicate)
        case Index():
            yield s.expression
        case Reduce():
            yield from _in_predicate(s.predicate)


def _in_predicate(predicate: Predicate) -> Iterator[Dim]:
    for r in predicate:
        yield from (r.expression, r.low, r.high)


def map_expressions(s: Statement, f: Callable[[Dim], Dim]) -> Statement:
    """The statement with every index expression replaced."""
    match s:
        case Load() | Store():
            return replace(s, index=tuple(f(e) for e in s.index), predicate=_map_predicate(s.predicate, f))
        case Index():
            return replace(s, expression=f(s.expression))
        case Reduce():
            return replace(s, predicate=_map_predicate(s.predicate, f))
    return s


def _map_predicate(predicate: Predicate, f: Callable[[Dim], Dim]) -> Predicate:
    return tuple(replace(r, expression=f(r.expression), low=f(r.low), high=f(r.high)) for r in predicate)


def operands(s: Statement) -> tuple[Operand, ...]:
    """The scalars that a statement reads as operands, literals included."""
    match s:
        case Load():
            return (s.otherwise,) if s.predicate else ()
        case Apply():
            return s.operands
        case Reduce() | Store():
            return (s.operand,)
    return ()


def symbols_read(s: Statement) -> set[str]:
    """The names of the values, axes and dimensions that a statement depends on."""
    names = {o for o in operands(s) if isinstance(o, str)}
    return names | {t.name for e in expressions(s) for t in free_symbols(e)}


def defined(s: Statement) -> str | None:
    """The value that a statement names; None for a store."""
    return None if isinstance(s, Store) else s.value


def rename_values(s: Statement, names: Mapping[str, str]) -> Statement:
    """The statement with its value and operands renamed (not the expressions)."""

    def new(o: Operand) -> Operand:
        return names.get(o, o) if isinstance(o, str) else o

    match s:
        case Load():
            return replace(s, value=names.get(s.value, s.value), otherwise=new(s.otherwise))
        case Index():
            return replace(s, value=names.get(s.value, s.value))
        case Apply():
            return replace(s, value=names.get(s.value, s.value), operands=tuple(new(o) for o in s.operands))
        case Reduce():
            return replace(s, value=names.get(s.value, s.value), operand=new(s.operand))
    return replace(s, operand=new(s.operand))


def divisions(e: Dim) -> Iterator[FloorDiv | Mod]:
    """Every division and remainder in an expression, inner ones too."""
    if not isinstance(e, Expr):
        return
    for monomial, _ in e.terms:
        for atom in monomial:
            if isinstance(atom, FloorDiv | Mod):
                yield atom
                yield from divisions(atom.numerator)
                yield from divisions(atom.divisor)
            elif isinstance(atom, Extremum):
                for x in atom.arguments:
                    yield from divisions(x)
