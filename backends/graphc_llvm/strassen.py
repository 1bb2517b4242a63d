"""Matrix products by seven half-size products in place of eight: where it pays, and how the work is cut.

Winograd's form of Strassen's algorithm. A, B and C are cut in two along rows, sum and columns:

    S1 = A21 + A22    T1 = B12 - B11    P1 = A11 B11    P5 = S1 T1    U2 = P1 + P6    C11 = P1 + P2
    S2 = S1 - A11     T2 = B22 - T1     P2 = A12 B21    P6 = S2 T2    U3 = U2 + P7    C12 = U2 + P5 + P3
    S3 = A11 - A21    T3 = B22 - B12    P3 = S4 B22     P7 = S3 T3                    C21 = U3 - P4
    S4 = A12 - S2     T4 = T2 - B21     P4 = A22 T4                                   C22 = U3 + P5

The first and second of the rows are neighbours, so are the panels of columns; the sum is cut in the middle. An element's
error is bounded by the largest value near it, not by its own terms: fast numerics only. On random data it is about three
times that of the direct product. An infinity or NaN in a row of A reaches the neighbouring row too.
Source: Strassen, "Gaussian Elimination is not Optimal", 1969; Higham, "Accuracy and Stability of Numerical Algorithms", 23.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Dim, bounds, ceildiv, floordiv, product
from graphc_llvm.contraction import Contraction
from graphc_llvm.target import Target

MARGIN = 0.98
"""How long it may be predicted to take, of the direct product's time."""
PASS_CYCLES, RIGHT_CYCLES, LEFT_CYCLES = 4.7, 2.0, 33.0
"""Cycles beyond those of multiply-adds, fitted to 28 products of one core with AVX-512: for a register of a tile's sums, each
time that one of the seven products begins and ends it; for a register of terms of B, where T1 to T4 are made; for a register
of terms of a pair of A's rows, where the left operands are."""
CHUNK = 256
"""Terms of the sum that are added in one register, at most, as in `gemm.py`."""
BLOCK_ROWS = 240
"""Rows of A that share what is made of B, at most."""
SCRATCH = 6 << 20
"""Bytes that a worker's left operands may take; a block has fewer rows where the sum is long."""


@dataclass(frozen=True)
class Strassen:
    """How the product `c` is cut. A work item is a block of rows times a couple of panels.

    half: of the sum's terms; depth: of those, how many are done at a time, so that a panel of them stays in L1; rows: of each
    block but the last, or, where their number isn't known, of the largest; least: rows of a block below which the direct
    product is faster.
    """

    c: Contraction
    half: int
    depth: int
    rows: int
    least: int

    @property
    def chunks(self) -> int:
        return -(-self.half // self.depth)

    @property
    def pairs(self) -> int:
        """Pairs of rows of a block, rounded up to whole tiles."""
        return -(-self.rows // (2 * self.c.tile_rows)) * self.c.tile_rows

    @property
    def blocks(self) -> Dim:
        return ceildiv(self.c.row_count, self.rows)

    @property
    def couples(self) -> Dim:
        return ceildiv(self.c.panels, 2)

    @property
    def work_items(self) -> Dim:
        return product(a.extent for a in self.c.batch) * self.blocks * self.couples

    @property
    def flops(self) -> Dim:
        """Of the seven products; the sums come on top."""
        return floordiv(7 * self.c.flops, 8)

    @property
    def left_size(self) -> int:
        """Elements of one of the seven left operands of a chunk."""
        return self.pairs * self.depth

    @property
    def scratch_bytes(self) -> int:
        """Of one worker: a couple's results, two sums of products, T's panel, and the left operands."""
        width = self.c.width
        elements = 6 * self.pairs * width + self.depth * width + self.chunks * 7 * self.left_size
        return elements * self.c.dtype.bytes


def plan(c: Contraction, target: Target, margin: float | None = None) -> Strassen | None:
    """The product by Strassen's algorithm; None where it hasn't the form for it, or takes longer than `margin` (default: MARGIN)
    of the direct product's time.
    """
    margin = MARGIN if margin is None else margin
    terms, lanes = c.inner.extent, target.lanes(c.dtype.bytes)
    if not isinstance(terms, int) or terms % (2 * lanes) or not _is_plain(c):
        return None
    half = terms // 2
    fitting = max(lanes, min(CHUNK, target.l1 * 2 // 3 // (c.width * c.dtype.bytes)) // lanes * lanes)
    chunks = -(-half // fitting)
    depth = -(-half // (chunks * lanes)) * lanes
    unit = 2 * c.tile_rows
    most = min(BLOCK_ROWS, SCRATCH // (7 * half * c.dtype.bytes) * 2) // unit * unit
    couples = c.panels // 2 if isinstance(c.panels, int) else 1
    if couples == 0:
        return None
    tile = c.tile_rows, c.width // lanes
    predicted = {r: cycles(r, half, depth, couples, tile, lanes) for r in range(unit, most + 1)}
    faster = [r for r, (direct, strassen) in predicted.items() if strassen < margin * direct]
    high = bounds(c.row_count)[1]
    if not faster or (high is not None and high < faster[0]):
        return None
    rows = _share(c.row_count, most, unit) if isinstance(c.row_count, int) else most
    return Strassen(c, half, depth, rows, faster[0])


def _share(rows: int, most: int, unit: int) -> int:
    """Rows of each block but the last, of at most so many: equal shares of all, of whole tiles."""
    blocks = -(-rows // most)
    return -(-rows // (blocks * unit)) * unit


def _is_plain(c: Contraction) -> bool:
    """Whether A's rows are contiguous in f32, never padded, and B is packed in panels."""
    packed = c.body.buffer(c.b.buffer).type.shape[-1:] == (c.width,) and c.b_address.of(c.inner.name) == c.width
    floats = {c.dtype.name, c.a_dtype.name, c.b_dtype.name} == {"f32"}
    return packed and floats and not c.taps and not c.a.predicate and c.a_address.of(c.inner.name) == 1


def cycles(rows: int, half: int, depth: int, couples: int, tile: tuple[int, int], lanes: int) -> tuple[float, float]:
    """Predicted cycles of a block of so many rows and two panels: (direct, by Strassen's algorithm); tile: rows, registers."""
    height, registers = tile

    def tiles(rows: int) -> float:
        """For one term of the sum: of arithmetic, or of latency."""
        whole, rest = divmod(rows, height)
        return (whole * height * registers + (max(rest * registers, 8) if rest else 0)) / 2

    pairs = -(-rows // 2)
    passes = 7 * -(-pairs // height) * -(-half // depth)
    products = 7 * half * tiles(pairs) + passes * PASS_CYCLES * registers * height
    sums = half * registers * RIGHT_CYCLES + pairs * half / lanes * LEFT_CYCLES / couples
    return 2 * 2 * half * tiles(rows), products + sums
