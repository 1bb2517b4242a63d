"""Where statements of a body become source: how axes lie in blocks, and how indices, masks and values read there.

A kernel has one or two block dimensions. The axes of a body are gathered into groups, and each group is one linear
index: a block along one dimension, or a scalar. An axis is an expression over its group's index (m // 56 % 56), which the
algebra of dims simplifies: where a tensor is dense along a whole group, no division is left.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.symbolic import (
    Atom,
    Dim,
    Expr,
    Extremum,
    FloorDiv,
    Mod,
    Symbol,
    bounds,
    free_symbols,
    nonnegative,
    product,
    substitute,
    symbol,
)
from graphc.ir.types import DType, i64
from graphc.lowering.loop_body import Apply, Axis, Buffer, Index, Load, Operand, Predicate, Statement, Store
from graphc_triton.operations import TYPES, Term, emit, literal
from graphc_triton.writer import Block, Names

RESERVED = frozenset({*keyword.kwlist, *dir(builtins), "tl", "triton", "device"})
INLINE_LENGTH = 60
"""The longest expression that becomes part of another."""

BARRIER = "tl.debug_barrier()"
"""All threads of a program come here before any goes on."""

STORE_LENGTH = 90
"""The longest address and value of a store that stand in its line."""

VALUE_NAMES = {
    "add": "added", "sub": "difference", "mul": "scaled", "div": "quotient", "max": "larger", "min": "smaller",
    "neg": "negative", "abs": "magnitude", "select": "chosen", "cast": "converted", "pow": "power", "round": "rounded",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Axes as one index `name` in [0, extent), along block dimension `dim` (None: a scalar) in blocks of `size`.

    masked: the last block may reach beyond the extent; looped: the index changes in the kernel's loop; suffix: what gives
    the variable its place among the block dimensions.
    """

    name: str
    axes: tuple[Axis, ...]
    dim: int | None
    size: str = ""
    suffix: str = ""
    masked: bool = True
    looped: bool = False

    @property
    def extent(self) -> Dim:
        return product(a.extent for a in self.axes)


@dataclass(frozen=True)
class Value:
    """A scalar of a body as a block: its source, the block dimensions it varies along, and its type.

    raw: the 16-bit block that it was widened from; zero_outside: masked elements are 0.
    """

    term: Term
    dims: frozenset[int]
    dtype: DType
    looped: bool = False
    raw: str | None = None
    zero_outside: frozenset[str] = frozenset()


@dataclass
class Kernel:
    """What all scopes of one kernel share: names, parameters, and the block at the top of the function.

    replicated: threads may hold the same element. Where an output may lie on an input, and is not the only one, none of them
    stores before all have loaded.
    """

    buffers: Mapping[str, Buffer]
    strict: bool
    wide: bool
    names: Names = field(default_factory=lambda: Names(set(RESERVED)))
    top: Block = field(default_factory=Block)
    pointers: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Value] = field(default_factory=dict)
    reports: bool = False
    replicated: bool = False

    def __post_init__(self) -> None:
        outs = [b.name for b in self.buffers.values() if b.access == "out"]
        for b in self.buffers.values():
            if b.access == "in":
                n = int(b.name)
                wanted = f"{chr(ord('a') + n)}_ptr" if n < 26 else f"x{n}_ptr"
            else:
                wanted = "out_ptr" if len(outs) == 1 else f"out{outs.index(b.name)}_ptr" if b.name in outs else ""
            if b.access != "scratch":
                self.pointers[b.name] = self.names.new(wanted)

    def index(self, text: str) -> str:
        """The text of an i32 index, widened where 32 bits may not hold every address."""
        return f"{text}.to(tl.int64)" if self.wide else text

    def size(self, dim: str) -> str:
        """The parameter that is a dim's size."""
        if dim not in self.sizes:
            self.sizes[dim] = self.names.new(f"size_{dim}")
        return self.sizes[dim]

    def sized(self, e: Dim) -> str:
        """An expression over dims alone, as source."""
        return Scope(self, [], self.top, self.top).text(e)


