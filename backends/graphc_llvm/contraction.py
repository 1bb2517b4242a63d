"""Recognizes the bodies that are matrix products in disguise: dense layers, batched products, convolutions.

A contraction sums A * B over its reduction axes, where B and the result are dense along one parallel axis, the
`column`, and A doesn't depend on it. Axes that only A has are `rows`; those that neither or both have are `batch`.
Reduction axes that predicates of A mention (a convolution's taps) are walked outside the `inner` one.

The column n is cut into panels, n = width * panel + lane. B's address must be affine in panel and lane: true for a
row-major B with any width, and for a B packed as [n // width][k][n % width] with that width alone.

Operands may be narrower floats than the sum, widened as they are read. A B of bf16 that is packed in pairs, [n //
width][k // 2][n % width][k % 2], makes a `pair` of one reduction axis, which one instruction multiplies and adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from graphc.ir.symbolic import Dim, bounds, ceildiv, nonnegative, product, substitute, symbol
from graphc.ir.types import DType, bf16
from graphc.lowering.contraction import Affine, address, affine, group_sizes, names_in, split_axis
from graphc.lowering.loop_body import (
    Apply,
    Axis,
    Index,
    Load,
    LoopBody,
    Reduce,
    Statement,
    Store,
)
from graphc.lowering.rewriting import expressions, operands
from graphc_llvm.target import Target

SHORTEST_RUN = 5
"""Terms of the sum between two looks at the padding, at least: where a convolution has fewer channels, choosing the rows'
pointers costs more than the products, and the general nest, which tells borders from the inside, is up to 1.7 times faster.
"""

LATENCY = 4
"""Cycles from a multiply-add to the next one on the same sum."""

WORTH_LOWER = 0.985
"""Of the highest tile's predicted time: what a lower one must stay below."""

NEAR_TERMS = 4
"""Terms of an inner axis, at least, that make up for starting it anew."""

BLOCK_DEPTH = 512
"""Terms of the sum that a block of B holds: 512 x 64 f32 are 128 KiB, an eighth of the L2 cache."""

PANEL, LANE = "panel", "lane"


@dataclass(frozen=True)
class Contraction:
    """A body as a matrix product; see the module. `tile_rows` x `width` is the register tile; `block_depth`: of B's blocks."""

    body: LoopBody
    dtype: DType
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    column: Axis
    taps: tuple[Axis, ...]
    inner: Axis
    a: Load
    b: Load
    a_address: Affine
    b_address: Affine
    reduced: str
    epilogue: tuple[Statement, ...]
    width: int
    tile_rows: int
    pair: Axis | None = None
    block_depth: int = BLOCK_DEPTH

    @property
    def a_dtype(self) -> DType:
        """Of A in memory; `dtype` is that of the sum."""
        return self.body.buffer(self.a.buffer).type.dtype

    @property
    def b_dtype(self) -> DType:
        """Of B in memory."""
        return self.body.buffer(self.b.buffer).type.dtype

    @property
    def terms(self) -> int:
        """Terms of the sum that are read and multiplied at once; in B they are neighbours."""
        return 1 if self.pair is None else 2

    @property
    def panels(self) -> Dim:
        return ceildiv(self.column.extent, self.width)

    @property
    def row_count(self) -> Dim:
        return product(a.extent for a in self.rows)

    @property
    def flops(self) -> Dim:
        return 2 * product(a.extent for a in self.body.axes)


def match(body: LoopBody, target: Target) -> Contraction | None:
    """The body as a contraction that the register-tiled kernel takes, or None.

    A grouped convolution's channel axis, of which A reads the group alone, is cut into groups first.
    """
    for axis, size in group_sizes(body, "reduction"):
        if size == 2:
            body = split_axis(body, axis, 2)
    twos = [a for a in body.axes_of("reduction") if a.extent == 2 and target.bf16_pairs]
    found = (_match_grouped(body, target, pair) for pair in (*reversed(twos), None))
    return next((c for c in found if c is not None), None)


def _match_grouped(body: LoopBody, target: Target, pair: Axis | None) -> Contraction | None:
    found = _match(body, target, pair)
    if found is None:
        for axis, size in group_sizes(body):
            found = found or _match(split_axis(body, axis, size), target, pair)
    return found


def _match(body: LoopBody, target: Target, pair: Axis | None) -> Contraction | None:
    reduced = {a.name for a in body.axes_of("reduction")}
    if body.sequential or not reduced or body.axes_of("scan"):
        return None
    if any(a.extent == 0 for a in body.axes) or any((bounds(a.extent)[0] or 0) < 1 for a in body.axes_of("reduction")):
        return None  # the tiles of an empty sum would never be finished
    core = product_of_loads(body, reduced)
    if core is None:
        return None
    reduce, x, y, epilogue = core
    for a, b in ((x, y), (y, x)):
        if b.predicate or a.checked or b.checked:
            continue
        for column in reversed(body.axes_of("parallel")):
            found = _with_column(body, reduce, a, b, column, epilogue, target, pair)
            if found is not None:
                return found
    return None


