"""A LoopBody with flat addresses: unit axes dropped, axes that are walked as one merged, dependences known.

A kernel works on addresses, not on tuples of indices: every access becomes one expression, the number of elements from
the buffer's start. Two axes merge where every expression can be written over the one axis of both without a division,
so an elementwise body over dense tensors has one axis, and its vectors run across the ends of rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.symbolic import Dim, Expr, FloorDiv, Mod, bounds, free_symbols, mod, product, substitute, symbol
from graphc.ir.types import DType
from graphc.lowering.loop_body import (
    Apply,
    Axis,
    AxisKind,
    Buffer,
    Index,
    Load,
    LoopBody,
    Operand,
    Predicate,
    Range,
    Reduce,
    Store,
)


@dataclass(frozen=True)
class Checked:
    """One data-dependent index: it must lie in [0, extent), and moves the address by `stride` elements."""

    index: Dim
    extent: Dim
    stride: Dim


@dataclass(frozen=True)
class FlatAccess:
    """Element `address` (plus what `checked` adds) of a buffer, where the predicate holds."""

    buffer: Buffer
    address: Dim
    predicate: Predicate = ()
    checked: tuple[Checked, ...] = ()

    def expressions(self) -> list[Dim]:
        """Every expression that the access evaluates."""
        return [
            self.address,
            *(r.expression for r in self.predicate),
            *(x for c in self.checked for x in (c.index, c.stride)),
        ]

    def substitute(self, values: dict[str, Dim]) -> FlatAccess:
        """The access with symbols replaced."""
        return replace(
            self,
            address=substitute(self.address, values),
            predicate=tuple(
                Range(*(substitute(x, values) for x in (r.expression, r.low, r.high))) for r in self.predicate
            ),
            checked=tuple(
                Checked(substitute(c.index, values), c.extent, substitute(c.stride, values)) for c in self.checked
            ),
        )


@dataclass(frozen=True)
class FlatLoad:
    """value = access, or `otherwise` where its predicate fails."""

    value: str
    dtype: DType
    access: FlatAccess
    otherwise: Operand


@dataclass(frozen=True)
class FlatStore:
    """access = operand, or combined with what is there."""

    access: FlatAccess
    operand: Operand
    combine: str


FlatStatement = FlatLoad | Index | Apply | Reduce | FlatStore


@dataclass(frozen=True)
class FlatBody:
    """One nest over flat addresses. `position` is the row-major position in the reduction axes (for argmax)."""

    axes: tuple[Axis, ...]
    statements: tuple[FlatStatement, ...]
    sequential: bool
    position: Dim

    def axes_of(self, kind: AxisKind) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.kind == kind)

    @cached_property
    def definitions(self) -> dict[str, FlatLoad | Index | Apply | Reduce]:
        """The statement that defines each value."""
        return {s.value: s for s in self.statements if not isinstance(s, FlatStore)}

    @cached_property
    def stores(self) -> tuple[FlatStore, ...]:
        return tuple(s for s in self.statements if isinstance(s, FlatStore))

    @cached_property
    def reduces(self) -> tuple[Reduce, ...]:
        return tuple(s for s in self.statements if isinstance(s, Reduce))

    @cached_property
    def dependences(self) -> dict[str, frozenset[str]]:
        """The names of the axes that each value varies over."""
        known: dict[str, frozenset[str]] = {}
        reduction = frozenset(a.name for a in self.axes_of("reduction"))
        for s in self.statements:
            if isinstance(s, FlatStore):
                continue
            found = self._of_expressions(expressions_of(s), known)
            for o in operands_of(s):
                found |= known.get(o, frozenset()) if isinstance(o, str) else frozenset()
            if isinstance(s, Reduce):
                found = found - reduction | frozenset(a.name for a in self.axes_of("scan"))
            known[s.value] = found
        return known

    def store_dependences(self, s: FlatStore) -> frozenset[str]:
        """The names of the axes that a store varies over."""
        found = self._of_expressions(s.access.expressions(), self.dependences)
        return found | (self.dependences[s.operand] if isinstance(s.operand, str) else frozenset())

    def reduces_within(self, s: FlatStore) -> bool:
        """Whether a store happens at each point of the reduction axes."""
        return any(a.name in self.store_dependences(s) for a in self.axes_of("reduction"))

    @cached_property
    def after_reduction(self) -> frozenset[str]:
        """The values that depend on a reduction's result."""
        found: set[str] = set()
        for s in self.statements:
            read = (*operands_of(s), *values_in(expressions_of(s)))
            if not isinstance(s, FlatStore) and (isinstance(s, Reduce) or any(o in found for o in read)):
                found.add(s.value)
        return frozenset(found)

    def _of_expressions(self, expressions: list[Dim], known: dict[str, frozenset[str]]) -> frozenset[str]:
        names = frozenset(a.name for a in self.axes)
        found: frozenset[str] = frozenset()
        for e in expressions:
            for s in free_symbols(e):
                if s.name in names:
                    found |= {s.name}
                else:
                    found |= known.get(s.name, frozenset())
        return found


