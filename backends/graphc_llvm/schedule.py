"""How a nest is run: which axis is the vector, how much of the result stays in registers, what is a work item.

The choice compares, for each axis that could be the vector, an estimate of cycles per point: contiguous accesses are
loads, uniform ones are hoisted, all others cost one access a lane. Work items are as small as still hides their overhead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from graphc.ir.symbolic import Dim, Expr, bounds, ceildiv, free_symbols, linear, product, substitute, symbol
from graphc.lowering.loop_body import Apply, Axis, Reduce
from graphc_llvm.flat_body import FlatAccess, FlatBody, FlatLoad, FlatStore, expressions_of
from graphc_llvm.index import LANE
from graphc_llvm.target import Target

SLOW_OPERATORS = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
    "atanh", "erf", "sigmoid", "pow", "rem", "mod", "div",
})  # fmt: skip
SLOW_COST = 12.0
GATHER_COST = 1.2  # a lane, in loads
SCATTER_COST = 2.0
ASSUMED_EXTENT = 64  # of a dynamic axis
ITEM_CYCLES = 4000  # a work item should take at least
MOST_CYCLES = 60000  # and, where it can be cut, at most
UNROLL_LIMIT = 8  # points of unrolled reduction axes
NEAR_COST = 1.5  # times the lowest: what an estimate may be wrong by
STATEMENT_LIMIT = 300  # statements in an innermost body


@dataclass(frozen=True)
class Schedule:
    """The decisions for one nest.

    vector: the axis whose points fill `lanes`, `unroll` vectors at a time; chunk: it is cut in pieces of that length,
    which are work items. block: the axis of which `block_size` points are computed at a time, to reuse what they share;
    block_outer: blocks are work items; block_first: they are outside of the loop over vectors; transposes: a block has
    as many points as a vector, and loads that are contiguous along it are transposed in registers; blocks of two
    to four may be vectors that are stored interleaved. outer: the other axes of work items; inner: axes that loop inside
    one. reduction: axes that loop, outside of `unrolled` ones.
    """

    vector: Axis | None
    lanes: int
    unroll: int
    outer: tuple[Axis, ...] = ()
    inner: tuple[Axis, ...] = ()
    chunk: int | None = None
    block: Axis | None = None
    block_size: int = 1
    block_outer: bool = False
    block_first: bool = False
    transposes: bool = False
    reduction: tuple[Axis, ...] = ()
    unrolled: tuple[Axis, ...] = ()

    @property
    def reduces_lanes(self) -> bool:
        """Whether the vector axis is a reduction axis."""
        return self.vector is not None and self.vector.kind == "reduction"

    def outer_counts(self) -> list[Dim]:
        """The extents of the work items' axes, outermost first: `outer`, chunks, blocks."""
        counts = [a.extent for a in self.outer]
        if self.chunk is not None and self.vector is not None:
            counts.append(ceildiv(self.vector.extent, self.chunk))
        if self.block_outer and self.block is not None:
            counts.append(ceildiv(self.block.extent, self.block_size))
        return counts

    @property
    def work_items(self) -> Dim:
        """How many work items the nest has."""
        return product(self.outer_counts())


def schedule(body: FlatBody, target: Target, *, whole: bool = False, place: int = 0) -> Schedule:
    """The schedule of a nest; with `whole`, all of it inside one work item (a nest of a tile).

    place: that of the vector axis among those that could be it, the cheapest first.
    """
    cost, vector, lanes = _vector_axes(body, target)[place]
    s = _blocked(body, Schedule(vector, lanes, 1), target)
    if s.block is None and vector is not None:
        neighbours = _interleaved(body, vector)
        s = _transposing(body, s) if neighbours is None else replace(s, block=neighbours, block_size=guess(neighbours.extent))
    s = _reduction_order(body, s)
    if s.vector is not None and s.block is None:
        s = replace(s, unroll=_unroll(body, s))
    parallel = [a for a in body.axes_of("parallel") if a not in (s.vector, s.block)]
    if whole or body.sequential:
        return replace(s, inner=tuple(parallel))
    return _work_items(body, s, parallel, cost)


def guess(extent: Dim) -> int:
    """The extent, or what is assumed where it is dynamic."""
    if isinstance(extent, int):
        return max(extent, 1)
    low, high = bounds(extent)
    return max(low or 1, min(ASSUMED_EXTENT, high if high is not None else ASSUMED_EXTENT))


# The vector axis.


