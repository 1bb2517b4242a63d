"""The register-tiled kernel of a contraction: C tile += A rows x B panel, with the epilogue on each finished tile.

    for item in [begin, end):                       # (batch, block of rows, panel), the panel fastest
      for block of the sum (taps, then `BLOCK_DEPTH` of the inner axis):      # B's part stays in L2
        for tile of `tile_rows` rows:
          for chunk of the block (at most `CHUNK` terms):
            accumulators = 0
            for tap in chunk:                       # a convolution's kernel positions; one for a matrix product
              row pointers into A, or to zeros where the predicate fails (padding)
              for k in chunk: accumulators += A[row, k] * B[k, panel lanes]
            tile in scratch += accumulators
          after the last block: epilogue, store

A is read in place: one scalar a row, broadcast. B is read as whole vectors, so a packed B streams. Flops 2*M*N*K; A is
read once a panel, B once a block of rows, C written once. Partial sums take rows-of-a-block x width of scratch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, Extremum, FloorDiv, Symbol, bounds, ceildiv, free_symbols, nonnegative, product
from graphc.lowering.contraction import Affine, address, affine
from graphc.lowering.loop_body import Apply, Axis, Load, Store
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.contraction import Contraction
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    I1,
    I64,
    PTR,
    binary,
    constant,
    convert_float,
    fma,
    fold_range,
    for_range,
    i32,
    i64,
    load,
    load_masked,
    load_vector,
    offset,
    prefetch,
    splat,
    store_masked,
    store_vector,
    tail_mask,
)
from graphc_llvm.math import emit_cast, emit_scalar_op
from graphc_llvm.target import Target

BLOCK_DEPTH = 512
"""Terms of the sum that a block of B holds: 512 x 64 f32 are 128 KiB, an eighth of the L2 cache."""
CHUNK = 256
"""Terms that are summed in one register before they are added to the total: the error of a sum of n terms grows with
CHUNK + n / CHUNK instead of n (blocked summation; Higham, "Accuracy and Stability of Numerical Algorithms", 4.2)."""
CACHE_LINE = 64
"""Bytes."""
BLOCK_ROWS = 240
"""Rows that share a block of B, at least; their partial sums (240 x 64 f32, 60 KiB) stay in L2 beside it."""


@dataclass(frozen=True)
class Split:
    """How the sum is cut: blocks of `taps` taps and `depth` of the inner axis; chunks of `chunk_taps` whole taps, or
    (None) of `CHUNK` of the inner axis. `whole`: there is one block.
    """

    taps: Dim
    depth: Dim
    whole: bool
    chunk_taps: int | None


def split_sum(c: Contraction) -> Split:
    """The blocks of the sum: as many taps as fit, or a part of the inner axis of one tap."""
    taps = product(a.extent for a in c.taps)
    inner = c.inner.extent
    high = bounds(inner)[1]
    if high is None or high > BLOCK_DEPTH:
        return Split(1, BLOCK_DEPTH, False, None)
    fitting = max(1, BLOCK_DEPTH // high)
    chunk = None if high > CHUNK else max(1, CHUNK // high)
    if isinstance(taps, int) and taps <= fitting:
        return Split(taps, inner, True, None if chunk is None else min(chunk, taps))
    return Split(fitting, inner, False, chunk)


def row_block(c: Contraction) -> int:
    """Rows in a block: whole tiles."""
    return -(-BLOCK_ROWS // c.tile_rows) * c.tile_rows


def work_items(c: Contraction) -> Dim:
    """The extent of the kernel's range."""
    return product(a.extent for a in c.batch) * ceildiv(c.row_count, row_block(c)) * c.panels


def scratch_bytes(c: Contraction) -> int:
    """Scratch of one worker: the partial sums of a block of rows, or of one tile where the sum is one block."""
    rows = c.tile_rows if split_sum(c).whole else row_block(c)
    return rows * c.width * c.dtype.bytes


