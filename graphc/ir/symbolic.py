"""Integer expressions over named symbols, in one canonical form, for dimensions and index maps alike.

An expression is a sum of products of atoms with integer coefficients. An atom is a `Symbol`, a floor division or a
remainder by a positive divisor, or a minimum or maximum. Two expressions that canonicalize to the same form compare
equal; a constant is always a plain `int`, so `Dim = int | Expr`.

    >>> n = symbol("n")
    >>> (2 * n + 6) // 2 - n
    3
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

Bound = int | None
"""An inclusive integer bound; None is unbounded."""


class Symbol(NamedTuple):
    """A named integer with low <= value <= high (inclusive; None: no upper bound).

    `high` may be an expression over other symbols: a loop axis of extent `n` has high `n - 1`.
    """

    name: str
    low: int = 1
    high: Dim | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """floor(numerator / divisor), divisor > 0."""

    numerator: Expr
    divisor: Dim

    def __str__(self) -> str:
        return f"(({self.numerator})//{_wrap(self.divisor)})"


@dataclass(frozen=True)
class Mod:
    """numerator - divisor * floor(numerator / divisor), divisor > 0; in [0, divisor)."""

    numerator: Expr
    divisor: Dim

    def __str__(self) -> str:
        return f"(({self.numerator})%{_wrap(self.divisor)})"


@dataclass(frozen=True)
class Extremum:
    """min(...) or max(...) of at least two expressions, sorted by their text."""

    kind: str
    arguments: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.arguments))})"


Atom = Symbol | FloorDiv | Mod | Extremum
Monomial = tuple[Atom, ...]


def _wrap(e: Dim) -> str:
    return str(e) if isinstance(e, int) else f"({e})"


@dataclass(frozen=True, eq=False)
class Expr:
    """A canonical sum `coefficient * atom * atom ... + ...`; never a bare constant. Build it with operators.

    Equality includes the symbols' ranges, since canonical forms depend on them.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def text(self) -> str:
        """As `parse_dim` reads it."""
        return _format(self.terms)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Expr({self.text})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Expr) and self.text == other.text and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """Every symbol that occurs in it."""
        return frozenset().union(*[_atom_symbols(a) for m, _ in self.terms for a in m])

    def __add__(self, other: Dim) -> Dim:
        return _sum(((self, 1), (other, 1)))

    def __radd__(self, other: Dim) -> Dim:
        return self + other

    def __sub__(self, other: Dim) -> Dim:
        return _sum(((self, 1), (other, -1)))

    def __rsub__(self, other: Dim) -> Dim:
        return _sum(((other, 1), (self, -1)))

    def __neg__(self) -> Dim:
        return _sum(((self, -1),))

    def __mul__(self, other: Dim) -> Dim:
        return _product(self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return _product(self, other)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)


Dim = int | Expr
"""A dimension or index: a constant or an expression."""


def symbol(name: str, low: int = 1, high: Dim | None = None) -> Expr:
    """An expression that is the one symbol `name` with the inclusive range [low, high]."""
    return Expr((((Symbol(name, low, high),), 1),))


def as_symbol(e: Dim) -> Symbol | None:
    """The symbol if `e` is exactly one symbol, else None."""
    if isinstance(e, Expr) and len(e.terms) == 1:
        (monomial, coefficient) = e.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], Symbol):
            return monomial[0]
    return None