def vector_places(body: FlatBody, target: Target) -> int:
    """How many vector axes there are whose predicted cost is near to the lowest."""
    costs = [cost for cost, _, _ in _vector_axes(body, target)]
    return sum(cost < NEAR_COST * costs[0] for cost in costs)


def _vector_axes(body: FlatBody, target: Target) -> list[tuple[float, Axis | None, int]]:
    """(cycles per point, axis, lanes) of each way to fill vectors, the cheapest first."""
    width = target.lanes(_element_bytes(body))
    found: list[tuple[float, Axis | None, int]] = [(_cost(body, None, 1), None, 1)]
    for a in _candidates(body):
        lanes = width
        while lanes > 2 and isinstance(a.extent, int) and lanes // 2 >= a.extent:
            lanes //= 2
        found.append((_cost(body, a, lanes), a, lanes))
    return sorted(found, key=lambda way: way[0])


def _element_bytes(body: FlatBody) -> int:
    """Bytes of the widest float that is computed with, or of the widest other value where there are no floats."""
    types = [s.dtype for s in body.definitions.values()]
    types += [s.operand_dtype for s in body.statements if isinstance(s, Apply)]
    floats = [max(t.bytes, 4) for t in types if t.is_float]
    others = [t.bytes for t in types] + [s.access.buffer.type.dtype.bytes for s in body.stores]
    return max(floats) if floats else max(others, default=4)


def _candidates(body: FlatBody) -> list[Axis]:
    if body.sequential:
        distinct = [a for a in body.axes[-1:] if all(_kind(s.access, a, 2, body) == "unit" for s in body.stores)]
        return [a for a in distinct if a.kind == "parallel"]
    return [a for a in body.axes if a.kind != "scan" and a.extent != 1 and a.extent != 0]


def _kind(access: FlatAccess, axis: Axis, lanes: int, body: FlatBody) -> str:
    """How an access moves along an axis: "uniform", "unit" (contiguous), "shuffled" (a stride of 2 or -1), "irregular"."""
    for e in access.expressions():
        for s in free_symbols(e):
            if axis.name in body.dependences.get(s.name, ()):
                return "irregular"
    if not any(axis.name == s.name for e in access.expressions() for s in free_symbols(e)):
        return "uniform"
    if any(axis.name == s.name for c in access.checked for e in (c.index, c.stride) for s in free_symbols(e)):
        return "irregular"
    outside = symbol("block", 0, ceildiv(axis.extent, lanes) - 1)
    e = substitute(access.address, {axis.name: outside * lanes + symbol(LANE, 0, lanes - 1)})
    found = linear(e, [LANE])
    if found is None:
        return "irregular"
    step = found[0].get(LANE, 0)
    return {0: "uniform", 1: "unit", 2: "shuffled", -1: "shuffled"}.get(step, "irregular")


def _cost(body: FlatBody, axis: Axis | None, lanes: int) -> float:
    """Cycles per point of all axes, roughly."""
    reduced = prod(guess(a.extent) for a in body.axes_of("reduction"))
    reduction = {a.name for a in body.axes_of("reduction")}
    total = 0.0
    interleaved = axis is not None and _interleaved(body, axis) is not None
    for s in body.statements:
        names = body.store_dependences(s) if isinstance(s, FlatStore) else body.dependences[s.value]
        if isinstance(s, Reduce):
            names = names | reduction
        share = 1.0 if names & reduction else 1.0 / reduced
        if axis is None:
            total += share * _statement_cost(s, "uniform")
            continue
        used = min(1.0, guess(axis.extent) / lanes)
        if isinstance(s, FlatLoad | FlatStore):
            kind = _kind(s.access, axis, lanes, body)
        else:
            kind = "unit" if axis.name in names else "uniform"
        if isinstance(s, FlatStore) and interleaved:
            kind = "shuffled"
        elif isinstance(s, FlatStore) and kind == "shuffled":
            kind = "irregular"
        if kind == "irregular":
            total += share * (GATHER_COST if isinstance(s, FlatLoad) else SCATTER_COST) / used
        elif kind in ("unit", "shuffled"):
            total += share * (2.5 if kind == "shuffled" else _statement_cost(s, kind)) / (lanes * used)
        elif axis.kind == "reduction":
            total += share * _statement_cost(s, kind)  # a scalar at every point of the parallel axes
        else:
            total += share * 0.3 * _statement_cost(s, kind) / (lanes * used)
    if axis is not None and axis.kind == "reduction":
        total += len(body.reduces) * 8.0 / reduced
    return total


