"""The kernel of an attention's gradient: tiles of weights and of their gradients, and three sums of them, block by block.

    for item in [begin, end):                        # batch: all queries and keys of it
      dq = dk = dv = 0
      for block of `KEYS` keys:
        k's and v's block, packed in panels of [depth][lane]              # transposed in registers
        for block of `QUERIES` queries, with the keys that they see:
          for panel of keys, for `height` queries:
            weights = f(q k^T), and from them g(dy v^T)                   # register tiles, to scratch
          dq += g k;  dk += g^T q;  dv += weights^T dy                    # register tiles, added where they lie

f is exp(scores - log of the sum of exp of a row's scores), so scores are never kept; g needs the sum of dy * y of each row (Dao,
"FlashAttention-2", 2023). Flops 2 * queries * keys * (3 * depth + 2 * columns). Operands are read once a block of queries or
keys; results are written and read as often. Scratch: k's and v's panels and a block of each tile. A block of queries that
sees no key of a block is left out where all that its weights of 0 would be multiplied by is finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import llvmlite.ir as ir

from graphc.lowering.contraction import Affine, address, affine
from graphc.lowering.loop_body import Load, Store
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.attention_gradient_blocks import Areas
from graphc_llvm.attention_gradient_products import Gradient, Sum
from graphc_llvm.attention_lanes import int_of, joined
from graphc_llvm.attention_pack import Rows, is_finite, pack_keys, read
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import Contraction
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    I1,
    I64,
    PTR,
    binary,
    constant,
    fold_range,
    for_range,
    i32,
    i64,
    load,
    load_vector,
    offset,
    store_masked,
    store_vector,
    tail_mask,
)
from graphc_llvm.gemm_epilogue import Epilogue, Strip
from graphc_llvm.register_tile import add_products
from graphc_llvm.target import Target


def emit(g: Gradient, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`; `dims` are the names of the sizes that it is given."""
    return str(_Emitter(g, symbol, dims, target, numerics).module)


class _Tile(Epilogue):
    """An epilogue whose tiles, read and stored, lie in scratch; `place` is the element of them at which the strips begin."""

    tiles: Mapping[str, ir.Value]
    place: ir.Value

    def load_lanes(self, pointer: ir.Value, s: Load, moves: bool, strip: Strip) -> ir.Value:
        if s.buffer not in self.tiles:
            return super().load_lanes(pointer, s, moves, strip)
        return load_vector(self.b, self.lines(s.buffer, strip), self.element, strip.lanes)

    def store_lanes(self, pointer: ir.Value, s: Store, values: Mapping[str, ir.Value], strip: Strip) -> None:
        lanes = ir.VectorType(self.element, strip.lanes)
        value = values[s.operand] if isinstance(s.operand, str) else constant(lanes, s.operand)
        store_vector(self.b, value, self.lines(s.buffer, strip))

    def lines(self, buffer: str, strip: Strip) -> ir.Value:
        return offset(self.b, offset(self.b, self.tiles[buffer], self.place, self.element), strip.first, self.element)