def product_of_loads(body: LoopBody, reduced: set[str]) -> tuple[Reduce, Load, Load, tuple[Statement, ...]] | None:
    """(reduce, load, load, the rest) where the nest sums the product of two plain loads, else None."""
    defined: dict[str, Statement] = {s.value: s for s in body.statements if not isinstance(s, Store)}
    reduces = [s for s in body.statements if isinstance(s, Reduce)]
    if len(reduces) != 1 or reduces[0].kind != "sum" or reduces[0].dtype.name not in ("f32", "f64"):
        return None
    reduce = reduces[0]
    mul = defined.get(str(reduce.operand))
    if not (isinstance(mul, Apply) and mul.op == "mul" and mul.operand_dtype == reduce.dtype):
        return None
    x, y = (defined.get(str(o)) for o in mul.operands)
    if not (isinstance(x, Load) and isinstance(y, Load)) or x is y:
        return None
    stored = [body.buffer(load.buffer).type.dtype for load in (x, y)]
    if any(load.dtype != reduce.dtype for load in (x, y)) or not all(t.is_float for t in stored):
        return None
    rest = tuple(s for s in body.statements if s not in (reduce, mul, x, y))
    used = {o for s in rest for o in operands(s)}
    if {mul.value, x.value, y.value} & used or any(_mentions(s, reduced) for s in rest):
        return None
    return reduce, x, y, rest


def _mentions(s: Statement, names: set[str]) -> bool:
    return any(names_in(e) & names for e in expressions(s))