def operands_of(s: FlatStatement) -> tuple[Operand, ...]:
    """The values and literals that a statement reads, those inside index expressions aside."""
    match s:
        case Apply():
            return s.operands
        case Reduce() | FlatStore():
            return (s.operand,)
        case FlatLoad():
            return (s.otherwise,)
    return ()


def expressions_of(s: FlatStatement) -> list[Dim]:
    """The index expressions of a statement."""
    if isinstance(s, FlatLoad | FlatStore):
        return s.access.expressions()
    return [s.expression] if isinstance(s, Index) else []


def values_in(expressions: list[Dim]) -> list[str]:
    """The names of the symbols in expressions."""
    return [s.name for e in expressions for s in free_symbols(e)]


def flatten(body: LoopBody) -> FlatBody:
    """The flat form of a body. Raises UnsupportedOpError for a nest that has both reduction and scan axes."""
    if body.axes_of("scan") and body.axes_of("reduction"):
        reason = "a loop nest with both a scan axis and reduction axes has no kernel"
        raise UnsupportedOpError("the llvm backend", [Unsupported("fusion", body.name, reason)])
    statements = tuple(_flat_statement(body, s) for s in body.statements)
    position: Dim = 0
    for a in body.axes_of("reduction"):
        position = position * a.extent + _axis_symbol(a)
    flat = FlatBody(body.axes, statements, body.sequential, position)
    flat = _substituted(flat, {a.name: 0 for a in flat.axes if a.extent == 1}, [a for a in flat.axes if a.extent != 1])
    return _merged(flat)


def _axis_symbol(a: Axis) -> Expr:
    return symbol(a.name, 0, a.extent - 1)


def _flat_statement(body: LoopBody, s: object) -> FlatStatement:
    match s:
        case Load():
            access = _flat_access(body, s.buffer, s.index, s.predicate, s.checked)
            return FlatLoad(s.value, s.dtype, access, s.otherwise)
        case Store():
            return FlatStore(_flat_access(body, s.buffer, s.index, s.predicate, s.checked), s.operand, s.combine)
        case Index() | Apply() | Reduce():
            return s
    raise TypeError(f"not a statement: {s!r}")


def _flat_access(
    body: LoopBody, buffer: str, index: tuple[Dim, ...], predicate: Predicate, checked: tuple[int, ...]
) -> FlatAccess:
    b = body.buffer(buffer)
    address: Dim = 0
    guarded = []
    for i, e in enumerate(index):
        stride = product(b.type.shape[i + 1 :])
        if i in checked:
            guarded.append(Checked(e, b.type.shape[i], stride))
        else:
            address = address + e * stride
    return FlatAccess(b, address, predicate, tuple(guarded))


def _substituted(body: FlatBody, values: dict[str, Dim], axes: list[Axis]) -> FlatBody:
    statements: list[FlatStatement] = []
    for s in body.statements:
        match s:
            case FlatLoad() | FlatStore():
                statements.append(replace(s, access=s.access.substitute(values)))
            case Index():
                statements.append(replace(s, expression=substitute(s.expression, values)))
            case _:
                statements.append(s)
    return FlatBody(tuple(axes), tuple(statements), body.sequential, substitute(body.position, values))


def _merged(body: FlatBody) -> FlatBody:
    """Merges pairs of axes of one kind, until no pair can be."""
    if body.sequential:
        return body
    merging = True
    while merging:
        merging = False
        for outer, inner in _pairs(body):
            low = bounds(inner.extent)[0]
            if low is None or low < 1 or outer.kind == "scan":
                continue
            name = f"{outer.name}_{inner.name}"
            extent = outer.extent * inner.extent
            both = symbol(name, 0, extent - 1)
            values = {outer.name: both // inner.extent, inner.name: mod(both, inner.extent)}
            if _stays_simple(body, values):
                axes = [Axis(name, extent, a.kind) if a is inner else a for a in body.axes if a is not outer]
                body = _substituted(body, values, axes)
                merging = True
                break
    return body


def _pairs(body: FlatBody) -> list[tuple[Axis, Axis]]:
    """Candidates (outer, inner): neighbours among the axes of one kind, the innermost first, in either order."""
    found: list[tuple[Axis, Axis]] = []
    for kind in ("parallel", "reduction"):
        axes = body.axes_of(kind)
        found += reversed(list(itertools.pairwise(axes)))
        if kind == "parallel":
            found += [(a, b) for i, b in enumerate(axes) for a in axes[i + 2 :] + axes[:max(i - 1, 0)]]
    return found


def _stays_simple(body: FlatBody, values: dict[str, Dim]) -> bool:
    for s in body.statements:
        for e in expressions_of(s):
            if _divisions(substitute(e, values)) > _divisions(e):
                return False
    if any(isinstance(s, Reduce) and s.kind in ("argmax", "argmin") for s in body.statements):
        return _divisions(substitute(body.position, values)) <= _divisions(body.position)
    return True


def _divisions(e: Dim) -> int:
    """How many divisions the evaluation of `e` takes."""
    if isinstance(e, int):
        return 0
    count = 0
    for monomial, _ in e.terms:
        for a in monomial:
            if isinstance(a, FloorDiv | Mod):
                count += 1 + _divisions(a.numerator) + _divisions(a.divisor)
            elif hasattr(a, "arguments"):
                count += sum(map(_divisions, a.arguments))
    return count
