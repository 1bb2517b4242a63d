"""The products of an attention's gradient, as contractions: two of score tiles, and the sums that these tiles weigh.

    first  = f(q k^T)                  # the weights, computed again from scores and what is kept of each row
    second = g(dy v^T, first)          # the gradients of the scores
    sums   = second k, second^T q, first^T dy

A body of primitives is cut at the values that go from one to the next, the tiles. Each part is lowered like any other body,
so views are strides in its accesses, and what is computed element by element is its epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.errors import UnsupportedOpError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, product
from graphc.lowering.contraction import Affine, address, affine, split_axis
from graphc.lowering.loop_body import Apply, Axis, Load, LoopBody, Statement, Store
from graphc.lowering.lower import lower
from graphc_llvm.attention_products import needed, score_product, visible
from graphc_llvm.contraction import Contraction, match, tile_height
from graphc_llvm.target import Target


@dataclass(frozen=True)
class Sum:
    """One gradient: rows of a tile (of queries), or of its transpose (of keys), times rows of an operand.

    c.a is the tile, c.b the operand, whose columns are neighbours. The epilogue is one store; sum i is output i of the body.
    """

    c: Contraction
    tile: int
    of_queries: bool


@dataclass(frozen=True)
class Gradient:
    """first, second: batch, a row (of queries), column (keys); see the module. All have the same batch axes in their order.

    stored: for each, by buffer, the number of the tile that it stores; loaded: those that the second one reads. inputs: of the
    body. visible: how many keys, the first ones, a row can have weights of other than 0, by the row's place, where all that
    weights of 0 would multiply is finite; None where all.
    """

    first: Contraction
    second: Contraction
    sums: tuple[Sum, ...]
    stored: tuple[Mapping[str, int], Mapping[str, int]]
    loaded: Mapping[str, int]
    tiles: int
    inputs: int
    moved: Dim
    visible: Dim | None

    @property
    def batch(self) -> Dim:
        return product(a.extent for a in self.first.batch)

    @property
    def queries(self) -> Dim:
        return self.first.rows[0].extent

    @property
    def keys(self) -> Dim:
        return self.first.column.extent

    @property
    def flops(self) -> Dim:
        return sum((c.flops for c in self.contractions), 0)

    @property
    def contractions(self) -> tuple[Contraction, ...]:
        return (self.first, self.second, *(s.c for s in self.sums))


def find_gradient(body: Graph, target: Target) -> Gradient | None:
    """The products of a body that is an attention's gradient and that the tiled kernel can run; None for any other."""
    on = _dots_under(body)
    inner = [n for n in body.nodes if n.op.name == "dot" and on[n.result] == {n}]
    outer = [n for n in body.nodes if n.op.name == "dot" and n not in inner]
    if len(inner) != 2 or not outer or len(body.outputs) != len(outer):
        return None
    first, second = inner
    shape = first.result.type.shape
    weighed = {n: [v for v in n.operands if on[v]] for n in outer}
    if second.result.type.shape != shape or any(len(vs) != 1 or vs[0].type.shape != shape for vs in weighed.values()):
        return None
    ends = [n for out in body.outputs if (n := _end(out, weighed)) is not None]
    if len(ends) < len(body.outputs):
        return None
    tiles = list(dict.fromkeys(v for (v,) in weighed.values()))
    for n in body.nodes:
        if on[n.results[0]] == {first, second}:
            tiles += [v for v in n.operands if on[v] == {first} and v not in tiles]
    early = [v for v in tiles if on[v] == {first}]
    late = [v for v in tiles if v not in early]
    if not early or not late or any(v.type != first.result.type for v in tiles):
        return None
    order = [*early, *late]
    try:
        parts = [_part(body, (), early), _part(body, early, late)]
        rest = [_part(body, weighed[n], [out]) for n, out in zip(ends, body.outputs, strict=True)]
    except UnsupportedOpError:
        return None  # the parts have no common nest
    n = len(body.inputs)
    stored = (
        {str(n + i): i for i in range(len(early))},
        {str(n + len(early) + i): len(early) + i for i in range(len(late))},
    )
    a, c = (_product(part, target, stores, shape[-2]) for part, stores in zip(parts, stored, strict=True))
    rows = [shape[-1] if n["lhs_contract"] == (len(shape) - 2,) else shape[-2] for n in ends]
    read = [order.index(weighed[n][0]) for n in ends]
    sums = [s for part, i, n in zip(rest, read, rows, strict=True) if (s := _sum(body, part, i, target, n)) is not None]
    if a is None or c is None or len(sums) < len(rest):
        return None
    loaded = {str(n + i): i for i in range(len(early))}
    moved = sum((v.type.bytes for v in (*body.inputs, *body.outputs)), 0)
    found = Gradient(a, c, tuple(sums), stored, loaded, len(order), n, moved, None)
    return replace(found, visible=_visible(found)) if _agree(found) else None