def emit(c: Contraction, symbol: str, target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`."""
    return str(_Gemm(c, symbol, target, numerics).module)


class _Gemm:
    def __init__(self, c: Contraction, symbol: str, target: Target, numerics: str) -> None:
        self.c = c
        self.numerics = numerics
        self.lanes = target.lanes(c.dtype.bytes)
        self.vectors = c.width // self.lanes
        self.element = ELEMENT_TYPES[c.dtype.name]
        self.split = split_sum(c)
        self.packed = c.body.buffer(c.b.buffer).type.shape[-1:] == (c.width,)
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        self.pointers, self.dims, self.scratch, self.begin, self.end = function.args
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.env: dict[str, ir.Value] = {}
        self.emit_kernel()

    # Integers

    def dim(self, e: Dim) -> ir.Value:
        """The value of an expression whose symbols are in `env`."""
        if isinstance(e, int):
            return i64(e)
        total: ir.Value = i64(0)
        for monomial, coefficient in e.terms:
            term: ir.Value = i64(coefficient)
            for atom in monomial:
                term = self.b.mul(term, self.atom(atom))
            total = self.b.add(total, term)
        return total

    def atom(self, atom: object) -> ir.Value:
        if isinstance(atom, Symbol):
            return self.env[atom.name]
        if isinstance(atom, Extremum):
            values = [self.dim(a) for a in atom.arguments]
            result = values[0]
            for v in values[1:]:
                result = binary(self.b, f"s{atom.kind}", result, v)
            return result
        divide = self.b.udiv if isinstance(atom, FloorDiv) else self.b.urem
        if not nonnegative(atom.numerator):  # type: ignore[attr-defined]
            raise ValueError(f"{atom} may be negative")
        return divide(self.dim(atom.numerator), self.dim(atom.divisor))  # type: ignore[attr-defined]

    def sum(self, affine: Affine, axes: Sequence[Axis], constant: Dim = 0) -> ir.Value:
        """The part of an affine address that the axes contribute, plus a constant."""
        total = self.dim(constant)
        for axis in axes:
            coefficient = affine.of(axis.name)
            if coefficient == 0:
                continue
            total = self.b.add(total, self.b.mul(self.env[axis.name], self.dim(coefficient)))
        return total

    def unravel(self, index: ir.Value, axes: Sequence[Axis]) -> None:
        """Sets the axes' values from their row-major linear index."""
        for i, axis in reversed(list(enumerate(axes))):
            if i == 0:
                self.env[axis.name] = index
                return
            extent = self.dim(axis.extent)
            self.env[axis.name] = self.b.urem(index, extent)
            index = self.b.udiv(index, extent)

    # The nest

    def emit_kernel(self) -> None:
        b, c = self.b, self.c
        names = sorted({s.name for x in c.body.axes for s in free_symbols(x.extent)} | _buffer_symbols(c))
        for i, name in enumerate(names):
            self.env[name] = load(b, offset(b, self.dims, i, I64), I64, name)
        self.buffers = {x.name: load(b, offset(b, self.pointers, i, PTR), PTR) for i, x in enumerate(c.body.buffers)}
        self.emit_zeros()
        rows = self.dim(c.row_count)
        panels = self.dim(c.panels)
        blocks = self.dim(ceildiv(c.row_count, row_block(c)))
        with for_range(b, self.begin, self.end, name="item") as item:
            panel = b.urem(item, panels)
            rest = b.udiv(item, panels)
            block = b.urem(rest, blocks)
            self.unravel(b.udiv(rest, blocks), c.batch)
            self.env["panel"] = panel
            start = b.mul(block, i64(row_block(c)))
            stop = binary(b, "smin", b.add(start, i64(row_block(c))), rows)
            self.emit_panel(panel, start, stop)
        b.ret(i32(0))

    def emit_zeros(self) -> None:
        """What rows outside A read: as many zeros as the kernel may read from one row pointer."""
        self.zeros: ir.Value | None = None
        if not self.c.a.predicate:
            return
        stride, extent = self.c.a_address.of(self.c.inner.name), bounds(self.c.inner.extent)[1]
        if not isinstance(stride, int) or extent is None:
            raise ValueError("padding needs a static inner axis")
        array = ir.ArrayType(self.element, (extent - 1) * stride + 1)
        zeros = ir.GlobalVariable(self.module, array, "zeros")
        zeros.linkage, zeros.global_constant, zeros.initializer = "internal", True, ir.Constant(array, None)
        self.zeros = zeros

    def emit_panel(self, panel: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        b, c, split = self.b, self.c, self.split
        a_base = offset(b, self.buffers[c.a.buffer], self.sum(c.a_address, c.batch, c.a_address.constant), self.element)
        b_offset = self.sum(c.b_address, c.batch, c.b_address.constant)
        b_offset = b.add(b_offset, b.mul(panel, self.dim(c.b_address.of("panel"))))
        b_base = offset(b, self.buffers[c.b.buffer], b_offset, self.element)
        columns = b.sub(self.dim(c.column.extent), b.mul(panel, i64(c.width)))
        self.masks = self.column_masks(columns)
        self.first_row = start
        taps, depth = product(a.extent for a in c.taps), c.inner.extent
        if split.whole:
            with for_range(b, start, stop, c.tile_rows, "row") as row:
                self.emit_tile(
                    a_base, b_base, row, stop, (i64(0), self.dim(taps)), (i64(0), self.dim(depth)), True, True
                )
            return
        tap_count, inner = self.dim(taps), self.dim(depth)
        with for_range(b, i64(0), tap_count, self.dim(split.taps), "taps") as tap:
            tap_stop = binary(b, "smin", b.add(tap, self.dim(split.taps)), tap_count)
            with for_range(b, i64(0), inner, self.dim(split.depth), "depth") as k:
                k_stop = binary(b, "smin", b.add(k, self.dim(split.depth)), inner)
                first = b.icmp_signed("==", b.add(tap, k), i64(0))
                last = b.and_(b.icmp_signed("==", tap_stop, tap_count), b.icmp_signed("==", k_stop, inner))
                with for_range(b, start, stop, c.tile_rows, "row") as row:
                    tile = b.mul(b.sub(row, start), i64(c.width))
                    self.emit_tile(a_base, b_base, row, stop, (tap, tap_stop), (k, k_stop), first, last, tile)

    def column_masks(self, columns: ir.Value) -> list[ir.Value] | None:
        """A mask for each vector of the panel; None where panels are always full."""
        extent = self.c.column.extent
        if isinstance(extent, int) and extent % self.c.width == 0:
            return None
        return [tail_mask(self.b, self.b.sub(columns, i64(v * self.lanes)), self.lanes) for v in range(self.vectors)]

    def emit_tile(
        self,
        a_base: ir.Value,
        b_base: ir.Value,
        row: ir.Value,
        stop: ir.Value,
        taps: tuple[ir.Value, ir.Value],
        depth: tuple[ir.Value, ir.Value],
        first: ir.Value | bool,
        last: ir.Value | bool,
        tile: ir.Value | None = None,
    ) -> None:
        """One register tile: all its rows, or, at the end of the block, what rows there are."""
        b, c = self.b, self.c
        here = offset(b, self.scratch, tile, self.element) if tile is not None else self.scratch
        left = b.sub(stop, row)
        full_height = c.tile_rows
        remainder = c.row_count % full_height if isinstance(c.row_count, int) else None
        if remainder == 0:
            self.emit_rows(full_height, a_base, b_base, row, here, taps, depth, first)
        elif remainder is not None:
            with b.if_else(b.icmp_signed(">=", left, i64(full_height))) as (full, part):
                with full:
                    self.emit_rows(full_height, a_base, b_base, row, here, taps, depth, first)
                with part:
                    self.emit_rows(remainder, a_base, b_base, row, here, taps, depth, first)
        else:
            self.emit_rows(full_height, a_base, b_base, row, here, taps, depth, first, clamp=b.sub(stop, i64(1)))
        if last is True:
            self.emit_epilogue(row, binary(b, "smin", left, i64(full_height)), here)
        elif last is not False:
            with b.if_then(last):
                self.emit_epilogue(row, binary(b, "smin", left, i64(full_height)), here)

    def emit_rows(
        self,
        height: int,
        a_base: ir.Value,
        b_base: ir.Value,
        row: ir.Value,
        tile: ir.Value,
        taps: tuple[ir.Value, ir.Value],
        depth: tuple[ir.Value, ir.Value],
        first: ir.Value | bool,
        clamp: ir.Value | None = None,
    ) -> None:
        """Adds a block of the sum to `height` rows of a tile in scratch. With `clamp`, rows past it repeat it."""
        b, c = self.b, self.c
        addresses = self.row_addresses(height, row, clamp)
        ahead = self.next_block(b_base, row, taps, depth)

        def chunk(taps: tuple[ir.Value, ir.Value], depth: tuple[ir.Value, ir.Value], first: ir.Value | bool) -> None:
            self.add_to_tile(
                tile, height, self.accumulate(height, a_base, b_base, addresses, taps, depth, ahead), first
            )

        split = self.split
        if split.chunk_taps is None:
            outer = for_range(b, *taps, 1, "tap") if c.taps else _once(taps[0])
            with outer as tap, for_range(b, *depth, CHUNK, "chunk") as k:
                begins = b.and_(b.icmp_signed("==", tap, taps[0]), b.icmp_signed("==", k, depth[0]))
                end = binary(b, "smin", b.add(k, i64(CHUNK)), depth[1])
                chunk((tap, b.add(tap, i64(1))), (k, end), self.both(first, begins))
        elif split.whole and split.chunk_taps == split.taps:
            chunk(taps, depth, first)
        else:
            with for_range(b, *taps, split.chunk_taps, "chunk") as tap:
                end = binary(b, "smin", b.add(tap, i64(split.chunk_taps)), taps[1])
                chunk((tap, end), depth, self.both(first, b.icmp_signed("==", tap, taps[0])))

    def next_block(
        self, b_base: ir.Value, row: ir.Value, taps: tuple[ir.Value, ir.Value], depth: tuple[ir.Value, ir.Value]
    ) -> ir.Value | None:
        """Where this tile's prefetches begin, term 0 of the sum: a line of the next block of a packed B for each term.

        A block's first tiles fetch the block behind it, a part each, so that it is in L2 when its turn comes.
        """
        b, c = self.b, self.c
        if not self.packed:
            return None
        inner = self.dim(c.inner.extent)
        begins = b.add(b.mul(taps[0], inner), depth[0])
        terms = b.mul(b.sub(taps[1], taps[0]), b.sub(depth[1], depth[0]))
        following = offset(b, b_base, b.mul(b.add(begins, terms), i64(c.width)), self.element)
        parts = c.width * c.dtype.bytes // CACHE_LINE
        part = binary(b, "smin", b.udiv(b.sub(row, self.first_row), i64(c.tile_rows)), i64(max(parts - 1, 0)))
        return offset(b, following, b.mul(b.sub(b.mul(part, terms), begins), i64(CACHE_LINE)))

    def both(self, x: ir.Value | bool, y: ir.Value) -> ir.Value:
        return y if x is True else self.b.and_(x, y)

    def accumulate(
        self,
        height: int,
        a_base: ir.Value,
        b_base: ir.Value,
        addresses: tuple[list[ir.Value], list[list[tuple[ir.Value, Dim, Affine]]]],
        taps: tuple[ir.Value, ir.Value],
        depth: tuple[ir.Value, ir.Value],
        ahead: ir.Value | None,
    ) -> list[ir.Value]:
        """The sums of a chunk's products, in registers: row by row, vector by vector."""
        b, c = self.b, self.c
        zeros = [ir.Constant(ir.VectorType(self.element, self.lanes), None)] * (height * self.vectors)
        with fold_range(b, *taps, 1, zeros, "tap") as outer:
            saved = dict(self.env)
            self.unravel(outer.index, c.taps)
            a_tap = self.sum(c.a_address, c.taps)
            b_tap = offset(b, b_base, self.sum(c.b_address, c.taps), self.element)
            pointers = [self.row_pointer(a_base, o, a_tap, cs) for o, cs in zip(*addresses, strict=True)]
            a_stride, b_stride = self.dim(c.a_address.of(c.inner.name)), self.dim(c.b_address.of(c.inner.name))
            with fold_range(b, *depth, 1, outer.carried, "k") as loop:
                b_at = offset(b, b_tap, b.mul(loop.index, b_stride), self.element)
                a_at = b.mul(loop.index, a_stride)
                columns = [self.load_b(b_at, v) for v in range(self.vectors)]
                if ahead is not None:
                    term = b.add(b.mul(outer.index, self.dim(c.inner.extent)), loop.index)
                    prefetch(b, offset(b, ahead, b.mul(term, i64(CACHE_LINE))))
                following = []
                for r in range(height):
                    x = splat(b, load(b, offset(b, pointers[r], a_at, self.element), self.element), self.lanes)
                    sums = loop.carried[r * self.vectors : (r + 1) * self.vectors]
                    following += [fma(b, x, y, z) for y, z in zip(columns, sums, strict=True)]
                loop.update(following)
            outer.update(loop.results)
            self.env = saved
        return outer.results

    def add_to_tile(self, tile: ir.Value, height: int, sums: Sequence[ir.Value], first: ir.Value | bool) -> None:
        """tile += sums; the first chunk, which finds anything there, is stored as it is."""
        b = self.b
        slots = [(r, v) for r in range(height) for v in range(self.vectors)]
        for (r, v), value in zip(slots, sums, strict=True):
            at = offset(b, tile, r * self.c.width + v * self.lanes, self.element)
            if first is not True:
                total = b.fadd(load_vector(b, at, self.element, self.lanes), value)
                value = b.select(first, value, total)
            store_vector(b, value, at)

    def row_addresses(
        self, height: int, row: ir.Value, clamp: ir.Value | None
    ) -> tuple[list[ir.Value], list[list[tuple[ir.Value, Dim, Affine]]]]:
        """For each row: its offset in A, and what rows and batch contribute to the predicate's expressions."""
        b, c = self.b, self.c
        offsets, conditions = [], []
        outer = (*c.batch, *c.rows)
        simple = len(c.rows) <= 1 and clamp is None and not c.a.predicate
        first_offset = None
        for r in range(height):
            if simple and first_offset is not None:
                stride = c.a_address.of(c.rows[0].name) if c.rows else 0
                offsets.append(b.add(first_offset, self.dim(stride * r)))
                conditions.append([])
                continue
            at = b.add(row, i64(r))
            self.unravel(at if clamp is None else binary(b, "smin", at, clamp), c.rows)
            first_offset = self.sum(c.a_address, c.rows)
            offsets.append(first_offset)
            parts = []
            for condition in c.a.predicate:
                split = affine(condition.expression, [a.name for a in c.body.axes])
                assert split is not None
                parts.append(
                    (self.sum(split, outer, split.constant - condition.low), condition.high - condition.low, split)
                )
            conditions.append(parts)
        return offsets, conditions

    def row_pointer(
        self, base: ir.Value, row: ir.Value, tap: ir.Value, conditions: Sequence[tuple[ir.Value, Dim, Affine]]
    ) -> ir.Value:
        """Where the row's terms for this tap begin; the zeros where a predicate fails."""
        b = self.b
        pointer = offset(b, base, b.add(row, tap), self.element)
        inside: ir.Value | None = None
        for start, size, split in conditions:
            at = b.add(start, self.sum(split, self.c.taps))
            test = b.icmp_unsigned("<", at, self.dim(size))
            inside = test if inside is None else b.and_(inside, test)
        return pointer if inside is None else b.select(inside, pointer, self.zeros)

    def load_b(self, at: ir.Value, v: int) -> ir.Value:
        pointer = offset(self.b, at, v * self.lanes, self.element)
        if self.masks is None or self.packed:
            return load_vector(self.b, pointer, self.element, self.lanes)
        return load_masked(self.b, pointer, self.masks[v], self.element)

    # The epilogue

    def emit_epilogue(self, row: ir.Value, count: ir.Value, tile: ir.Value) -> None:
        b, c = self.b, self.c
        saved = dict(self.env)
        with for_range(b, i64(0), count, name="done") as r:
            self.unravel(b.add(row, r), c.rows)
            self.env[c.column.name] = b.mul(self.env["panel"], i64(c.width))
            bases = self.epilogue_bases()
            line = offset(b, tile, b.mul(r, i64(c.width)), self.element)
            for v in range(self.vectors):
                values = {
                    c.reduced: load_vector(b, offset(b, line, v * self.lanes, self.element), self.element, self.lanes)
                }
                self.emit_statements(values, bases, v)
        self.env = saved

    def epilogue_bases(self) -> dict[int, tuple[ir.Value, bool]]:
        """For each load and store: the address at the panel's first column, and whether it moves along the column."""
        bases = {}
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Load | Store):
                buffer = self.c.body.buffer(s.buffer)
                split = affine(address(buffer, s.index), [a.name for a in self.c.body.axes])
                assert split is not None
                at = self.sum(split, self.c.body.axes_of("parallel"), split.constant)
                pointer = offset(self.b, self.buffers[s.buffer], at, ELEMENT_TYPES[buffer.type.dtype.name])
                bases[i] = pointer, split.of(self.c.column.name) == 1
        return bases

    def emit_statements(self, values: dict[str, ir.Value], bases: Mapping[int, tuple[ir.Value, bool]], v: int) -> None:
        b = self.b
        for i, s in enumerate(self.c.epilogue):
            if isinstance(s, Load):
                pointer, moves = bases[i]
                values[s.value] = self.load_lanes(pointer, s, moves, v)
            elif isinstance(s, Apply):
                operands = [self.operand(o, values, s, position) for position, o in enumerate(s.operands)]
                if s.op == "cast":
                    values[s.value] = emit_cast(b, operands[0], s.operand_dtype.name, s.dtype.name)
                else:
                    values[s.value] = emit_scalar_op(b, s.op, operands, s.operand_dtype.name, {}, self.numerics)
            elif isinstance(s, Store):
                pointer, _ = bases[i]
                self.store_lanes(pointer, s, values, v)

    def load_lanes(self, pointer: ir.Value, s: Load, moves: bool, v: int) -> ir.Value:
        b = self.b
        memory = ELEMENT_TYPES[self.c.body.buffer(s.buffer).type.dtype.name]
        if not moves:
            return splat(b, self.widened(load(b, pointer, memory), s), self.lanes)
        at = offset(b, pointer, v * self.lanes, memory)
        raw = (
            load_vector(b, at, memory, self.lanes) if self.masks is None else load_masked(b, at, self.masks[v], memory)
        )
        return self.widened(raw, s)

    def widened(self, value: ir.Value, s: Load) -> ir.Value:
        stored = self.c.body.buffer(s.buffer).type.dtype
        if stored.is_bool:
            return self.b.icmp_unsigned("!=", value, ir.Constant(value.type, None))
        return convert_float(self.b, value, ELEMENT_TYPES[s.dtype.name]) if stored != s.dtype else value

    def store_lanes(self, pointer: ir.Value, s: Store, values: Mapping[str, ir.Value], v: int) -> None:
        b = self.b
        stored = self.c.body.buffer(s.buffer).type.dtype
        memory = ELEMENT_TYPES[stored.name]
        value = (
            values[s.operand] if isinstance(s.operand, str) else splat(b, ir.Constant(memory, s.operand), self.lanes)
        )
        if stored.is_bool:
            value = b.zext(value, ir.VectorType(memory, self.lanes))
        elif stored.is_float:
            value = convert_float(b, value, memory)
        at = offset(b, pointer, v * self.lanes, memory)
        if self.masks is None:
            store_vector(b, value, at)
        else:
            store_masked(b, value, at, self.masks[v])

    def operand(self, o: object, values: Mapping[str, ir.Value], s: Apply, position: int) -> ir.Value:
        if isinstance(o, str):
            return values[o]
        if s.op == "select" and position == 0:
            return constant(ir.VectorType(I1, self.lanes), o)
        kind = I1 if s.operand_dtype.is_bool else ELEMENT_TYPES[s.operand_dtype.name]
        return constant(ir.VectorType(kind, self.lanes), o)


@contextmanager
def _once(index: ir.Value) -> Iterator[ir.Value]:
    """What stands in for a loop of one trip."""
    yield index


def _buffer_symbols(c: Contraction) -> set[str]:
    return {s.name for x in c.body.buffers for s in x.type.symbols()}
