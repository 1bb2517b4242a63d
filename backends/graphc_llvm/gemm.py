"""The register-tiled kernel of a contraction: C tile += A rows x B panel, with the epilogue on each finished tile.

    for item in [begin, end):                       # (batch, block of rows, panel), in the order of `Grid`
      for block of the sum (taps, then `block_depth` of the inner axis):      # B's part stays in L2
        for tile of `tile_rows` rows:
          for chunk of the block (at most `CHUNK` terms):
            accumulators = 0
            for tap in chunk:                       # a convolution's kernel positions; one for a matrix product
              row pointers into A, or to zeros where the predicate fails (padding)
              for k in chunk: accumulators += A[row, k] * B[k, panel lanes]
            tile in scratch += accumulators
          after the last block: epilogue, store

A is read in place: one scalar a row, broadcast. B is read as whole vectors, so a packed B streams. Flops 2*M*N*K; A is
read once a panel, B once a block of rows, C written once. Partial sums take rows-of-a-block x width of scratch. A long B
that isn't packed, and whose lines lie far apart, is copied to scratch block by block.
Operands of f16 and bf16 are widened as they are read; bf16 in pairs, where a term `k` is a pair, go by `pairs.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.symbolic import Dim, bounds, ceildiv, free_symbols, nonnegative, product
from graphc.lowering.contraction import Affine, affine
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import BLOCK_DEPTH, Contraction
from graphc_llvm.emit import (
    CACHE_LINE,
    ELEMENT_TYPES,
    I64,
    PTR,
    binary,
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
    store_vector,
    tail_mask,
)
from graphc_llvm.gemm_epilogue import Epilogue
from graphc_llvm.pairs import add_pairs, splat_pair, splat_wide
from graphc_llvm.register_tile import add_products
from graphc_llvm.target import Target

CHUNK = 256
"""Terms that are summed in one register before they are added to the total: the error of a sum of n terms grows with
CHUNK + n / CHUNK instead of n (blocked summation; Higham, "Accuracy and Stability of Numerical Algorithms", 4.2)."""
BLOCK_ROWS = 240
"""Rows that share a block of B, at most; their partial sums (240 x 64 f32, 60 KiB) stay in L2 beside it."""
ITEMS, ITEM_FLOPS = 16, 500_000
"""Work items that a product of few rows is cut into, so that threads get equal parts; none has fewer operations."""


FAR = 2048
"""Bytes between two lines of B from which on copying a block of it pays."""
FEWEST_ROWS = 48
"""Rows that must share such a copy, of which each block of rows makes its own."""


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
    if high is None or high > c.block_depth:
        return Split(1, c.block_depth, False, None)
    fitting = max(1, c.block_depth // high)
    chunk = None if high > CHUNK else max(1, CHUNK // high)
    if isinstance(taps, int) and taps <= fitting:
        return Split(taps, inner, True, None if chunk is None else min(chunk, taps))
    return Split(fitting, inner, False, chunk)


def block_depths(c: Contraction) -> list[int]:
    """Terms that a block of B may hold: the predicted number, and others that cut the sum differently."""
    high = bounds(c.inner.extent)[1]
    if c.taps or copies_b(c) or (high is not None and high <= BLOCK_DEPTH // 2):
        return [c.block_depth]
    blocks = {d: d if high is None else -(-high // d) for d in (c.block_depth, 2 * BLOCK_DEPTH, BLOCK_DEPTH // 2)}
    return [d for d, n in blocks.items() if d == c.block_depth or n != blocks[c.block_depth]]


@dataclass(frozen=True)
class Grid:
    """The work items of one product: panels by `blocks` of `rows` rows, the panel fastest.

    Where there is one block but for having several work items (`cut`), the block is fastest: a panel then stays in the L2 cache
    while all rows use it, as it does for one item.
    """

    rows: int
    blocks: Dim
    cut: bool


def grid(c: Contraction) -> Grid:
    """Blocks of whole tiles, of equal sizes where the number of rows is known."""
    most = -(-BLOCK_ROWS // c.tile_rows) * c.tile_rows
    if not isinstance(c.row_count, int):
        return Grid(most, ceildiv(c.row_count, most), False)
    blocks, cut = -(-c.row_count // most), False
    products = product(a.extent for a in c.batch) * c.panels
    if blocks == 1 and isinstance(products, int) and isinstance(c.flops, int):
        most_blocks = c.row_count // (FEWEST_ROWS if copies_b(c) else c.tile_rows)
        blocks = max(1, min(-(-ITEMS // products), c.flops // (products * ITEM_FLOPS), most_blocks))
        cut = blocks > 1
    tiles = -(-c.row_count // c.tile_rows)
    rows = -(-tiles // blocks) * c.tile_rows
    return Grid(rows, -(-c.row_count // rows), cut)


def work_items(c: Contraction) -> Dim:
    """The extent of the kernel's range."""
    return product(a.extent for a in c.batch) * grid(c).blocks * c.panels