def _statement_cost(s: object, kind: str) -> float:
    if isinstance(s, Apply) and s.op in SLOW_OPERATORS:
        return SLOW_COST
    return 2.0 if isinstance(s, Reduce) and s.kind in ("argmax", "argmin") else 1.0


# Register blocks.


def _blocked(body: FlatBody, s: Schedule, target: Target) -> Schedule:
    """Chooses an axis to compute several points of at a time, where they share loads."""
    reduction = {a.name for a in body.axes_of("reduction")}
    if s.vector is None or not reduction or body.sequential:
        return s
    loads = [x for x in body.statements if isinstance(x, FlatLoad) and body.dependences[x.value] & reduction]
    loads = [x for x in loads if not any(n in body.definitions for e in expressions_of(x) for n in _names(e))]
    best: tuple[float, Axis | None] = (0.0, None)
    for a in body.axes_of("parallel"):
        if a is s.vector or guess(a.extent) < 2:
            continue
        gain = sum(_reuse(x.access, a, body) for x in loads)
        if gain and gain >= best[0]:  # the last of equals: what is unrolled overlaps along it
            best = (gain, a)
    axis = best[1]
    if axis is None:
        return s
    windows = _small_reduction(body)
    registers = target.vector_registers * 2 // 3
    if s.reduces_lanes:
        return replace(s, block=axis, block_size=_divisor(axis.extent, 4, 4))
    unroll = max(1, min(4, guess(s.vector.extent) // s.lanes))
    if windows:
        # A load that is one for all lanes serves several vectors.
        shared = any(_kind(x.access, s.vector, s.lanes, body) == "uniform" for x in loads)
        return replace(s, block=axis, block_size=_divisor(axis.extent, 4, 8), unroll=min(unroll, 2) if shared else 1)
    size = max(1, min(6, registers // unroll, guess(axis.extent)))
    if isinstance(axis.extent, int) and axis.extent % size and axis.extent > size:
        size = _divisor(axis.extent, max(2, size - 2), size)
    return replace(s, block=axis, block_size=size, unroll=unroll, block_first=True)


def _transposing(body: FlatBody, s: Schedule) -> Schedule:
    """Chooses the axis along which loads are contiguous that along the vector axis are strided."""
    plain = not body.axes_of("reduction") and not body.axes_of("scan") and not body.sequential
    if s.vector is None or not plain or len(body.statements) * s.lanes > STATEMENT_LIMIT:
        return s
    strided = [
        x.access
        for x in body.statements
        if isinstance(x, FlatLoad) and _kind(x.access, s.vector, s.lanes, body) == "irregular" and transposable(x.access)
    ]
    for a in body.axes_of("parallel"):
        if a is s.vector or guess(a.extent) < s.lanes:
            continue
        if any(_kind(access, a, s.lanes, body) == "unit" for access in strided):
            return replace(s, block=a, block_size=s.lanes, transposes=True)
    return s


def _interleaved(body: FlatBody, vector: Axis) -> Axis | None:
    """The axis of a few points whose vectors are stored interleaved: all stores have it innermost, `vector` next to it."""
    if vector.kind != "parallel" or body.axes_of("reduction") or body.axes_of("scan") or body.sequential:
        return None

    def interleaves(access: FlatAccess, a: Axis) -> bool:
        found = linear(access.address, [vector.name, a.name])
        return found is not None and transposable(access) and found[0] == {vector.name: a.extent, a.name: 1}

    few = (a for a in body.axes_of("parallel") if a.extent in (2, 3, 4) and a != vector)
    return next((a for a in few if all(s.combine == "set" and interleaves(s.access, a) for s in body.stores)), None)


def transposable(access: FlatAccess) -> bool:
    """Whether an access touches every element of a rectangle, whatever data and predicates say."""
    return not access.predicate and not access.checked


def _names(e: Dim) -> list[str]:
    return [s.name for s in free_symbols(e)]


def _reuse(access: FlatAccess, axis: Axis, body: FlatBody) -> float:
    """1 where all points of the axis read the same, less where their windows overlap, 0 where they share nothing."""
    if not any(axis.name in _names(e) for e in access.expressions()):
        return 1.0
    if not _small_reduction(body):
        return 0.0
    names = [axis.name, *(a.name for a in body.axes_of("reduction"))]
    found = linear(access.address, names)
    if found is None:
        return 0.0
    step = found[0].get(axis.name, 0)
    for a in body.axes_of("reduction"):
        other = found[0].get(a.name, 0)
        if other == 0 or not isinstance(a.extent, int):
            continue
        ratio = _ratio(step, other)
        if ratio is not None and ratio < a.extent:
            return 0.75 / ratio
    return 0.0


def _ratio(a: Dim, b: Dim) -> int | None:
    """The positive integer a / b, or None."""
    for k in range(1, 9):
        if a == b * k:
            return k
    return None


def _small_reduction(body: FlatBody) -> bool:
    axes = body.axes_of("reduction")
    return all(isinstance(a.extent, int) for a in axes) and prod(guess(a.extent) for a in axes) <= 64 and bool(axes)


def _divisor(extent: Dim, low: int, high: int) -> int:
    """The largest divisor of the extent in [low, high], or high (at most the extent)."""
    if isinstance(extent, int):
        if extent <= high:
            return max(extent, 1)
        for k in range(high, low - 1, -1):
            if extent % k == 0:
                return k
    return high


def _reduction_order(body: FlatBody, s: Schedule) -> Schedule:
    """Splits the reduction axes into loops and unrolled ones (small, static, innermost)."""
    axes = [a for a in body.axes_of("reduction") if a is not s.vector]
    points = s.block_size * s.unroll * max(1, len(body.definitions) - len(body.after_reduction))
    unrolled: list[Axis] = []
    while axes and isinstance(axes[-1].extent, int) and axes[-1].extent > 0:
        total = prod(a.extent for a in unrolled if isinstance(a.extent, int)) * axes[-1].extent
        if total > UNROLL_LIMIT or total * points > STATEMENT_LIMIT:
            break
        unrolled.insert(0, axes.pop())
    return replace(s, reduction=tuple(axes), unrolled=tuple(unrolled))


def _unroll(body: FlatBody, s: Schedule) -> int:
    """How many vectors a pass computes."""
    assert s.vector is not None
    heavy = sum(isinstance(x, Apply) and x.op in SLOW_OPERATORS for x in body.statements)
    size = len(body.statements) * prod(a.extent for a in s.unrolled if isinstance(a.extent, int))
    most = 1 if heavy > 2 or size > 60 else (2 if heavy or size > 16 else 4)
    while most > 1 and guess(s.vector.extent) < most * s.lanes:
        most //= 2
    return most


# Work items.


def _work_items(body: FlatBody, s: Schedule, parallel: list[Axis], cost: float) -> Schedule:
    """Splits the parallel axes into those of work items and those that loop inside one."""
    cycles = cost * prod(guess(a.extent) for a in (*body.axes_of("reduction"), *body.axes_of("scan")))
    if s.vector is not None and s.vector.kind == "parallel":
        row = cycles * guess(s.vector.extent)
        if s.block is not None and s.block_first:
            if row * guess(s.block.extent) > ITEM_CYCLES * 4:
                s = replace(s, block_outer=True)
                row *= s.block_size
            else:
                row *= guess(s.block.extent)
        elif s.block is not None:
            row *= guess(s.block.extent)
        if row > MOST_CYCLES or (isinstance(s.vector.extent, Expr) and not parallel):
            s = replace(s, chunk=_chunk(s, row / guess(s.vector.extent)))
            row = ITEM_CYCLES
        cycles = row
    elif s.block is not None:
        cycles *= guess(s.block.extent)
        if cycles > ITEM_CYCLES * 4:
            s = replace(s, block_outer=True)
            cycles /= guess(s.block.extent) / s.block_size
    inner: list[Axis] = []
    while parallel and cycles < ITEM_CYCLES:
        if len(parallel) == 1 and isinstance(parallel[0].extent, Expr):
            break  # it may be long
        cycles *= guess(parallel[-1].extent)
        if cycles > MOST_CYCLES:
            break
        inner.insert(0, parallel.pop())
    return replace(s, outer=tuple(parallel), inner=tuple(inner))


def _chunk(s: Schedule, cycles: float) -> int:
    """A length of pieces of the vector axis that takes about ITEM_CYCLES: whole passes, a divisor where there is one."""
    assert s.vector is not None
    step = s.lanes * s.unroll
    passes = max(1, round(ITEM_CYCLES / (cycles * step)))
    if isinstance(s.vector.extent, int) and s.vector.extent % step == 0:
        whole = s.vector.extent // step
        for k in range(passes, 2 * passes):
            if whole % k == 0:
                return k * step
    return passes * step
