"""Nests with reductions, and tiles of several nests a row: one program computes a few rows, whole.

A row that fits in registers is read once and stays there, and what one nest of a tile leaves for the next is a variable.
A longer row, or one of dynamic length, is walked in chunks, once for each nest. Where memory is dense along the rows and
not along what is reduced (pooling in channels-last), rows are lanes and the reduction is a plain loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.ir.symbolic import Dim, ceildiv, linear, product
from graphc.ir.types import DType
from graphc.lowering.loop_body import Axis, Buffer, Load, LoopBody, Reduce, Store, TileBody
from graphc_triton.function import Function
from graphc_triton.operations import TYPES, Term, integer_range, literal
from graphc_triton.pointwise import warps_of
from graphc_triton.recompute import recompute_rows
from graphc_triton.scope import Group, Kernel, Scope, Value, count_uses
from graphc_triton.templates import finish, guess, is_masked, is_wide, power_of_2
from graphc_triton.writer import Block

WHOLE_ROW = 8192
"""The longest row that stays in registers."""

CHUNK = 1024
"""Elements of a longer row at a time."""

ELEMENTS = 2048
"""Of a block: rows x elements of a row."""

LANES = 256
"""Rows of a block where rows are lanes."""


@dataclass(frozen=True)
class Plan:
    """rows x width elements at a time; whole: a row is one block; lanes: rows are lanes, one element of each at a time."""

    rows: int
    width: int
    whole: bool
    lanes: bool


def emit(body: LoopBody | TileBody, name: str, strict: bool) -> Function:
    """grid: rows / ROWS. Inputs are read once for each nest that reads them, once in all where rows fit in registers."""
    if isinstance(body, LoopBody):
        rows, loops = body.axes_of("parallel"), [body]
    else:
        rows, loops = body.axes, list(body.loops)
    inner = [[a for a in loop.axes if a not in rows] for loop in loops]
    longest = max((product(a.extent for a in axes) for axes in inner), key=guess)
    whole = all(isinstance(product(a.extent for a in axes), int) for axes in inner) and guess(longest) <= WHOLE_ROW
    if isinstance(body, TileBody) and (not whole or len({tuple(a.extent for a in axes) for axes in inner if axes}) > 1):
        loops = recompute_rows(body)
    plan = _plan(body, rows, longest, whole)
    kernel = Kernel({b.name: b for b in body.buffers}, strict, is_wide(body.buffers, loops))
    kernel.replicated = sum(b.access == "out" for b in body.buffers) > 1
    count = product(a.extent for a in rows)
    constants = {"ROWS": plan.rows} | ({} if plan.lanes else {"WIDTH": plan.width})
    suffix = "" if plan.lanes else "[:, None]"
    group = Group(kernel.names.new("row"), tuple(rows), 0, "ROWS", suffix, is_masked(count, plan.rows))
    kernel.top.line(f"row = {kernel.index('tl.program_id(0)')} * ROWS + tl.arange(0, ROWS)")
    for loop, axes in zip(loops, inner, strict=True):
        _Loop(kernel, group, plan, loop, axes).emit()
    doc = f"One program computes ROWS of {count} rows of {longest}."
    return finish(kernel, name, doc, "rows", constants, ceildiv(count, plan.rows), warps_of(plan.rows * plan.width))


def _plan(body: LoopBody | TileBody, rows: Sequence[Axis], longest: Dim, whole: bool) -> Plan:
    count = guess(product(a.extent for a in rows))
    if isinstance(body, LoopBody) and rows_are_lanes(body, body.axes_of("parallel"), body.axes_of("reduction")):
        return Plan(min(LANES, max(32, power_of_2(count))), 1, False, True)
    width = power_of_2(guess(longest)) if whole else min(CHUNK, power_of_2(guess(longest)))
    return Plan(max(1, min(ELEMENTS // width, power_of_2(count))), width, whole, False)


def rows_are_lanes(body: LoopBody, across: Sequence[Axis], along: Sequence[Axis]) -> bool:
    """Whether loads are dense along the last axis of the rows rather than along the last one within a row."""
    if not across or not along:
        return False
    dense = {a.name: 0 for a in (across[-1], along[-1])}
    for s in body.statements:
        if isinstance(s, Load):
            place = _place(body.buffer(s.buffer), s.index)
            found = linear(place, list(dense))
            if found is not None:
                for name in dense:
                    dense[name] += found[0].get(name, 0) == 1
    return dense[across[-1].name] > dense[along[-1].name]


def _place(buffer: Buffer, index: Sequence[Dim]) -> Dim:
    total: Dim = 0
    for size, e in zip(buffer.type.shape, index, strict=True):
        total = total * size + e
    return total


@dataclass
class _Loop:
    """One nest over the rows of a program."""

    kernel: Kernel
    rows: Group
    plan: Plan
    loop: LoopBody
    axes: Sequence[Axis]

    def emit(self) -> None:
        statements = self.loop.statements
        last = max((n for n, s in enumerate(statements) if isinstance(s, Reduce)), default=len(statements) - 1)
        uses = count_uses(statements)
        values: dict[str, Value] = {}
        before = self.block()
        loops = bool(self.axes) and not self.plan.whole
        length = product(a.extent for a in self.axes)
        groups = [self.rows]
        inside = before
        if self.axes:
            name = "k"
            masked = not self.plan.lanes and is_masked(length, self.plan.width)
            k = Group(name, tuple(self.axes), None if self.plan.lanes else 1, "WIDTH",
                      "" if self.plan.lanes else "[None, :]", masked, loops)  # fmt: skip
            self.kernel.names.taken.add(name)
            groups.append(k)
        scope = Scope(self.kernel, groups, before, inside, values, uses)
        reduces = [s for s in statements if isinstance(s, Reduce)]
        started = {s.value: self.start(s, before) for s in reduces} if loops else {}
        if self.axes:
            scope.inside = self.walk(before, scope, length, loops)
        early = [s for s in statements[: last + 1] if not isinstance(s, Reduce)]
        scope.run(early)
        after = self.block() if loops else before
        found: dict[str, Value] = {}
        for s in reduces:
            if loops:
                self.accumulate(scope, s, started[s.value])
                found[s.value] = self.finished(after, s, started[s.value])
            else:
                found[s.value] = self.whole(scope, s)
        values.update(found)
        late = Scope(self.kernel, [self.rows], after, after, values, uses)
        late.run(statements[last + 1 :])

    def block(self) -> Block:
        """A block at the top, where all variables that were made at the top are known."""
        block = self.kernel.top.block()
        block.known = self.kernel.top.known
        return block

    def walk(self, before: Block, scope: Scope, length: Dim, loops: bool) -> Block:
        """The block in which `k` is the index along the row."""
        if self.plan.lanes:
            return self.kernel.top.block(f"for k in range(0, {self.kernel.sized(length)}):")
        if not loops:
            if "k" not in before.known:
                before.known["k"] = "k"
                before.line("k = tl.arange(0, WIDTH)")
            return before
        inside = self.kernel.top.block(f"for start in range(0, {self.kernel.sized(length)}, WIDTH):")
        arange = "tl.arange(0, WIDTH)"
        inside.line(f"k = start + {f'{arange}.to(tl.int64)' if self.kernel.wide else arange}")
        return inside

    # Reductions of a row that is one block.

    def whole(self, scope: Scope, s: Reduce) -> Value:
        dtype = self.carried(s)
        mask = scope.mask((0, 1), s.predicate) if s.predicate else scope.mask((1,))
        x = self.spread(scope, s, dtype)
        if s.kind in ("argmax", "argmin"):
            at = f"tl.where({mask}, k[None, :], -1)" if mask is not None else "k[None, :]"
            at = f"tl.broadcast_to({at}, ROWS, WIDTH).to(tl.int64)"
            return self.named(
                scope, f"device.extreme_at({x}, {at}, 1, {s.kind == 'argmax'}, {self.worst(s, dtype)})", s
            )
        if mask is not None:
            value = scope.operand(s.operand)
            if not (s.kind == "sum" and not s.predicate and {"k"} <= value.zero_outside):
                x = f"tl.where({mask}, {x}, {self.identity(s, dtype)})"
        return self.named(scope, self.reduced(s, x, dtype), s)

    def spread(self, scope: Scope, s: Reduce, dtype: DType) -> str:
        """The operand as a block of rows x elements."""
        value = scope.operand(s.operand)
        if not isinstance(s.operand, str):
            return f"tl.full([ROWS, WIDTH], {literal(s.operand)}, {TYPES[dtype.name]})"
        text = value.term.text
        if value.dtype.is_bool:
            text = f"({text}).to(tl.int32)"
        missing = {d for d in (0, 1) if d not in value.dims}
        if missing == {0} and self.plan.rows == 1:
            missing = set()
        return f"tl.broadcast_to({text}, ROWS, WIDTH)" if missing else text

    def reduced(self, s: Reduce, x: str, dtype: DType) -> str:
        match s.kind:
            case "sum":
                text = f"tl.sum({x}, axis=1, keep_dims=True)"
                return text if dtype.bytes >= 4 else f"{text}.to({TYPES[dtype.name]})"
            case _:
                text = f"device.row_{s.kind}({x}, 1)"
                return f"{text} != 0" if s.dtype.is_bool else text

    def named(self, scope: Scope, text: str, s: Reduce) -> Value:
        name = scope.remember(text, NAMES[s.kind], False)
        return Value(Term(name), frozenset({0}), s.dtype)

    # Reductions in a loop.

    def shape(self) -> str:
        return "[ROWS]" if self.plan.lanes else "[ROWS, WIDTH]"

    def start(self, s: Reduce, before: Block) -> tuple[str, ...]:
        """The accumulators, which hold as many partial results as a block has elements."""
        name = self.kernel.names.new(NAMES[s.kind])
        dtype = self.carried(s)
        if s.kind in ("argmax", "argmin"):
            best = self.kernel.names.new("best")
            before.line(f"{best} = tl.full({self.shape()}, 0, {TYPES[dtype.name]})")
            before.line(f"{name} = tl.full({self.shape()}, -1, tl.int64)")
            return name, best
        before.line(f"{name} = tl.full({self.shape()}, {self.identity(s, dtype)}, {TYPES[dtype.name]})")
        return (name,)

    def accumulate(self, scope: Scope, s: Reduce, names: tuple[str, ...]) -> None:
        dims = (0,) if self.plan.lanes else (0, 1)
        mask = scope.mask(dims, s.predicate) if s.predicate else (None if self.plan.lanes else scope.mask((1,)))
        value = scope.operand(s.operand)
        x = value.term
        if value.dtype.is_bool and isinstance(s.operand, str):
            x = Term(f"{x.inner()}.to(tl.int32)")
        name, line = names[0], scope.inside.line
        if s.kind in ("argmax", "argmin"):
            self.accumulate_extreme(scope, s, names, x, mask)
            return
        text = x.text
        if mask is not None and not (s.kind == "sum" and not s.predicate and {"k"} <= value.zero_outside):
            text, x = f"tl.where({mask}, {text}, {self.identity(s, self.carried(s))})", Term("")
        match s.kind:
            case "sum":
                line(f"{name} += {text}")
            case "prod":
                line(f"{name} *= {text}")
            case _:
                line(f"{name} = {'device' if s.dtype.is_float else 'tl'}.{s.kind}imum({name}, {text})")

    def accumulate_extreme(self, scope: Scope, s: Reduce, names: tuple[str, ...], x: Term, mask: str | None) -> None:
        at, best = names
        x = Term(scope.remember(x.text, "x", True))
        sign = ">" if s.kind == "argmax" else "<"
        position = "k" if self.plan.lanes else "k[None, :]"
        better = f"({at} < 0) | ({x.text} {sign} {best}) | (({x.text} != {x.text}) & ({best} == {best}))"
        if mask is not None:
            better = f"{mask} & ({better})"
        scope.inside.line(f"better = {better}")
        scope.inside.line(f"{best} = tl.where(better, {x.text}, {best})")
        scope.inside.line(f"{at} = tl.where(better, {position}, {at})")

    def finished(self, after: Block, s: Reduce, names: tuple[str, ...]) -> Value:
        name, dtype = names[0], self.carried(s)
        text = name
        if not self.plan.lanes:
            if s.kind in ("argmax", "argmin"):
                text = f"device.extreme_at({names[1]}, {name}, 1, {s.kind == 'argmax'}, {self.worst(s, dtype)})"
            else:
                text = self.reduced(s, name, dtype)
        elif s.dtype.is_bool:
            text = f"{name} != 0"
        if text != name:
            whole = self.kernel.names.new(f"row_{NAMES[s.kind]}")
            after.line(f"{whole} = {text}")
            name = whole
        return Value(Term(name), frozenset({0}), s.dtype)

    # Types.

    def carried(self, s: Reduce) -> DType:
        """The type of the accumulator."""
        if s.kind in ("argmax", "argmin"):
            dtype = next(x.dtype for x in self.loop.statements if not isinstance(x, Store) and x.value == s.operand)
            return BOOL_CARRIER if dtype.is_bool else dtype
        return BOOL_CARRIER if s.dtype.is_bool else s.dtype

    def worst(self, s: Reduce, dtype: DType) -> str:
        """What no candidate for an extreme is worse than."""
        return self.identity(replace(s, kind="max" if s.kind == "argmax" else "min"), dtype)

    def identity(self, s: Reduce, dtype: DType) -> str:
        """What doesn't change the result."""
        if s.kind in ("sum", "prod"):
            one = int(s.kind == "prod")
            return f"{float(one)}" if dtype.is_float else str(one)
        if dtype.is_float:
            return 'float("-inf")' if s.kind == "max" else 'float("inf")'
        low, high = integer_range(dtype)
        return str(low if s.kind == "max" else high)


BOOL_CARRIER = DType("i32", 4, "int")
NAMES = {
    "sum": "total",
    "prod": "product",
    "max": "largest",
    "min": "smallest",
    "argmax": "position",
    "argmin": "position",
}
