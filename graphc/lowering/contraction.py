"""Recognizes the nests that are matrix products in disguise: dense layers, batched products, convolutions.

A contraction sums a * b over its reduction axes. Parallel axes that only `a` depends on are rows, those that only `b`
depends on are columns, the others are batch. Both may be loads, guarded or not, or be computed from loads (a prologue); what
follows the sum is the epilogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from graphc.ir.symbolic import Dim, Expr, FloorDiv, free_symbols, linear, substitute, symbol
from graphc.lowering.loop_body import Apply, Axis, AxisKind, Buffer, LoopBody, Reduce, Statement
from graphc.lowering.rewriting import defined, expressions, map_expressions, symbols_read


@dataclass(frozen=True)
class Contraction:
    """A nest as a matrix product; see the module. a, b: names of the values that are multiplied."""

    body: LoopBody
    reduce: Reduce
    a: str
    b: str
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    prologue: tuple[Statement, ...]
    epilogue: tuple[Statement, ...]

    def needed(self, value: str) -> tuple[Statement, ...]:
        """The statements of the prologue that compute a value."""
        wanted = {value}
        found: list[Statement] = []
        for s in reversed(self.prologue):
            if defined(s) in wanted:
                wanted |= symbols_read(s)
                found.insert(0, s)
        return tuple(found)


def find_contraction(body: LoopBody) -> Contraction | None:
    """The nest as a product of floats with rows and columns, or None.

    A grouped convolution's channel axis, of which one side reads the group alone, is cut into groups first.
    """
    found = _find(body)
    if found is None:
        for axis, size in group_sizes(body):
            found = found or _find(split_axis(body, axis, size))
    return found


def _find(body: LoopBody) -> Contraction | None:
    reduces = [n for n, s in enumerate(body.statements) if isinstance(s, Reduce)]
    if len(reduces) != 1 or body.sequential:
        return None
    early, reduce = body.statements[: reduces[0]], body.statements[reduces[0]]
    assert isinstance(reduce, Reduce)
    multiply = next((s for s in early if defined(s) == reduce.operand), None)
    if not (isinstance(multiply, Apply) and multiply.op == "mul" and multiply.operand_dtype.is_float):
        return None
    x, y = multiply.operands
    if reduce.kind != "sum" or reduce.predicate or not isinstance(x, str) or not isinstance(y, str) or x == y:
        return None
    rest = tuple(s for s in early if s is not multiply)
    if any(multiply.value in symbols_read(s) for s in (*rest, *body.statements[reduces[0] + 1 :])):
        return None
    varies = dependences(early, {a.name for a in body.axes})
    parallel, reduced = body.axes_of("parallel"), {a.name for a in body.axes_of("reduction")}
    if not varies[x] & reduced or not varies[y] & reduced:
        return None
    if parallel and parallel[-1].name in varies[x] - varies[y]:
        x, y = y, x  # columns are where the result is dense
    rows = tuple(a for a in parallel if a.name in varies[x] and a.name not in varies[y])
    columns = tuple(a for a in parallel if a.name in varies[y] and a.name not in varies[x])
    batch = tuple(a for a in parallel if a not in rows and a not in columns)
    if not rows or not columns:
        return None
    return Contraction(body, reduce, x, y, batch, rows, columns, rest, body.statements[reduces[0] + 1 :])


def dependences(statements: Iterable[Statement], axes: set[str]) -> dict[str, set[str]]:
    """The axes that each value depends on, directly or not."""
    found: dict[str, set[str]] = {}
    for s in statements:
        value = defined(s)
        if value is not None:
            read = symbols_read(s)
            found[value] = (read & axes).union(*(found[n] for n in read if n in found))
    return found


def group_sizes(body: LoopBody, kind: AxisKind = "parallel") -> list[tuple[Axis, int]]:
    """(axis, size) where an access divides an axis of that kind by a size that divides its extent."""
    found: dict[tuple[Axis, int], None] = {}
    atoms = [a for s in body.statements for e in expressions(s) if isinstance(e, Expr) for m, _ in e.terms for a in m]
    for axis in body.axes_of(kind):
        for a in atoms:
            if not (isinstance(a, FloorDiv) and isinstance(a.divisor, int) and isinstance(axis.extent, int)):
                continue
            if names_in(a.numerator) == {axis.name} and axis.extent % a.divisor == 0:
                found[axis, a.divisor] = None
    return list(found)


def split_axis(body: LoopBody, axis: Axis, size: int) -> LoopBody:
    """The same nest with `axis` as two: groups of `size`, and the place within one."""
    assert isinstance(axis.extent, int)
    outer, inner = Axis(f"{axis.name}o", axis.extent // size, axis.kind), Axis(f"{axis.name}i", size, axis.kind)
    whole = symbol(outer.name, 0, axis.extent // size - 1) * size + symbol(inner.name, 0, size - 1)
    axes = tuple(y for x in body.axes for y in ((outer, inner) if x == axis else (x,)))
    statements = tuple(map_expressions(s, lambda e: substitute(e, {axis.name: whole})) for s in body.statements)
    return replace(body, axes=axes, statements=statements)


def names_in(e: Dim) -> set[str]:
    """The names of an expression's symbols."""
    return {s.name for s in free_symbols(e)}


@dataclass(frozen=True)
class Affine:
    """sum(coefficients[axis] * axis) + constant, in elements."""

    coefficients: Mapping[str, Dim]
    constant: Dim

    def of(self, axis: str) -> Dim:
        return self.coefficients.get(axis, 0)


def address(buffer: Buffer, index: tuple[Dim, ...]) -> Dim:
    """The row-major position, in elements, of an index."""
    total: Dim = 0
    for size, i in zip(buffer.type.shape, index, strict=True):
        total = total * size + i
    return total


def affine(e: Dim, axes: Iterable[str]) -> Affine | None:
    """`e` as an affine function of the axes; None where it isn't one."""
    split = linear(e, axes)
    return None if split is None else Affine(dict(split[0]), split[1])
