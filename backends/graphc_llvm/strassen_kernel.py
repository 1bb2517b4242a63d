"""The kernel of a product by Strassen's algorithm; see `strassen.py`.

    for item in [begin, end):                         # (batch, block of rows, couple of panels), the couple fastest
      for chunk of half the sum:                      # `depth` terms: the right-hand panel stays in L1
        at a block's first item: the seven left operands to scratch, in the order in which they are read
        for one of seven products:
          for tile of pairs of rows:
            in its first tile: the panel of T1 to T4 is computed and stored as it is multiplied by
            accumulators = left operand's rows x panel                           # as in `gemm.py`
            U, V and the results in scratch += accumulators
            after the last product of the last chunk: epilogue on two panels of the tile's rows

Products are in an order in which T1, T3, T2 and T4 need one panel of memory. Flops 7/8 of the direct product's 2*M*N*K. Each
term asks for a part of the next chunk's B, and of the next tile's rows, ahead of time. Blocks of few rows, and a last panel
without a partner, are multiplied directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc_llvm.emit import (
    I1,
    I64,
    PTR,
    VOID,
    binary,
    for_range,
    i32,
    i64,
    load,
    load_vector,
    local,
    offset,
    prefetch,
    store,
    store_vector,
)
from graphc_llvm.gemm import GemmKernel, arguments
from graphc_llvm.gemm_epilogue import Epilogue
from graphc_llvm.register_tile import add_products
from graphc_llvm.strassen import Strassen
from graphc_llvm.target import Target


@dataclass(frozen=True)
class Product:
    """One of the seven. `into` has (target, base, sign): target = base + sign * product; results have that added to them,
    after the first chunk, and in any without a base.

    right: one of B's blocks or "t", which is then x - y for `made` = (x, y).
    """

    left: str
    right: str
    into: tuple[tuple[str, str, int], ...]
    made: tuple[str, str] | None = None


PRODUCTS = (
    Product("a11", "b11", (("u", "", 1),)),
    Product("s1", "t", (("v", "u", 1),), ("b12", "b11")),
    Product("s4", "b22", (("c12", "v", 1),)),
    Product("s3", "t", (("c22", "v", -1), ("v", "u", -1)), ("b12", "b22")),
    Product("s2", "t", (("c12", "", 1), ("c22", "", 1), ("v", "v", 1)), ("b11", "t")),
    Product("a22", "t", (("c21", "v", -1),), ("t", "b21")),
    Product("a12", "b21", (("c11", "u", 1),)),
)
"""P1, P5, P3, -P7, P6, P4, P2: a panel is made of one other block, and of one that the product before has read or made."""
MAKES = sum(1 << n for n, product in enumerate(PRODUCTS) if product.made is not None)
"""A bit for each product whose panel is made."""


def emit(s: Strassen, symbol: str, target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`."""
    return str(_Emitter(s, symbol, target, numerics).module)


@dataclass(frozen=True)
class _Chunk:
    """Where the operands of a chunk lie, which begins at term `start` of each half and has `depth` of them.

    left: the left operands; first, last: whether it is the sum's; quarters: the blocks of
    B that come next; tiles: of pairs of rows; sharers: tiles of products that ask for one of these blocks; stride: bytes from
    one such request to the next.
    """

    start: ir.Value
    left: ir.Value
    depth: ir.Value
    first: ir.Value
    last: ir.Value
    quarters: Sequence[ir.Value]
    tiles: ir.Value
    sharers: ir.Value
    stride: ir.Value


