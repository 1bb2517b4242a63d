"""The two products of an attention, as contractions: the scores q k^T with what is computed on them, and weights times v.

    result = weights v,  weights = softmax(scores),  scores = f(q k^T)

A body of primitives is cut at the softmax. Each half is lowered like any other body, so views of q, k, v, of masks and of the
result are strides in its accesses, and what is computed element by element is its epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.errors import UnsupportedOpError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, bounds, product
from graphc.ir.types import bf16
from graphc.lowering.contraction import Contraction as Product
from graphc.lowering.contraction import address, affine, find_contraction
from graphc.lowering.loop_body import Load, LoopBody, Store
from graphc.lowering.lower import lower
from graphc.lowering.rewriting import symbols_read
from graphc_llvm.contraction import Contraction, dense_along, match, tile_height
from graphc_llvm.target import Target


@dataclass(frozen=True)
class Products:
    """scores: batch, rows (queries), column (keys); B is k where it lies, of any strides. result: the same, columns of v.

    Buffers of both are numbered as the body's operands and results, but for the weights, the result's A. pair: operands are
    bf16, and multiplied in pairs of neighbours along the sums.
    """

    scores: Contraction
    result: Contraction
    pair: bool = False

    @property
    def batch(self) -> Dim:
        return product(a.extent for a in self.scores.batch)

    @property
    def keys(self) -> Dim:
        return self.scores.column.extent

    @property
    def flops(self) -> Dim:
        return self.scores.flops + self.result.flops


@dataclass(frozen=True)
class Softmax:
    """A softmax along the last axis, in primitives, its value perhaps narrowed: its argument, its value, and its nodes."""

    argument: Value
    value: Value
    nodes: tuple[Node, ...]


def find_softmax(weights: Value) -> Softmax | None:
    """exp(x - max x) / sum(exp(x - max x)), or that narrowed, if `weights` is that."""
    rounding = _made_by(weights, "cast")
    quotient = _made_by(weights if rounding is None else rounding.operands[0], "div")
    power = quotient and _made_by(quotient.operands[0], "exp")
    difference = power and _made_by(power.operands[0], "sub")
    if quotient is None or power is None or difference is None:
        return None
    x = difference.operands[0]
    total = _reduced(quotient.operands[1], "reduce_sum", power.result)
    highest = _reduced(difference.operands[1], "reduce_max", x)
    if total is None or highest is None:
        return None
    last = (quotient,) if rounding is None else (quotient, rounding)
    return Softmax(x, weights, (*highest, difference, power, *total, *last))


def _made_by(v: Value, op: str) -> Node | None:
    return v.producer if v.producer is not None and v.producer.op.name == op else None


def _reduced(v: Value, op: str, x: Value) -> tuple[Node, Node] | None:
    """The reduction of x along its last axis and its broadcast to the shape of x, if v is that."""
    repeated, last = _made_by(v, "broadcast"), x.type.rank - 1
    reduced = repeated and _made_by(repeated.operands[0], op)
    if repeated is None or reduced is None or reduced.operands[0] is not x or v.type.shape != x.type.shape:
        return None
    fits = reduced["axes"] == (last,) and repeated["axes"] == tuple(range(last))
    return (reduced, repeated) if fits else None


def is_weighted_sum(node: Node) -> bool:
    """Whether a node sums rows of its second operand, weighted by the first one's rows."""
    if node.op.name != "dot":
        return False
    last = node.operands[0].type.rank - 1
    return bool(node["lhs_contract"] == (last,) and node["lhs_batch"] == tuple(range(last - 1)))


