"""The kernel of a fusion around `winograd_conv`: tiles of inputs transformed, multiplied, transformed back, and finished.

    for item in [begin, end):                         # (block of tiles, panel of columns), the panel fastest
      at a block's first item: V[36][tile][channel] = B^T d B for its tiles, vectors over channels; zeros in the padding
      for position in 36:  M[position][tile][lane] = V[position] x u's panel         # register tiles, as in `gemm.py`
      for tile: y[4][4][lane] = A^T M A; the epilogue on each row of lanes, and store

Each of a block's 36 x tiles x width results takes as many products as there are channels: for 28 tiles that hides reading V, M
and the weights, which lie in the order in which they are read, from the L2 or L3 cache. The fusion is
lowered with an ordinary convolution with a window of 6x6 in the place of `winograd_conv`: operands, result, panels and
epilogue are the same, so `contraction.match` finds them. Only the sum is another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llvmlite.ir as ir

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, ceildiv, product
from graphc.ops.winograd import FAR, NEAR, REACH, TILE
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.axis_values import AxisValues
from graphc_llvm.contraction import Contraction, tile_height
from graphc_llvm.emit import (
    CACHE_LINE,
    ELEMENT_TYPES,
    I64,
    PTR,
    binary,
    constant,
    fma,
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
from graphc_llvm.register_tile import add_products
from graphc_llvm.target import Target

POSITIONS = REACH * REACH
APART = 16
"""Elements between the arrays of two positions, beyond their size: powers of two apart, all 36 would share a cache set."""
BLOCK = 28
"""Tiles of a block, at most: enough that reading a panel's weights anew for each block costs little beside the products."""

CHUNK = 32
"""Terms of a sum that are added in one register, at most. The transform back magnifies what the sums are rounded by, most
of the algorithm's error, and blocked summation makes that grow with CHUNK + n / CHUNK instead of n."""


def as_convolution(body: Graph) -> Graph | None:
    """The body of a fusion with a 6x6 convolution in the place of its `winograd_conv`; None where it has none."""
    if not any(n.op.name == "winograd_conv" for n in body.nodes):
        return None
    copy, _ = body.clone()
    (node,) = [n for n in copy.nodes if n.op.name == "winograd_conv"]
    top, bottom, left, right = node["padding"]
    more = REACH - 3
    b = Builder(copy, before=node, origin=node.origin)
    form = {"strides": (1, 1), "dilation": (1, 1), "layout": "channels_last", "kernel_layout": "io"}
    y = b.op("conv", *node.operands, padding=(top, bottom + more, left, right + more), **form)
    copy.replace_uses(node.result, y)
    copy.erase(node)
    return copy


def is_packed(c: Contraction) -> bool:
    """Whether the weights of a panel lie in the order in which they are read: position, channel, lane."""
    channel = c.width * c.inner.extent
    strides = (REACH * channel, channel, c.width)
    return tuple(c.b_address.of(a.name) for a in (*c.taps, c.inner)) == strides


