"""Nests that run in order: scatters, whose targets may repeat, and running sums and products.

Rows whose elements can't meet are lanes. A scatter walks its other points one after another, so that the result is the same at
each run, without atomics; where targets are rows of their own, programs share them out, and each passes over what isn't its.
A running sum is a scan of chunks of a row, or where memory is dense along the rows, a plain loop over lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.symbolic import Dim, as_symbol, ceildiv, free_symbols, product
from graphc.lowering.loop_body import Axis, Load, LoopBody, Reduce, Store
from graphc.lowering.rewriting import defined, symbols_read
from graphc_triton.function import Function
from graphc_triton.operations import TYPES, Term
from graphc_triton.pointwise import warps_of
from graphc_triton.rows import CHUNK, ELEMENTS, rows_are_lanes
from graphc_triton.scope import Group, Kernel, Scope, Value, count_uses
from graphc_triton.templates import finish, guess, is_masked, is_wide, power_of_2
from graphc_triton.writer import Block

LANES = 32
"""Of a program that walks in order: a warp of its own, since the walk waits for memory at each step."""

PROGRAMS = 1024
"""How many programs share the rows of a scatter's target."""


def is_ordered(body: LoopBody) -> bool:
    """Whether a nest has an order."""
    return body.sequential or bool(body.axes_of("scan"))


def emit(body: LoopBody, name: str, strict: bool) -> Function:
    """grid: lanes / LANES, times the programs that share a scatter's targets; rows / ROWS where rows are scanned in chunks."""
    return _Ordered(body, strict).emit(name)


@dataclass
class _Ordered:
    body: LoopBody
    strict: bool

    def emit(self, name: str) -> Function:
        body = self.body
        across = _independent(body) if body.sequential else body.axes_of("parallel")
        along = [a for a in body.axes if a not in across]
        count, length = product(a.extent for a in across), product(a.extent for a in along)
        chunked = not body.sequential and not rows_are_lanes(body, across, along)
        width = min(CHUNK, power_of_2(guess(length))) if chunked else 1
        rows = max(1, min(ELEMENTS // width, power_of_2(guess(count)))) if chunked else LANES
        kernel = self.kernel = Kernel({b.name: b for b in body.buffers}, self.strict, is_wide(body.buffers, [body]))
        kernel.names.taken |= {"row", "k", "part", "start"}
        self.chunked, self.shape = chunked, "[ROWS, WIDTH]" if chunked else "[ROWS]"
        self.lanes = Group("row", tuple(across), 0, "ROWS", "[:, None]" if chunked else "", is_masked(count, rows))
        masked = chunked and is_masked(length, width)
        step = Group("k", tuple(along), 1 if chunked else None, "WIDTH", "[None, :]" if chunked else "", masked, True)
        parts = _parts(body, across, guess(count), guess(length))
        pid = kernel.index("tl.program_id(0)")
        kernel.top.line(f"row = {pid if parts == 1 else f'{pid} // PARTS'} * ROWS + tl.arange(0, ROWS)")
        if parts > 1:
            kernel.top.line("part = tl.program_id(0) % PARTS")
        before, totals = kernel.top.block(), kernel.top.block()
        before.known = kernel.top.known
        inside = self.walk(length, width)
        scope = Scope(kernel, [self.lanes, step], before, inside, uses=count_uses(body.statements), ordered=True)
        scope.shared = parts > 1
        for s in body.statements:
            if isinstance(s, Reduce):
                scope.values[s.value] = self.running(scope, totals, s)
            else:
                scope.run([s])
        constants = {"ROWS": rows} | ({"WIDTH": width} if chunked else {}) | ({"PARTS": parts} if parts > 1 else {})
        doc = f"One program walks {'ROWS of ' if count != 1 else ''}{count} rows of {length} in order."
        warps = warps_of(rows * width) if chunked else 1
        return finish(kernel, name, doc, "ordered", constants, ceildiv(count, rows) * parts, warps)

    def walk(self, length: Dim, width: int) -> Block:
        """The block that is run for each step, or for each chunk of a row."""
        kernel = self.kernel
        if not self.chunked:
            return kernel.top.block(f"for k in range(0, {kernel.sized(length)}):")
        inside = kernel.top.block(f"for start in range(0, {kernel.sized(length)}, WIDTH):")
        arange = "tl.arange(0, WIDTH)"
        inside.line(f"k = start + {f'{arange}.to(tl.int64)' if kernel.wide else arange}")
        return inside

    def running(self, scope: Scope, totals: Block, s: Reduce) -> Value:
        """The sum or product up to each element."""
        one, sign = int(s.kind == "prod"), "*" if s.kind == "prod" else "+"
        identity = f"{float(one)}" if s.dtype.is_float else str(one)
        total = self.kernel.names.new("product" if one else "total")
        kind = TYPES[s.dtype.name]
        totals.line(f"{total} = tl.full({'[ROWS, 1]' if self.chunked else '[ROWS]'}, {identity}, {kind})")
        operand = scope.operand(s.operand)
        text = (
            operand.term.text if isinstance(s.operand, str) else f"tl.full({self.shape}, {operand.term.text}, {kind})"
        )
        mask = scope.mask((0, 1) if self.chunked else (0,), s.predicate) if self.chunked or s.predicate else None
        if mask is not None:
            text = f"tl.where({mask}, {text}, {identity})"
        line = scope.inside.line
        if not self.chunked:
            line(f"{total} = {total} {sign} {text}")
            return Value(Term(total), frozenset({0}), s.dtype, True)
        x = scope.remember(f"tl.broadcast_to({text}, ROWS, WIDTH)", "x", True)
        scan = f"tl.cum{'prod' if one else 'sum'}({x}, axis=1)"
        name = self.kernel.names.new("running")
        line(f"{name} = {total} {sign} {scan}.to({kind})")
        whole = f"device.row_prod({x}, 1)" if one else f"tl.sum({x}, axis=1, keep_dims=True)"
        line(f"{total} = {total} {sign} {whole}.to({kind})")
        return Value(Term(name), frozenset({0, 1}), s.dtype, True)


def _independent(body: LoopBody) -> tuple[Axis, ...]:
    """The axes at two points of which no store meets itself: each is an index of the target, and of nothing else there."""
    stores = [s for s in body.statements if isinstance(s, Store)]
    alone = [{x.name for e in s.index if (x := as_symbol(e)) is not None} for s in stores]
    return tuple(a for a in body.axes if all(a.name in names for names in alone))


def _parts(body: LoopBody, across: Sequence[Axis], count: int, length: int) -> int:
    """How many programs share the targets of the same lanes: those that all lanes of a step have in common."""
    stores = [s for s in body.statements if isinstance(s, Store)]
    if not body.sequential or len(stores) != 1 or not stores[0].checked:
        return 1
    at = stores[0].checked[0]
    varying = {a.name for a in across}
    for s in body.statements:
        read = {x.name for e in s.index for x in free_symbols(e)} if isinstance(s, Load) else symbols_read(s)
        if read & varying and (name := defined(s)) is not None:
            varying.add(name)
    if {x.name for x in free_symbols(stores[0].index[at])} & varying:
        return 1
    rows = guess(body.buffer(stores[0].buffer).type.shape[at])
    return max(1, min(PROGRAMS // -(-count // LANES), length // 8, rows))
