"""Index expressions as LLVM values, each computed as far out in the loop nest as its symbols allow.

A kernel is emitted as straight-line code inside nested scopes (loops and the arms of branches). A value is placed in
the outermost scope in which all its symbols are known, once; so no pass has to hoist it, and inner loops only add what
changes. Nothing placed this way can trap: loads are guarded by pointer selection or masks, divisors are positive.

One symbol is special: `LANE`. An expression that contains it has a value for each lane of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import llvmlite.ir as ir

from graphc.ir.symbolic import (
    Atom,
    Dim,
    Expr,
    Extremum,
    FloorDiv,
    Mod,
    Monomial,
    Symbol,
    bounds,
    free_symbols,
    linear,
    nonnegative,
    symbol,
)
from graphc.lowering.loop_body import Range
from graphc_llvm.emit import (
    I32,
    I64,
    Loop,
    binary,
    constant,
    fold_range,
    i64,
    lanes,
    offset,
    splat,
    tail_mask,
)

LANE = "lane"


@dataclass
class Scope:
    """One level of nesting: the block, of the level above, from which it was entered, and what was computed here."""

    entry: ir.Block | None
    memo: dict[object, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placed:
    """A value and the level (number of enclosing scopes) at which it is known."""

    value: ir.Value
    level: int


class Indexer:
    """Emits index arithmetic for one kernel of `width` lanes; `scopes` says where the builder stands."""

    def __init__(self, b: ir.IRBuilder) -> None:
        self.b = b
        self.width = 1
        self.scopes = [Scope(None)]
        self.symbols: dict[str, Placed] = {}
        self._fresh = 0

    @property
    def level(self) -> int:
        """The level of the code being emitted."""
        return len(self.scopes) - 1

    # Scopes and placement.

    @contextmanager
    def scope(self, entry: ir.Block) -> Iterator[None]:
        """What is emitted inside belongs to a new level, entered from `entry`."""
        self.scopes.append(Scope(entry))
        yield
        self.scopes.pop()

    @contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Emit at the end of an enclosing level's code, which dominates everything inside."""
        if level == self.level:
            yield
            return
        entry, here = self.scopes[level + 1].entry, self.b.block
        assert entry is not None
        self._continue_in(entry)
        yield
        self._continue_in(here)

    def _continue_in(self, block: ir.Block) -> None:
        if block.is_terminated:
            self.b.position_before(block.terminator)
        else:
            self.b.position_at_end(block)

    def fresh(self, hint: str, value: ir.Value | None, level: int, low: int = 0, high: Dim | None = None) -> Dim:
        """A new symbol with the range [low, high] that stands for `value`, an i64 or a vector of i64."""
        self._fresh += 1
        name = f"{hint}.{self._fresh}"
        if value is not None:
            self.symbols[name] = Placed(value, level)
        return symbol(name, low, high)

    @contextmanager
    def loop(self, count: Dim, name: str) -> Iterator[Dim]:
        """Emit a loop over [0, count); yields its index. One iteration needs no loop."""
        with self.fold(count, name, []) as (index, _):
            yield index

    @contextmanager
    def fold(self, count: Dim, name: str, initial: Sequence[ir.Value]) -> Iterator[tuple[Dim, Loop]]:
        """Emit a loop over [0, count) that carries values in registers; yields its index and the loop."""
        if count == 1:
            loop = Loop(i64(0), list(initial))
            yield 0, loop
            loop.results = loop._next if loop._next is not None else loop.carried
            return
        stop = self.scalar(count)
        entry = self.b.block
        with fold_range(self.b, i64(0), stop, 1, initial, name) as loop, self.scope(entry):
            yield self.fresh(name, loop.index, self.level, 0, count - 1), loop

    @contextmanager
    def loop_over(self, name: str, extent: Dim) -> Iterator[None]:
        """Emit a loop in which the symbol `name` goes over [0, extent)."""
        with self.fold_over(name, extent, []):
            yield

    @contextmanager
    def fold_over(self, name: str, extent: Dim, initial: Sequence[ir.Value]) -> Iterator[Loop]:
        """Emit a loop in which the symbol `name` goes over [0, extent), and that carries values."""
        with self.fold(extent, name, initial) as (index, loop):
            self.symbols[name] = Placed(self.scalar(index), self.level if index != 0 else 0)
            yield loop

    @contextmanager
    def barrier(self) -> Iterator[None]:
        """A scope without a loop: nothing emitted inside with this level moves before this point."""
        entry = self.b.block
        following = self.b.append_basic_block("nest")
        self.b.branch(following)
        self.b.position_at_end(following)
        with self.scope(entry):
            yield

    # Scalars.

    def level_of(self, e: Dim) -> int:
        """The outermost level at which every symbol of `e` is known."""
        return max((self._symbol_level(s) for s in free_symbols(e)), default=0)

    def _symbol_level(self, s: Symbol) -> int:
        return 0 if s.name == LANE else self.symbols[s.name].level

    def is_vector(self, e: Dim) -> bool:
        """Whether the lanes of `e` may differ."""
        return any(self._is_vector_symbol(s) for s in free_symbols(e))

    def _is_vector_symbol(self, s: Symbol) -> bool:
        return s.name == LANE or isinstance(self.symbols[s.name].value.type, ir.VectorType)

    def scalar(self, e: Dim) -> ir.Value:
        """`e`, which doesn't vary over lanes, as an i64."""
        if isinstance(e, int):
            return i64(e)
        level = self.level_of(e)
        memo = self.scopes[level].memo
        key = ("scalar", e)
        if key not in memo:
            outer, inner = self._split(e, level)
            with self.at(level):
                total = self.scalar(outer) if outer != 0 else None
                for monomial, coefficient in _terms(inner):
                    term = self._monomial(monomial, coefficient)
                    total = term if total is None else self.b.add(total, term, flags=("nsw",))
                memo[key] = total
        return memo[key]

    def _split(self, e: Dim, level: int) -> tuple[Dim, Dim]:
        """(terms known further out than `level`, the rest); constants go out, unless they stand alone."""
        terms = _terms(e)
        outer = [t for t in terms if all(self._atom_level(a) < level for a in t[0])]
        if not any(m for m, _ in outer):
            outer = []
        return _sum_of(outer), _sum_of([t for t in terms if t not in outer])

    def _atom_level(self, a: Atom) -> int:
        return self.level_of(Expr((((a,), 1),)))

    def _monomial(self, monomial: Monomial, coefficient: int) -> ir.Value:
        product = None
        for a in sorted(monomial, key=self._atom_level):
            factor = self._atom(a)
            product = factor if product is None else self.b.mul(product, factor, flags=("nsw",))
        if product is None:
            return i64(coefficient)
        return product if coefficient == 1 else self.b.mul(product, i64(coefficient), flags=("nsw",))

    def _atom(self, a: Atom) -> ir.Value:
        if isinstance(a, Symbol):
            return self.symbols[a.name].value
        if isinstance(a, Extremum):
            values = [self.scalar(x) for x in a.arguments]
            result = values[0]
            for v in values[1:]:
                result = binary(self.b, "smin" if a.kind == "min" else "smax", result, v)
            return result
        return self._divide(a, self.scalar(a.numerator), self.scalar(a.divisor))

    def _divide(self, a: FloorDiv | Mod, n: ir.Value, d: ir.Value) -> ir.Value:
        b = self.b
        if nonnegative(a.numerator):
            return b.udiv(n, d) if isinstance(a, FloorDiv) else b.urem(n, d)
        remainder = b.srem(n, d)
        negative = b.icmp_signed("<", remainder, constant(n.type, 0))
        if isinstance(a, Mod):
            return b.select(negative, b.add(remainder, d), remainder)
        return b.add(b.sdiv(n, d), b.sext(negative, n.type))

    def address(self, base: Placed, e: Dim, element: ir.Type) -> ir.Value:
        """The address of element `e` of the array of `element` at `base`, advanced once per level."""
        terms = _terms(e)
        constant = sum(c for m, c in terms if not m)
        moving = [(max(map(self._atom_level, m)), (m, c)) for m, c in terms if m]
        pointer, done = base.value, 0
        for level in sorted({max(level, base.level) for level, _ in moving}):
            step = _sum_of([t for at, t in moving if max(at, base.level) == level])
            done = done + step
            memo = self.scopes[level].memo
            key = ("address", id(base), done, element)
            if key not in memo:
                with self.at(level):
                    memo[key] = offset(self.b, pointer, self.scalar(step), element)
            pointer = memo[key]
        return offset(self.b, pointer, constant, element) if constant else pointer

    # Vectors.

    def stride(self, e: Dim) -> tuple[Dim, Dim] | None:
        """(stride, start) where lane k of `e` is start + k * stride; None where lanes follow no such rule."""
        if not self.is_vector(e):
            return 0, e
        found = linear(e, [LANE])
        if found is None:
            return None
        coefficients, start = found
        step = coefficients.get(LANE, 0)
        return None if self.is_vector(start) or self.is_vector(step) else (step, start)

    def vector(self, e: Dim) -> ir.Value:
        """`e` as a vector of i64, one value a lane."""
        level = self.level_of(e)
        memo = self.scopes[level].memo
        key = ("vector", e)
        if key not in memo:
            uniform = _sum_of([t for t in _terms(e) if not self._is_vector_monomial(t[0])])
            with self.at(level):
                total = None if uniform == 0 else splat(self.b, self.scalar(uniform), self.width)
                for monomial, coefficient in _terms(e):
                    if self._is_vector_monomial(monomial):
                        term = self._vector_monomial(monomial, coefficient)
                        total = term if total is None else self.b.add(total, term)
                memo[key] = total if total is not None else splat(self.b, i64(0), self.width)
        return memo[key]

    def _is_vector_monomial(self, monomial: Monomial) -> bool:
        return any(self._is_vector_symbol(s) for a in monomial for s in free_symbols(Expr((((a,), 1),))))

    def _vector_monomial(self, monomial: Monomial, coefficient: int) -> ir.Value:
        product = None if coefficient == 1 else splat(self.b, i64(coefficient), self.width)
        for a in monomial:
            factor = self._vector_atom(a)
            product = factor if product is None else self.b.mul(product, factor)
        assert product is not None
        return product

    def _vector_atom(self, a: Atom) -> ir.Value:
        if isinstance(a, Symbol):
            if a.name == LANE:
                return lanes(self.b, self.width)
            value = self.symbols[a.name].value
            return value if isinstance(value.type, ir.VectorType) else splat(self.b, value, self.width)
        if isinstance(a, Extremum):
            values = [self.vector(x) for x in a.arguments]
            result = values[0]
            for v in values[1:]:
                result = binary(self.b, "smin" if a.kind == "min" else "smax", result, v)
            return result
        high = bounds(a.numerator)[1]
        if high is not None and high < 2**31 and nonnegative(a.numerator) and isinstance(a.divisor, int):
            narrow = ir.VectorType(I32, self.width)  # 32-bit divisions by constants become multiplications
            n = self.b.trunc(self.vector(a.numerator), narrow)
            d = ir.Constant(narrow, [ir.Constant(I32, a.divisor)] * self.width)
            quotient = self.b.udiv(n, d) if isinstance(a, FloorDiv) else self.b.urem(n, d)
            return self.b.zext(quotient, ir.VectorType(I64, self.width))
        return self._divide(a, self.vector(a.numerator), self.vector(a.divisor))

    # Predicates.

    def holds(self, r: Range) -> Placed | None:
        """`r` as an i1, or as a mask if it varies over lanes; None where it provably always holds."""
        below = nonnegative(r.expression - r.low)
        above = nonnegative(r.high - 1 - r.expression)
        if below and above:
            return None
        level = max(self.level_of(r.expression), self.level_of(r.low), self.level_of(r.high))
        memo = self.scopes[level].memo
        key = ("holds", r)
        if key not in memo:
            with self.at(level):
                memo[key] = self._compare(r, below, above)
        return Placed(memo[key], level)

    def _compare(self, r: Range, below: bool, above: bool) -> ir.Value:
        b = self.b
        if not any(map(self.is_vector, (r.expression, r.low, r.high))):
            low = None if below else b.icmp_signed("<=", self.scalar(r.low), self.scalar(r.expression))
            high = None if above else b.icmp_signed("<", self.scalar(r.expression), self.scalar(r.high))
        elif (s := self.stride(r.expression)) and s[0] == 1 and not any(map(self.is_vector, (r.low, r.high))):
            # start + lane in [low, high): lane in [low - start, high - start)
            low = None if below else b.not_(tail_mask(b, self.scalar(r.low - s[1]), self.width))
            high = None if above else tail_mask(b, self.scalar(r.high - s[1]), self.width)
        else:
            e = self.vector(r.expression)
            low = None if below else b.icmp_signed("<=", self.vector(r.low), e)
            high = None if above else b.icmp_signed("<", e, self.vector(r.high))
        if low is None or high is None:
            return high if low is None else low
        return b.and_(low, high)


def _terms(e: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(e, Expr):
        return e.terms
    return (((), e),) if e else ()


def _sum_of(terms: Sequence[tuple[Monomial, int]]) -> Dim:
    """Some of the terms of one canonical expression, as an expression."""
    if not any(m for m, _ in terms):
        return sum(c for _, c in terms)
    return Expr(tuple(terms))
