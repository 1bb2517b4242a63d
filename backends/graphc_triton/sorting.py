"""Sorting: each element counts those that come before it, and that is its place. n^2 comparisons a row, in parallel, stable."""

from __future__ import annotations

from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, ceildiv, free_symbols, product, symbol
from graphc.lowering.loop_body import Buffer
from graphc_triton.function import Function
from graphc_triton.pointwise import warps_of
from graphc_triton.scope import Kernel
from graphc_triton.templates import finish, guess, is_wide, power_of_2

MOST = 256
"""Elements of a block."""


def emit(node: Node) -> Function:
    """grid: rows x blocks of a row. A row is read once for each of its blocks, element by element, and written once."""
    x, axis = node.operands[0].type, node["axis"]
    length, inner = x.shape[axis], product(x.shape[axis + 1 :])
    buffers = [Buffer("0", x, "in"), Buffer("1", x, "out"), Buffer("2", node.results[1].type, "out")]
    kernel = Kernel({b.name: b for b in buffers}, False, is_wide(buffers, []))
    size = min(MOST, max(16, power_of_2(guess(length))))
    n, stride = kernel.sized(length), kernel.sized(inner)
    line = kernel.top.line
    line(f"pid = {kernel.index('tl.program_id(0)')}")
    line(f"blocks = tl.cdiv({n}, BLOCK)")
    line("row = pid // blocks")
    line("k = pid % blocks * BLOCK + tl.arange(0, BLOCK)")
    line(f"start = row // ({stride}) * ({n}) * ({stride}) + row % ({stride})")
    line(f"x = tl.load(a_ptr + start + k * ({stride}), mask=k < {n}, other=0)")
    line("place = k * 0")
    loop = kernel.top.block(f"for j in range(0, {n}):")
    loop.line(f"y = tl.load(a_ptr + start + j * ({stride}))")
    loop.line(f"place += device.comes_before(y, j, x, k, {node['descending']})")
    line(f"tl.store(out0_ptr + start + place * ({stride}), x, mask=k < {n})")
    line(f"tl.store(out1_ptr + start + place * ({stride}), k.to(tl.int64), mask=k < {n})")
    doc = f"One program finds the places of BLOCK of {length} elements of a row."
    grid = product(x.shape[:axis]) * inner * ceildiv(length, size)
    return finish(kernel, "sort_kernel", doc, "sort", {"BLOCK": size}, grid, warps_of(4 * size))


def text(node: Node) -> str:
    """What is sorted: equal texts are equal kernels."""
    return f"sort {node.operands[0].type} along {node['axis']}, {'descending' if node['descending'] else 'ascending'}\n"


def sizes(node: Node) -> tuple[Dim, ...]:
    """The symbols of the shape, in order."""
    found = {s.name: s for d in node.operands[0].type.shape for s in free_symbols(d)}
    return tuple(symbol(s.name, s.low, s.high) for _, s in sorted(found.items()))


def comparisons(node: Node) -> Dim:
    """How many pairs are compared."""
    x = node.operands[0].type
    along: Dim = x.shape[node["axis"]]
    return product(x.shape) * along