def find_products(body: Graph, target: Target) -> Products | None:
    """The products of a body that is an attention and that the tiled kernel can run; None for any other."""
    found = [(n, s) for n in body.nodes if is_weighted_sum(n) and (s := find_softmax(n.operands[0])) is not None]
    if len(found) != 1 or not any(n.op.name == "dot" and n is not found[0][0] for n in body.nodes):
        return None
    ((_, softmax),) = found
    before, values = body.clone()
    before.set_outputs([values[softmax.argument]])
    after, values = body.clone()
    after.replace_uses(values[softmax.value], after.add_input("weights", softmax.value.type))
    try:
        halves = [lower(_needed(half)) for half in (before, after)]
    except UnsupportedOpError:
        return None  # the halves have no common nest, so neither has the whole
    first, second = halves
    if not isinstance(first, LoopBody) or not isinstance(second, LoopBody):
        return None
    scores, result = _scores(first, target), match(second, target)
    if scores is None or result is None or result.a.buffer != str(len(body.inputs)) or not _agree(scores, result):
        return None
    return Products(scores, result, target.bf16_pairs and _has_pairs(scores, result))


def _has_pairs(scores: Contraction, result: Contraction) -> bool:
    """Whether all operands are bf16, and neighbours along the depth lie in pairs; those along the keys can be laid out so."""
    dtypes = {scores.a_dtype, scores.b_dtype, result.a_dtype, result.b_dtype}
    along = {x.of(scores.inner.name) for x in (scores.a_address, scores.b_address)}
    return dtypes == {bf16} and along == {1} and scores.inner.extent % 2 == 0


def _needed(graph: Graph) -> Graph:
    for node in reversed(graph.nodes):
        if not any(v.uses for v in node.results):
            graph.erase(node)
    return graph


def _agree(scores: Contraction, result: Contraction) -> bool:
    """Whether both run over the same batch, queries and keys, in sizes that the kernel has room for."""
    same = [
        (product(a.extent for a in getattr(scores, k)), product(a.extent for a in getattr(result, k)))
        for k in ("batch", "rows")
    ]
    static = isinstance(scores.inner.extent, int) and isinstance(result.column.extent, int)
    weights = result.a_address.of(result.inner.name) == 1 and not result.taps and not result.a.predicate
    plain = result.pair is None and result.dtype == scores.dtype
    return static and weights and plain and all(a == b for a, b in same) and scores.column.extent == result.inner.extent


def _scores(body: LoopBody, target: Target) -> Contraction | None:
    """A body's q k^T as a contraction; k needs no dense columns, because the kernel packs it."""
    found = find_contraction(body)
    if found is None or len(found.columns) != 1 or len(body.axes_of("reduction")) != 1:
        return None
    (column,), (inner,) = found.columns, body.axes_of("reduction")
    body = found.body
    a, b = (_only_load(found, v) for v in (found.a, found.b))
    if a is None or b is None or any((bounds(x.extent)[0] or 0) < 0 or x.extent == 0 for x in body.axes):
        return None
    axes = {x.name for x in body.axes}
    addresses = [affine(address(body.buffer(x.buffer), x.index), axes) for x in (a, b)]
    early = {a.value, b.value, str(found.reduce.operand)}
    rest = tuple(s for s in body.statements if s is not found.reduce and getattr(s, "value", None) not in early)
    if None in addresses or any(symbols_read(s) & (early | {inner.name}) for s in rest):
        return None
    a_address, b_address = addresses
    assert a_address is not None and b_address is not None
    if 1 not in (b_address.of(inner.name), b_address.of(column.name)):
        return None
    if not all(dense_along(body, s, column.name, axes) for s in rest):
        return None
    dtype = found.reduce.dtype
    if any(isinstance(x, Store) and body.buffer(x.buffer).type.dtype != dtype for x in rest):
        return None  # the softmax is of another type
    vectors = 4 if target.vector_registers >= 32 else 2
    height = tile_height(product(x.extent for x in found.rows), vectors, target)
    width = vectors * target.lanes(dtype.bytes)
    names = a_address, b_address, found.reduce.value
    return Contraction(body, dtype, found.batch, found.rows, column, (), inner, a, b, *names, rest, width, height)


def _only_load(found: Product, value: str) -> Load | None:
    """The load that a factor is; None where it is computed, or guarded."""
    (*_, last) = found.needed(value)
    plain = isinstance(last, Load) and len(found.needed(value)) == 1 and not last.predicate and not last.checked
    return last if plain and isinstance(last, Load) else None