@dataclass(frozen=True)
class Winograd:
    """What the kernel does: `c` is the 6x6 convolution in its place; `block` tiles are done at a time, `height` in registers.

    size: the input's height and width; rows, columns: tiles of an image along each axis; channels: those of the input,
    rounded up to whole vectors.
    """

    c: Contraction
    size: tuple[int, int]
    padding: tuple[int, ...]
    rows: int
    columns: int
    channels: int
    block: int
    height: int

    @property
    def tiles(self) -> Dim:
        return product(a.extent for a in self.c.rows[:-2]) * (self.rows * self.columns)

    @property
    def work_items(self) -> Dim:
        return ceildiv(self.tiles, self.block) * self.c.panels

    @property
    def flops(self) -> Dim:
        """Of the products; the transforms come on top."""
        return 2 * POSITIONS * self.tiles * self.c.inner.extent * self.c.column.extent

    @property
    def v_stride(self) -> int:
        """Elements from one position to the next in V."""
        return self.block * self.channels + APART

    @property
    def m_stride(self) -> int:
        """Elements from one position to the next in M."""
        return self.block * self.c.width + APART

    @property
    def scratch_bytes(self) -> int:
        elements = POSITIONS * (self.v_stride + self.m_stride) + TILE * TILE * self.c.width
        return -(-elements * self.c.dtype.bytes // 64) * 64


def plan(body: Graph, c: Contraction, target: Target) -> Winograd:
    """The kernel for the body of a fusion whose `as_convolution` is `c`."""
    (node,) = [n for n in body.nodes if n.op.name == "winograd_conv"]
    _, *size, _ = (int(d) if isinstance(d, int) else 0 for d in node.operands[0].type.shape)
    height, width = (int(a.extent) for a in c.rows[-2:])
    lanes = target.lanes(c.dtype.bytes)
    channels = -(-int(c.inner.extent) // lanes) * lanes
    rows, columns = -(-height // TILE), -(-width // TILE)
    images = product(a.extent for a in c.rows[:-2])
    fewest = rows * columns * (images if isinstance(images, int) else 1)
    blocks = -(-fewest // BLOCK)
    block = -(-fewest // (blocks + blocks % 2 if blocks > 1 else 1))  # two threads get as many
    if not isinstance(images, int):
        block *= max(1, BLOCK // block)  # whole images, however many there are
    vectors = c.width // lanes
    highest = tile_height(block, vectors, target)
    counts = {block, min(block, fewest)}
    best = min(range(highest, 0, -1), key=lambda h: sum(_cycles(n, h, vectors, block) / n for n in counts))
    return Winograd(c, (size[0], size[1]), node["padding"], rows, columns, channels, block, best)


def _cycles(rows: int, height: int, vectors: int, block: int) -> float:
    """Cycles, roughly, for one term of the sum of `rows` rows in tiles of `height`: of arithmetic, loads, or latency.

    Only the last tile of a whole block is as low as its rows are few.
    """

    def tile(h: int) -> float:
        return max(h * vectors, h + vectors, 8) / 2 if h else 0

    if rows < block:
        return -(-rows // height) * tile(height)
    return rows // height * tile(height) + tile(rows % height)


def emit(w: Winograd, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> str:
    """The kernel as LLVM IR with the ABI of `abi.py`; `dims` are the names of the sizes that it is given."""
    return str(_Emitter(w, symbol, dims, target, numerics).module)


class _Emitter:
    def __init__(self, w: Winograd, symbol: str, dims: Sequence[str], target: Target, numerics: str) -> None:
        self.w, self.c = w, w.c
        self.lanes = target.lanes(w.c.dtype.bytes)
        self.vectors = w.c.width // self.lanes
        self.element = ELEMENT_TYPES[w.c.dtype.name]
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        pointers, sizes, self.v, self.begin, self.end = function.args
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.at = AxisValues(b)
        for i, name in enumerate(dims):
            self.at.env[name] = load(b, offset(b, sizes, i, I64), I64, name)
        self.buffers = {x.name: load(b, offset(b, pointers, i, PTR), PTR) for i, x in enumerate(w.c.body.buffers)}
        self.m = offset(b, self.v, POSITIONS * w.v_stride, self.element)
        self.y = offset(b, self.m, POSITIONS * w.m_stride, self.element)
        self.epilogue = Epilogue(b, w.c, self.lanes, numerics, self.at, self.buffers)
        array = ir.ArrayType(self.element, w.channels)
        self.zeros = ir.GlobalVariable(self.module, array, "zeros")
        self.zeros.linkage, self.zeros.global_constant = "internal", True
        self.zeros.initializer = ir.Constant(array, None)
        self.emit_kernel()

    def emit_kernel(self) -> None:
        b, w = self.b, self.w
        panels, tiles = self.at.dim(self.c.panels), self.at.dim(w.tiles)
        with for_range(b, self.begin, self.end, name="item") as item:
            panel = b.urem(item, panels)
            first = b.mul(b.udiv(item, panels), i64(w.block))
            count = binary(b, "smin", i64(w.block), b.sub(tiles, first))
            begins = b.or_(b.icmp_signed("==", item, self.begin), b.icmp_signed("==", panel, i64(0)))
            with b.if_then(begins), for_range(b, i64(0), count, name="tile") as t:
                self.transform_input(t, b.add(first, t))
            self.multiply(panel, count)
            self.at.env["panel"] = panel
            whole = int(self.c.column.extent) % self.c.width == 0
            columns = None if whole else b.sub(self.at.dim(self.c.column.extent), b.mul(panel, i64(self.c.width)))
            with for_range(b, i64(0), count, name="tile") as t:
                self.transform_output(t)
                self.finish(b.add(first, t), columns)
        b.ret(i32(0))

    def place(self, tile: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """(image, row, column) of a tile's first result."""
        b, w = self.b, self.w
        line = b.udiv(tile, i64(w.columns))
        column, row = b.urem(tile, i64(w.columns)), b.urem(line, i64(w.rows))
        return b.udiv(line, i64(w.rows)), b.mul(row, i64(TILE)), b.mul(column, i64(TILE))

    # B^T d B

    def transform_input(self, t: ir.Value, tile: ir.Value) -> None:
        """The inputs of a tile, number `t` of the block, into V."""
        b, w = self.b, self.w
        inputs = self.input_pointers(tile)
        target = offset(b, self.v, b.mul(t, i64(w.channels)), self.element)
        channels = int(self.c.inner.extent)
        with for_range(b, i64(0), i64(channels), self.lanes, "channel") as k:
            mask = tail_mask(b, b.sub(i64(channels), k), self.lanes) if channels % self.lanes else None

            def read(pointer: ir.Value) -> ir.Value:
                at = offset(b, pointer, k, self.element)
                if mask is None:
                    return load_vector(b, at, self.element, self.lanes)
                return load_masked(b, at, mask, self.element)

            d = [input_transform(b, [read(inputs[i][j]) for i in range(REACH)]) for j in range(REACH)]
            for i in range(REACH):
                for j, value in enumerate(input_transform(b, [d[j][i] for j in range(REACH)])):
                    at = b.add(k, i64((i * REACH + j) * w.v_stride))
                    store_vector(b, value, offset(b, target, at, self.element))

    def input_pointers(self, tile: ir.Value) -> list[list[ir.Value]]:
        """Where the channels of each of a tile's 6x6 inputs lie; in the padding, the zeros."""
        b = self.b
        height, width = self.w.size
        top, _, left, _ = self.w.padding
        image, row, column = self.place(tile)
        strides = [self.at.dim(self.c.a_address.of(t.name)) for t in self.c.taps]
        images = self.c.rows[:-2]
        base = self.buffers[self.c.a.buffer]
        if images:
            base = offset(b, base, b.mul(image, self.at.dim(self.c.a_address.of(images[0].name))), self.element)
        rows = [b.add(row, i64(i - top)) for i in range(REACH)]
        columns = [b.add(column, i64(j - left)) for j in range(REACH)]
        inside = [b.icmp_unsigned("<", c, i64(width)) for c in columns]
        found = []
        for r in rows:
            line = offset(b, base, b.mul(r, strides[0]), self.element)
            in_rows = b.icmp_unsigned("<", r, i64(height))
            pointers = []
            for c, in_columns in zip(columns, inside, strict=True):
                at = offset(b, line, b.mul(c, strides[1]), self.element)
                pointers.append(b.select(b.and_(in_rows, in_columns), at, self.zeros))
            found.append(pointers)
        return found

    # M = V u

    def multiply(self, panel: ir.Value, count: ir.Value) -> None:
        """M from V and a panel of the weights, for all positions and `count` tiles, or a few more."""
        b, c, w = self.b, self.c, self.w
        size = int(c.inner.extent) * c.width
        first = b.add(b.mul(panel, self.at.dim(c.b_address.of("panel"))), self.at.dim(c.b_address.constant))
        weights = offset(b, self.buffers[c.b.buffer], first, self.element)
        whole = w.block // w.height * w.height
        with for_range(b, i64(0), i64(POSITIONS), name="position") as p:
            u = offset(b, weights, b.mul(p, i64(size)), self.element)
            v = offset(b, self.v, b.mul(p, i64(w.v_stride)), self.element)
            m = offset(b, self.m, b.mul(p, i64(w.m_stride)), self.element)
            with for_range(b, i64(0), binary(b, "smin", i64(whole), count), w.height, "rows") as row:
                self.multiply_rows(w.height, row, u, v, m)
            if whole < w.block:
                with b.if_then(b.icmp_signed(">", count, i64(whole))):
                    self.multiply_rows(w.block - whole, i64(whole), u, v, m)

    def multiply_rows(self, height: int, row: ir.Value, u: ir.Value, v: ir.Value, m: ir.Value) -> None:
        """Some rows of M at one position. Each term asks for a part of the next position's weights ahead of time."""
        b, c, w = self.b, self.c, self.w
        depth = int(c.inner.extent)
        lines = max(1, c.width * c.dtype.bytes // CACHE_LINE)
        tiles = -(-w.block // w.height)
        each = -(-lines // tiles)
        part = binary(b, "smin", b.mul(b.udiv(row, i64(w.height)), i64(each)), i64(lines - each))
        ahead = offset(b, offset(b, u, depth * c.width, self.element), b.mul(part, i64(depth * CACHE_LINE)))

        def columns(k: ir.Value) -> list[ir.Value]:
            for i in range(each):
                prefetch(b, offset(b, ahead, b.add(b.mul(k, i64(CACHE_LINE)), i64(i * depth * CACHE_LINE))))
            at = offset(b, u, b.mul(k, i64(c.width)), self.element)
            return [
                load_vector(b, offset(b, at, n * self.lanes, self.element), self.element, self.lanes)
                for n in range(self.vectors)
            ]

        rows = [offset(b, v, b.mul(b.add(row, i64(r)), i64(w.channels)), self.element) for r in range(height)]
        zeros = [ir.Constant(ir.VectorType(self.element, self.lanes), None)] * (height * self.vectors)
        target = offset(b, m, b.mul(row, i64(c.width)), self.element)

        def add_chunk(terms: tuple[ir.Value, ir.Value], first: ir.Value | None) -> None:
            """Adds some terms to the rows; the first of them, None where there are no others, find nothing there."""
            for n, value in enumerate(add_products(b, rows, i64(1), columns, terms, zeros)):
                at = offset(b, target, n * self.lanes, self.element)
                if first is not None:
                    value = b.select(first, value, b.fadd(load_vector(b, at, self.element, self.lanes), value))
                store_vector(b, value, at)

        if depth <= CHUNK:
            add_chunk((i64(0), i64(depth)), None)
        else:
            with for_range(b, i64(0), i64(depth), CHUNK, "chunk") as k:
                add_chunk((k, binary(b, "smin", b.add(k, i64(CHUNK)), i64(depth))), b.icmp_signed("==", k, i64(0)))

    # A^T M A

    def transform_output(self, t: ir.Value) -> None:
        """The 4x4 sums of a tile, number `t` of the block, from M into y."""
        b, w = self.b, self.w
        source = offset(b, self.m, b.mul(t, i64(self.c.width)), self.element)
        with for_range(b, i64(0), i64(self.c.width), self.lanes, "lane") as n:

            def read(position: int) -> ir.Value:
                at = offset(b, source, b.add(n, i64(position * w.m_stride)), self.element)
                return load_vector(b, at, self.element, self.lanes)

            m = [output_transform(b, [read(i * REACH + j) for i in range(REACH)]) for j in range(REACH)]
            for i in range(TILE):
                for j, value in enumerate(output_transform(b, [m[j][i] for j in range(REACH)])):
                    at = b.add(n, i64((i * TILE + j) * self.c.width))
                    store_vector(b, value, offset(b, self.y, at, self.element))

    def finish(self, tile: ir.Value, columns: ir.Value | None) -> None:
        """The epilogue on those of a tile's 4x4 sums that are results."""
        b = self.b
        image, row, column = self.place(tile)
        saved = dict(self.at.env)
        *images, rows, across = self.c.rows
        for axis in images:
            self.at.env[axis.name] = image
        with self.results("row", row, rows.extent) as i:
            self.at.env[rows.name] = b.add(row, i)
            with self.results("column", column, across.extent) as j:
                self.at.env[across.name] = b.add(column, j)
                line = b.mul(b.add(b.mul(i, i64(TILE)), j), i64(self.c.width))
                self.epilogue.emit_row(offset(b, self.y, line, self.element), columns)
        self.at.env = saved

    @contextmanager
    def results(self, name: str, first: ir.Value, extent: Dim) -> Iterator[ir.Value]:
        """The places of a tile along an axis of the result that lie in it."""
        left = binary(self.b, "smin", i64(TILE), self.b.sub(self.at.dim(extent), first))
        with for_range(self.b, i64(0), left, name=name) as i:
            yield i


def input_transform(b: ir.IRBuilder, d: Sequence[ir.Value]) -> list[ir.Value]:
    """B^T d, for six values."""
    plus = _scaled_sums(b)
    near, far = NEAR**2, FAR**2
    of_near = plus(d[4], -far, d[2]), plus(d[3], -far, d[1])  # even and odd powers of x^2 - far
    of_far = plus(d[4], -near, d[2]), plus(d[3], -near, d[1])
    return [
        plus(plus(d[4], -(near + far), d[2]), near * far, d[0]),
        plus(of_near[0], NEAR, of_near[1]),
        plus(of_near[0], -NEAR, of_near[1]),
        plus(of_far[0], FAR, of_far[1]),
        plus(of_far[0], -FAR, of_far[1]),
        plus(plus(d[5], -(near + far), d[3]), near * far, d[1]),
    ]


def output_transform(b: ir.IRBuilder, m: Sequence[ir.Value]) -> list[ir.Value]:
    """A^T m, for six values."""
    plus = _scaled_sums(b)
    even_near, odd_near = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
    even_far, odd_far = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])

    def times(factor: float, x: ir.Value) -> ir.Value:
        return b.fmul(constant(x.type, factor), x)

    return [
        b.fadd(b.fadd(m[0], even_near), even_far),
        plus(times(NEAR, odd_near), FAR, odd_far),
        plus(times(NEAR**2, even_near), FAR**2, even_far),
        plus(plus(m[5], NEAR**3, odd_near), FAR**3, odd_far),
    ]


def _scaled_sums(b: ir.IRBuilder) -> Callable[[ir.Value, float, ir.Value], ir.Value]:
    """The function (x, factor, y) -> x + factor * y."""
    return lambda x, factor, y: fma(b, constant(y.type, factor), y, x)
