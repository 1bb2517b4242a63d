"""How an attention's gradient is cut: blocks of keys and of queries, and the scratch that they take."""

from __future__ import annotations

from graphc.ir.symbolic import Dim
from graphc_llvm.attention_gradient_products import Gradient
from graphc_llvm.emit import CACHE_LINE

KEYS = 128
"""Of a block: their panels of k and v stay in L1 while a block of queries passes."""
QUERIES = 192
"""Of a block: sums over them are long enough that reading and writing what was summed before costs little."""


def work_items(g: Gradient) -> Dim:
    """The extent of the kernel's range: each item has all queries and keys, so nothing is summed by two workers."""
    return g.batch


def scratch_bytes(g: Gradient) -> int:
    """Scratch of one worker."""
    return sum(Areas(g).sizes.values()) * g.first.dtype.bytes


class Areas:
    """The parts of the scratch memory, in elements; each begins at a multiple of 64 bytes.

    keys, queries: of a block; stride: from row to row of a tile, an odd number of cache lines, so that a column of it
    is spread over the cache.
    """

    def __init__(self, g: Gradient) -> None:
        width, line = g.first.width, CACHE_LINE // g.first.dtype.bytes
        self.keys = -(-KEYS // width) * width
        height = max(g.first.tile_rows, g.second.tile_rows)
        self.queries = -(-QUERIES // height) * height
        lines = -(-self.keys // line)
        self.stride = (lines + 1 - lines % 2) * line
        sizes = {f"tile{i}": self.queries * self.stride for i in range(g.tiles)}
        for name, c in (("first", g.first), ("second", g.second)):
            depth = c.inner.extent
            assert isinstance(depth, int)
            sizes[name] = depth * (-(-self.keys // c.width) * c.width)
        self.sizes = {k: -(-n // line) * line for k, n in sizes.items()}