def _dots_under(body: Graph) -> dict[Value, frozenset[Node]]:
    """For each value the products that it depends on."""
    on: dict[Value, frozenset[Node]] = {v: frozenset() for v in body.inputs}
    for n in body.nodes:
        found = frozenset({n} if n.op.name == "dot" else ()).union(*(on[v] for v in n.operands))
        on.update(dict.fromkeys(n.results, found))
    return on


def _end(out: Value, weighed: Mapping[Node, Sequence[Value]]) -> Node | None:
    """The sum that an output is, through views of it."""
    node = out.producer
    while node is not None and node not in weighed:
        node = node.operands[0].producer if node.operands else None
    return node


def _part(body: Graph, given: Sequence[Value], wanted: Sequence[Value]) -> LoopBody | None:
    """The nest that computes some values of a body from its inputs and from others, which become inputs after them."""
    part, values = body.clone()
    for v in given:
        part.replace_uses(values[v], part.add_input("tile", v.type))
    part.set_outputs([values[v] for v in wanted])
    found = lower(needed(part))
    return found if isinstance(found, LoopBody) else None


def _product(part: LoopBody | None, target: Target, stores: Mapping[str, int], queries: Dim) -> Contraction | None:
    """A part that stores tiles, as a contraction whose axes are those of a tile, in their order."""
    body = None if part is None else _with_rows(part, queries)
    found = None if body is None else score_product(body, target)
    if found is None or not isinstance(found.inner.extent, int) or not _is_plain(found):
        return None
    *batch, row, column = found.body.axes_of("parallel")
    places = [affine(address(found.body.buffer(s.buffer), s.index), _names(found)) for s in _stores(found)]
    order = all(p is not None and _in_order((*batch, row), p, column.extent) for p in places)
    height = tile_height(row.extent, found.width // target.lanes(found.dtype.bytes), target)
    c = replace(found, batch=tuple(batch), rows=(row,), tile_rows=height)
    return c if order and len(places) == len(stores) else None


def _with_rows(body: LoopBody, extent: Dim) -> LoopBody | None:
    """The nest with that many rows, before its columns; None where there is none.

    Queries of several heads that share keys may be walked as one axis; then they are put apart.
    """
    axes = body.axes_of("parallel")
    if len(axes) < 2 or axes[-2].extent == extent:
        return body if len(axes) > 1 else None
    row = axes[-2]
    if not isinstance(row.extent, int) or not isinstance(extent, int) or row.extent % extent:
        return None
    return split_axis(body, row, extent)


def _sum(body: Graph, part: LoopBody | None, tile: int, target: Target, rows: Dim) -> Sum | None:
    """The sum of a part whose last input is the tile."""
    nest = None if part is None else _with_rows(part, rows)
    found = None if nest is None else match(nest, target)
    if found is None or found.a.buffer != str(len(body.inputs)) or not isinstance(found.column.extent, int):
        return None
    *batch, row, column = found.body.axes_of("parallel")
    if column != found.column or found.taps or found.pair is not None or not _is_plain(found):
        return None
    inner = found.inner
    strides = found.a_address.of(row.name), found.a_address.of(inner.name)
    of_queries = strides == (inner.extent, 1)
    if not of_queries and strides != (1, row.extent):
        return None
    if found.a_address.constant != 0 or not _in_order(batch, found.a_address, row.extent * inner.extent):
        return None
    if len(found.epilogue) != 1 or len(stores := _stores(found)) != 1 or stores[0].operand != found.reduced:
        return None
    height = tile_height(row.extent, found.width // target.lanes(found.dtype.bytes), target)
    c = replace(found, batch=tuple(batch), rows=(row,), tile_rows=height)
    return Sum(c, tile, of_queries) if found.body.buffer(stores[0].buffer).type.dtype == found.dtype else None


def _is_plain(c: Contraction) -> bool:
    """Whether operands are of the sums' type, and read wherever they are."""
    return c.a_dtype == c.b_dtype == c.dtype and not c.a.predicate


def _in_order(axes: Sequence[Axis], place: Affine, unit: Dim) -> bool:
    """Whether axes walk memory row by row, the last one in steps of `unit`."""
    for axis in reversed(axes):
        if place.of(axis.name) != unit:
            return False
        unit = unit * axis.extent
    return True


def _names(c: Contraction) -> list[str]:
    return [a.name for a in c.body.axes]


def _stores(c: Contraction) -> list[Store]:
    return [s for s in c.epilogue if isinstance(s, Store)]


def _agree(g: Gradient) -> bool:
    """Whether all products run over the same batch, queries and keys."""
    for c in g.contractions:
        if product(a.extent for a in c.batch) != g.batch:
            return False
    if (g.second.rows[0].extent, g.second.column.extent) != (g.queries, g.keys):
        return False
    return all(
        (s.c.rows[0].extent, s.c.inner.extent) == ((g.queries, g.keys) if s.of_queries else (g.keys, g.queries))
        for s in g.sums
    )


# Keys that a causal mask hides


def _visible(g: Gradient) -> Dim | None:
    """See `Gradient`: where the one tile of weights is exp of what a causal mask hides, and the others are 0 where it is.

    None, too, where biases are read, or operands whose rows aren't dense: those can't be looked through for what isn't finite.
    """
    if any(_is_bias(c, s, g.loaded) for c in (g.first, g.second) for s in c.epilogue):
        return None
    for power in g.first.epilogue:
        seen = _visible_in(g.first, power)
        if seen is not None and isinstance(power, Apply):
            break
    else:
        return None
    if not _vanishes(g.first, {power.value}) or not _vanishes(g.second, _tiles_read(g)):
        return None
    dense = all(
        x.of(c.inner.name) == 1 for c in (g.first, g.second) for x in (c.a_address, c.b_address)
    )  # fmt: skip
    return seen if dense else None


def _visible_in(c: Contraction, power: Statement) -> Dim | None:
    """How many keys a row sees, where a statement is exp(scores - something) of scores that a causal mask hides."""
    defined = {s.value: s for s in c.epilogue if not isinstance(s, Store)}
    below = defined.get(str(power.operands[0])) if isinstance(power, Apply) and power.op == "exp" else None
    found = visible(c, below.operands[0]) if isinstance(below, Apply) and below.op == "sub" else None
    return found if found is not None and affine(found, _names(c)) is not None else None


def _tiles_read(g: Gradient) -> set[str]:
    return {s.value for s in g.second.epilogue if isinstance(s, Load) and s.buffer in g.loaded}


def _is_bias(c: Contraction, s: Statement, tiles: Mapping[str, int]) -> bool:
    """Whether a statement reads floats that differ from key to key, or of which nobody knows where they lie."""
    if not isinstance(s, Load) or s.dtype.is_bool or s.buffer in tiles:
        return False
    place = affine(address(c.body.buffer(s.buffer), s.index), _names(c))
    return place is None or place.of(c.column.name) != 0


def _vanishes(c: Contraction, zero: set[str]) -> bool:
    """Whether all that is stored is 0 where some values are 0 and all else is finite."""

    def is_zero(o: object) -> bool:
        return o in zero if isinstance(o, str) else o == 0

    for s in c.epilogue:
        if isinstance(s, Apply):
            found = list(map(is_zero, s.operands))
            some = (s.op == "mul" and any(found)) or (s.op == "select" and all(found[1:]))
            if some or (s.op in ("add", "sub", "neg") and all(found)):
                zero.add(s.value)
    return all(is_zero(s.operand) for s in _stores(c))