def _format(terms: Iterable[tuple[Monomial, int]]) -> str:
    parts = []
    for monomial, coefficient in terms:
        factors = [str(a) for a in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        parts.append("*".join(factors))
    return " + ".join(parts).replace("+ -", "- ")


def _terms(e: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(e, Expr):
        return e.terms
    return (((), e),) if e else ()


def _sort_key(term: tuple[Monomial, int]) -> tuple[bool, int, list[str]]:
    monomial = term[0]
    return (not monomial, -len(monomial), [str(a) for a in monomial])


def _build(terms: dict[Monomial, int]) -> Dim:
    """The canonical expression of a monomial -> coefficient table."""
    if Mod in {type(a) for monomial in terms for a in monomial}:
        _recombine(terms)
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Expr(tuple(sorted(kept, key=_sort_key)))


def _recombine(terms: dict[Monomial, int]) -> None:
    """Rewrites c*(x % d) + c*d*(x // d) to c*x, and c*(x % a) + c*a*((x // a) % b) to c*(x % (a*b)), in place."""
    changed = True
    while changed:
        changed = False
        for monomial, c in list(terms.items()):
            mods = [i for i, a in enumerate(monomial) if isinstance(a, Mod)]
            if not c or not mods:
                continue
            for i in mods:
                atom = monomial[i]
                assert isinstance(atom, Mod)
                rest = monomial[:i] + monomial[i + 1 :]
                whole = _matching_quotient(terms, atom, rest, c)
                if whole is None:
                    continue
                used, replacement = whole
                for m, k in used:
                    terms[m] = terms.get(m, 0) - k
                terms[monomial] -= c
                for m, k in _terms(_product(replacement, _build({rest: c}))):
                    terms[m] = terms.get(m, 0) + k
                changed = True
                break
            if changed:
                break


def _matching_quotient(
    terms: dict[Monomial, int], atom: Mod, rest: Monomial, c: int
) -> tuple[tuple[tuple[Monomial, int], ...], Dim] | None:
    """Terms of the table that complete `c * rest * (x % d)` to a multiple of x, and what they make together."""
    quotient = floordiv(atom.numerator, atom.divisor)
    candidates: list[tuple[Dim, Dim]] = [(quotient, atom.numerator)]
    if isinstance(atom.divisor, int):
        for other in list(terms):
            candidates += [
                (_build({(a,): 1}), mod(atom.numerator, atom.divisor * a.divisor))
                for a in other
                if isinstance(a, Mod) and isinstance(a.divisor, int) and a.numerator == quotient
            ]
    for part, replacement in candidates:
        needed = _terms(_product(_product(part, atom.divisor), _build({rest: c})))
        if needed and all(terms.get(m) == k for m, k in needed):
            return needed, replacement
    return None


def _sum(weighted: Iterable[tuple[Dim, int]]) -> Dim:
    table: dict[Monomial, int] = {}
    for e, w in weighted:
        for m, c in _terms(e):
            table[m] = table.get(m, 0) + w * c
    return _build(table)


def _product(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        if isinstance(a, int):
            return a * b
        return Expr(tuple([(m, c * b) for m, c in a.terms])) if b else 0
    table: dict[Monomial, int] = {}
    for m, c in _terms(a):
        for n, d in _terms(b):
            key = tuple(sorted(m + n, key=str))
            table[key] = table.get(key, 0) + c * d
    return _build(table)


def _split(e: Dim, divisor: Dim) -> tuple[Dim, Dim]:
    """(q, r) with e == divisor*q + r, moving every term that the divisor divides into q."""
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    terms = _terms(divisor)
    if len(terms) != 1:
        return _split_by_sum(e, divisor)
    ((factor, k),) = terms
    for m, c in _terms(e):
        left = list(m)
        try:
            for a in factor:
                left.remove(a)
        except ValueError:
            rest[m] = rest.get(m, 0) + c
            continue
        q, r = divmod(c, k)
        key = tuple(left)
        quotient[key] = quotient.get(key, 0) + q
        rest[m] = rest.get(m, 0) + r
    return _build(quotient), _build(rest)


def _split_by_sum(e: Dim, divisor: Dim) -> tuple[Dim, Dim]:
    """(q, r) with e == divisor*q + r, moving the multiples of a divisor of several terms that stand whole in e."""
    (lead, k), *_ = _terms(divisor)
    quotient: dict[Monomial, int] = {}
    rest = dict(_terms(e))
    for m, c in _terms(e):
        left = list(m)
        try:
            for a in lead:
                left.remove(a)
        except ValueError:
            continue
        multiple = _terms(_product(_build({tuple(left): c // k}), divisor))
        if c % k == 0 and all(rest.get(x) == y for x, y in multiple):
            quotient[tuple(left)] = c // k
            for x, _ in multiple:
                del rest[x]
    return _build(quotient), _build(rest)


def _check_divisor(divisor: Dim) -> None:
    low = bounds(divisor)[0]
    if low is None or low < 1:
        raise ValueError(f"divisor {divisor} is not known to be positive")


@lru_cache(maxsize=65536)
def floordiv(e: Dim, divisor: Dim) -> Dim:
    """floor(e / divisor) in canonical form; raises ValueError unless the divisor is provably positive."""
    _check_divisor(divisor)
    if isinstance(e, int) and isinstance(divisor, int):
        return e // divisor
    if divisor == 1:
        return e
    q, r = _split(e, divisor)
    if r == 0:
        return q
    if _within(r, divisor):
        return q
    if isinstance(r, int):
        if isinstance(divisor, int):
            return q + r // divisor
        return q + _build({(FloorDiv(_as_expr(r), divisor),): 1})
    if isinstance(divisor, int):
        g = math.gcd(divisor, *(c for m, c in r.terms if m))
        if g > 1:
            return q + floordiv(_scaled_down(r, g), divisor // g)
        if len(r.terms) == 1 and r.terms[0][1] == 1 and len(r.terms[0][0]) == 1:
            inner = r.terms[0][0][0]
            if isinstance(inner, FloorDiv) and isinstance(inner.divisor, int):
                return q + floordiv(inner.numerator, inner.divisor * divisor)
            if isinstance(inner, Mod) and isinstance(inner.divisor, int) and inner.divisor % divisor == 0:
                return q + mod(floordiv(inner.numerator, divisor), inner.divisor // divisor)
    return q + _build({(FloorDiv(r, divisor),): 1})


@lru_cache(maxsize=65536)
def mod(e: Dim, divisor: Dim) -> Dim:
    """e - divisor * (e // divisor) in canonical form; raises ValueError unless the divisor is provably positive."""
    _check_divisor(divisor)
    if isinstance(e, int) and isinstance(divisor, int):
        return e % divisor
    if divisor == 1:
        return 0
    _, r = _split(e, divisor)
    if _within(r, divisor):
        return r
    if isinstance(r, int):
        return r % divisor if isinstance(divisor, int) else _build({(Mod(_as_expr(r), divisor),): 1})
    if isinstance(divisor, int):
        g = math.gcd(divisor, *(c for m, c in r.terms if m))
        if g > 1:
            constant = dict(r.terms).get((), 0)
            return g * mod(_scaled_down(r, g), divisor // g) + constant % g
        if len(r.terms) == 1 and r.terms[0][1] == 1 and len(r.terms[0][0]) == 1:
            inner = r.terms[0][0][0]
            if isinstance(inner, Mod) and isinstance(inner.divisor, int) and inner.divisor % divisor == 0:
                return mod(inner.numerator, divisor)
    return _build({(Mod(r, divisor),): 1})


def _as_expr(e: Dim) -> Expr:
    return e if isinstance(e, Expr) else Expr((((), e),))


def _scaled_down(e: Expr, g: int) -> Dim:
    """floor(e / g) where g divides every coefficient but perhaps the constant's."""
    return _build({m: c // g for m, c in e.terms})


def _extremum(kind: str, arguments: Iterable[Dim]) -> Dim:
    flat: dict[str, Dim] = {}
    constant: int | None = None
    choose: Callable[[int, int], int] = min if kind == "min" else max
    for a in arguments:
        inner = _only_atom(a)
        for x in inner.arguments if isinstance(inner, Extremum) and inner.kind == kind else (a,):
            if isinstance(x, int):
                constant = x if constant is None else choose(constant, x)
            else:
                flat[str(x)] = x
    items: list[Dim] = [flat[k] for k in sorted(flat)]
    if constant is not None:
        items.append(constant)
    kept: list[Dim] = []
    for i, x in enumerate(items):
        others = kept + items[i + 1 :]
        redundant = any(nonnegative(x - y) if kind == "min" else nonnegative(y - x) for y in others)
        if not redundant:
            kept.append(x)
    if len(kept) == 1:
        return kept[0]
    return _build({(Extremum(kind, tuple(kept)),): 1})


def _only_atom(e: Dim) -> Atom | None:
    if isinstance(e, Expr) and len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1:
        return e.terms[0][0][0]
    return None


def minimum(*arguments: Dim) -> Dim:
    """The smallest of the arguments, without those that provably never are."""
    return _extremum("min", arguments)


def maximum(*arguments: Dim) -> Dim:
    """The largest of the arguments, without those that provably never are."""
    return _extremum("max", arguments)


def ceildiv(e: Dim, divisor: Dim) -> Dim:
    """ceil(e / divisor)."""
    return floordiv(e + divisor - 1, divisor)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims; 1 for none."""
    result: Dim = math.prod(dims)
    return result


def bounds(e: Dim) -> tuple[Bound, Bound]:
    """Inclusive integer interval that contains every value of `e`; None where unbounded."""
    if isinstance(e, int):
        return e, e
    return _bounds(e)


@lru_cache(maxsize=65536)
def _bounds(e: Expr) -> tuple[Bound, Bound]:
    low: Bound = 0
    high: Bound = 0
    for monomial, c in e.terms:
        lo, hi = _monomial_bounds(monomial)
        if c < 0:
            lo, hi = hi, lo
        low = None if low is None or lo is None else low + c * lo
        high = None if high is None or hi is None else high + c * hi
    return low, high


def _monomial_bounds(monomial: Monomial) -> tuple[Bound, Bound]:
    low: Bound = 1
    high: Bound = 1
    for a in monomial:
        lo, hi = _atom_bounds(a)
        if low is not None and lo is not None and low >= 0 and lo >= 0:
            low, high = low * lo, (None if high is None or hi is None else high * hi)
        elif None in (low, high, lo, hi):
            low = high = None
        else:
            corners = [x * y for x in (low, high) for y in (lo, hi)]  # type: ignore[operator]
            low, high = min(corners), max(corners)
    return low, high


def _atom_bounds(a: Atom) -> tuple[Bound, Bound]:
    if isinstance(a, Symbol):
        return a.low, None if a.high is None else bounds(a.high)[1]
    if isinstance(a, Extremum):
        lows, highs = zip(*(bounds(x) for x in a.arguments), strict=True)
        return _combine(a.kind, lows), _combine(a.kind, highs, upper=True)
    low, high = bounds(a.numerator)
    if isinstance(a, Mod):
        top = bounds(a.divisor)[1]
        upper: Bound = None if top is None else top - 1
        if low is not None and low >= 0 and high is not None and (upper is None or high < upper):
            upper = high
        return 0, upper
    d_low, d_high = bounds(a.divisor)
    assert d_low is not None
    big = d_high
    lo: Bound = None if low is None else (low // d_low if low < 0 else (0 if big is None else low // big))
    hi: Bound = None if high is None else (high // d_low if high >= 0 else (-1 if big is None else high // big))
    return lo, hi


def _combine(kind: str, values: tuple[Bound, ...], upper: bool = False) -> Bound:
    known = [v for v in values if v is not None]
    if kind == "min":
        return (min(known) if known else None) if upper else (None if None in values else min(known))
    return (None if None in values else max(known)) if upper else (max(known) if known else None)


def _within(r: Dim, divisor: Dim) -> bool:
    """Whether 0 <= r < divisor is provable."""
    return nonnegative(r) and nonnegative(divisor - 1 - r)


@lru_cache(maxsize=65536)
def nonnegative(e: Dim) -> bool:
    """Whether e >= 0 is provable from the symbols' ranges (sound, not complete)."""
    low = bounds(e)[0]
    if low is not None and low >= 0:
        return True
    if isinstance(e, int):
        return False
    for s in sorted(free_symbols(e), key=lambda s: s.name):
        if s.high is None or isinstance(s.high, int):
            continue
        slope = _slope(e, s)
        if slope is None:
            continue
        lo, hi = bounds(slope)
        if hi is not None and hi <= 0:
            return nonnegative(substitute(e, {s.name: s.high}))
        if lo is not None and lo >= 0:
            return nonnegative(substitute(e, {s.name: s.low}))
    return False


def _slope(e: Expr, s: Symbol) -> Dim | None:
    """The coefficient of `s` where `e` is linear in it, else None."""
    table: dict[Monomial, int] = {}
    for monomial, c in e.terms:
        count = monomial.count(s)
        if count > 1 or any(not isinstance(a, Symbol) and s in _atom_symbols(a) for a in monomial):
            return None
        if count:
            key = tuple(a for a in monomial if a != s)
            table[key] = table.get(key, 0) + c
    return _build(table)


def linear(e: Dim, names: Iterable[str]) -> tuple[dict[str, Dim], Dim] | None:
    """({name: coefficient}, rest) with e == sum(coefficient * name) + rest, named symbols nowhere else; else None."""
    wanted = set(names)
    if not isinstance(e, Expr) or not any(s.name in wanted for s in e.symbols):
        return {}, e
    coefficients: dict[str, dict[Monomial, int]] = {}
    rest: dict[Monomial, int] = {}
    for monomial, c in e.terms:
        found = [i for i, a in enumerate(monomial) if any(s.name in wanted for s in _atom_symbols(a))]
        if not found:
            rest[monomial] = c
            continue
        i = found[0]
        factor = monomial[i]
        if len(found) > 1 or not isinstance(factor, Symbol):
            return None
        coefficients.setdefault(factor.name, {})[monomial[:i] + monomial[i + 1 :]] = c
    return {name: _build(table) for name, table in coefficients.items()}, _build(rest)


def _atom_symbols(a: Atom) -> frozenset[Symbol]:
    if isinstance(a, Symbol):
        return frozenset((a,))
    parts = a.arguments if isinstance(a, Extremum) else (a.numerator, a.divisor)
    return frozenset().union(*(free_symbols(p) for p in parts))


NO_SYMBOLS = frozenset[Symbol]()


def free_symbols(e: Dim) -> frozenset[Symbol]:
    """Every symbol that occurs in `e`."""
    return e.symbols if isinstance(e, Expr) else NO_SYMBOLS


def substitute(e: Dim, values: Mapping[str, Dim]) -> Dim:
    """`e` with each named symbol replaced, canonical again. Divisors must stay positive."""
    if isinstance(e, int) or not any(s.name in values for s in free_symbols(e)):
        return e
    terms: list[tuple[Dim, int]] = []
    for monomial, c in e.terms:
        term: Dim = 1
        for a in monomial:
            term = term * _substitute_atom(a, values)
        terms.append((term, c))
    return _sum(terms)


def _substitute_atom(a: Atom, values: Mapping[str, Dim]) -> Dim:
    if isinstance(a, Symbol):
        return values[a.name] if a.name in values else Expr((((a,), 1),))
    if isinstance(a, Extremum):
        return _extremum(a.kind, [substitute(x, values) for x in a.arguments])
    combine = floordiv if isinstance(a, FloorDiv) else mod
    return combine(substitute(a.numerator, values), substitute(a.divisor, values))


def evaluate(e: Dim, values: Mapping[str, int]) -> int:
    """The value of `e`; raises KeyError naming a symbol without a value."""
    result = substitute(e, values)
    if isinstance(result, Expr):
        missing = sorted(s.name for s in free_symbols(result))
        raise KeyError(f"no value for {', '.join(missing)} in {e}")
    return result


def parse_dim(text: str, symbols: Mapping[str, Expr]) -> Dim:
    """The expression that `str` printed; names are looked up in `symbols`. Raises ValueError on anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as e:
        raise ValueError(f"not an integer expression: {text!r}") from e
    return _from_ast(tree, symbols, text)


def _from_ast(node: ast.expr, symbols: Mapping[str, Expr], text: str) -> Dim:
    match node:
        case ast.Constant(value=int() as v) if not isinstance(v, bool):
            return v
        case ast.Name(id=name) if name in symbols:
            return symbols[name]
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return -_from_ast(x, symbols, text)
        case ast.BinOp(left=x, op=op, right=y):
            a, b = _from_ast(x, symbols, text), _from_ast(y, symbols, text)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.FloorDiv():
                    return floordiv(a, b)
                case ast.Mod():
                    return mod(a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as kind), args=args) if len(args) >= 2:
            return _extremum(kind, [_from_ast(x, symbols, text) for x in args])
    raise ValueError(f"not an integer expression over {sorted(symbols)}: {text!r}")