def scratch_bytes(c: Contraction) -> int:
    """Scratch of one worker: the partial sums of a block of rows, or of one tile where the sum is one block; B's copy."""
    return (sum_rows(c) + (c.block_depth if copies_b(c) else 0)) * c.width * c.dtype.bytes


def sum_rows(c: Contraction) -> int:
    """Rows of which partial sums are kept."""
    return c.tile_rows if split_sum(c).whole else grid(c).rows


def copies_b(c: Contraction) -> bool:
    """Whether a block of B is copied to scratch before its rows use it: if it isn't packed, and its lines lie far apart.

    Lines at multiples of a large power of two share a few sets of each cache, and each takes a page of its own.
    """
    stride = c.b_address.of(c.inner.name)
    far = not isinstance(stride, int) or stride * c.b_dtype.bytes >= FAR
    long = nonnegative(c.inner.extent - c.block_depth) and nonnegative(c.row_count - FEWEST_ROWS)
    return far and long and not c.taps and not is_packed(c)


def is_packed(c: Contraction) -> bool:
    """Whether B lies in panels."""
    return c.pair is not None or c.body.buffer(c.b.buffer).type.shape[-1:] == (c.width,)


def emit(c: Contraction, symbol: str, target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`."""
    return str(GemmKernel(c, symbol, target, numerics).module)


def arguments(
    b: ir.IRBuilder, c: Contraction, pointers: ir.Value, dims: ir.Value
) -> tuple[AxisValues, dict[str, ir.Value]]:
    """What a kernel of the contraction is given: sizes by name, and the addresses of buffers."""
    at = AxisValues(b)
    names = sorted({s.name for x in c.body.axes for s in free_symbols(x.extent)} | _buffer_symbols(c))
    for i, name in enumerate(names):
        at.env[name] = load(b, offset(b, dims, i, I64), I64, name)
    return at, {x.name: load(b, offset(b, pointers, i, PTR), PTR) for i, x in enumerate(c.body.buffers)}


class GemmKernel:
    def __init__(self, c: Contraction, symbol: str, target: Target, numerics: str) -> None:
        self.c = c
        self.numerics = numerics
        self.lanes = target.lanes(c.dtype.bytes)
        self.vectors = c.width // self.lanes
        self.element = ELEMENT_TYPES[c.dtype.name]
        self.a_element, self.b_element = ELEMENT_TYPES[c.a_dtype.name], ELEMENT_TYPES[c.b_dtype.name]
        self.split = split_sum(c)
        self.packed = is_packed(c)
        self.copies = copies_b(c)
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        self.pointers, self.dims, self.scratch, self.begin, self.end = function.args
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.emit_kernel()

    # The nest

    def bind(self) -> None:
        """Reads what the kernel is given."""
        self.at, self.buffers = arguments(self.b, self.c, self.pointers, self.dims)
        self.epilogue = Epilogue(self.b, self.c, self.lanes, self.numerics, self.at, self.buffers)
        self.emit_zeros()

    def emit_kernel(self) -> None:
        b, c = self.b, self.c
        self.bind()
        rows = self.at.dim(c.row_count)
        panels = self.at.dim(c.panels)
        cells = grid(c)
        blocks = self.at.dim(cells.blocks)
        with for_range(b, self.begin, self.end, name="item") as item:
            fast, slow = (blocks, panels) if cells.cut else (panels, blocks)
            rest = b.udiv(item, fast)
            inner, outer = b.urem(item, fast), b.urem(rest, slow)
            panel, block = (outer, inner) if cells.cut else (inner, outer)
            self.at.unravel(b.udiv(rest, slow), c.batch)
            self.at.env["panel"] = panel
            start = b.mul(block, i64(cells.rows))
            stop = binary(b, "smin", b.add(start, i64(cells.rows)), rows)
            self.emit_panel(panel, start, stop)
        b.ret(i32(0))

    def emit_zeros(self) -> None:
        """What rows outside A read: as many zeros as the kernel may read from one row pointer."""
        self.zeros: ir.Value | None = None
        if not self.c.a.predicate:
            return
        stride, extent = self.c.a_address.of(self.c.inner.name), bounds(self.c.inner.extent)[1]
        apart = 0 if self.c.pair is None else self.c.a_address.of(self.c.pair.name)
        if not isinstance(stride, int) or not isinstance(apart, int) or extent is None:
            raise ValueError("padding needs a static inner axis")
        array = ir.ArrayType(self.a_element, (extent - 1) * stride + apart + 1)
        zeros = ir.GlobalVariable(self.module, array, "zeros")
        zeros.linkage, zeros.global_constant, zeros.initializer = "internal", True, ir.Constant(array, None)
        self.zeros = zeros

    def emit_panel(self, panel: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        b, c, split = self.b, self.c, self.split
        a_base = offset(
            b, self.buffers[c.a.buffer], self.at.sum(c.a_address, c.batch, c.a_address.constant), self.a_element
        )
        b_offset = self.at.sum(c.b_address, c.batch, c.b_address.constant)
        b_offset = b.add(b_offset, b.mul(panel, self.at.dim(c.b_address.of("panel"))))
        b_base = offset(b, self.buffers[c.b.buffer], b_offset, self.b_element)
        columns = b.sub(self.at.dim(c.column.extent), b.mul(panel, i64(c.width)))
        self.masks = self.column_masks(columns)
        self.columns = None if self.masks is None else columns
        self.first_row = start
        taps, depth = product(a.extent for a in c.taps), c.inner.extent
        if split.whole:
            b_base = self.copied(b_base, i64(0), self.at.dim(depth))
            with for_range(b, start, stop, c.tile_rows, "row") as row:
                self.emit_tile(
                    a_base, b_base, row, stop, (i64(0), self.at.dim(taps)), (i64(0), self.at.dim(depth)), True, True
                )
            return
        tap_count, inner = self.at.dim(taps), self.at.dim(depth)
        with for_range(b, i64(0), tap_count, self.at.dim(split.taps), "taps") as tap:
            tap_stop = binary(b, "smin", b.add(tap, self.at.dim(split.taps)), tap_count)
            with for_range(b, i64(0), inner, self.at.dim(split.depth), "depth") as k:
                k_stop = binary(b, "smin", b.add(k, self.at.dim(split.depth)), inner)
                b_block = self.copied(b_base, k, k_stop)
                first = b.icmp_signed("==", b.add(tap, k), i64(0))
                last = b.and_(b.icmp_signed("==", tap_stop, tap_count), b.icmp_signed("==", k_stop, inner))
                with for_range(b, start, stop, c.tile_rows, "row") as row:
                    tile = b.mul(b.sub(row, start), i64(c.width))
                    self.emit_tile(a_base, b_block, row, stop, (tap, tap_stop), (k, k_stop), first, last, tile)

    def copied(self, b_base: ir.Value, k: ir.Value, k_stop: ir.Value) -> ir.Value:
        """Where term 0 of B would be if the terms [k, k_stop) were read in scratch, copied there now; or where it lies."""
        b, c = self.b, self.c
        if not self.copies:
            return b_base
        to = offset(b, self.scratch, sum_rows(c) * c.width, self.element)
        stride = self.at.dim(c.b_address.of(c.inner.name))
        with for_range(b, k, k_stop, name="line") as term:
            line = offset(b, b_base, b.mul(term, stride), self.b_element)
            at = offset(b, to, b.mul(b.sub(term, k), i64(c.width)), self.element)
            for v in range(self.vectors):
                store_vector(b, self.read_b(line, v), offset(b, at, v * self.lanes, self.element))
        return offset(b, to, b.mul(k, i64(-c.width)), self.element)

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
        else:
            with b.if_else(b.icmp_signed(">=", left, i64(full_height))) as (full, part):
                with full:
                    self.emit_rows(full_height, a_base, b_base, row, here, taps, depth, first)
                with part:
                    if remainder is None:
                        self.emit_remainder(a_base, b_base, row, stop, here, taps, depth, first)
                    else:
                        self.emit_rows(remainder, a_base, b_base, row, here, taps, depth, first)
        if last is True:
            self.epilogue.emit(row, binary(b, "smin", left, i64(full_height)), here, self.columns)
        elif last is not False:
            with b.if_then(last):
                self.epilogue.emit(row, binary(b, "smin", left, i64(full_height)), here, self.columns)

    def emit_remainder(
        self,
        a_base: ir.Value,
        b_base: ir.Value,
        row: ir.Value,
        stop: ir.Value,
        tile: ir.Value,
        taps: tuple[ir.Value, ir.Value],
        depth: tuple[ir.Value, ir.Value],
        first: ir.Value | bool,
    ) -> None:
        """What is left of a number of rows that isn't known: a tile of its own for each number, so none is computed in vain."""
        b = self.b
        done = b.append_basic_block("rows.done")
        choice = b.switch(b.sub(stop, row), done)
        for height in range(1, self.c.tile_rows):
            choice.add_case(i64(height), b.append_basic_block(f"rows.{height}"))
        for height, (_, block) in enumerate(choice.cases, 1):
            b.position_at_end(block)
            self.emit_rows(height, a_base, b_base, row, tile, taps, depth, first)
            b.branch(done)
        b.position_at_end(done)

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
    ) -> None:
        """Adds a block of the sum to `height` rows of a tile in scratch."""
        b, c = self.b, self.c
        addresses = self.row_addresses(height, row)
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
        """Where this tile's prefetches begin, term 0 of the sum: at most a line of the next block of a packed B for each term.

        A block's first tiles fetch the block behind it, a part each, so that it is in L2 when its turn comes.
        """
        b, c = self.b, self.c
        if not self.packed:
            return None
        inner = self.at.dim(c.inner.extent)
        begins = b.add(b.mul(taps[0], inner), depth[0])
        terms = b.mul(b.sub(taps[1], taps[0]), b.sub(depth[1], depth[0]))
        following = offset(b, b_base, b.mul(b.add(begins, terms), i64(c.width * c.terms)), self.b_element)
        parts = self.term_bytes // CACHE_LINE
        part = binary(b, "smin", b.udiv(b.sub(row, self.first_row), i64(c.tile_rows)), i64(max(parts - 1, 0)))
        return offset(b, following, b.mul(b.sub(b.mul(part, terms), begins), i64(min(self.term_bytes, CACHE_LINE))))

    @property
    def term_bytes(self) -> int:
        """Of a panel of B."""
        return self.c.width * self.c.terms * self.c.b_dtype.bytes

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
            saved = dict(self.at.env)
            self.at.unravel(outer.index, c.taps)
            a_tap = self.at.sum(c.a_address, c.taps)
            b_tap = offset(b, b_base, self.at.sum(c.b_address, c.taps), self.b_element)
            pointers = [self.row_pointer(a_base, o, a_tap, cs) for o, cs in zip(*addresses, strict=True)]
            a_stride = self.at.dim(c.a_address.of(c.inner.name))
            b_stride = i64(c.width) if self.copies else self.at.dim(c.b_address.of(c.inner.name))
            element = self.element if self.copies else self.b_element

            def columns(k: ir.Value) -> list[ir.Value]:
                b_at = offset(b, b_tap, b.mul(k, b_stride), element)
                found = [self.load_b(b_at, v) for v in range(self.vectors)]
                if ahead is not None:
                    term = b.add(b.mul(outer.index, self.at.dim(c.inner.extent)), k)
                    prefetch(b, offset(b, ahead, b.mul(term, i64(min(self.term_bytes, CACHE_LINE)))))
                return found

            add = add_pairs if c.pair else fma
            sums = add_products(b, pointers, a_stride, columns, depth, outer.carried, self.load_a, add)
            outer.update(sums)
            self.at.env = saved
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
        self, height: int, row: ir.Value
    ) -> tuple[list[ir.Value], list[list[tuple[ir.Value, Dim, Affine]]]]:
        """For each row: its offset in A, and what rows and batch contribute to the predicate's expressions."""
        b, c = self.b, self.c
        offsets, conditions = [], []
        outer = (*c.batch, *c.rows)
        simple = len(c.rows) <= 1 and not c.a.predicate
        first_offset = None
        for r in range(height):
            if simple and first_offset is not None:
                stride = c.a_address.of(c.rows[0].name) if c.rows else 0
                offsets.append(b.add(first_offset, self.at.dim(stride * r)))
                conditions.append([])
                continue
            at = b.add(row, i64(r))
            self.at.unravel(at, c.rows)
            first_offset = self.at.sum(c.a_address, c.rows)
            offsets.append(first_offset)
            parts = []
            for condition in c.a.predicate:
                split = affine(condition.expression, [a.name for a in c.body.axes])
                assert split is not None
                parts.append(
                    (self.at.sum(split, outer, split.constant - condition.low), condition.high - condition.low, split)
                )
            conditions.append(parts)
        return offsets, conditions

    def row_pointer(
        self, base: ir.Value, row: ir.Value, tap: ir.Value, conditions: Sequence[tuple[ir.Value, Dim, Affine]]
    ) -> ir.Value:
        """Where the row's terms for this tap begin; the zeros where a predicate fails."""
        b = self.b
        pointer = offset(b, base, b.add(row, tap), self.a_element)
        inside: ir.Value | None = None
        for start, size, split in conditions:
            at = b.add(start, self.at.sum(split, self.c.taps))
            test = b.icmp_unsigned("<", at, self.at.dim(size))
            inside = test if inside is None else b.and_(inside, test)
        return pointer if inside is None else b.select(inside, pointer, self.zeros)

    def load_a(self, row: ir.Value, at: ir.Value) -> ir.Value:
        """A row's term, or pair of terms, in all lanes."""
        b = self.b
        pointer = offset(b, row, at, self.a_element)
        if self.c.pair is None:
            return splat_wide(b, pointer, self.a_element, ir.VectorType(self.element, self.lanes))
        apart = self.c.a_address.of(self.c.pair.name)
        other = None if apart == 1 else offset(b, pointer, self.at.dim(apart), self.a_element)
        return splat_pair(b, pointer, self.lanes, other)

    def load_b(self, at: ir.Value, v: int) -> ir.Value:
        if not self.copies:
            return self.read_b(at, v)
        return load_vector(self.b, offset(self.b, at, v * self.lanes, self.element), self.element, self.lanes)

    def read_b(self, at: ir.Value, v: int) -> ir.Value:
        b, count = self.b, self.lanes * self.c.terms
        pointer = offset(b, at, v * count, self.b_element)
        if self.c.pair is not None:
            return load_vector(b, pointer, self.b_element, count)
        if self.masks is None or self.packed:
            vector = load_vector(b, pointer, self.b_element, self.lanes)
        else:
            vector = load_masked(b, pointer, self.masks[v], self.b_element)
        return convert_float(b, vector, self.element)


@contextmanager
def _once(index: ir.Value) -> Iterator[ir.Value]:
    """What stands in for a loop of one trip."""
    yield index


def _buffer_symbols(c: Contraction) -> set[str]:
    return {s.name for x in c.body.buffers for s in x.type.symbols()}