def _with_column(
    body: LoopBody,
    reduce: Reduce,
    a: Load,
    b: Load,
    column: Axis,
    epilogue: tuple[Statement, ...],
    target: Target,
    pair: Axis | None,
) -> Contraction | None:
    axes = {x.name for x in body.axes}
    a_flat = address(body.buffer(a.buffer), a.index)
    b_flat = address(body.buffer(b.buffer), b.index)
    if column.name in names_in(a_flat) or _mentions(Store("", (), 0, a.predicate), {column.name}):
        return None
    if not all(dense_along(body, s, column.name, axes) for s in epilogue):
        return None
    a_address = affine(a_flat, axes)
    if a_address is None or not all(affine(r.expression, axes) for r in a.predicate):
        return None
    if pair is not None and (_stored(body, a) != bf16 or _stored(body, b) != bf16):
        return None
    a_names = names_in(a_flat) | {n for r in a.predicate for n in names_in(r.expression)}
    rows = tuple(
        x for x in body.axes_of("parallel") if x != column and x.name in a_names and x.name not in names_in(b_flat)
    )
    batch = tuple(x for x in body.axes_of("parallel") if x != column and x not in rows)
    predicated = {n for r in a.predicate for n in names_in(r.expression)}
    free = [x for x in body.axes_of("reduction") if x.name not in predicated and x != pair]
    if not free:
        return None
    dense = 1 if pair is None else 2
    inner = max(free, key=lambda x: _nearness(a_address.of(x.name), dense, bounds(x.extent)[0] or 0))
    taps = tuple(x for x in body.axes_of("reduction") if x not in (inner, pair))
    grouped = any(x.name in names_in(b_flat) for x in batch)
    if taps and predicated and not grouped and not nonnegative(inner.extent - SHORTEST_RUN):
        return None
    count = product(x.extent for x in rows)
    for width in panel_widths(column.extent, count, reduce.dtype, target):
        b_address = _panel_address(b_flat, column, width, axes, pair)
        if b_address is not None:
            height = even_height(count, width // target.lanes(reduce.dtype.bytes), target)
            inner, taps = _as_one(inner, taps, predicated, (a_address, b_address))
            return Contraction(
                body,
                reduce.dtype,
                batch,
                rows,
                column,
                taps,
                inner,
                a,
                b,
                a_address,
                b_address,
                reduce.value,
                epilogue,
                width,
                height,
                pair,
            )
    return None


def _nearness(stride: Dim, dense: int, terms: int) -> tuple[bool, bool, float, int]:
    """How good an axis is to walk inside: where A is dense, else where enough terms lie near to each other."""
    return stride == dense, terms >= NEAR_TERMS, -stride if isinstance(stride, int) else -inf, terms


def _as_one(
    inner: Axis, taps: tuple[Axis, ...], predicated: set[str], addresses: tuple[Affine, ...]
) -> tuple[Axis, tuple[Axis, ...]]:
    """The inner axis made longer by those that go on where it ends, in both operands; and the taps that are left."""
    for x in taps:
        if x.name not in predicated and all(y.of(x.name) == y.of(inner.name) * inner.extent for y in addresses):
            rest = tuple(y for y in taps if y != x)
            return _as_one(Axis(inner.name, inner.extent * x.extent, "reduction"), rest, predicated, addresses)
    return inner, taps


def _stored(body: LoopBody, load: Load) -> DType:
    return body.buffer(load.buffer).type.dtype


def _panel_address(flat: Dim, column: Axis, width: int, axes: set[str], pair: Axis | None) -> Affine | None:
    panels = ceildiv(column.extent, width)
    panel, lane = symbol(PANEL, 0, panels - 1), symbol(LANE, 0, width - 1)
    split = affine(substitute(flat, {column.name: panel * width + lane}), (axes - {column.name}) | {PANEL, LANE})
    if split is None or (pair is not None and split.of(pair.name) != 1):
        return None
    return split if split.of(LANE) == (1 if pair is None else 2) else None


def dense_along(body: LoopBody, s: Statement, column: str, axes: set[str]) -> bool:
    """Whether a statement of the epilogue runs on vectors along the column: its stride there is 0 or 1, a counter's fixed."""
    if isinstance(s, Apply):
        return True
    if isinstance(s, Index):
        counted = affine(s.expression, axes)
        return counted is not None and isinstance(counted.of(column), int)
    if not isinstance(s, Load | Store):
        return False
    if s.predicate or s.checked or (isinstance(s, Store) and s.combine != "set"):
        return False
    flat = affine(address(body.buffer(s.buffer), s.index), axes)
    if flat is None:
        return False
    return flat.of(column) == 1 or (flat.of(column) == 0 and isinstance(s, Load))


def panel_widths(columns: Dim, rows: Dim, dtype: DType, target: Target) -> list[int]:
    """The widths that a panel of B may have, best first: least padding, then the squarest register tile."""
    lanes = target.lanes(dtype.bytes)
    most = 4 if target.vector_registers >= 32 else 2
    options = [lanes * v for v in (most, most - 1, 2, 1) if v > 0]
    options = list(dict.fromkeys(options))
    if not isinstance(columns, int) or columns == 0:
        return options
    return sorted(options, key=lambda w: (_waste(columns, w), -w))


def _waste(columns: int, width: int) -> float:
    """Time per useful column, roughly: padding, and narrow tiles' lower rate."""
    padded = -(-columns // width) * width
    rate = {1: 0.8, 2: 0.97, 3: 0.99}.get(width // 16, 1.0) if width >= 16 else 0.9
    return round(padded / columns / rate, 3)


def tile_heights(rows: Dim, predicted: int, vectors: int, target: Target) -> list[int]:
    """Heights that a register tile may have: the predicted one, those next to it, and one that divides the rows."""
    most = (target.vector_registers - vectors - 1) // vectors
    if not isinstance(rows, int):
        return [predicted, *(h for h in (predicted - 1, predicted + 1) if 1 <= h <= most)]
    dividing = [h for h in range(most, predicted // 2, -1) if rows % h == 0][:1]
    near = [h for h in (predicted + 1, predicted - 1) if 1 <= h <= min(most, rows)]
    return list(dict.fromkeys((predicted, *dividing, *near)))


def even_height(rows: Dim, vectors: int, target: Target) -> int:
    """`tile_height`, or a lower one where the rows that are left at the end then cost less."""
    most = tile_height(rows, vectors, target)
    if not isinstance(rows, int):
        return most
    heights = range(most, max(2, most * 2 // 3) - 1, -1)
    cost = {h: rows // h * _tile_cost(h, vectors) + _tile_cost(rows % h, vectors) for h in heights}
    best = min(heights, key=cost.__getitem__, default=most)
    return best if cost and cost[best] < WORTH_LOWER * cost[most] else most


def _tile_cost(height: int, vectors: int) -> int:
    """Half cycles of a tile for a term of the sum: two multiply-adds a cycle, their latency, or two loads a cycle."""
    return max(height * vectors, 2 * LATENCY, height + vectors) if height else 0


def tile_height(rows: Dim, vectors: int, target: Target) -> int:
    """Rows of the register tile for a panel of that many vectors: what accumulators leave room for."""
    budget = {4: 6, 3: 8, 2: 12, 1: 14} if target.vector_registers >= 32 else {2: 6, 3: 4, 1: 8}
    most = budget[vectors]
    if isinstance(rows, int):
        return min(rows, most)
    return most
