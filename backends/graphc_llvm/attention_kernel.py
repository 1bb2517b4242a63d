"""The kernel of an attention: scores, softmax and weighted sum of a few rows at a time, which never leave the cache.

    for item in [begin, end):                        # (batch, block of `BLOCK_ROWS` queries)
      for block of at most `MOST_KEYS` keys:
        k's block, packed in panels of [depth][lane]                      # transposed in registers; once a block of queries
        for tile of `height` queries:                # with the keys that it sees, where a causal mask hides the last ones
          scores[height][keys] = f(q k^T), a register tile a panel; -inf beyond the last key
          the highest of each row; weights = exp(scores - highest), and their sums
          y[height][columns] = weights v, v read where it lies
          after the last block: y / sums, epilogue, store; the highest and the sums too, where they are results

Blocks of keys are joined by online softmax: what was summed so far is scaled by exp(old highest - new highest) (Milakov and
Gimelshein, 2018; Dao et al., "FlashAttention", 2022). Flops 2 * queries * keys * (depth + columns); q is read once, k and v once
a block of queries, the result written once. Scratch: k's block, a tile of scores and of y, and with several blocks all of a
block's y. What dropout leaves of the weights is a second result of f, by which exp is multiplied. In strict numerics the weights
are divided by their sum before they multiply v, and there is one block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import llvmlite.ir as ir

from graphc.ir.symbolic import ceildiv
from graphc.lowering.contraction import Affine
from graphc.lowering.loop_body import Axis, Store
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.attention_blocks import FEWEST_ROWS, Areas, block_rows
from graphc_llvm.attention_lanes import highest_lane, int_of, joined, larger
from graphc_llvm.attention_pack import Rows, is_finite, pack_keys, pack_pairs, read
from graphc_llvm.attention_products import Products
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import Contraction
from graphc_llvm.emit import (
    BF16,
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
    load_vector,
    local,
    offset,
    reduce_vector,
    splat,
    store,
    store_vector,
    tail_mask,
)
from graphc_llvm.gemm_epilogue import Epilogue, Strip
from graphc_llvm.math.exp import exp_of_nonpositive, exp_of_nonpositive_or_zero
from graphc_llvm.math.lanes import Lanes
from graphc_llvm.pairs import add_pairs, round_to_bf16, splat_pair
from graphc_llvm.register_tile import Add, Left, add_products
from graphc_llvm.target import Target


def emit(p: Products, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`; `dims` are the names of the sizes that it is given."""
    return str(_Emitter(p, symbol, dims, target, numerics).module)


class _Scores(Epilogue):
    """The scores' epilogue, whose results go to scratch, with -inf in the place of keys that there aren't.

    lines: where each result goes, by buffer; the first one's are the scores.
    """

    lines: Mapping[str, ir.Value]

    def store_lanes(self, pointer: ir.Value, s: Store, values: Mapping[str, ir.Value], strip: Strip) -> None:
        lanes = ir.VectorType(self.element, strip.lanes)
        value = values[s.operand] if isinstance(s.operand, str) else constant(lanes, s.operand)
        if strip.mask is not None and s.buffer == next(iter(self.lines)):
            value = self.b.select(strip.mask, value, constant(value.type, float("-inf")))
        store_vector(self.b, value, offset(self.b, self.lines[s.buffer], strip.first, self.element))