class _Emitter:
    def __init__(self, g: Gradient, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> None:
        self.g, self.areas = g, Areas(g)
        self.lanes = target.lanes(g.first.dtype.bytes)
        self.element = ELEMENT_TYPES[g.first.dtype.name]
        self.vector = ir.VectorType(self.element, self.lanes)
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        pointers, sizes, scratch, self.begin, self.end = function.args
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.place: dict[str, ir.Value] = {}
        first = 0
        for area, size in self.areas.sizes.items():
            self.place[area] = offset(b, scratch, first, self.element)
            first += size
        self.given = {str(i): load(b, offset(b, pointers, i, PTR), PTR) for i in range(g.inputs)}
        self.results = [load(b, offset(b, pointers, g.inputs + i, PTR), PTR) for i in range(len(g.sums))]
        env = {name: load(b, offset(b, sizes, i, I64), I64, name) for i, name in enumerate(dims)}
        self.at = {id(c): AxisValues(b) for c in g.contractions}
        for at in self.at.values():
            at.env.update(env)
        self.products = [
            _Product(self, name, c, stored, numerics)
            for name, c, stored in zip(("first", "second"), (g.first, g.second), g.stored, strict=True)
        ]
        self.emit_kernel()

    def tile(self, i: int) -> ir.Value:
        return self.place[f"tile{i}"]

    def emit_kernel(self) -> None:
        b, g = self.b, self.g
        at = self.at[id(g.first)]
        queries, keys = at.dim(g.queries), at.dim(g.keys)
        with for_range(b, self.begin, self.end, name="item") as item:
            for c in g.contractions:
                self.at[id(c)].unravel(item, c.batch)
            for p in self.products:
                p.begin()
            sums = [_Summed(self, s, y) for s, y in zip(g.sums, self.results, strict=True)]
            for s in sums:
                s.clear(queries if s.s.of_queries else keys)
            hides = None if g.visible is None else self.hides(queries, keys)
            with for_range(b, i64(0), keys, self.areas.keys, "block") as first:
                count = binary(b, "smin", i64(self.areas.keys), b.sub(keys, first))
                for p in self.products:
                    p.pack(first, count)
                with for_range(b, i64(0), queries, self.areas.queries, "queries") as start:
                    rows = binary(b, "smin", i64(self.areas.queries), b.sub(queries, start))
                    seen = count if hides is None else self.seen(start, rows, first, count, hides)
                    with b.if_then(b.icmp_signed(">", seen, i64(0))):
                        self.block(sums, start, rows, first, seen)
        b.ret(i32(0))

    def block(self, sums: Sequence[_Summed], start: ir.Value, rows: ir.Value, first: ir.Value, count: ir.Value) -> None:
        """Queries [start, start + rows) with keys [first, first + count)."""
        b, (one, two) = self.b, self.products
        width = one.c.width
        whole = b.mul(b.udiv(count, i64(width)), i64(width))

        def tiles(column: ir.Value, vectors: int, left: ir.Value | None) -> None:
            with for_range(b, i64(0), rows, one.height, "row") as row:
                for p in (one, two):
                    p.tile(start, row, rows, first, column, vectors, left)

        with for_range(b, i64(0), whole, width, "panel") as column:
            tiles(column, width // self.lanes, None)
        left = b.sub(count, whole)
        needed = b.udiv(b.add(left, i64(self.lanes - 1)), i64(self.lanes))
        for vectors in self.narrower():
            with b.if_then(b.icmp_signed("==", needed, i64(vectors))):
                tiles(whole, vectors, left)
        for s in sums:
            s.add(start, rows, first, count)

    def narrower(self) -> Sequence[int]:
        """The vectors that a last panel, which isn't whole, may have."""
        keys, width = self.g.keys, self.g.first.width
        if not isinstance(keys, int):
            return range(1, width // self.lanes + 1)
        return [-(-(keys % width) // self.lanes)] if keys % width else []

    # Keys that no query of a block sees

    def hides(self, queries: ir.Value, keys: ir.Value) -> ir.Value:
        """Whether keys that a causal mask hides can be left out: 0 times what isn't finite is NaN."""
        b, found = self.b, ir.Constant(I1, 1)
        for p in self.products:
            for rows, count in ((p.left_rows(), queries), (p.right_rows(i64(0)), keys)):
                found = b.and_(found, is_finite(b, rows, count, int_of(p.c.inner.extent), self.element, self.lanes))
            for s in p.c.epilogue:
                if isinstance(s, Load) and s.buffer in self.given and s.dtype.is_float:
                    found = b.and_(found, self.row_is_finite(p, s, queries))
        return found

    def row_is_finite(self, p: _Product, s: Load, queries: ir.Value) -> ir.Value:
        """Whether what is read once a row is finite in all rows."""
        b, c, at = self.b, p.c, p.at
        place = affine(address(c.body.buffer(s.buffer), s.index), [a.name for a in c.body.axes])
        assert place is not None
        memory = ELEMENT_TYPES[c.body.buffer(s.buffer).type.dtype.name]
        base = offset(b, self.given[s.buffer], at.sum(place, c.batch, place.constant), memory)
        stride, zero = at.dim(place.of(c.rows[0].name)), constant(memory, 0.0)
        with fold_range(b, i64(0), queries, 1, [zero], "row") as loop:
            x = load(b, offset(b, base, b.mul(loop.index, stride), memory), memory)
            loop.update([b.fadd(loop.carried[0], b.fmul(x, zero))])
        return b.fcmp_ordered("ord", loop.results[0], loop.results[0])

    def seen(self, start: ir.Value, rows: ir.Value, first: ir.Value, count: ir.Value, hides: ir.Value) -> ir.Value:
        """The keys of a block up to the last one that a block's queries see, in whole panels; all, where none is left out."""
        b, g = self.b, self.g
        assert g.visible is not None
        at = self.at[id(g.first)]
        ends = []
        for row in (start, b.sub(b.add(start, rows), i64(1))):  # it grows or falls from row to row
            at.env[g.first.rows[0].name] = row
            ends.append(at.dim(g.visible))
        most = b.sub(binary(b, "smax", *ends), first)
        width = i64(g.first.width)
        whole = b.mul(b.sdiv(b.add(most, b.sub(width, i64(1))), width), width)
        return b.select(hides, binary(b, "smin", count, whole), count)


def _base(e: _Emitter, at: AxisValues, c: Contraction, buffer: str, place: Affine) -> ir.Value:
    """Where an operand's matrix of the current batch begins."""
    return offset(e.b, e.given[buffer], at.sum(place, c.batch, place.constant), e.element)


class _Product:
    """One of the two products that make tiles."""

    def __init__(self, e: _Emitter, area: str, c: Contraction, stored: Mapping[str, int], numerics: str) -> None:
        self.e, self.b, self.c, self.at = e, e.b, c, e.at[id(c)]
        self.packed = e.place[area]
        self.height = c.tile_rows
        self.numerics = numerics
        loaded = e.g.loaded if c is e.g.second else {}
        self.tiles = {name: e.tile(i) for name, i in (*loaded.items(), *stored.items())}
        self.buffers = {**e.given, **self.tiles}

    def begin(self) -> None:
        """Where the operands' matrices of the batch begin."""
        self.left = _base(self.e, self.at, self.c, self.c.a.buffer, self.c.a_address)
        self.right = _base(self.e, self.at, self.c, self.c.b.buffer, self.c.b_address)

    def left_rows(self) -> Rows:
        return Rows(self.left, self.e.element, self.at.dim(self.c.a_address.of(self.c.rows[0].name)), i64(1))

    def right_rows(self, first: ir.Value) -> Rows:
        """The rows of k, or v, from `first` on."""
        c = self.c
        stride = self.at.dim(c.b_address.of(c.column.name))
        start = offset(self.b, self.right, self.b.mul(first, stride), self.e.element)
        return Rows(start, self.e.element, stride, self.at.dim(c.b_address.of(c.inner.name)))

    def pack(self, first: ir.Value, count: ir.Value) -> None:
        depth = int_of(self.c.inner.extent)
        rows = self.right_rows(first)
        pack_keys(self.b, rows, count, depth, 1, self.c.width, self.e.element, self.packed, self.e.lanes)

    def tile(
        self,
        start: ir.Value,
        row: ir.Value,
        rows: ir.Value,
        first: ir.Value,
        column: ir.Value,
        vectors: int,
        left: ir.Value | None,
    ) -> None:
        """Rows from start + row on, of the `rows` of a block, with a panel's keys, from first + column on.

        Rows that there aren't repeat the last one. left: keys that are left, None where they fill the panel.
        """
        e, b, c, at = self.e, self.b, self.c, self.at
        (axis,) = c.rows
        stride = at.dim(c.a_address.of(axis.name))
        places, pointers = [], []
        for r in range(self.height):
            here = binary(b, "smin", b.add(row, i64(r)), b.sub(rows, i64(1)))
            places.append(b.add(start, here))
            pointers.append(offset(b, self.left, b.mul(places[-1], stride), e.element))
        depth = int_of(c.inner.extent)
        base = offset(b, self.packed, b.mul(column, i64(depth)), e.element)

        def columns(k: ir.Value) -> list[ir.Value]:
            line = offset(b, base, b.mul(k, i64(c.width)), e.element)
            return [load_vector(b, offset(b, line, v * e.lanes, e.element), e.element, e.lanes) for v in range(vectors)]

        zeros = [constant(e.vector, 0.0)] * (self.height * vectors)
        step = at.dim(c.a_address.of(c.inner.name))
        sums = add_products(b, pointers, step, columns, (i64(0), i64(depth)), zeros)
        narrow = replace(c, width=vectors * e.lanes)
        epilogue = _Tile(b, narrow, e.lanes, self.numerics, at, self.buffers)
        epilogue.tiles = self.tiles
        at.env[c.column.name] = b.add(first, column)
        for r, place in enumerate(places):
            at.env[axis.name] = place
            epilogue.place = b.add(b.mul(b.add(row, i64(r)), i64(e.areas.stride)), column)
            mine = sums[r * vectors : (r + 1) * vectors]
            epilogue.finish(left, lambda strip, mine=mine: joined(b, mine, strip, e.lanes))  # type: ignore[misc]


class _Summed:
    """One of the gradients, in its place in memory."""

    def __init__(self, e: _Emitter, s: Sum, result: ir.Value) -> None:
        self.e, self.b, self.s, self.c, self.at = e, e.b, s, s.c, e.at[id(s.c)]
        c = s.c
        (store,) = c.epilogue
        assert isinstance(store, Store)
        place = affine(address(c.body.buffer(store.buffer), store.index), [a.name for a in c.body.axes])
        assert place is not None
        self.row = self.at.dim(place.of(c.rows[0].name))
        self.result = offset(e.b, result, self.at.sum(place, c.batch, place.constant), e.element)
        self.operand = _base(e, self.at, c, c.b.buffer, c.b_address)
        self.line = self.at.dim(c.b_address.of(c.inner.name))
        self.columns = int_of(c.column.extent)

    def clear(self, count: ir.Value) -> None:
        b, e = self.b, self.e
        with for_range(b, i64(0), count, name="clear") as row:
            for start in range(0, self.columns, e.lanes):
                self.write(constant(e.vector, 0.0), self.place(row, start), start)

    def add(self, start: ir.Value, rows: ir.Value, first: ir.Value, count: ir.Value) -> None:
        """Adds what queries [start, start + rows) and keys [first, first + count) give."""
        b, c, stride = self.b, self.c, i64(self.e.areas.stride)
        mine, other = ((start, rows), (first, count)) if self.s.of_queries else ((first, count), (start, rows))
        across, along = (stride, i64(1)) if self.s.of_queries else (i64(1), stride)
        tile = self.e.tile(self.s.tile)
        with for_range(b, i64(0), mine[1], c.tile_rows, "sum") as row:
            there = [binary(b, "smin", b.add(row, i64(r)), b.sub(mine[1], i64(1))) for r in range(c.tile_rows)]
            weights = [offset(b, tile, b.mul(r, across), self.e.element) for r in there]
            for begin in range(0, self.columns, c.width):
                starts = range(begin, min(begin + c.width, self.columns), self.e.lanes)
                places = [(self.place(b.add(mine[0], r), s), s) for r in there for s in starts]
                before = [self.read(*p) for p in places]

                def columns(k: ir.Value, starts: Sequence[int] = starts) -> list[ir.Value]:
                    line = offset(b, self.operand, b.mul(b.add(other[0], k), self.line), self.e.element)
                    return [self.read(offset(b, line, s, self.e.element), s) for s in starts]

                found = add_products(b, weights, along, columns, (i64(0), other[1]), before)
                for x, p in zip(found, places, strict=True):
                    self.write(x, *p)

    def place(self, row: ir.Value, start: int) -> ir.Value:
        return offset(
            self.b, offset(self.b, self.result, self.b.mul(row, self.row), self.e.element), start, self.e.element
        )

    def mask(self, start: int) -> ir.Value | None:
        """Which of a vector's columns there are; None where all are."""
        left, lanes = self.columns - start, self.e.lanes
        return tail_mask(self.b, i64(left), lanes) if left < lanes else None

    def read(self, at: ir.Value, start: int) -> ir.Value:
        return read(self.b, at, self.e.element, self.e.lanes, self.mask(start))

    def write(self, x: ir.Value, at: ir.Value, start: int) -> None:
        mask = self.mask(start)
        if mask is None:
            store_vector(self.b, x, at)
        else:
            store_masked(self.b, x, at, mask)
