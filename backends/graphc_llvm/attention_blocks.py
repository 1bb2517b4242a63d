"""How an attention's work is cut: blocks of queries, which are work items, blocks of keys, and the scratch that they take."""

from __future__ import annotations

from graphc.ir.symbolic import Dim, bounds, ceildiv
from graphc_llvm.attention_products import Products

BLOCK_BYTES = 128 << 10
"""Of k in a block, where the numbers of keys below leave a choice: an eighth of the L2 cache."""
LEAST_KEYS, MOST_KEYS = 256, 512
"""Keys of a block, at least, so that joining blocks costs little, and at most, so that a tile's scores stay in L1."""
STRICT_KEYS = 1024
"""Keys that strict numerics, which allow one block alone, have it take."""
BLOCK_ROWS = 256
"""Queries that share a packed block of k, at most: packing it costs as much as the products of about four."""
FEWEST_ROWS = 24
"""Queries of a block from which on looking for hidden keys that may be left out pays."""


def may_run(p: Products, numerics: str) -> bool:
    """Whether the kernel computes what these numerics allow: strict ones have no sums, or products, that are scaled later."""
    high = bounds(p.keys)[1]
    return numerics != "strict" or (high is not None and high <= STRICT_KEYS and not p.scaled)


def block_rows(p: Products) -> int:
    """Queries of a work item: whole tiles."""
    return BLOCK_ROWS // p.scores.tile_rows * p.scores.tile_rows


def work_items(p: Products) -> Dim:
    """The extent of the kernel's range."""
    return p.batch * ceildiv(p.scores.row_count, block_rows(p))


def scratch_bytes(p: Products, numerics: str) -> int:
    """Scratch of one worker."""
    return sum(Areas(p, numerics).sizes.values()) * p.scores.dtype.bytes


def moved_bytes(p: Products) -> Dim:
    """Bytes of operands and results, each counted once."""
    return sum((x.type.bytes for x in p.result.body.buffers if x.name != p.result.a.buffer), 0)


class Areas:
    """The parts of the scratch memory, in elements; each begins at a multiple of 64 bytes.

    one: whether there is one block of keys; keys: how many a block has, at most; columns: of v, in whole panels.
    """

    def __init__(self, p: Products, numerics: str) -> None:
        s, r = p.scores, p.result
        high, depth, columns = bounds(p.keys)[1], s.inner.extent, r.column.extent
        assert isinstance(depth, int) and isinstance(columns, int)
        block = min(max(BLOCK_BYTES // (depth * s.dtype.bytes), LEAST_KEYS), MOST_KEYS) // s.width * s.width
        self.one = numerics == "strict" or (high is not None and high <= block)
        self.keys = -(-high // s.width) * s.width if self.one and high is not None else block
        self.columns = -(-columns // r.width) * r.width
        rows = 0 if self.one else block_rows(p)
        sizes = {
            "packed": depth * self.keys,
            "values": self.keys // 2 * self.columns if p.pair else 0,
            "weights": s.tile_rows * self.keys,
            "factors": s.tile_rows * self.keys if p.scaled else 0,
            "tile": s.tile_rows * r.width,
            "sums": rows * self.columns,
            "highest": rows,
            "totals": rows,
        }
        self.sizes = {k: -(-n // 64) * 64 for k, n in sizes.items()}