class _Emitter:
    def __init__(self, p: Products, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> None:
        self.p, self.s, self.r = p, p.scores, p.result
        self.strict = numerics == "strict"
        self.numerics = numerics
        self.height = p.scores.tile_rows
        self.lanes = target.lanes(p.scores.dtype.bytes)
        self.vectors = p.scores.width // self.lanes
        self.element = ELEMENT_TYPES[p.scores.dtype.name]
        self.vector = ir.VectorType(self.element, self.lanes)
        self.areas = Areas(p, numerics)
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        pointers, sizes, scratch, self.begin, self.end = function.args
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.of_scores, self.of_result = AxisValues(b), AxisValues(b)
        for i, name in enumerate(dims):
            self.of_scores.env[name] = self.of_result.env[name] = load(b, offset(b, sizes, i, I64), I64, name)
        self.place: dict[str, ir.Value] = {}
        first = 0
        for area, size in self.areas.sizes.items():
            self.place[area] = offset(b, scratch, first, self.element)
            first += size
        given = sum(x.access == "in" for x in self.s.body.buffers)
        self.buffers = {str(i): load(b, offset(b, pointers, i, PTR), PTR) for i in range(given)}
        self.made = {str(given): self.place["weights"]}
        if p.scaled:
            self.made[str(given + 1)] = self.place["factors"]
        outputs = [x.name for x in self.r.body.buffers if x.access == "out"]
        results = {name: load(b, offset(b, pointers, given + i, PTR), PTR) for i, name in enumerate(outputs)}
        self.of_rows = [load(b, offset(b, pointers, given + 1 + i, PTR), PTR) for i in range(2 if p.rows else 0)]
        self.epilogue = Epilogue(
            b,
            self.r,
            self.lanes,
            numerics,
            self.of_result,
            {**self.buffers, str(given): self.place["weights"], **results},
        )
        self.emit_kernel()

    def emit_kernel(self) -> None:
        b, p, s, r = self.b, self.p, self.s, self.r
        rows, keys = self.of_scores.dim(s.row_count), self.of_scores.dim(p.keys)
        blocks = self.of_scores.dim(ceildiv(s.row_count, block_rows(p)))
        with for_range(b, self.begin, self.end, name="item") as item:
            self.matrix = b.udiv(item, blocks)
            self.of_scores.unravel(self.matrix, s.batch)
            self.of_result.unravel(b.udiv(item, blocks), r.batch)
            start = b.mul(b.urem(item, blocks), i64(block_rows(p)))
            stop = binary(b, "smin", b.add(start, i64(block_rows(p))), rows)
            self.q = self.base(self.of_scores, s, s.a.buffer, s.a_address)
            self.k = self.base(self.of_scores, s, s.b.buffer, s.b_address)
            self.v = self.base(self.of_result, r, r.b.buffer, r.b_address)
            if self.areas.one:
                self.block_of_keys(start, stop, i64(0), keys, None)
            else:
                self.blocks_of_keys(start, stop, keys)
        b.ret(i32(0))

    def blocks_of_keys(self, start: ir.Value, stop: ir.Value, keys: ir.Value) -> None:
        b = self.b
        self.clear(b.sub(stop, start))
        with for_range(b, i64(0), keys, self.areas.keys, "block") as first:
            count = binary(b, "smin", i64(self.areas.keys), b.sub(keys, first))
            self.block_of_keys(start, stop, first, count, b.icmp_signed("==", b.add(first, count), keys))

    def base(self, at: AxisValues, c: Contraction, buffer: str, address: Affine) -> ir.Value:
        """Where an operand's matrix of the current batch begins."""
        element = ELEMENT_TYPES[c.body.buffer(buffer).type.dtype.name]
        return offset(self.b, self.buffers[buffer], at.sum(address, c.batch, address.constant), element)

    def clear(self, rows: ir.Value) -> None:
        """No key has been seen yet: rows of a last tile that there aren't are among those that are cleared."""
        b = self.b
        whole = b.mul(b.udiv(b.add(rows, i64(self.height - 1)), i64(self.height)), i64(self.height))
        for area, each, value in (
            ("sums", self.areas.columns, 0.0), ("totals", 1, 0.0), ("highest", 1, float("-inf")),
        ):  # fmt: skip
            with for_range(b, i64(0), b.mul(whole, i64(each)), self.lanes, "clear") as i:
                store_vector(b, constant(self.vector, value), offset(b, self.place[area], i, self.element))

    def block_of_keys(
        self, start: ir.Value, stop: ir.Value, first: ir.Value, count: ir.Value, last: ir.Value | None
    ) -> None:
        """Keys [first, first + count) for queries [start, stop); `last`: whether these are the last, None for the only."""
        self.pack(first, count)
        hides = self.hides(start, stop, first, count)
        with for_range(self.b, start, stop, self.height, "row") as row:
            pointers, places = self.queries(row, stop)
            seen = count if hides is None else self.seen(places, first, count, hides)
            self.scores(pointers, places, first, seen)
            factors, highest, totals = self.softmax(self.b.sub(row, start), seen)
            self.weigh(row, start, stop, first, seen, factors, totals, last)
            if last is None:
                self.keep(row, stop, highest, totals)
            else:
                with self.b.if_then(last):
                    self.keep(row, stop, highest, totals)

    def keep(self, row: ir.Value, stop: ir.Value, highest: Sequence[ir.Value], totals: Sequence[ir.Value]) -> None:
        """Stores a tile's highest scores and sums, where they are results; rows from `stop` on repeat the one before it."""
        b = self.b
        first = b.mul(self.matrix, self.of_scores.dim(self.s.row_count))
        for of_rows, values in zip(self.of_rows, (highest, totals), strict=False):
            for r, x in enumerate(values):
                here = binary(b, "smin", b.add(row, i64(r)), b.sub(stop, i64(1)))
                store(b, x, offset(b, of_rows, b.add(first, here), self.element))

    # Keys that no query of a tile sees

    def hides(self, start: ir.Value, stop: ir.Value, first: ir.Value, count: ir.Value) -> ir.Value | None:
        """Where it stands whether keys that a causal mask hides can be left out; None where there is no such mask.

        Their weights are 0, but 0 times what isn't finite is NaN: v is looked at, if there are enough queries to gain by it.
        """
        b, r = self.b, self.r
        if self.p.visible is None:
            return None
        slot = local(b, I1, name="hides")
        b.store(ir.Constant(I1, 0), slot)
        with b.if_then(b.icmp_signed(">=", b.sub(stop, start), i64(FEWEST_ROWS))):
            values = self.rows(self.of_result, r, r.inner, r.column, self.v, first)
            b.store(is_finite(b, values, count, int_of(r.column.extent), self.element, self.lanes), slot)
        return slot

    def seen(
        self, places: Sequence[Mapping[str, ir.Value]], first: ir.Value, count: ir.Value, hides: ir.Value
    ) -> ir.Value:
        """The keys of a block up to the last one that a tile's queries see, in whole panels."""
        b, p, at = self.b, self.p, self.of_scores
        assert p.visible is not None
        most = i64(0)
        for place in places:
            at.env.update(place)
            most = binary(b, "smax", most, b.sub(at.dim(p.visible), first))
        width = i64(self.s.width)
        whole = b.mul(b.udiv(b.add(most, b.sub(width, i64(1))), width), width)
        return b.select(b.load(hides, typ=I1), binary(b, "smin", count, whole), count)

    # k and v in scratch

    def pack(self, first: ir.Value, count: ir.Value) -> None:
        """k's block in panels, and, where pairs are multiplied, v's in pairs of keys."""
        b, s, r = self.b, self.s, self.r
        terms = 2 if self.p.pair else 1
        element = BF16 if self.p.pair else self.element
        keys = self.rows(self.of_scores, s, s.column, s.inner, self.k, first)
        pack_keys(b, keys, count, int_of(s.inner.extent), terms, s.width, element, self.place["packed"], self.lanes)
        if self.p.pair:
            values = self.rows(self.of_result, r, r.inner, r.column, self.v, first)
            pack_pairs(b, values, count, int_of(r.column.extent), self.areas.columns, self.place["values"], self.lanes)

    def rows(self, at: AxisValues, c: Contraction, row: Axis, step: Axis, base: ir.Value, first: ir.Value) -> Rows:
        """The rows of a product's right operand, from `first` on."""
        memory = ELEMENT_TYPES[c.b_dtype.name]
        stride = at.dim(c.b_address.of(row.name))
        start = offset(self.b, base, self.b.mul(first, stride), memory)
        along = i64(1) if step == c.column else at.dim(c.b_address.of(step.name))
        return Rows(start, memory, stride, along)

    # f(q k^T)

    def queries(self, row: ir.Value, stop: ir.Value) -> tuple[list[ir.Value], list[dict[str, ir.Value]]]:
        """A tile's rows of q, and where the axes stand at each; rows from `stop` on repeat the one before it."""
        b, s = self.b, self.s
        places: list[dict[str, ir.Value]] = []
        pointers = []
        for r in range(self.height):
            at = binary(b, "smin", b.add(row, i64(r)), b.sub(stop, i64(1)))
            self.of_scores.unravel(at, s.rows)
            places.append({a.name: self.of_scores.env[a.name] for a in s.rows})
            memory = ELEMENT_TYPES[s.a_dtype.name]
            pointers.append(offset(b, self.q, self.of_scores.sum(s.a_address, s.rows), memory))
        return pointers, places

    def scores(
        self, pointers: Sequence[ir.Value], places: Sequence[Mapping[str, ir.Value]], first: ir.Value, count: ir.Value
    ) -> None:
        """A tile's scores with the first `count` keys of the block."""
        b, s = self.b, self.s
        whole = b.udiv(count, i64(s.width))
        with for_range(b, i64(0), whole, name="panel") as panel:
            self.panel(self.vectors, pointers, places, panel, first, None)
        left = b.sub(count, b.mul(whole, i64(s.width)))
        needed = b.udiv(b.add(left, i64(self.lanes - 1)), i64(self.lanes))
        for vectors in self.narrower():
            with b.if_then(b.icmp_signed("==", needed, i64(vectors))):
                self.panel(vectors, pointers, places, whole, first, left)

    def narrower(self) -> Sequence[int]:
        """The vectors that a last panel, which isn't whole, may have."""
        keys, width = self.p.keys, self.s.width
        if not isinstance(keys, int):
            return range(1, self.vectors + 1)
        return [-(-(keys % width) // self.lanes)] if keys % width else []

    def panel(
        self,
        vectors: int,
        rows: Sequence[ir.Value],
        places: Sequence[Mapping[str, ir.Value]],
        panel: ir.Value,
        first: ir.Value,
        left: ir.Value | None,
    ) -> None:
        """A tile's scores with one panel of keys, of which `left` are left, or all that it has room for."""
        b, s, at = self.b, self.s, self.of_scores
        depth = int_of(s.inner.extent)
        terms = 2 if self.p.pair else 1
        memory = BF16 if self.p.pair else self.element
        base = offset(b, self.place["packed"], b.mul(panel, i64(depth * s.width)), memory)

        def columns(k: ir.Value) -> list[ir.Value]:
            return self.line(offset(b, base, b.mul(k, i64(s.width * terms)), memory), memory, vectors)

        zeros = [constant(self.vector, 0.0)] * (self.height * vectors)
        stride = at.dim(s.a_address.of(s.inner.name) * terms)
        span = i64(0), i64(depth // terms)
        sums = add_products(b, rows, stride, columns, span, zeros, self.left(s.a_dtype.name), self.add)
        epilogue = _Scores(
            b, replace(s, width=vectors * self.lanes), self.lanes, self.numerics, at, {**self.buffers, **self.made}
        )
        column = b.mul(panel, i64(s.width))
        for r, place in enumerate(places):
            at.env.update(place)
            at.env[s.column.name] = b.add(first, column)
            line = b.add(column, i64(r * self.areas.keys))
            epilogue.lines = {name: offset(b, area, line, self.element) for name, area in self.made.items()}
            mine = sums[r * vectors : (r + 1) * vectors]
            epilogue.finish(left, lambda strip, mine=mine: joined(b, mine, strip, self.lanes))  # type: ignore[misc]

    def line(self, at: ir.Value, memory: ir.Type, vectors: int) -> list[ir.Value]:
        """A line of packed columns: of `lanes` terms or pairs of terms a vector."""
        lanes = self.lanes * (2 if self.p.pair else 1)
        return [load_vector(self.b, offset(self.b, at, v * lanes, memory), memory, lanes) for v in range(vectors)]

    def left(self, dtype: str) -> Left | None:
        """How a row's term, or pair of terms, gets into all lanes, where it isn't of the sums' type."""
        b, memory = self.b, ELEMENT_TYPES[dtype]
        if self.p.pair:
            return lambda row, at: splat_pair(b, offset(b, row, at, memory), self.lanes)
        if memory == self.element:
            return None
        return lambda row, at: splat(
            b, convert_float(b, load(b, offset(b, row, at, memory), memory), self.element), self.lanes
        )

    @property
    def add(self) -> Add:
        return add_pairs if self.p.pair else fma

    # softmax

    def softmax(self, row: ir.Value, count: ir.Value) -> tuple[list[ir.Value], list[ir.Value], list[ir.Value]]:
        """Makes weights of a tile's scores; (what earlier sums are to be scaled by, the highest scores so far, the sums of all
        weights so far).

        `row`: the tile's first one, in its block. A row of which nothing was seen yet but -inf has weights 0 so far.
        """
        b = self.b
        line = [offset(b, self.place["weights"], r * self.areas.keys, self.element) for r in range(self.height)]

        def at(r: int, i: ir.Value) -> ir.Value:
            return offset(b, line[r], i, self.element)

        def score(r: int, i: ir.Value) -> ir.Value:
            return load_vector(b, at(r, i), self.element, self.lanes)

        lowest = [constant(self.vector, float("-inf"))] * self.height
        with fold_range(b, i64(0), count, self.lanes, lowest, "key") as loop:
            loop.update([larger(b, score(r, i=loop.index), x) for r, x in enumerate(loop.carried)])
        highest = [highest_lane(b, x) for x in loop.results]
        factors: list[ir.Value] = []
        reached = highest
        if not self.areas.one:
            before = [offset(b, self.place["highest"], b.add(row, i64(r)), self.element) for r in range(self.height)]
            old = [load(b, x, self.element) for x in before]
            highest = [larger(b, x, y) for x, y in zip(highest, old, strict=True)]
            reached = highest
            for place, x in zip(before, highest, strict=True):
                store(b, x, place)
            none = [b.fcmp_ordered("==", x, constant(self.element, float("-inf"))) for x in highest]
            highest = [b.select(n, constant(self.element, 0.0), x) for n, x in zip(none, highest, strict=True)]
            factors = [self.exp(b.fsub(x, y)) for x, y in zip(old, highest, strict=True)]
        shifts = [splat(b, x, self.lanes) for x in highest]
        with fold_range(b, i64(0), count, self.lanes, [constant(self.vector, 0.0)] * self.height, "key") as loop:
            powers = [self.exp(b.fsub(score(r, loop.index), x)) for r, x in enumerate(shifts)]
            for r, x in enumerate(powers):
                if self.strict:
                    store_vector(b, x, at(r, loop.index))
                else:
                    self.store_weights(self.scaled(x, r, loop.index), line[r], loop.index)
            loop.update([b.fadd(x, y) for x, y in zip(loop.carried, powers, strict=True)])
        totals = [reduce_vector(b, "fadd", x) for x in loop.results]
        if self.strict:
            divisors = [splat(b, x, self.lanes) for x in totals]
            with for_range(b, i64(0), count, self.lanes, "key") as i:
                for r, x in enumerate(divisors):
                    self.store_weights(b.fdiv(score(r, i), x), line[r], i)
        if not self.areas.one:
            for r, factor in enumerate(factors):
                place = offset(b, self.place["totals"], b.add(row, i64(r)), self.element)
                totals[r] = fma(b, load(b, place, self.element), factor, totals[r])
                store(b, totals[r], place)
        return factors, reached, totals

    def scaled(self, x: ir.Value, r: int, i: ir.Value) -> ir.Value:
        """Row r's powers times what weights are multiplied with, where they are."""
        if not self.p.scaled:
            return x
        factors = offset(self.b, self.place["factors"], r * self.areas.keys, self.element)
        return self.b.fmul(x, load_vector(self.b, offset(self.b, factors, i, self.element), self.element, self.lanes))

    def store_weights(self, x: ir.Value, line: ir.Value, i: ir.Value) -> None:
        """Weights in the place of scores; pairs, half as long, in that of scores which were read before."""
        b, stored = self.b, ELEMENT_TYPES[self.r.a_dtype.name]
        if self.p.pair:
            store_vector(b, round_to_bf16(b, x), offset(b, line, i, BF16))
        else:
            rounded = convert_float(b, convert_float(b, x, stored), self.element)
            store_vector(b, rounded, offset(b, line, i, self.element))

    def exp(self, x: ir.Value) -> ir.Value:
        f = exp_of_nonpositive if self.strict else exp_of_nonpositive_or_zero
        return f(Lanes(self.b, x, self.strict)).value

    # weights v

    def weigh(
        self,
        row: ir.Value,
        start: ir.Value,
        stop: ir.Value,
        first: ir.Value,
        count: ir.Value,
        factors: Sequence[ir.Value],
        totals: Sequence[ir.Value],
        last: ir.Value | None,
    ) -> None:
        """Adds the weighted rows of v to a tile's result; after the last block, finishes and stores it."""
        b, r = self.b, self.r
        one = constant(self.element, 1.0)
        inverse = [] if self.strict else [splat(b, b.fdiv(one, x), self.lanes) for x in totals]
        scale = [splat(b, x, self.lanes) for x in factors]
        rows = binary(b, "smin", b.sub(stop, row), i64(self.height))
        columns = int_of(r.column.extent)
        for panel in range(self.areas.columns // r.width):
            begin = panel * r.width
            vectors = -(-min(r.width, columns - begin) // self.lanes)
            sums = self.products(begin, vectors, first, count)
            slots = [(n, v) for n in range(self.height) for v in range(vectors)]
            kept = [
                offset(b, self.place["sums"], b.add(b.mul(b.sub(b.add(row, i64(n)), start), i64(self.areas.columns)),
                       i64(begin + v * self.lanes)), self.element)
                for n, v in slots
            ]  # fmt: skip

            def finish(
                values: Sequence[ir.Value], slots: Sequence[tuple[int, int]] = slots, panel: int = panel
            ) -> None:
                for (n, v), x in zip(slots, values, strict=True):
                    y = b.fmul(x, inverse[n]) if inverse else x
                    store_vector(b, y, offset(b, self.place["tile"], n * r.width + v * self.lanes, self.element))
                self.of_result.env["panel"] = i64(panel)
                left = None if columns % r.width == 0 else i64(columns - panel * r.width)
                self.epilogue.emit(row, rows, self.place["tile"], left)

            if last is None:
                finish(sums)
                continue
            for (n, _), place, x in zip(slots, kept, sums, strict=True):
                before = load_vector(b, place, self.element, self.lanes)
                store_vector(b, fma(b, before, scale[n], x), place)
            with b.if_then(last):
                finish([load_vector(b, place, self.element, self.lanes) for place in kept])

    def products(self, begin: int, vectors: int, first: ir.Value, count: ir.Value) -> list[ir.Value]:
        """A tile's weights times some columns of v."""
        b, r = self.b, self.r
        zeros = [constant(self.vector, 0.0)] * (self.height * vectors)
        rows = [offset(b, self.place["weights"], n * self.areas.keys, self.element) for n in range(self.height)]
        if self.p.pair:

            def pairs(k: ir.Value) -> list[ir.Value]:
                at = b.add(b.mul(k, i64(2 * self.areas.columns)), i64(2 * begin))
                return self.line(offset(b, self.place["values"], at, BF16), BF16, vectors)

            span = i64(0), b.udiv(b.add(count, i64(1)), i64(2))
            return add_products(b, rows, i64(2), pairs, span, zeros, self.left("bf16"), self.add)
        memory = ELEMENT_TYPES[r.b_dtype.name]
        stride = self.of_result.dim(r.b_address.of(r.inner.name))
        left = int_of(r.column.extent) - begin

        def columns(k: ir.Value) -> list[ir.Value]:
            line = offset(b, self.v, b.add(b.mul(b.add(first, k), stride), i64(begin)), memory)
            found = []
            for v in range(vectors):
                whole = left >= (v + 1) * self.lanes
                mask = None if whole else tail_mask(b, i64(left - v * self.lanes), self.lanes)
                x = read(b, offset(b, line, v * self.lanes, memory), memory, self.lanes, mask)
                found.append(convert_float(b, x, self.element))
            return found

        return add_products(b, rows, i64(1), columns, (i64(0), count), zeros)
