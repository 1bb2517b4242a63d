"""Matrix products: dense layers, batched products, convolutions as implicit GEMM, with prologue and epilogue.

One program computes a BLOCK_M x BLOCK_N tile of the result in tensor cores' registers, walking k. Row m of `a`, and column n
of `b`, are whatever places the loads' indices say: for a convolution in NHWC, m is (image, y, x) and k is (window, channel).
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Dim, ceildiv, product
from graphc.lowering.contraction import Contraction
from graphc.lowering.loop_body import Load
from graphc_triton.function import Function
from graphc_triton.operations import TYPES, Term
from graphc_triton.scope import Group, Kernel, Scope, Value, count_uses
from graphc_triton.templates import finish, guess, is_masked, is_wide, power_of_2

GROUP_M = 8
"""Rows of tiles that programs go through together, so that what they read of `b` is still in L2."""

PROCESSORS = 132
"""Of an H100 or H200: smaller tiles where there are too few for all."""


@dataclass(frozen=True)
class Tile:
    """The sizes of a tile, in elements, and the warps and stages of the pipeline of loads that compute it."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def choose_tile(rows: int, columns: int, depth: int, batch: int, element_bytes: int) -> Tile:
    """The largest tile that the product fills and that leaves no processor idle."""
    if element_bytes > 4:
        return Tile(min(32, fit(rows)), min(32, fit(columns)), 16, 4, 1)
    k = min(64 if element_bytes == 2 else 32, fit(depth))
    m, n = min(128, fit(rows)), min(128, fit(columns))
    while -(-rows // m) * -(-columns // n) * batch < PROCESSORS and m * n > 64 * 32:
        if m >= n and m > 64:
            m //= 2
        elif n > 32:
            n //= 2
        else:
            break
    return Tile(m, n, k, 8 if m * n > 64 * 128 else 4, 3)


def fit(extent: int) -> int:
    """The block for an extent: a power of 2, at least what tensor cores take."""
    return max(16, power_of_2(extent))


def emit(c: Contraction, name: str, strict: bool) -> Function:
    """grid: tiles of m x tiles of n x batch. Reads a and b once a tile of the other; 2 m n k flops."""
    buffers = {b.name: b for b in c.body.buffers}
    kernel = Kernel(buffers, strict, is_wide(c.body.buffers, [c.body]))
    kernel.replicated = sum(b.access == "out" for b in c.body.buffers) > 1
    rows, columns = product(a.extent for a in c.rows), product(a.extent for a in c.columns)
    depth, batch = product(a.extent for a in c.body.axes_of("reduction")), product(a.extent for a in c.batch)
    tile = choose_tile(guess(rows), guess(columns), guess(depth), guess(batch), element_bytes(c))
    constants = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
    m = Group("m", c.rows, 0, "BLOCK_M", "[:, None]", is_masked(rows, tile.m))
    n = Group("n", c.columns, 1, "BLOCK_N", "[None, :]", is_masked(columns, tile.n))
    deep, reduced = is_masked(depth, tile.k), c.body.axes_of("reduction")
    across = Group("k", reduced, 1, "BLOCK_K", "[None, :]", deep, True)
    down = Group("k", reduced, 0, "BLOCK_K", "[:, None]", deep, True)
    batches = [Group("batch", c.batch, None, masked=False)] if c.batch else []
    kernel.names.taken |= {"m", "n", "k", "batch", "pid", "start"}
    _place_program(kernel, rows, columns, bool(c.batch))
    before = kernel.top.block()
    before.known = kernel.top.known
    wide = ".to(tl.int64)" if kernel.wide else ""
    uses = count_uses((*c.prologue, *c.epilogue))
    dtype = TYPES[c.reduce.dtype.name]
    accumulator = kernel.names.new("acc")
    before.line(f"{accumulator} = tl.zeros([BLOCK_M, BLOCK_N], {dtype})")
    loop = kernel.top.block(f"for start in range(0, {kernel.sized(depth)}, BLOCK_K):")
    loop.line(f"k = start + tl.arange(0, BLOCK_K){wide}")
    x = _operand(Scope(kernel, [*batches, m, across], before, loop, uses=uses), c, c.a)
    y = _operand(Scope(kernel, [*batches, down, n], before, loop, uses=uses), c, c.b)
    if "raw" in (x[1], y[1]) and x[1] != y[1]:
        x, y = (_widened(x), _widened(y))
    precision = ', input_precision="ieee"' if strict or c.reduce.dtype.name == "f64" else ', input_precision="tf32x3"'
    precision = "" if x[1] == "raw" else precision
    out = "" if dtype == "tl.float32" else f", out_dtype={dtype}"
    loop.line(f"{accumulator} = tl.dot({x[0]}, {y[0]}, {accumulator}{precision}{out})")
    after = kernel.top.block()
    after.known = kernel.top.known
    done = Value(Term(accumulator), frozenset({0, 1}), c.reduce.dtype)
    Scope(kernel, [*batches, m, n], after, after, {c.reduce.value: done}, uses).run(c.epilogue)
    doc = f"One program computes a tile of {f'{batch} products ' if c.batch else ''}[{rows}, {depth}] x [{depth}, {columns}]."
    grid = ceildiv(rows, tile.m) * ceildiv(columns, tile.n) * batch
    return finish(kernel, name, doc, "matmul", constants, grid, tile.warps, tile.stages)


def element_bytes(c: Contraction) -> int:
    """The size of the elements that are multiplied."""
    sizes = [c.body.buffer(s.buffer).type.dtype.bytes for v in (c.a, c.b) for s in c.needed(v) if isinstance(s, Load)]
    return 8 if c.reduce.dtype.name == "f64" else max(2, min(4, max(sizes)))


def _place_program(kernel: Kernel, rows: Dim, columns: Dim, batched: bool) -> None:
    """Which tile of which product this program computes; tiles in groups of rows, for L2."""
    line = kernel.top.line
    line(f"tiles_m = tl.cdiv({kernel.sized(rows)}, BLOCK_M)")
    line(f"tiles_n = tl.cdiv({kernel.sized(columns)}, BLOCK_N)")
    kernel.names.taken |= {"tiles_m", "tiles_n", "tile", "tile_m", "tile_n"}
    line(f"pid = {kernel.index('tl.program_id(0)')}")
    tile = "pid"
    if batched:
        line("batch = pid // (tiles_m * tiles_n)")
        line("tile = pid % (tiles_m * tiles_n)")
        tile = "tile"
    line(f"tile_m, tile_n = tl.swizzle2d({tile} // tiles_n, {tile} % tiles_n, tiles_m, tiles_n, {GROUP_M})")
    line("m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)")
    line("n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)")


def _operand(scope: Scope, c: Contraction, name: str) -> tuple[str, str]:
    """(variable of a tile of one side, "raw" where it is the 16-bit tile itself); 0 beyond the end of k."""
    scope.run(c.needed(name))
    value = scope.values[name]
    if value.dims != {0, 1}:
        shape = ", ".join(g.size for g in scope.groups if g.dim is not None)
        value = Value(Term(f"tl.broadcast_to({value.term.text}, {shape})"), frozenset({0, 1}), value.dtype, True)
    k = next(g for g in scope.groups if g.name == "k")
    clean = not k.masked or "k" in value.zero_outside
    if value.raw is not None and clean:
        return value.raw, "raw"
    text = value.term.text
    if not clean:
        text = f"tl.where({scope.mask((k.dim,) if k.dim is not None else ())}, {text}, 0.0)"
    return (text if text.isidentifier() else scope.remember(text, "tile", True)), ""


def _widened(x: tuple[str, str]) -> tuple[str, str]:
    return (f"{x[0]}.to(tl.float32)", "") if x[1] == "raw" else x