class _Emitter(GemmKernel):
    def __init__(self, s: Strassen, symbol: str, target: Target, numerics: str) -> None:
        self.s = s
        super().__init__(s.c, symbol, target, numerics)

    def emit_kernel(self) -> None:
        b, c, s = self.b, self.c, self.s
        self.bind()
        self.finish = self.emit_finish()
        self.t = offset(b, self.scratch, 6 * s.pairs * c.width, self.element)
        self.left = offset(b, self.t, s.depth * c.width, self.element)
        self.panels = local(b, PTR, 3 * len(PRODUCTS), "panels")
        rows, panels = self.at.dim(c.row_count), self.at.dim(c.panels)
        blocks, couples = self.at.dim(s.blocks), self.at.dim(s.couples)
        share = i64(s.rows) if isinstance(c.row_count, int) else self.share(rows, blocks)
        with for_range(b, self.begin, self.end, name="item") as item:
            couple, rest = b.urem(item, couples), b.udiv(item, couples)
            batch = b.udiv(rest, blocks)
            self.at.unravel(batch, c.batch)
            start = b.mul(b.urem(rest, blocks), share)
            stop = binary(b, "smin", b.add(start, share), rows)
            begins = b.or_(b.icmp_signed("==", item, self.begin), b.icmp_signed("==", couple, i64(0)))
            panel = b.mul(couple, i64(2))
            if self.is_all_couples():
                self.emit_couple(batch, panel, start, stop, begins)
            else:
                pays = b.icmp_signed(">=", b.sub(stop, start), i64(s.least))
                two = b.icmp_signed("<", b.add(panel, i64(1)), panels)
                with b.if_else(b.and_(pays, two)) as (yes, no):
                    with yes:
                        self.emit_couple(batch, panel, start, stop, begins)
                    with no:
                        self.emit_directly(panel, binary(b, "smin", b.add(panel, i64(2)), panels), start, stop)
        b.ret(i32(0))

    def is_all_couples(self) -> bool:
        """Whether it is known that no panel is without a partner, and no block of too few rows."""
        rows, panels = self.c.row_count, self.c.panels
        if not isinstance(rows, int) or not isinstance(panels, int):
            return False
        return panels % 2 == 0 and (rows - 1) % self.s.rows + 1 >= self.s.least

    def emit_directly(self, panel: ir.Value, end: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        """C's rows [start, stop) of panels [panel, end), as in `gemm.py`."""
        with for_range(self.b, panel, end, name="panel") as one:
            self.at.env["panel"] = one
            self.emit_panel(one, start, stop)

    def share(self, rows: ir.Value, blocks: ir.Value) -> ir.Value:
        """Rows of each block but the last: equal shares, of whole tiles."""
        b, unit = self.b, i64(2 * self.c.tile_rows)
        each = b.mul(blocks, unit)
        return b.mul(unit, b.udiv(b.sub(b.add(rows, each), i64(1)), each))

    # A couple of panels

    def emit_couple(self, batch: ir.Value, panel: ir.Value, start: ir.Value, stop: ir.Value, begins: ir.Value) -> None:
        """C's rows [start, stop) and two panels; at `begins`, the sums of these rows of A are made first."""
        b, c, s = self.b, self.c, self.s
        at = b.add(self.at.sum(c.b_address, c.batch, c.b_address.constant), self.panel_offset(panel))
        first_panel = offset(b, self.buffers[c.b.buffer], at, self.element)
        pairs, last = b.udiv(b.add(b.sub(stop, start), i64(1)), i64(2)), b.sub(stop, i64(1))
        with for_range(b, i64(0), i64(s.half), s.depth, "chunk") as k:
            chunk = self.chunk(first_panel, k, pairs)

            with b.if_then(begins):
                self.add_left(chunk, start, last)
            numbers = for_range(b, i64(0), i64(len(PRODUCTS)), name="number")
            with numbers as number, for_range(b, i64(0), pairs, c.tile_rows, "pair") as pair:
                self.multiply(chunk, number, pair, b.sub(pairs, pair))
                ends = b.icmp_signed("==", number, i64(len(PRODUCTS) - 1))
                with b.if_then(b.and_(ends, chunk.last)):
                    row = b.add(start, b.mul(pair, i64(2)))
                    count = binary(b, "smin", b.sub(stop, row), i64(2 * c.tile_rows))
                    for i, name in enumerate(("c11", "c12")):
                        where = self.block(pair, name), batch, b.add(panel, i64(i)), row, count
                        b.call(self.finish, [self.pointers, self.dims, *where])

    def emit_finish(self) -> ir.Function:
        """The epilogue on some rows of a panel, as a function: (pointers, dims, sums, batch, panel, row, rows).

        Within the kernel's loops, LLVM would keep the epilogue's constants in the registers that sums need.
        """
        c = self.c
        function = ir.Function(self.module, ir.FunctionType(VOID, [PTR, PTR, PTR, I64, I64, I64, I64]), "finish")
        function.linkage = "internal"
        function.attributes.add("nounwind")
        function.attributes.add("noinline")
        pointers, dims, sums, batch, panel, row, count = function.args
        b = ir.IRBuilder(function.append_basic_block("entry"))
        at, buffers = arguments(b, c, pointers, dims)
        at.unravel(batch, c.batch)
        at.env["panel"] = panel
        columns = None
        if not isinstance(c.column.extent, int) or c.column.extent % c.width:
            columns = b.sub(at.dim(c.column.extent), b.mul(panel, i64(c.width)))
        Epilogue(b, c, self.lanes, self.numerics, at, buffers).emit(row, count, sums, columns)
        b.ret_void()
        return function

    def panel_offset(self, panels: ir.Value) -> ir.Value:
        return self.b.mul(panels, self.at.dim(self.c.b_address.of("panel")))

    def chunk(self, first_panel: ir.Value, k: ir.Value, pairs: ir.Value) -> _Chunk:
        """Where the operands of the chunk from term `k` of each half lie; those of each product's panels go to `panels`."""
        b, c, s = self.b, self.c, self.s
        depth = binary(b, "smin", i64(s.depth), b.sub(i64(s.half), k))
        apart, low = self.panel_offset(i64(1)), s.half * c.width

        def quarters(panel: ir.Value, k: ir.Value) -> list[ir.Value]:
            """B11, B21, B12 and B22 from term `k` on."""
            b11 = offset(b, panel, b.mul(k, i64(c.width)), self.element)
            b12 = offset(b, b11, apart, self.element)
            return [b11, offset(b, b11, low, self.element), b12, offset(b, b12, low, self.element)]

        right = dict(zip(("b11", "b21", "b12", "b22"), quarters(first_panel, k), strict=True), t=self.t)
        for n, product in enumerate(PRODUCTS):
            for i, name in enumerate((product.right, *(product.made or ()))):
                store(b, right[name], offset(b, self.panels, 3 * n + i, PTR))
        left = offset(b, self.left, b.mul(b.udiv(k, i64(s.depth)), i64(len(PRODUCTS) * s.left_size)), self.element)
        end = b.add(k, depth)
        last = b.icmp_signed("==", end, i64(s.half))
        next_panel = b.select(last, offset(b, first_panel, b.mul(apart, i64(2)), self.element), first_panel)
        following = quarters(next_panel, b.select(last, i64(0), end))
        tiles = b.udiv(b.add(pairs, i64(c.tile_rows - 1)), i64(c.tile_rows))
        sharers = b.udiv(b.mul(tiles, i64(len(PRODUCTS))), i64(4))
        line = c.width * c.dtype.bytes
        stride = b.udiv(b.add(sharers, i64(line - 1)), sharers)
        first = b.icmp_signed("==", k, i64(0))
        return _Chunk(k, left, depth, first, last, following, tiles, sharers, stride)

    def add_left(self, chunk: _Chunk, start: ir.Value, last: ir.Value) -> None:
        """A chunk's left operands from A, for whole tiles of rows from `start` on: those past the last repeat it."""
        b, c, s = self.b, self.c, self.s
        origin = self.at.sum(c.a_address, c.batch, c.a_address.constant)
        base = offset(b, self.buffers[c.a.buffer], b.add(origin, chunk.start), self.element)
        with for_range(b, i64(0), b.mul(chunk.tiles, i64(c.tile_rows)), name="pair") as pair:
            rows = []
            for i in range(2):
                row = b.add(start, b.add(b.mul(pair, i64(2)), i64(i)))
                self.at.unravel(binary(b, "smin", row, last), c.rows)
                rows.append(offset(b, base, self.at.sum(c.a_address, c.rows), self.element))
            target = offset(b, chunk.left, b.mul(pair, i64(s.depth)), self.element)
            with for_range(b, i64(0), chunk.depth, self.lanes, "term") as k:
                a11, a21 = (self.read(offset(b, row, k, self.element)) for row in rows)
                a12, a22 = (self.read(offset(b, row, b.add(k, i64(s.half)), self.element)) for row in rows)
                s1 = b.fadd(a21, a22)
                s2 = b.fsub(s1, a11)
                left = {"a11": a11, "a12": a12, "a22": a22, "s1": s1, "s2": s2}
                left |= {"s3": b.fsub(a11, a21), "s4": b.fsub(a12, s2)}
                for n, product in enumerate(PRODUCTS):
                    at = b.add(k, i64(n * s.left_size))
                    store_vector(b, left[product.left], offset(b, target, at, self.element))

    def read(self, at: ir.Value) -> ir.Value:
        return load_vector(self.b, at, self.element, self.lanes)

    # A product

    def multiply(self, chunk: _Chunk, number: ir.Value, pair: ir.Value, left: ir.Value) -> None:
        """A tile of a product: of as many pairs of rows as are left, or, where that isn't known, of a third, two or all."""
        full, rows = self.c.tile_rows, self.c.row_count
        if isinstance(rows, int):
            heights = [-(-(rows % self.s.rows) // 2) % full]
        else:
            heights = [-(-full // 3), -(-full * 2 // 3)]
        self.multiply_at_least([h for h in heights if h], chunk, number, pair, left)

    def multiply_at_least(
        self, heights: Sequence[int], chunk: _Chunk, number: ir.Value, pair: ir.Value, left: ir.Value
    ) -> None:
        """A tile of the lowest of these heights that holds the pairs that are left, or of the full one."""
        b = self.b
        if not heights:
            self.multiply_whole(chunk, number, pair)
            return
        with b.if_else(b.icmp_signed(">", left, i64(heights[0]))) as (more, rest):
            with more:
                self.multiply_at_least(heights[1:], chunk, number, pair, left)
            with rest:
                self.add_up(chunk, number, pair, self.sums(chunk, number, pair, heights[0]))

    def multiply_whole(self, chunk: _Chunk, number: ir.Value, pair: ir.Value) -> None:
        """A tile of all its rows; the first of a product makes the panel where it has one of its own."""
        b = self.b
        makes = b.trunc(b.lshr(i64(MAKES), number), I1)
        begins = b.and_(makes, b.icmp_signed("==", pair, i64(0)))
        with b.if_else(begins) as (yes, no):
            with yes:
                made, made_at = self.sums(chunk, number, pair, self.c.tile_rows, makes=True), b.block
            with no:
                read, read_at = self.sums(chunk, number, pair, self.c.tile_rows), b.block
        sums = []
        for x, y in zip(made, read, strict=True):
            value = b.phi(x.type)
            value.add_incoming(x, made_at)
            value.add_incoming(y, read_at)
            sums.append(value)
        self.add_up(chunk, number, pair, sums)

    def sums(self, chunk: _Chunk, number: ir.Value, pair: ir.Value, height: int, makes: bool = False) -> list[ir.Value]:
        """A tile's sums of products. With `makes`, the panel is computed on the way."""
        b, c, s = self.b, self.c, self.s
        line = offset(b, self.panels, b.mul(number, i64(3)), PTR)
        panel, *blocks = (load(b, offset(b, line, i, PTR), PTR) for i in range(3 if makes else 1))
        at = b.add(b.mul(pair, i64(s.depth)), b.mul(number, i64(s.left_size)))
        left = offset(b, chunk.left, at, self.element)
        rows = [offset(b, left, r * s.depth, self.element) for r in range(height)]
        next_rows = offset(b, left, c.tile_rows * s.depth, self.element)
        ahead = self.ahead(chunk, number, pair)

        def columns(k: ir.Value) -> list[ir.Value]:
            prefetch(b, offset(b, ahead, b.mul(k, chunk.stride)))
            prefetch(b, offset(b, next_rows, b.mul(k, i64(c.tile_rows)), self.element))
            first = b.mul(k, i64(c.width))
            lines = [b.add(first, i64(v * self.lanes)) for v in range(self.vectors)]
            if not makes:
                return [self.read(offset(b, panel, n, self.element)) for n in lines]
            xs, ys = ([self.read(offset(b, block, n, self.element)) for n in lines] for block in blocks)
            made = [b.fsub(p, q) for p, q in zip(xs, ys, strict=True)]
            for value, n in zip(made, lines, strict=True):
                store_vector(b, value, offset(b, panel, n, self.element))
            return made

        zero = ir.Constant(ir.VectorType(self.element, self.lanes), None)
        return add_products(b, rows, i64(1), columns, (i64(0), chunk.depth), [zero] * (height * self.vectors))

    def ahead(self, chunk: _Chunk, number: ir.Value, pair: ir.Value) -> ir.Value:
        """Where a tile's prefetches begin: each quarter of the B that comes next has an equal share of tiles and products."""
        b = self.b
        sharer = b.add(b.udiv(pair, i64(self.c.tile_rows)), b.mul(chunk.tiles, number))
        which = binary(b, "smin", b.udiv(sharer, chunk.sharers), i64(3))
        within = b.sub(sharer, b.mul(which, chunk.sharers))
        quarter = chunk.quarters[3]
        for n in (2, 1, 0):
            quarter = b.select(b.icmp_signed("==", which, i64(n)), chunk.quarters[n], quarter)
        return offset(b, quarter, b.mul(b.mul(within, chunk.depth), chunk.stride))

    def add_up(self, chunk: _Chunk, number: ir.Value, pair: ir.Value, sums: Sequence[ir.Value]) -> None:
        """A tile's sums into U, V and the results, as the product with that number says."""
        b = self.b
        done = b.append_basic_block("added")
        cases = [b.append_basic_block("product") for _ in PRODUCTS]
        switch = b.switch(number, cases[0])
        for n, (case, product) in enumerate(zip(cases, PRODUCTS, strict=True)):
            if n:
                switch.add_case(i64(n), case)
            b.position_at_end(case)
            self.add_product(chunk, product, pair, sums)
            b.branch(done)
        b.position_at_end(done)

    def add_product(self, chunk: _Chunk, product: Product, pair: ir.Value, sums: Sequence[ir.Value]) -> None:
        b, width = self.b, self.c.width
        names = {name for target, base, _ in product.into for name in (target, base) if name}
        blocks = {name: self.block(pair, name) for name in sorted(names)}

        def place(name: str, row: int, v: int) -> ir.Value:
            line = row if name in "uv" else 2 * row
            return offset(b, blocks[name], line * width + v * self.lanes, self.element)

        for n, value in enumerate(sums):
            row, v = divmod(n, self.vectors)
            for target, base, sign in product.into:
                total = value
                if base:
                    before = self.read(place(base, row, v))
                    total = b.fadd(before, value) if sign > 0 else b.fsub(before, value)
                at = place(target, row, v)
                if target not in "uv" and not base:
                    total = b.fadd(total, self.read(at))
                elif target not in "uv" and self.s.chunks > 1:
                    total = b.select(chunk.first, total, b.fadd(total, self.read(at)))
                store_vector(b, total, at)

    def block(self, pair: ir.Value, name: str) -> ir.Value:
        """Where a tile's rows of one of its arrays begin: the results of the first panel, U, V, and those of the second."""
        height = self.c.tile_rows
        first = {"c11": 0, "c21": 1, "u": 2 * height, "v": 3 * height, "c12": 4 * height, "c22": 4 * height + 1}
        line = self.b.mul(pair, i64(6 * self.c.width))
        return offset(self.b, self.scratch, self.b.add(line, i64(first[name] * self.c.width)), self.element)