@dataclass
class Scope:
    """Statements of one loop over certain groups: those that don't vary in the loop go to `before`, others `inside`.

    ordered: stores are made at every step, one after another; shared: each program makes those into its own part of the rows.
    """

    kernel: Kernel
    groups: Sequence[Group]
    before: Block
    inside: Block
    values: dict[str, Value] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)
    ordered: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        self.by_name = {g.name: g for g in self.groups}
        self.axes: dict[str, Dim] = {}
        for g in self.groups:
            rest: Dim = 1
            index = symbol(g.name, 0, g.extent - 1)
            for n, a in reversed(list(enumerate(g.axes))):
                at = index // rest
                extent = self._positive(a.extent) if n else 1
                self.axes[a.name] = at % extent if n else at
                rest = rest * extent

    def _positive(self, extent: Dim) -> Dim:
        """An extent as a divisor: where the ranges of dims leave 0 open, a variable, since an empty nest isn't launched."""
        if nonnegative(extent - 1):
            return extent
        name = self.remember(self.text(extent), "extent", False)
        self.values[name] = Value(Term(name), frozenset(), i64)
        return symbol(name, 1)

    # Expressions.

    def at(self, e: Dim) -> Dim:
        """An expression over axes, over the groups' indices."""
        return substitute(e, self.axes) if isinstance(e, Expr) else e

    def dims(self, e: Dim) -> frozenset[int]:
        """The block dimensions that an expression over groups varies along."""
        found: set[int] = set()
        for s in free_symbols(e):
            if s.name in self.by_name:
                dim = self.by_name[s.name].dim
                found |= set() if dim is None else {dim}
            elif s.name in self.values:
                found |= self.values[s.name].dims
        return frozenset(found)

    def looped(self, e: Dim) -> bool:
        """Whether an expression over groups changes in the loop."""
        return any(
            (s.name in self.by_name and self.by_name[s.name].looped)
            or (s.name in self.values and self.values[s.name].looped)
            for s in free_symbols(e)
        )

    def text(self, e: Dim, suffixes: bool = True) -> str:
        """An expression over groups, dims and values as source."""
        if isinstance(e, int):
            return str(e)
        parts = []
        for monomial, c in sorted(e.terms, key=lambda t: self._rank(t[0])):
            factors = [self._atom(a, suffixes) for a in monomial]
            if abs(c) != 1 or not factors:
                factors.append(str(abs(c)))
            parts.append(("-" if c < 0 else "+", " * ".join(factors)))
        parts.sort(key=lambda p: p[0] == "-")
        first = "-" + parts[0][1] if parts[0][0] == "-" else parts[0][1]
        return " ".join([first, *(f"{sign} {text}" for sign, text in parts[1:])])

    def _rank(self, monomial: Sequence[Atom]) -> tuple[int, int]:
        """Terms read in the order of the groups, those in which an index has the largest stride first; numbers last."""
        names = {s.name for a in monomial for s in free_symbols(Expr((((a,), 1),)))}
        order = [n for n, g in enumerate(self.groups) if g.name in names]
        return (order[0] if order else len(self.groups) + (not monomial), -len(monomial))

    def _atom(self, a: Atom, suffixes: bool) -> str:
        match a:
            case Symbol():
                if a.name in self.by_name:
                    g = self.by_name[a.name]
                    return g.name + (g.suffix if suffixes else "")
                if a.name in self.values:
                    return self.values[a.name].term.inner()
                return self.kernel.size(a.name)
            case Extremum():
                fold = f"tl.{a.kind}imum"
                text = self.text(a.arguments[0], suffixes)
                for x in a.arguments[1:]:
                    text = f"{fold}({text}, {self.text(x, suffixes)})"
                return text
        return self._division(a, suffixes)

    def _division(self, a: FloorDiv | Mod, suffixes: bool) -> str:
        """A division's variable: one-dimensional where it depends on one group alone."""
        whole = Expr((((a,), 1),))
        names = {s.name for s in free_symbols(whole)}
        groups = [g for g in self.groups if g.name in names]
        flat = len(groups) == 1 and not names & self.values.keys()
        n, d = self.text(a.numerator, not flat), self.text(a.divisor, not flat)
        n = n if n.isidentifier() else f"({n})"
        d = d if d.isalnum() else f"({d})"
        if nonnegative(a.numerator):
            text = f"{n} {'//' if isinstance(a, FloorDiv) else '%'} {d}"
        else:
            text = f"device.floor_{'div' if isinstance(a, FloorDiv) else 'mod'}({n.strip('()')}, {d})"
        if not groups and not names & self.values.keys():
            return f"({text})"
        wanted = next((n for n, e in self.axes.items() if e == whole), "q")
        name = self.remember(text, wanted, self.looped(whole))
        return name + (groups[0].suffix if flat and suffixes else "")

    def remember(self, text: str, wanted: str, looped: bool) -> str:
        """The variable that holds an expression, assigned once."""
        for block in (self.inside, self.before, self.kernel.top):
            if text in block.known:
                return block.known[text]
        block = self.inside if looped else self.before
        name = self.kernel.names.new(wanted)
        block.line(f"{name} = {text}")
        block.known[text] = name
        return name

    # Masks.

    def mask(self, dims: Iterable[int], predicate: Predicate = ()) -> str | None:
        """The elements along block dimensions that exist and where a predicate holds; None: all."""
        parts, looped = [], False
        for g in self.groups:
            if g.dim is not None and g.dim in dims and g.masked:
                parts.append(f"{g.name}{g.suffix} < {self.kernel.sized(g.extent)}")
                looped |= g.looped
        tests, changing = self.tests(predicate)
        parts += tests
        if not parts:
            return None
        text = parts[0] if len(parts) == 1 else " & ".join(f"({p})" for p in parts)
        return self.remember(text, "mask", looped or changing)

    def tests(self, predicate: Predicate) -> tuple[list[str], bool]:
        """The comparisons of a predicate, and whether they change in the loop."""
        parts, looped = [], False
        for r in predicate:
            e, low, high = self.at(r.expression), self.at(r.low), self.at(r.high)
            text = self.indexed(e)
            if not nonnegative(e - low):
                parts.append(f"{text} >= {self.text(low)}")
            if not nonnegative(high - 1 - e):
                parts.append(f"{text} < {self.text(high)}")
            looped |= any(map(self.looped, (e, low, high)))
        return parts, looped

    def indexed(self, e: Dim) -> str:
        """An expression as source, through a variable where it is more than one."""
        text = self.text(e)
        return text if text.isidentifier() or len(text) < 12 else self.remember(text, "at", self.looped(e))

    # Statements.

    def run(self, statements: Iterable[Statement]) -> None:
        """Emits statements, none of which is a Reduce."""
        for s in statements:
            match s:
                case Load():
                    self.values[s.value] = self.load(s)
                case Index():
                    self.values[s.value] = self._index(s)
                case Apply():
                    self.values[s.value] = self._apply(s)
                case Store():
                    self.store(s)

    def operand(self, o: Operand) -> Value:
        """A statement's operand."""
        return self.values[o] if isinstance(o, str) else Value(Term(literal(o)), frozenset(), i64)

    def load(self, s: Load) -> Value:
        """A load, through a mask where elements may lie outside or a predicate fails."""
        if s.buffer in self.kernel.kept:
            return self.kernel.kept[s.buffer]
        buffer = self.kernel.buffers[s.buffer]
        index = [self.at(e) for e in s.index]
        if s.checked:
            index = self._clamped(s, index, buffer)
        place = self.address(buffer, index, bool(s.predicate))
        dims = self.dims(place)
        wanted = dims | self._predicate_dims(s.predicate)
        mask = self.mask(wanted, s.predicate)
        looped = self.looped(place) or self.tests(s.predicate)[1]
        text = self.pointer(s.buffer, place, wanted - dims)
        missing = frozenset(g.name for g in self.groups if g.dim in wanted and g.masked)
        zero = frozenset[str]()
        if mask is not None:
            text += f", mask={mask}"
            if not isinstance(s.otherwise, str) and (s.predicate or s.dtype.is_float):
                text += f", other={literal(s.otherwise)}"
                zero = missing if s.otherwise == 0 else zero
        text = f"tl.load({text})"
        if buffer.type.dtype.is_bool:
            text += " != 0"
        name = self.remember(text, self.kernel.pointers[s.buffer].removesuffix("_ptr"), looped)
        if isinstance(s.otherwise, str) and s.predicate:
            other = self.values[s.otherwise]
            holds = " & ".join(f"({t})" for t in self.tests(s.predicate)[0])
            name = self.remember(f"tl.where({holds}, {name}, {other.term.text})", "x", looped or other.looped)
            wanted |= other.dims
        if buffer.type.dtype.name in ("f16", "bf16"):
            return Value(Term(f"{name}.to(tl.float32)"), wanted, s.dtype, looped, name, zero)
        return Value(Term(name), wanted, s.dtype, looped, None, zero)

    def _predicate_dims(self, predicate: Predicate) -> frozenset[int]:
        return frozenset(d for r in predicate for e in (r.expression, r.low, r.high) for d in self.dims(self.at(e)))

    def address(self, buffer: Buffer, index: Sequence[Dim], apart: bool) -> Dim:
        """The row-major position of an index; `apart`: indices are variables, which masks test too."""
        total: Dim = 0
        for size, e in zip(buffer.type.shape, index, strict=True):
            if apart and isinstance(e, Expr) and self.indexed(e) != self.text(e):
                name = self.indexed(e)
                low, high = bounds(e)
                self.values[name] = Value(Term(name), self.dims(e), i64, self.looped(e))
                e = symbol(name, 0 if low is None else low, high)
            total = total * size + e
        return total

    def pointer(self, buffer: str, place: Dim, missing: Iterable[int]) -> str:
        """The address of an element, spread over the block dimensions that the place itself doesn't vary along."""
        text = self.kernel.pointers[buffer]
        if place != 0:
            text += f" + {self.text(place)}"
        for g in self.groups:
            if g.dim is not None and g.dim in missing:
                text += f" + 0 * {g.name}{g.suffix}"
        return text

    def _clamped(self, s: Load | Store, index: Sequence[Dim], buffer: Buffer) -> list[Dim]:
        """The index with what data gives held within bounds; what isn't is reported."""
        found = list(index)
        for i in s.checked:
            size = buffer.type.shape[i]
            value = self.text(index[i])
            dims, looped = self.dims(index[i]), self.looped(index[i])
            bad = self.remember(f"({value} < 0) | ({value} >= {self.text(size)})", "bad", looped)
            self.report(bad, dims, looped, s.predicate, "BAD_INDEX")
            name = self.remember(f"tl.where({bad}, 0, {value})", "at", looped)
            self.values[name] = Value(Term(name), dims, i64, looped)
            found[i] = symbol(name, 0, size - 1)
        return found

    def report(self, bad: str, dims: frozenset[int], looped: bool, predicate: Predicate, code: str) -> None:
        """Sets the status where `bad` holds for an element that exists."""
        self.kernel.reports = True
        mask = self.mask(dims | self._predicate_dims(predicate), predicate)
        text = bad if mask is None else f"{bad} & {mask}"
        block = self.inside if looped or self.tests(predicate)[1] else self.before
        line = f"device.report(status_ptr, {text}, device.{code})"
        if all(line not in b.known for b in (self.inside, self.before)):
            block.line(line)
            block.known[line] = ""

    def _index(self, s: Index) -> Value:
        e = self.at(s.expression)
        text = self.text(e)
        name = text if text.isidentifier() else self.remember(text, "index", self.looped(e))
        return Value(Term(f"{name}.to({TYPES[s.dtype.name]})"), self.dims(e), s.dtype, self.looped(e))

    def _apply(self, s: Apply) -> Value:
        operands = [self.operand(o) for o in s.operands]
        dims = frozenset(d for x in operands for d in x.dims)
        looped = any(x.looped for x in operands)
        if not any(isinstance(o, str) for o in s.operands):
            kind = TYPES[s.operand_dtype.name]
            operands = [Value(Term(f"tl.full([1, 1], {x.term.text}, {kind})"), dims, s.dtype) for x in operands]
        terms = [x.term for x in operands]
        if s.op in ("div", "rem", "mod") and s.operand_dtype.is_integer:
            terms[1] = self._safe_divisor(s, operands, dims, looped)
        raw = None
        if s.op == "cast" and s.operand_dtype.name in ("f16", "bf16"):
            raw = operands[0].term.text
        term = emit(s, terms, self.kernel.strict)
        name = next((b.known[term.text] for b in (self.inside, self.before) if term.text in b.known), None)
        if name is not None:
            term = Term(name)
        elif not (self.uses.get(s.value, 0) <= 1 and len(term.text) <= INLINE_LENGTH) and raw is None:
            term = Term(self.remember(term.text, VALUE_NAMES.get(s.op, s.op), looped))
        return Value(term, dims, s.dtype, looped, raw)

    def _safe_divisor(self, s: Apply, operands: Sequence[Value], dims: frozenset[int], looped: bool) -> Term:
        """The divisor, 1 where the quotient has no value; that is reported."""
        x, y = (v.term.inner() for v in operands)
        if not isinstance(s.operands[1], str) and s.operands[1] not in (0, -1):
            return operands[1].term
        bad = f"{y} == 0"
        if s.operand_dtype.kind == "int":
            smallest = -(1 << (8 * s.operand_dtype.bytes - 1))
            bad = f"({bad}) | (({y} == -1) & ({x} == {smallest}))"
        name = self.remember(bad, "bad", looped)
        self.report(name, dims, looped, (), "INTEGER_DIVISION")
        return Term(self.remember(f"tl.where({name}, 1, {y})", "divisor", looped))

    def store(self, s: Store) -> None:
        """A store of what exists; into scratch, the value is kept where it is."""
        x = self.operand(s.operand)
        buffer = self.kernel.buffers[s.buffer]
        if buffer.access == "scratch":
            self.kernel.kept[s.buffer] = self.named(x, "kept")
            return
        index = [self.at(e) for e in s.index]
        if s.checked:
            index = self._clamped(s, index, buffer)
        place = self.address(buffer, index, bool(s.predicate))
        dims = self.dims(place)
        wanted = dims | self._predicate_dims(s.predicate) | x.dims
        if self.ordered:
            wanted |= {g.dim for g in self.groups if g.dim is not None}
        mask = self.mask(wanted, s.predicate)
        looped = self.looped(place) or x.looped or self.ordered
        pointer = self.pointer(s.buffer, place, wanted - dims)
        if len(pointer) + len(x.term.text) > STORE_LENGTH:
            x = self.named(x, "result")
        block = self.inside if looped else self.before
        if self.kernel.replicated and BARRIER not in block.known:
            block.line(BARRIER)
            block.known[BARRIER] = ""
        if self.shared:
            block = block.block(f"if {self.text(index[s.checked[0]])} % PARTS == part:")
        end = ")" if mask is None else f", mask={mask})"
        value = x.term.text
        if s.combine != "set":
            value = self._combined(s, x, buffer.type.dtype, block, pointer, end)
        block.line(f"tl.store({pointer}, {value}{end}")

    def _combined(self, s: Store, x: Value, dtype: DType, block: Block, pointer: str, end: str) -> str:
        """What is stored, with what is there, which the step before may have written from another thread."""
        block.line(BARRIER)
        old = self.kernel.names.new("old")
        narrow = dtype.name in ("f16", "bf16")
        block.line(f"{old} = tl.load({pointer}{end}{'.to(tl.float32)' if narrow else ''}")
        if s.combine in ("max", "min"):
            text = f"{'device' if dtype.is_float else 'tl'}.{s.combine}imum({old}, {x.term.text})"
        else:
            text = f"{old} {'+' if s.combine == 'sum' else '*'} {x.term.inner(0)}"
        return f"({text}).to({TYPES[dtype.name]})" if narrow else text

    def named(self, x: Value, wanted: str) -> Value:
        """The value as a variable."""
        if x.term.text.isidentifier():
            return x
        name = self.remember(x.term.text, wanted, x.looped)
        return Value(Term(name), x.dims, x.dtype, x.looped, None, x.zero_outside)


def count_uses(statements: Iterable[Statement]) -> dict[str, int]:
    """How often each value is read, as an operand or in an index."""
    counts: dict[str, int] = {}
    for s in statements:
        match s:
            case Load():
                read = [s.otherwise]
            case Apply():
                read = list(s.operands)
            case Index():
                read = []
            case _:
                read = [s.operand]
        if isinstance(s, Apply) and s.op in ("is_nan", "mod"):
            read = read * 2
        names = [o for o in read if isinstance(o, str)]
        if isinstance(s, Load | Store):
            # An index reads a value more than once: to check it, to clamp it.
            names += 2 * [t.name for e in s.index for t in free_symbols(e)]
        for n in names:
            counts[n] = counts.get(n, 0) + 1
    return counts
